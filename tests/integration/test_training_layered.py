"""Runs of coders of several sites, and several runs at once: what is exported does what was trained, interrupted runs end as if they
had not been, coders trained together are those trained alone.

Rows: 12 planted codes, two of them active in each row. Layer i reads the codes of its own third, each site in directions and at a scale
of its own; what is to be predicted at output t is written by the codes of layers 0 .. t. So features of earlier layers are needed later,
and a transcoder for each layer alone cannot predict the last output.
"""

import json
import os
import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

import iam  # noqa: E402
from iam.errors import ArgumentError, ShapeError  # noqa: E402
from iam.training import TrainConfig, train  # noqa: E402
from iam.training._checkpoint import load_checkpoint  # noqa: E402
from iam.training._trainer import Trainer  # noqa: E402

ROWS, WIDTH, OUT, LAYERS, PLANTED, FEATURES = 8192, 16, 12, 3, 8, 16
SCALES_IN, SCALES_OUT = (1.0, 5.0, 0.2), (2.0, 0.5, 7.0)

pytestmark = pytest.mark.usefixtures("one_thread")


def directions(rng, count, width):
    found = rng.standard_normal((count, width))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def layered():
    """Rows to read and rows to predict, for each layer."""
    rng = np.random.default_rng(0)
    codes = []
    for _ in range(LAYERS):
        one = np.zeros((ROWS, PLANTED))
        chosen = rng.random((ROWS, PLANTED)).argpartition(2, axis=1)[:, :2]
        np.put_along_axis(one, chosen, rng.uniform(1, 2, chosen.shape), axis=1)
        codes.append(one)
    xs = [scale * (c @ directions(rng, PLANTED, WIDTH) + 0.3) for c, scale in zip(codes, SCALES_IN, strict=True)]
    ys = []
    for t, scale in enumerate(SCALES_OUT):
        written = sum(codes[i] @ directions(rng, PLANTED, OUT) for i in range(t + 1))
        ys.append(scale * (written - 0.2))
    return [x.astype(np.float32) for x in xs], [y.astype(np.float32) for y in ys]


def settings(folder, architecture="topk", kind="cross_layer", *, steps=300, **parts):
    coder = {"architecture": architecture, "d_sae": FEATURES, "kind": kind} | parts.pop("coder", {})
    if architecture in ("topk", "batchtopk"):
        coder = {"k": 2} | coder
    base = {
        "coder": coder,
        "schedule": {"steps": steps, "batch": 256, "decay": 100, "coefficient_warm_up": 60},
        "optimiser": {"lr": 1e-2},
        "sparsity": {"dead_after": 30},
        "data": {"buffer_rows": 4096},
        "checkpoint": {"folder": str(folder)},
    }
    for name, values in parts.items():
        base[name] = base[name] | values if isinstance(values, dict) and name in base else values
    return TrainConfig.from_dict(base)


def fvu(found, expected):
    """Of all sites together, each on the scale that training gives it: unit mean squared norm."""
    error = variance = 0.0
    for hat, y in zip(found, expected, strict=True):
        scale = 1 / np.square(y).sum(1).mean()
        error += scale * np.square(hat - y).sum()
        variance += scale * np.square(y - y.mean(0)).sum()
    return float(error / variance)


def at_the_end(seen, name):
    return float(np.mean([one[name] for one in seen[-20:]]))


PENALTY = {"sparsity": {"coefficient": 0.02}}
STRAIGHT_THROUGH = {"coder": {"bandwidth": 0.3, "threshold": 0.1}}
RUNS = {
    "topk": ("topk", {}),
    "topk-skip": ("topk", {"coder": {"skip": True}}),
    "topk-rescaled": ("topk", {"coder": {"normalize_decoder": False, "rescale_acts_by_decoder_norm": True}}),
    "batchtopk": ("batchtopk", {}),
    "standard": ("standard", PENALTY),
    "gated": ("gated", PENALTY),
    "jumprelu": ("jumprelu", STRAIGHT_THROUGH | {"sparsity": {"coefficient": 0.02, "mode": "tanh"}}),
}


