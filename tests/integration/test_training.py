"""Training runs from end to end: planted features come back, interrupted runs end as if they had not been, the command line.

The synthetic rows: 40 unit directions in 32 dimensions, three of them active in each row with a weight in 1..2, plus a constant.
Mean max cosine is the mean, over the planted directions, of the cosine to the nearest decoder row. Of 64 random directions in 32
dimensions the nearest to a given one has a cosine of about 0.4 (measured below, as the floor); a run that learns reaches more than
0.92 in 300 steps, TopK 0.98. The bound, 0.9, is far from chance.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

import iam  # noqa: E402
from iam.errors import ArgumentError, FormatError, MissingDependencyError, NonFiniteError  # noqa: E402
from iam.training import TrainConfig, train  # noqa: E402
from iam.training._checkpoint import load_checkpoint  # noqa: E402

WIDTH, PLANTED, ACTIVE, FEATURES, ROWS = 32, 40, 3, 64, 16_384
BOUND = 0.9


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small are slower on several threads, much slower on a busy machine."""
    from iam import _runtime

    before = torch.get_num_threads(), _runtime.get_num_threads()
    torch.set_num_threads(1)
    _runtime.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    _runtime.set_num_threads(before[1])


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((PLANTED, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((ROWS, PLANTED))
    chosen = rng.random((ROWS, PLANTED)).argpartition(ACTIVE, axis=1)[:, :ACTIVE]
    np.put_along_axis(codes, chosen, rng.uniform(1, 2, chosen.shape), axis=1)
    return directions, codes, (codes @ directions + 0.5).astype(np.float32)


def mean_max_cosine(directions, decoder):
    rows = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    return float((directions @ rows.T).max(1).mean())


def settings(folder, architecture="topk", *, steps=300, **parts):
    coder = {"architecture": architecture, "d_sae": FEATURES} | parts.pop("coder", {})
    if architecture in ("topk", "batchtopk", "matryoshka"):
        coder = {"k": ACTIVE} | coder
    base = {
        "coder": coder,
        "schedule": {"steps": steps, "batch": 160, "decay": 100, "coefficient_warm_up": 60},
        "optimiser": {"lr": 5e-3},
        "sparsity": {"dead_after": 50},
        "data": {"buffer_rows": 4096},
        "checkpoint": {"folder": str(folder)},
    }
    for name, values in parts.items():
        base[name] = base[name] | values if isinstance(values, dict) and name in base else values
    return TrainConfig.from_dict(base)


def at_the_end(seen, name):
    """Mean over the last 20 steps, whose learning rate is nearly 0: one batch is a small sample."""
    return float(np.mean([one[name] for one in seen[-20:]]))


STRAIGHT_THROUGH = {"bandwidth": 0.2, "threshold": 0.05}
RUNS = {
    "topk": ("topk", {}),
    "topk-rescaled": ("topk", {"coder": {"normalize_decoder": False, "rescale_acts_by_decoder_norm": True}}),
    "batchtopk": ("batchtopk", {}),
    "matryoshka": ("matryoshka", {"coder": {"widths": [48]}}),
    "standard": ("standard", {"sparsity": {"coefficient": 0.5}}),
    "gated": ("gated", {"sparsity": {"coefficient": 0.5}}),
    "jumprelu-step": ("jumprelu", {"coder": STRAIGHT_THROUGH, "sparsity": {"coefficient": 0.3}}),
    "jumprelu-tanh": ("jumprelu", {"coder": STRAIGHT_THROUGH, "sparsity": {"coefficient": 0.3, "mode": "tanh"}}),
    "jumprelu-quadratic": (
        "jumprelu",
        {"coder": {"bandwidth": 0.5, "threshold": 0.1}, "sparsity": {"mode": "quadratic", "target_l0": ACTIVE}},
    ),
}


def test_random_directions_are_far_below_the_bound(planted):
    rows = np.random.default_rng(1).standard_normal((FEATURES, WIDTH))
    assert mean_max_cosine(planted[0], rows) < 0.5


@pytest.mark.parametrize("run", RUNS)
def test_planted_features_come_back(planted, tmp_path, run):
    directions, _, x = planted
    architecture, parts = RUNS[run]
    seen = []
    sae = train(settings(tmp_path, architecture, **parts), x, callback=seen.append)
    assert isinstance(sae, iam.SAE)
    assert mean_max_cosine(directions, sae.W_dec) > BOUND
    # what was exported does on rows as they are what training measured on scaled rows, up to sampling: 3,200 rows and 2,000
    sample = x[:2000]
    fvu = 1 - float(iam.explained_variance(sample, sae(sample)))
    assert fvu == pytest.approx(at_the_end(seen, "fvu"), rel=0.2)
    assert fvu < 0.15
    active = int((np.asarray(sae.encode(sample).values) > 0).sum())
    assert active / len(sample) == pytest.approx(at_the_end(seen, "l0"), rel=0.1)
    loaded = iam.SAE.load_from_disk(tmp_path / "coder")
    np.testing.assert_array_equal(loaded.W_enc, sae.W_enc)
    np.testing.assert_array_equal(loaded(sample), sae(sample))


def test_rescaled_export_is_the_coder_that_was_trained(tmp_path):
    """Choosing by h n and decoding h: the export has the norms in the encoder, and the same reconstructions."""
    from iam.training._config import CoderSettings
    from iam.training._export import export, folded

    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(24, 6, generator=generator) for _ in range(2))
    weights = {
        "encoder": encoder,
        "decoder": decoder,
        "b_enc": torch.randn(24, generator=generator),
        "b_dec": torch.ones(6),
    }
    coder = CoderSettings(architecture="topk", d_sae=24, k=3, rescale_acts_by_decoder_norm=True)
    scale = 0.25
    arrays = folded(coder, weights, scale_in=scale, scale_out=scale, threshold=0.0)
    sae = export(coder, arrays, apply_b_dec=True, transcoder=False, metadata={})
    x = torch.randn(50, 6, generator=generator)
    h = (scale * x - 1) @ encoder.T + weights["b_enc"]
    kept = torch.zeros_like(h).scatter_(1, (h * decoder.norm(dim=1)).topk(3).indices, 1.0)
    expected = ((h.relu() * kept) @ decoder + 1) / scale
    np.testing.assert_allclose(sae(x.numpy()), expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_transcoder_predicts_the_other_rows(planted, tmp_path, architecture):
    """Targets are the codes of the rows, written in other directions and another width; the affine part is left to the skip."""
    _, codes, x = planted
    rng = np.random.default_rng(7)
    other = rng.standard_normal((PLANTED, 20))
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    y = 3 * (codes @ other + 0.3).astype(np.float32)
    skip = architecture in ("topk", "jumprelu")
    _, parts = RUNS[{"jumprelu": "jumprelu-tanh"}.get(architecture, architecture)]
    parts = parts | {"coder": parts.get("coder", {}) | {"skip": skip}}
    seen = []
    coder = train(settings(tmp_path, architecture, **parts), (x, y), callback=seen.append)
    assert type(coder).__name__ == "Transcoder" and (coder.d_in, coder.d_out) == (WIDTH, 20)
    assert (coder.W_skip is not None) == skip
    error = coder(x[:2000]) - y[:2000]
    fvu = float((error**2).sum() / ((y[:2000] - y[:2000].mean(0)) ** 2).sum())
    assert fvu == pytest.approx(at_the_end(seen, "fvu"), rel=0.2)
    assert fvu < 0.2
    loaded = iam.formats.load(tmp_path / "coder")
    np.testing.assert_allclose(loaded(x[:100]), coder(x[:100]), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- resume


def weights_of(folder):
    numbers, tensors = load_checkpoint(folder)
    return numbers, {name: value for name, value in tensors.items() if not name.startswith("buffer.")}


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [
        ("topk", {"schedule": {"k_start": 8, "k_steps": 20, "warm_up": 5}}),
        ("batchtopk", {"optimiser": {"name": "signum", "lr": 1e-3}}),
        ("jumprelu", RUNS["jumprelu-tanh"][1]),
        ("gated", RUNS["gated"][1]),
    ],
)
def test_interrupted_and_resumed_is_the_uninterrupted_run(planted, tmp_path, architecture, parts):
    """Ctrl-C after step 17 (no checkpoint of its own is due there), resumed: the same losses and weights, to the last bit."""
    x = planted[2]

    def config(name):
        data = {
            "data": {"buffer_rows": 1024},
            "logging": {"every": 1},
            "checkpoint": {"folder": str(tmp_path / name), "every": 10},
        }
        return settings(tmp_path / name, architecture, steps=40, **(parts | data))

    straight, cut = [], []
    train(config("straight"), x, callback=straight.append)

    def press_ctrl_c(metrics):
        cut.append(dict(metrics))
        if metrics["step"] == 17:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config("cut"), x, callback=press_ctrl_c)
    assert load_checkpoint(tmp_path / "cut")[0]["step"] == 17
    train(config("cut"), x, resume=True, callback=cut.append)

    def timeless(metrics):
        return {name: value for name, value in metrics.items() if name != "rows_per_second"}

    assert [timeless(one) for one in cut] == [timeless(one) for one in straight]
    numbers, tensors = weights_of(tmp_path / "straight")
    again, same = weights_of(tmp_path / "cut")
    assert (numbers["step"], numbers["thresholds"]) == (again["step"], again["thresholds"])
    assert tensors.keys() == same.keys()
    for name, value in tensors.items():
        assert torch.equal(value, same[name]), name
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))


