"""What a program attached to SmolLM2 costs per generated token.

    python tests/benchmarks/bench_attach.py [--rounds 15] [--tokens 24] [--threads 2] [--json FILE]

The untouched model, an identity program, one steered feature (error-preserving: the compiler leaves an encode and the
decode of one feature) and, for comparison, the same steering written in torch as a hook would do it. All generate the
same number of tokens from one prompt with a KV cache; every round runs each of them once, in changing order. The cost of
a contender is its median time per token, over the untouched model's of the same round; the table shows the median of
that ratio and its quartiles over the rounds. The first token of a run (prefill) does not count.
"""

import argparse
import itertools
import json
import pathlib
import platform
import statistics
import time
from typing import Any

PROMPT = "The old house stood by the sea, and every evening the"
FEATURE, STRENGTH = 7, 8.0
GOALS = {"identity": 3.0, "steered, compiled": 5.0}  # percent; a miss does not fail the run


def contenders(model: Any, sae: Any) -> dict[str, Any]:
    """Programs by name; None is the untouched model."""
    import torch

    import iam

    @iam.jit
    def identity(x):
        return x

    @iam.jit
    def steered(x, strength):
        f = sae.encode(x)
        return x + sae.decode(f.set([FEATURE], strength)) - sae.decode(f)

    W_enc, b_enc, W_dec, b_dec = (torch.from_numpy(getattr(sae, name)) for name in ("W_enc", "b_enc", "W_dec", "b_dec"))

    def steered_torch(x):
        values, indices = ((x - b_dec) @ W_enc + b_enc).topk(sae.cfg.k, dim=-1)
        f = torch.zeros(x.shape[0], W_dec.shape[0]).scatter_(-1, indices, values.relu())
        edited = f.clone()
        edited[:, FEATURE] = STRENGTH
        return x + (edited @ W_dec + b_dec) - (f @ W_dec + b_dec)

    x = model.capture(PROMPT, sae.site)[sae.site][0, 1:]
    difference = (steered(x, STRENGTH) - steered_torch(x)).abs().max() / x.abs().max()
    if not difference < 1e-4:
        raise SystemExit(
            f"bench_attach: compiled and torch steering differ by {float(difference):.2g} of the largest activation"
        )
    return {
        "untouched": None,
        "identity": identity,
        "steered, compiled": lambda x: steered(x, STRENGTH),
        "steered, torch": steered_torch,
    }


def run(model: Any, site: Any, program: Any, tokens: int) -> float:
    """Median milliseconds of a generated token after the first."""
    marks: list[float] = []

    def mark(_count: int, _newest: list[int]) -> None:
        marks.append(time.perf_counter())

    def generate() -> None:
        model.generate(PROMPT, max_new_tokens=tokens, stop_at_eos=False, callback=mark)

    if program is None:
        generate()
    else:
        with model.attach(site, program, from_position=1):
            generate()
    return statistics.median(b - a for a, b in itertools.pairwise(marks)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="how often each contender runs (default 15)")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of a run (default 24)")
    parser.add_argument("--threads", type=int, help="threads of torch and of the kernels (default: all)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args()

    import torch

    import iam
    from iam.cli._demo import coder_folder

    if options.threads:
        torch.set_num_threads(options.threads)
    model = iam.LanguageModel("smollm2")
    sae = iam.SAE.load_from_disk(coder_folder())
    programs = contenders(model, sae)
    names = list(programs)
    for name in names:
        run(model, sae.site, programs[name], 4)  # warm up
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(run(model, sae.site, programs[name], options.tokens))
    print(
        f"{model.name}, {sae.site}, {options.rounds} rounds of {options.tokens} tokens, {torch.get_num_threads()} threads"
    )
    print(f"{'':20s} {'ms/token':>9s} {'cost':>8s}   quartiles            goal")
    report = []
    for name in names:
        costs = [100 * (a / b - 1) for a, b in zip(times[name], times["untouched"], strict=True)]
        low, middle, high = statistics.quantiles(costs, n=4) if len(costs) > 1 else (costs[0],) * 3
        goal = f"< {GOALS[name]:.0f} %" if name in GOALS else ""
        print(
            f"{name:20s} {statistics.median(times[name]):9.2f} {middle:+7.1f} %   {low:+.1f} % .. {high:+.1f} %  {goal:>10s}"
        )
        report.append({"contender": name, "ms_per_token": times[name], "cost_percent": [low, middle, high]})
    if options.json is not None:
        header = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps({**header, "contenders": report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