@pytest.mark.parametrize("run", RUNS)
def test_cross_layer_transcoder_learns_and_is_what_was_trained(layered, tmp_path, run):
    xs, ys = layered
    architecture, parts = RUNS[run]
    seen = []
    coder = train(settings(tmp_path, architecture, **parts), (xs, ys), callback=seen.append)
    assert isinstance(coder, iam.CrossLayerTranscoder) and coder.n_layers == LAYERS
    assert (coder.W_skip is not None) == (run == "topk-skip")
    sample = [x[:2000] for x in xs]
    features = coder.encode(sample)
    found = fvu(coder(sample), [y[:2000] for y in ys])
    # what was exported does on rows as they are what training measured on scaled rows, up to sampling
    assert found == pytest.approx(at_the_end(seen, "fvu"), rel=0.2)
    assert found < 0.25
    active = sum(int((np.asarray(f.values) > 0).sum()) for f in features)
    assert active / 2000 == pytest.approx(at_the_end(seen, "l0"), rel=0.1)
    again = iam.formats.load(tmp_path / "coder")
    for one, other in zip(again(sample), coder(sample), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    told = "circuit_tracer_clt" if architecture in ("batchtopk", "jumprelu", "standard") else "iam"
    assert iam.formats.detect(tmp_path / "coder").format == told


def test_features_of_earlier_layers_write_to_later_ones(layered, tmp_path):
    """The last output is written by the codes of all layers: without what layers 0 and 1 write there, most of it is missing."""
    xs, ys = layered
    coder = train(settings(tmp_path), (xs, ys))
    f = coder.encode([x[:2000] for x in xs])
    whole = coder.decode(f)[-1]
    own = f[-1].to_dense() @ coder.W_dec[-1][:, 0] + coder.b_dec[-1]
    y = ys[-1][:2000]
    assert fvu([whole], [y]) < 0.25 < 0.5 < fvu([own], [y])


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "standard"])
def test_exported_scales_are_exact(layered, architecture):
    """Codes and reconstructions of the exported coder are those of the trained weights on scaled rows, for every pair of layers."""
    xs, ys = (([torch.from_numpy(one[:200]) for one in part]) for part in layered)
    config = settings("unused", architecture, **RUNS[architecture][1])
    trainer = Trainer(config, sites=range(2 * LAYERS))
    with torch.no_grad():
        trainer.start([*xs, *ys])
        for _ in range(5):
            trainer.advance([*xs, *ys])
    coder = trainer.coder()
    w, scales = {name: value.double() for name, value in trainer.weights.items()}, trainer.scales
    codes = []
    for i, x in enumerate(xs):
        h = (scales[i] * x.double()) @ w[f"layers.{i}.encoder"].T + w[f"layers.{i}.b_enc"]
        if architecture == "topk":
            kept = torch.zeros_like(h).scatter_(1, h.topk(2).indices, 1.0) > 0
        elif architecture == "standard":
            kept = h > 0
        else:
            kept = h > (trainer._threshold(i) if architecture == "batchtopk" else w[f"layers.{i}.threshold"])
        codes.append(h.relu() * kept)
    found = coder([x.numpy() for x in xs])
    for t in range(LAYERS):
        hat = w[f"layers.{t}.b_dec"]
        for i in range(t + 1):
            hat = hat + codes[i] @ w[f"layers.{i}.decoder"][:, (t - i) * OUT : (t - i + 1) * OUT]
        np.testing.assert_allclose(found[t], (hat / scales[LAYERS + t]).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu", "standard", "gated"])
def test_crosscoder_learns_and_is_what_was_trained(layered, tmp_path, architecture):
    """One set of codes, written at three sites, in directions and at a scale of each, and noise of 0.05 in each direction."""
    rng = np.random.default_rng(3)
    codes = np.zeros((ROWS, PLANTED))
    chosen = rng.random((ROWS, PLANTED)).argpartition(2, axis=1)[:, :2]
    np.put_along_axis(codes, chosen, rng.uniform(1, 2, chosen.shape), axis=1)
    xs = []
    for scale in SCALES_IN:  # noise, so that the FVU is not the error of a few rows
        rows = codes @ directions(rng, PLANTED, WIDTH) + 0.3 + 0.05 * rng.standard_normal((ROWS, WIDTH))
        xs.append((scale * rows).astype(np.float32))
    parts = RUNS.get(architecture, ("", {}))[1]
    if architecture == "matryoshka":
        parts = {"coder": {"k": 2, "widths": [10]}}
    seen = []
    coder = train(settings(tmp_path, architecture, "crosscoder", **parts), xs, callback=seen.append)
    assert isinstance(coder, iam.Crosscoder) and coder.n_sites == 3 and not coder.cfg.apply_b_dec_to_input
    sample = [x[:2000] for x in xs]
    found = fvu(coder(sample), sample)
    assert found == pytest.approx(at_the_end(seen, "fvu"), rel=0.2)
    assert found < 0.15
    again = iam.formats.load(tmp_path / "coder")
    assert isinstance(again, iam.Crosscoder)
    np.testing.assert_allclose(again(sample)[1], coder(sample)[1], rtol=1e-5, atol=1e-5)


def test_gated_transcoder(layered, tmp_path):
    xs, ys = layered
    seen = []
    coder = train(settings(tmp_path, "gated", "transcoder", **PENALTY), (xs[0], ys[0]), callback=seen.append)
    assert isinstance(coder, iam.Transcoder) and coder.cfg.architecture == "gated"
    found = fvu([coder(xs[0][:2000])], [ys[0][:2000]])
    assert found == pytest.approx(at_the_end(seen, "fvu"), rel=0.2)
    assert found < 0.2
    np.testing.assert_array_equal(iam.formats.load(tmp_path / "coder").W_dec, coder.W_dec)


# ------------------------------------------------------------------------------------------------------------- resume


def timeless(metrics):
    return {name: value for name, value in metrics.items() if name != "rows_per_second"}


def press_ctrl_c_at(step, seen):
    def callback(metrics):
        seen.append(dict(metrics))
        if metrics["step"] == step and not metrics.get("run"):
            os.kill(os.getpid(), signal.SIGINT)

    return callback


def same_checkpoints(one, other):
    (numbers, tensors), (again, same) = (load_checkpoint(folder) for folder in (one, other))
    assert (numbers["step"], numbers["thresholds"], numbers["scales"]) == (
        again["step"],
        again["thresholds"],
        again["scales"],
    )
    assert tensors.keys() == same.keys()
    for name, value in tensors.items():
        assert torch.equal(value, same[name]), name


@pytest.mark.parametrize(
    ("architecture", "kind"), [("topk", "cross_layer"), ("batchtopk", "cross_layer"), ("jumprelu", "crosscoder")]
)
def test_interrupted_and_resumed_is_the_uninterrupted_run(layered, tmp_path, architecture, kind):
    data = layered if kind == "cross_layer" else layered[0]
    parts = RUNS[architecture][1] | {"data": {"buffer_rows": 1024}}

    def config(name):
        return settings(tmp_path / name, architecture, kind, steps=30, **parts)

    straight, cut = [], []
    train(config("straight"), data, callback=straight.append)
    with pytest.raises(KeyboardInterrupt):
        train(config("cut"), data, callback=press_ctrl_c_at(13, cut))
    train(config("cut"), data, resume=True, callback=cut.append)
    assert [timeless(one) for one in cut] == [timeless(one) for one in straight]
    same_checkpoints(tmp_path / "straight", tmp_path / "cut")


# ------------------------------------------------------------------------------------------------------------ a model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model of random weights, and a file of token ids."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=32, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(3, 61, (60, 16)).astype(np.int32))
    return iam.LanguageModel(transformers.LlamaForCausalLM(config).eval()), folder


SITES = {
    "sae": {"site": "resid_post.1"},
    "transcoder": {"site": "mlp_in.1", "site_out": "mlp_out.1"},
    "cross_layer": {"site": ["mlp_in.0", "mlp_in.1", "mlp_in.2"], "site_out": ["mlp_out.0", "mlp_out.1", "mlp_out.2"]},
    "crosscoder": {"site": ["resid_post.0", "resid_post.1", "mlp_in.1"]},
}

ALL_SITES = sorted(
    {site for each in SITES.values() for part in each.values() for site in ([part] if isinstance(part, str) else part)}
)


def of_model(tiny, folder, kind, *, steps=12, coder=None, data=None):
    shared = {
        "tokens": str(tiny[1] / "tokens.npy"),
        "sink_factor": None,
        "buffer_rows": 256,
        "cache": str(folder / "cache"),
    }
    return settings(
        folder / kind,
        kind=None,
        steps=steps,
        coder={"d_sae": 32} | (coder or {}),
        schedule={"batch": 64},
        data=shared | {"cache_sites": ALL_SITES} | SITES[kind] | (data or {}),
    )


@pytest.mark.parametrize("kind", SITES)
def test_kind_follows_from_the_sites_and_the_coder_knows_them(tiny, tmp_path, kind):
    coder = train(of_model(tiny, tmp_path, kind), model=tiny[0])
    expected = {
        "sae": iam.SAE,
        "transcoder": iam.Transcoder,
        "cross_layer": iam.CrossLayerTranscoder,
        "crosscoder": iam.Crosscoder,
    }
    assert type(coder) is expected[kind]
    metadata = iam.formats.load(tmp_path / kind / "coder").cfg.metadata
    assert (metadata["training_steps"], metadata["training_rows"], metadata["seed"]) == (12, 12 * 64, 0)
    if kind == "cross_layer":
        assert [str(site) for site in coder.sites] == SITES[kind]["site"]
        assert [str(site) for site in coder.sites_out] == SITES[kind]["site_out"]
        with tiny[0].with_coders([coder]):
            assert torch.isfinite(tiny[0].logits(torch.tensor([[1, 5, 9]]))).all()
    if kind == "crosscoder":
        assert metadata["hook_names"] == [
            "blocks.0.hook_resid_post",
            "blocks.1.hook_resid_post",
            "blocks.1.mlp.hook_in",
        ]


@pytest.mark.parametrize(("first", "told"), [(0, "circuit_tracer_clt"), (1, "iam")])
def test_layers_that_circuit_tracer_would_take_for_others_are_not_written_for_it(tiny, tmp_path, first, told):
    """circuit-tracer's file i is layer i of the model; layers 1 and 2 would be read as 0 and 1."""
    layers = (first, first + 1)
    data = {"site": [f"mlp_in.{at}" for at in layers], "site_out": [f"mlp_out.{at}" for at in layers], "cache": None}
    coder = {"architecture": "batchtopk", "k": 2}
    trained = train(of_model(tiny, tmp_path, "cross_layer", data=data, coder=coder), model=tiny[0])
    assert iam.formats.detect(tmp_path / "cross_layer" / "coder").format == told
    assert iam.formats.load(tmp_path / "cross_layer" / "coder").sites == trained.sites


def test_output_that_is_also_an_input(tiny, tmp_path):
    """Sites that are read and predicted are in a block once; each layer still gets its own."""
    data = {"site": ["resid_post.0", "resid_post.1"], "site_out": ["resid_post.1", "resid_post.2"], "cache": None}
    config = of_model(tiny, tmp_path, "cross_layer", data=data, coder={"normalize_activations": "none"})
    coder = train(config, model=tiny[0])
    ids = torch.from_numpy(np.load(tiny[1] / "tokens.npy")[:4].astype(np.int64))
    found = tiny[0].capture(ids, ["resid_post.1", "resid_post.2"])
    means = [one[:, 1:].flatten(0, 1).mean(0).numpy() for one in found.values()]
    for bias, mean, other in zip(coder.b_dec, means, means[::-1], strict=True):
        assert np.linalg.norm(bias - mean) < np.linalg.norm(bias - other)


def test_coders_trained_together_are_those_trained_alone(tiny, tmp_path):
    """One of them stops earlier; the others go on."""
    steps = {"sae": 12, "transcoder": 7, "cross_layer": 12, "crosscoder": 12}

    def configs(where):
        return [of_model(tiny, tmp_path / where, kind, steps=steps[kind]) for kind in SITES]

    alone = [train(config, model=tiny[0]) for config in configs("alone")]
    seen = []
    together = train(configs("together"), model=tiny[0], callback=seen.append)
    assert [type(one) for one in together] == [type(one) for one in alone]
    assert [one["run"] for one in seen[:4]] == [0, 1, 2, 3]
    for kind in SITES:
        same_checkpoints(tmp_path / "alone" / kind, tmp_path / "together" / kind)
        lines = (tmp_path / "together" / kind / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == steps[kind]


def test_interrupted_together_and_resumed_together_or_alone(tiny, tmp_path):
    def configs(where):
        return [
            of_model(tiny, tmp_path / where, "sae", steps=5),  # finished before the interruption
            of_model(tiny, tmp_path / where, "cross_layer"),
            of_model(tiny, tmp_path / where, "crosscoder"),
        ]

    train(configs("straight"), model=tiny[0])
    for where in ("together", "alone"):
        cut = []

        def press(metrics, cut=cut):
            cut.append(metrics)
            if (metrics["step"], metrics["run"]) == (7, 1):
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(configs(where), model=tiny[0], callback=press)
        assert [
            load_checkpoint(tmp_path / where / kind)[0]["step"] for kind in ("sae", "cross_layer", "crosscoder")
        ] == [5, 7, 7]
    train(configs("together"), model=tiny[0], resume=True)
    for config in configs("alone"):
        train(config, model=tiny[0], resume=True)
    for where in ("together", "alone"):
        for kind in ("sae", "cross_layer", "crosscoder"):
            same_checkpoints(tmp_path / "straight" / kind, tmp_path / where / kind)


def test_what_cannot_be_trained_together_is_refused(tiny, tmp_path):
    one, other = (of_model(tiny, tmp_path, kind) for kind in ("sae", "transcoder"))
    with pytest.raises(ArgumentError, match=r"number 0 and number 1 differ in data\.context 256 and 128"):
        train([one, of_model(tiny, tmp_path, "transcoder", data={"context": 128})], model=tiny[0])
    with pytest.raises(ArgumentError, match=r"expected a checkpoint\.folder for each configuration"):
        train([one, one], model=tiny[0])
    with pytest.raises(ArgumentError, match="at least one configuration"):
        train([], model=tiny[0])
    train(of_model(tiny, tmp_path, "sae", steps=3), model=tiny[0])
    with pytest.raises(ArgumentError, match=r"expected checkpoints of the same step.*one by one"):
        train([one, other], model=tiny[0], resume=True)


def test_command_line_of_several(tiny, tmp_path):
    import yaml
    from click.testing import CliRunner

    from iam.cli._train import train as command

    folder = tmp_path / "model"
    tiny[0].model.save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    files = []
    for kind in ("cross_layer", "crosscoder"):
        config = of_model(tiny, tmp_path / "out", kind, data={"model": str(folder)})
        files.append(tmp_path / f"{kind}.yaml")
        files[-1].write_text(yaml.safe_dump(config.to_dict()))
    arguments = [*map(str, files), "--steps", "5"]
    shown = CliRunner().invoke(command, [*arguments, "--dry-run"], catch_exceptions=False)
    plans = list(yaml.safe_load_all(shown.output))
    assert [plan["follows"]["kind"] for plan in plans] == ["cross_layer", "crosscoder"]
    assert plans[0]["data"]["site"] == SITES["cross_layer"]["site"] and not (tmp_path / "out").exists()
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "CrossLayerTranscoder(topk, 3 layers" in done.output and "Crosscoder(topk, 3 sites" in done.output
    assert done.output.count("step 5: loss") == 2
    assert load_checkpoint(tmp_path / "out" / "crosscoder")[0]["step"] == 5


def test_rows_that_do_not_fit_the_kind_are_explained(layered, tmp_path):
    xs, ys = layered
    for kind, data, message in [
        ("cross_layer", xs[0], "expected a pair of lists of arrays.* for kind cross_layer, got an array"),
        (
            "cross_layer",
            (xs, ys[:2]),
            r"for kind cross_layer, got \(\(an array, an array, an array\), \(an array, an array\)\)",
        ),
        ("crosscoder", xs[0], "expected a list of at least two arrays.* for kind crosscoder, got an array"),
        ("transcoder", xs[0], "expected a pair of arrays for kind transcoder, got an array"),
        ("sae", (xs[0], ys[0]), "expected an array for kind sae"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            train(settings(tmp_path, kind=kind), data)
    with pytest.raises(
        ArgumentError, match=r"expected sites of one width in a crosscoder coder, got widths \[12, 16\]"
    ):
        train(settings(tmp_path, kind="crosscoder"), [xs[0], ys[0]])
    with pytest.raises(ShapeError, match="as many targets as rows, and as many at each site"):
        train(settings(tmp_path, kind="crosscoder"), [xs[0], xs[1][:5]])


def test_blocks_of_several_sites(layered, tmp_path):
    """An iterable of blocks, each a pair of lists."""
    xs, ys = layered
    blocks = [([x[at : at + 512] for x in xs], [y[at : at + 512] for y in ys]) for at in range(0, ROWS, 512)]
    coder = train(settings(tmp_path, steps=10), iter(blocks))
    assert isinstance(coder, iam.CrossLayerTranscoder)