def test_resume_after_a_crash_drops_metrics_behind_the_checkpoint(planted, tmp_path):
    """A crash leaves metrics of steps after the last checkpoint; these steps are made again."""
    config = settings(tmp_path, steps=30, logging={"every": 1}, checkpoint={"folder": str(tmp_path), "every": 10})

    def crash(metrics):
        if metrics["step"] == 15:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        train(config, planted[2], callback=crash)
    assert load_checkpoint(tmp_path)[0]["step"] == 10
    train(config, planted[2], resume=True)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 31))


def test_resume_goes_beyond_with_more_steps_and_refuses_other_settings(planted, tmp_path):
    train(settings(tmp_path, steps=10), planted[2])
    with pytest.raises(ArgumentError, match="holds a checkpoint; resume=True"):
        train(settings(tmp_path, steps=10), planted[2])
    train(settings(tmp_path, steps=15), planted[2], resume=True)
    assert load_checkpoint(tmp_path)[0]["step"] == 15
    with pytest.raises(ArgumentError, match=r"optimiser\.lr was 0\.005, is 0\.1"):
        train(settings(tmp_path, steps=15, optimiser={"lr": 0.1}), planted[2], resume=True)
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(FormatError, match="expected a checkpoint of a training run"):
        train(settings(tmp_path, steps=15), planted[2], resume=True)


