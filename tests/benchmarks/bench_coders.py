"""Sparse coders: IAM against SAELens and torch, in one process on the same inputs.

    python tests/benchmarks/bench_coders.py [--only wide] [--rounds 5] [--threads 2] [--json FILE]

The coder is made by SAELens with random weights, written by SAELens, and read by ``iam.SAE.load_from_disk``. A contender
is three functions: encode, decode (of its own codes), and both. See README.md beside this file for the method.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape. ``k`` is the sparsity of topk; of jumprelu, how many features a row has on average."""

    name: str
    architecture: str
    d_in: int
    d_sae: int
    k: int
    rows: int

    def __str__(self) -> str:
        return f"{self.d_in} x {self.d_sae:,}, {self.architecture}, k {self.k}, {self.rows:,} rows"


CASES = (
    Case("wide", "topk", 768, 24_576, 32, 1024),
    Case("narrow", "topk", 768, 3_072, 32, 1024),
    Case("small", "topk", 768, 3_072, 32, 32),
    Case("jumprelu", "jumprelu", 2304, 16_384, 64, 256),
)
MEMORY_CASE = "wide"
STAGES = ("encode", "decode", "both")
# (case, stage, of, over): what the project promises. Printed beside what was measured; a miss does not fail the run.
TARGETS = (
    ("wide", "both", "SAELens", 2.5),
    ("wide", "both", "SAELens sparse", 1.1),
)
MEMORY_TARGET_MB = 64

Functions = dict[str, Callable[[], Any]]


def saelens_coder(case: Case, seed: int = 0) -> Any:
    """A SAELens coder with random weights: unit decoder rows, encoder their transpose with noise."""
    import torch
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    torch.manual_seed(seed)
    if case.architecture == "topk":
        sae = TopKSAE(TopKSAEConfig(d_in=case.d_in, d_sae=case.d_sae, k=case.k))
    else:
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=case.d_in, d_sae=case.d_sae))
    with torch.no_grad():
        directions = torch.nn.functional.normalize(torch.randn(case.d_sae, case.d_in), dim=1)
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_((directions + 0.2 * torch.randn_like(directions) / case.d_in**0.5).T)
        sae.b_enc.copy_(0.1 * torch.randn(case.d_sae))
        sae.b_dec.copy_(0.1 * torch.randn(case.d_in))
        if case.architecture == "jumprelu":
            sample = torch.randn(64, case.d_in)
            pre = (sample - sae.b_dec) @ sae.W_enc + sae.b_enc
            sae.threshold.fill_(float(pre.flatten().kthvalue(int(pre.numel() * (1 - case.k / case.d_sae))).values))
    return sae.eval()


def saelens_sparse(sae: Any, case: Case) -> Any:
    """The same coder in SAELens's ``use_sparse_activations`` mode."""
    import copy

    from sae_lens.saes.topk_sae import TopK

    warnings.filterwarnings("ignore", message="Sparse invariant checks")  # torch, once per process
    sparse = copy.copy(sae)
    sparse._modules = dict(sae._modules)
    sparse.activation_fn = TopK(case.k, use_sparse_activations=True)
    return sparse


def coder_functions(coder: Any, x: Any) -> Functions:
    codes = coder.encode(x)
    return {
        "encode": lambda: coder.encode(x),
        "decode": lambda: coder.decode(codes),
        "both": lambda: coder.decode(coder.encode(x)),
    }


def torch_functions(sae: Any, case: Case, x: Any) -> Functions:
    """What a careful person writes in torch: no dense codes where topk makes them unnecessary."""
    import torch

    bias = sae.b_enc - sae.b_dec @ sae.W_enc  # folded, as one would

    def encode() -> Any:
        pre = torch.addmm(bias, x, sae.W_enc)
        if case.architecture == "topk":
            values, indices = torch.topk(pre, case.k, dim=-1, sorted=False)
            return values.relu_(), indices
        return torch.where(pre > sae.threshold, pre.relu(), 0.0)

    def decode(codes: Any) -> Any:
        if case.architecture == "topk":
            values, indices = codes
            return (
                torch.nn.functional.embedding_bag(indices, sae.W_dec, per_sample_weights=values, mode="sum") + sae.b_dec
            )
        return torch.addmm(sae.b_dec, codes, sae.W_dec)

    codes = encode()
    return {"encode": encode, "decode": lambda: decode(codes), "both": lambda: decode(encode())}


def iam_coder(sae: Any) -> Any:
    """The coder through the files: SAELens writes, IAM reads."""
    import iam

    with tempfile.TemporaryDirectory() as folder:
        sae.save_model(folder)
        return iam.SAE.load_from_disk(folder)


def jit_functions(coder: Any, x: Any) -> Functions:
    import iam

    encode = iam.jit(lambda x: coder.encode(x), name="encode")
    both = iam.jit(lambda x: coder.decode(coder.encode(x)), name="both")
    return {"encode": lambda: encode(x), "both": lambda: both(x)}