def test_same_seed_same_weights_other_seed_others(planted, tmp_path):
    found = [
        train(settings(tmp_path / str(at), steps=5, seed=seed), planted[2]).W_dec for at, seed in enumerate((0, 0, 1))
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


# ---------------------------------------------------------------------------------------------------- dead features, aux


@pytest.mark.parametrize("coefficient", [0.0, 1.0])
def test_aux_revives_dead_features(planted, tmp_path, monkeypatch, coefficient):
    """Ten features start with a hundredth of the others' encoders and never win: no gradient reaches them but that of AuxK.

    Eight of them came back in the run that set the bound; without AuxK none can.
    """
    from iam.training._trainer import Trainer

    initial = Trainer._initial

    def ten_of_them_dead(self, *means):
        weights = initial(self, *means)
        weights["encoder"][:10] *= 0.01
        return weights

    monkeypatch.setattr(Trainer, "_initial", ten_of_them_dead)
    sparsity = {"aux_coefficient": coefficient, "dead_after": 20}
    sae = train(settings(tmp_path, steps=300, coder={"d_sae": PLANTED + 4}, sparsity=sparsity), planted[2])
    codes = sae.encode(planted[2][:2000])
    alive = len(set(np.asarray(codes.indices)[np.asarray(codes.values) > 0].tolist()) & set(range(10)))
    assert alive >= 5 if coefficient else alive == 0


def test_decoder_rows_have_norm_one_where_they_should(planted, tmp_path):
    sae = train(settings(tmp_path / "a", steps=20), planted[2])
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-6)
    free = train(settings(tmp_path / "b", "standard", steps=20, sparsity={"coefficient": 0.5}), planted[2])
    assert np.abs(np.linalg.norm(free.W_dec, axis=1) - 1).max() > 0.1


def test_schedules():
    from iam.training._trainer import Trainer

    schedule = {
        "steps": 100,
        "warm_up": 10,
        "decay": 20,
        "lr_end": 0.1,
        "k_start": 13,
        "k_steps": 10,
        "coefficient_warm_up": 4,
    }
    trainer = Trainer(settings("unused", schedule=schedule, sparsity={"coefficient": 2.0}))
    peak = 5e-3
    assert trainer.learning_rate(0) == pytest.approx(peak / 10)
    assert trainer.learning_rate(9) == trainer.learning_rate(79) == pytest.approx(peak)
    assert trainer.learning_rate(90) == pytest.approx(peak * (0.1 + 0.9 * 0.5))
    assert [trainer.k(step) for step in (0, 5, 10, 99)] == [13, 8, 3, 3]
    assert [trainer.coefficient(step) for step in (0, 1, 3, 50)] == [0.5, 1.0, 2.0, 2.0]


# ---------------------------------------------------------------------------------------------------------------- data


def test_tensorboard_is_optional(planted, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        train(settings(tmp_path, steps=5, logging={"tensorboard": True}), planted[2])


def test_tensorboard_shows_each_step_once(planted, tmp_path):
    """Its files after a crash at step 15 and a resume from step 10 show what metrics.jsonl has."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    checkpoint = {"folder": str(tmp_path), "every": 10}
    config = settings(tmp_path, steps=20, logging={"every": 1, "tensorboard": True}, checkpoint=checkpoint)

    def crash(metrics):
        if metrics["step"] == 15:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        train(config, planted[2], callback=crash)
    train(config, planted[2], resume=True)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert set(events.Tags()["scalars"]) == set(lines[0])
    for name in ("loss", "fvu", "l0"):
        shown = [(one.step, one.value) for one in events.Scalars(name)]
        assert [step for step, _ in shown] == list(range(1, 21))
        np.testing.assert_allclose([value for _, value in shown], [line[name] for line in lines], rtol=1e-6)


def test_files_are_as_readable_as_any(planted, tmp_path):
    train(settings(tmp_path / "run", steps=2), planted[2])
    (tmp_path / "file").write_text("")
    expected = (tmp_path / "file").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "run").rglob("*") if path.is_file()} == {expected}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoint.safetensors",
        "coder",
        "config.json",
        "metrics.jsonl",
    }


def test_bar_shows_the_figures():
    from iam.training._progress import _RichBar

    class Recorder:
        def __init__(self):
            self.shown = {}

        def add_task(self, name, **values):
            self.shown[name] = values
            return name

        def update(self, name, **values):
            self.shown[name] |= values

    recorder = Recorder()
    bar = _RichBar(recorder, [("train", 3)])
    bar.harvested(50, 200)
    for step in (1, 2, 3):
        bar.stepped(0, {"step": step, "loss": 1.5, "fvu": 0.25, "l0": 32.0, "dead": 0.125, "rows": 2048})
    assert recorder.shown["activations"]["completed"] == 50
    assert recorder.shown["train"]["completed"] == 3
    assert "loss 1.5  FVU 0.2500  L0 32.0  dead 12.5%" in recorder.shown["train"]["figures"]
    assert recorder.shown["train"]["figures"].endswith("rows/s")


def test_iterator_that_ends_ends_the_run(planted, tmp_path, capsys):
    blocks = (planted[2][at : at + 500] for at in range(0, 3000, 500))
    train(settings(tmp_path, steps=1000), blocks)
    assert load_checkpoint(tmp_path)[0]["step"] == 3000 // 160
    assert "the data ended after 18 steps" in capsys.readouterr().err


def test_bad_data_is_explained(planted, tmp_path):
    config = settings(tmp_path, steps=5)
    with pytest.raises(ArgumentError, match=r"data\.site is missing"):
        train(config)
    with pytest.raises(ArgumentError, match="got str"):
        train(config, "rows.npy")
    with pytest.raises(ArgumentError, match="to yield rows, got none"):
        train(config, iter([]))
    with pytest.raises(ArgumentError, match=r"buffer_rows: expected at least schedule\.batch=160, got 100"):
        train(settings(tmp_path, data={"buffer_rows": 100}), planted[2])
    with pytest.raises(ArgumentError, match="a skip is for a transcoder"):
        train(settings(tmp_path, coder={"skip": True}), planted[2])
    with pytest.raises(NonFiniteError, match=r"lower optimiser\.lr"):
        train(settings(tmp_path, "standard", optimiser={"lr": 1e30, "clip": None}), planted[2])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model of random weights in a folder, and a file of token ids."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=32, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(3, 61, (40, 16)).astype(np.int32))
    return iam.LanguageModel(model), folder


def model_settings(tiny, folder, **data):
    data = {
        "site": "mlp_in.1",
        "site_out": "mlp_out.1",
        "tokens": str(tiny[1] / "tokens.npy"),
        "sink_factor": None,
    } | data
    return settings(folder, steps=12, coder={"d_sae": 32}, schedule={"batch": 64}, data={"buffer_rows": 256, **data})


@pytest.mark.parametrize("cached", [False, True])
def test_model_to_transcoder_interrupted_and_resumed(tiny, tmp_path, cached):
    def config(name):
        return model_settings(tiny, tmp_path / name, cache=str(tmp_path / "cache") if cached else None)

    straight, cut = [], []
    coder = train(config("straight"), model=tiny[0], callback=straight.append)
    assert (str(coder.site), str(coder.site_out)) == ("mlp_in.1", "mlp_out.1")

    def press_ctrl_c(metrics):
        cut.append(dict(metrics))
        if metrics["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config("cut"), model=tiny[0], callback=press_ctrl_c)
    again = train(config("cut"), model=tiny[0], resume=True, callback=cut.append)
    assert [one["loss"] for one in cut] == [one["loss"] for one in straight]
    assert np.array_equal(again.W_dec, coder.W_dec)


def test_sae_of_a_model_attaches_where_it_was_trained(tiny, tmp_path):
    config = model_settings(tiny, tmp_path, site="resid_post.0", site_out=None)
    sae = train(config, model=tiny[0])
    assert str(sae.site) == "resid_post.0"
    with tiny[0].attach(sae.site, sae):
        assert torch.isfinite(tiny[0].logits(torch.tensor([[1, 5, 9]]))).all()


def test_heads_are_flattened_and_the_coder_says_so(tiny, tmp_path):
    sae = train(model_settings(tiny, tmp_path, site="hook_z.1", site_out=None), model=tiny[0])
    assert (sae.cfg.reshape_activations, sae.cfg.metadata["hook_name"]) == ("hook_z", "blocks.1.attn.hook_z")
    assert "prepend_bos" not in sae.cfg.metadata  # the token file does not say


# -------------------------------------------------------------------------------------------------------- command line

RUN = "import sys; from iam.cli._train import train; from iam.cli._app import cli, run; cli.add_command(train); sys.exit(run(sys.argv[1:]))"


@pytest.fixture
def yaml_file(tiny, tmp_path):
    import yaml

    folder = tmp_path / "model"
    tiny[0].model.save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    config = model_settings(tiny, tmp_path / "out", model=str(folder)).to_dict()
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_command_line(yaml_file, tmp_path):
    from click.testing import CliRunner

    from iam.cli._train import train as command

    runner = CliRunner()
    shown = runner.invoke(command, [str(yaml_file), "--dry-run", "--steps", "8"], catch_exceptions=False)
    assert shown.exit_code == 0 and "steps: 8" in shown.output and "kind: transcoder" in shown.output
    assert not (tmp_path / "out").exists()
    help_text = runner.invoke(command, ["--help"]).output
    assert "--resume" in help_text and "Examples" in help_text
    with pytest.raises(ArgumentError, match="there is none"):
        runner.invoke(command, [str(tmp_path / "no.yaml")], catch_exceptions=False)


def test_command_line_stops_and_goes_on(yaml_file, tmp_path):
    """A process that gets SIGINT saves, says how to go on and exits with 130; the next one goes on from there."""
    arguments = [sys.executable, "-c", RUN, "train", str(yaml_file), "--threads", "1"]
    metrics, checkpoint = tmp_path / "out" / "metrics.jsonl", tmp_path / "out" / "checkpoint.safetensors"
    process = subprocess.Popen(
        [*arguments, "--steps", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 180
        while not (metrics.exists() and metrics.read_text().count("\n")) and process.poll() is None:
            assert time.monotonic() < deadline, "no step after three minutes"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "is saved" in err and "--resume" in err and checkpoint.exists()
    step = load_checkpoint(tmp_path / "out")[0]["step"]
    from click.testing import CliRunner

    from iam.cli._train import train as command

    done = CliRunner().invoke(command, [str(yaml_file), "--resume", "--steps", str(step + 3)], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"step {step + 3}: loss" in done.output.replace(",", "") and "Transcoder(topk" in done.output
    assert load_checkpoint(tmp_path / "out")[0]["step"] == step + 3