def contenders(case: Case, sae: Any, x: Any) -> dict[str, Functions]:
    """Name -> functions, in the order of the table. The first is what the others are checked against."""
    coder = iam_coder(sae)
    found = {"SAELens": coder_functions(sae, x)}
    if case.architecture == "topk":
        found["SAELens sparse"] = coder_functions(saelens_sparse(sae, case), x)
    found["torch"] = torch_functions(sae, case, x)
    found["IAM"] = coder_functions(coder, x)
    found["IAM compiled"] = jit_functions(coder, x)
    return found


# ------------------------------------------------------------------------------------------------------------ results
def dense(codes: Any, case: Case) -> Any:
    """Any contender's codes as a dense torch tensor."""
    import torch

    if isinstance(codes, tuple):
        values, indices = codes
        return torch.zeros(case.rows, case.d_sae).scatter_(-1, indices, values)
    if not isinstance(codes, torch.Tensor):
        return torch.as_tensor(codes.to_dense())
    return codes.to_dense() if codes.is_sparse else codes


def check(case: Case, expected: Functions, actual: Functions) -> dict[str, float]:
    """Compare codes and reconstructions; raise AssertionError where they differ by more than rounding.

    A feature may be in one result and not in the other only where it ties, within float32 rounding, with the value that
    decides (the k-th largest, or the threshold): at most 1e-5 relative to it. Values of common features: 1e-5 relative.
    """
    import torch

    want, got = dense(expected["encode"](), case), dense(actual["encode"](), case)
    smallest = want.masked_fill(want == 0, torch.inf).min(-1, keepdim=True).values  # what decides, at least
    different = (want > 0) != (got > 0)
    gap = ((torch.maximum(want, got) - smallest).abs() / smallest)[different]
    common = (want > 0) & (got > 0)
    error = ((want - got).abs() / want)[common]
    y, z = (torch.as_tensor(f["both"]()) for f in (expected, actual))
    reconstruction = float((y - z).abs().max() / y.abs().max())
    ties_touch = bool(different.any())
    result = {
        "features": int(common.sum()),
        "ties": int(different.sum()),
        "value_error": float(error.max()) if error.numel() else 0.0,
        "reconstruction_error": reconstruction,
    }
    if gap.numel() and float(gap.max()) > 1e-5:
        raise AssertionError(
            f"{case.name}: a feature differs that is no tie: {float(gap.max()):.2e} from the deciding value"
        )
    if result["value_error"] > 1e-5:
        raise AssertionError(
            f"{case.name}: values differ by {result['value_error']:.2e} (relative), expected at most 1e-5"
        )
    if reconstruction > 1e-5 and not ties_touch:
        raise AssertionError(f"{case.name}: reconstructions differ by {reconstruction:.2e}, expected at most 1e-5")
    return result


# ------------------------------------------------------------------------------------------------------------- timing
def measure(functions: dict[str, Callable[[], Any]], rounds: int, seconds: float) -> dict[str, float]:
    """Median time of a call in ms, contenders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(0.05)  # the previous contender's workers stop spinning
            function()
            spent, calls = 0.0, 0
            while calls < 3 or (spent < seconds and calls < 1000):
                start = time.perf_counter()
                function()
                took = time.perf_counter() - start
                times[name].append(took)
                spent, calls = spent + took, calls + 1
    return {name: 1e3 * statistics.median(t) for name, t in times.items()}


# ------------------------------------------------------------------------------------------------------------- memory
def resident_kb(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def memory_child(name: str, case: Case, threads: int) -> None:
    """Print the peak resident memory, in kB, that one encode+decode adds. Runs in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    sae = saelens_coder(case)
    torch.manual_seed(1)
    x = torch.randn(case.rows, case.d_in)
    with torch.no_grad():
        if name.startswith("IAM"):
            from iam import _runtime

            _runtime.set_num_threads(threads)
            coder = iam_coder(sae)
            del sae
            if name == "IAM compiled":
                import iam

                run = iam.jit(lambda x: coder.decode(coder.encode(x)))
            else:
                run = lambda x: coder.decode(coder.encode(x))  # noqa: E731
            run(x[:1])
            _runtime.pool_trim()
        elif name == "torch":
            run = lambda x: torch_functions(sae, dataclasses.replace(case, rows=len(x)), x)["both"]()  # noqa: E731
            run(x[:1])
        else:
            coder = sae if name == "SAELens" else saelens_sparse(sae, case)
            run = lambda x: coder.decode(coder.encode(x))  # noqa: E731
            run(x[:1])
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = resident_kb("VmRSS")
        result = run(x)
        print(resident_kb("VmHWM") - before, tuple(result.shape))


def measure_memory(names: list[str], case: Case, threads: int) -> dict[str, float]:
    """MB of peak extra memory per contender; empty where the system has no /proc/self/clear_refs."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        print("memory: not measured, this system has no /proc/self/clear_refs")
        return {}
    found = {}
    for name in names:
        command = [sys.executable, __file__, "--memory-child", name, "--only", case.name, "--threads", str(threads)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name] = int(out.split()[0]) / 1024
    return found


# ------------------------------------------------------------------------------------------------------------- report
def table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        return "  " + "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )

    return "\n".join([line(header), "  " + "  ".join("-" * w for w in widths), *map(line, rows)])


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment(threads: int) -> dict[str, Any]:
    import importlib.metadata as metadata

    from iam import _runtime

    versions = {p: metadata.version(p) for p in ("iam", "torch", "sae-lens", "numpy")}
    return {
        "versions": versions,
        "cpu": cpu_name(),
        "cpu_level": _runtime.cpu_level(),
        "threads": threads,
        "python": platform.python_version(),
        "seeds": {"coder": 0, "input": 1},
    }


def run_case(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    import torch

    print(f"\n{case.name}: {case}")
    sae = saelens_coder(case)
    torch.manual_seed(1)
    x = torch.randn(case.rows, case.d_in)
    with torch.no_grad():
        found = contenders(case, sae, x)
        checks = {name: check(case, found["SAELens"], found[name]) for name in found if name != "SAELens"}
        times = {
            stage: measure({n: f[stage] for n, f in found.items() if stage in f}, args.rounds, args.seconds)
            for stage in STAGES
        }
    ours = {stage: min(t for n, t in times[stage].items() if n.startswith("IAM")) for stage in STAGES}
    rows = []
    for name in found:
        row = [name]
        for stage in STAGES:
            t = times[stage].get(name)
            row += ["", ""] if t is None else [f"{t:.3g} ms", f"{t / ours[stage]:.2f}x"]
        rows.append(row)
    header = ["", "encode", "/ IAM", "decode", "/ IAM", "encode+decode", "/ IAM"]
    print(table(header, rows))
    worst = max(c["value_error"] for n, c in checks.items() if n.startswith("IAM"))
    ties = max(c["ties"] for n, c in checks.items() if n.startswith("IAM"))
    print(f"  same results as SAELens: {checks['IAM']['features']:,} features, {ties} ties, values within {worst:.1e}")
    ratios = {s: {n: t / ours[s] for n, t in times[s].items()} for s in STAGES}
    return {"case": dataclasses.asdict(case), "ms": times, "ratio_to_iam": ratios, "checks": checks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[c.name for c in CASES], help="one case")
    parser.add_argument("--rounds", type=int, default=5, help="turns per contender (default 5)")
    parser.add_argument("--seconds", type=float, default=0.3, help="least time per turn (default 0.3)")
    parser.add_argument(
        "--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads for everybody (default 2)"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write everything here")
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cases = [c for c in CASES if args.only in (None, c.name)]
    if args.memory_child:
        memory_child(args.memory_child, cases[0], args.threads)
        return

    import torch

    from iam import _runtime

    torch.set_num_threads(args.threads)
    _runtime.set_num_threads(args.threads)
    report: dict[str, Any] = {"environment": environment(args.threads), "cases": {}}
    e = report["environment"]
    print("Sparse coders. " + ", ".join(f"{p} {v}" for p, v in e["versions"].items()))
    print(
        f"{e['cpu']}, kernels {e['cpu_level']}, {args.threads} threads. Times are medians; `/ IAM` is time over IAM's best."
    )
    for case in cases:
        report["cases"][case.name] = run_case(case, args)

    if any(c.name == MEMORY_CASE for c in cases):
        case = next(c for c in CASES if c.name == MEMORY_CASE)
        report["memory_mb"] = measure_memory(list(report["cases"][case.name]["ms"]["both"]), case, args.threads)
        if report["memory_mb"]:
            print(f"\npeak extra memory of encode+decode: {case}")
            print(table(["", "MB"], [[n, f"{mb:.1f}"] for n, mb in report["memory_mb"].items()]))

    report["targets"] = []
    for name, stage, other, target in TARGETS:
        if name in report["cases"]:
            ratio = report["cases"][name]["ratio_to_iam"][stage][other]
            report["targets"].append(
                {"what": f"{name} {stage}: {other} / IAM", "target": target, "got": ratio, "met": ratio >= target}
            )
    if report.get("memory_mb"):
        mb = max(v for n, v in report["memory_mb"].items() if n.startswith("IAM"))
        report["targets"].append(
            {"what": "peak extra MB", "target": MEMORY_TARGET_MB, "got": mb, "met": mb < MEMORY_TARGET_MB}
        )
    if report["targets"]:
        print("\ntargets")
        rows = [
            [t["what"], f"{t['target']:g}", f"{t['got']:.2f}", "met" if t["met"] else "MISSED"]
            for t in report["targets"]
        ]
        print(table(["", "target", "measured", ""], rows))

    if args.json:
        temporary = args.json.with_suffix(args.json.suffix + ".tmp")
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(args.json)
        print(f"\nwritten to {args.json}")


if __name__ == "__main__":
    main()
