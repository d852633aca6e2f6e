"""``iam eval``: options, files, what it prints and writes."""

import json
import signal

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import iam  # noqa: E402
from iam.cli._contexts import load_contexts  # noqa: E402
from iam.cli._eval import evaluate as command  # noqa: E402
from iam.errors import ArgumentError, FormatError  # noqa: E402
from iam.evaluation import evaluate  # noqa: E402

WIDTH, D_SAE, VOCABULARY = 16, 24, 40


class Letters:
    """A tokenizer of lower-case letters."""

    all_special_ids = (0,)
    pad_token_id = 0

    def __call__(self, text, **_):
        return {"input_ids": [3 + ord(c) % 26 for c in text]}

    def decode(self, ids, **_):
        return "".join(chr(97 + int(i)) for i in ids)


@pytest.fixture
def model(monkeypatch):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    lm = iam.LanguageModel(transformers.AutoModelForCausalLM.from_config(config).eval(), Letters())
    monkeypatch.setattr(iam, "LanguageModel", lambda name: lm)
    return lm


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    sae = iam.SAE(
        iam.SAEConfig(
            architecture="topk",
            d_in=WIDTH,
            d_sae=D_SAE,
            k=3,
            metadata={"hook_name": "blocks.0.hook_resid_post", "seqpos_slice": [1, 8]},
        ),
        W_enc=rng.standard_normal((WIDTH, D_SAE)),
        b_enc=np.zeros(D_SAE),
        W_dec=rng.standard_normal((D_SAE, WIDTH)),
        b_dec=np.zeros(WIDTH),
    )
    sae.save_model(tmp_path / "sae")
    return tmp_path / "sae"


def run(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_text_metrics_picture_contexts_and_neuronpedia(model, folder, tmp_path):
    (tmp_path / "a.txt").write_text("the old house stood by the sea and the sea was calm")
    (tmp_path / "b.jsonl").write_text('{"text": "short"}\n{"text": "a second document that is long enough"}\n')
    out = tmp_path / "e.json"
    done = run(
        folder, "--model", "tiny", "--text", tmp_path / "a.txt", "--text", tmp_path / "b.jsonl", "--context", 8,
        "--max-contexts", 9, "--json", out, "--picture", tmp_path / "d.svg", "--contexts", "--neuronpedia", tmp_path / "np",
        "--sae-set", "mine", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "explained_variance" in done.output and "ce_loss_score" in done.output
    document = json.loads(out.read_text())
    text = (tmp_path / "a.txt").read_text()
    second = "a second document that is long enough"
    ids = [Letters()(t)["input_ids"][i : i + 8] for t in (text, second) for i in range(0, len(t) - 7, 8)][:9]
    expected = evaluate(
        iam.SAE.load_from_disk(folder), model=model, tokens=np.array(ids), from_position=1, batch_size=4
    )
    assert (
        document["metrics"] == json.loads(expected.to_json())["metrics"]
    )  # position 0 is left out, as it was in training
    assert (tmp_path / "d.svg").read_text().startswith("<svg")
    contexts = load_contexts(folder, D_SAE)
    assert contexts.examples and "9 contexts of 8 tokens from a.txt, b.jsonl" in str(contexts.source)
    assert json.loads((tmp_path / "np" / "batch-0.json").read_text())["sae_set"] == "mine"


def test_json_to_standard_output(model, folder, tmp_path):
    (tmp_path / "a.txt").write_text("words " * 20)
    arguments = ("--model", "tiny", "--text", tmp_path / "a.txt", "--context", 8, "--no-losses", "--from-position", 0)
    document = json.loads(run(folder, *arguments, "--json", "-").stdout)
    assert document["schema"] == "iam.evaluation/1" and "model_performance_preservation" not in document["metrics"]
    assert document["metrics"]["token_stats"]["total_tokens_eval_sparsity_variance"] % 8 == 0


def test_activations_from_a_file(folder, tmp_path, rng):
    x = rng.standard_normal((50, WIDTH)).astype(np.float32)
    np.save(tmp_path / "rows.npy", x)
    done = run(folder, "--activations", tmp_path / "rows.npy", "--json", "-")
    expected = evaluate(iam.SAE.load_from_disk(folder), activations=x)
    assert json.loads(done.stdout)["metrics"]["reconstruction_quality"]["mse"] == expected.mse


def test_it_says_what_the_figures_are_means_over(model, folder, tmp_path, rng, monkeypatch):
    (tmp_path / "a.txt").write_text("the old house stood by the sea and the sea was calm")
    arguments = (folder, "--model", "tiny", "--text", tmp_path / "a.txt", "--context", 8, "--no-losses")
    done = run(*arguments)
    assert "42 positions: 6 contexts of 8 tokens, the first 1 of each left out, special tokens left out." in done.stderr
    assert "An average feature is active at 5.2 of them" in " ".join(done.stderr.split())  # 42 · 3 / 24
    monkeypatch.setattr("iam.cli._eval.FEW", 5)
    assert "dead_features" not in run(*arguments).stderr
    assert not run(*arguments, "--quiet").stderr
    x = rng.standard_normal((3, WIDTH)).astype(np.float32)
    np.save(tmp_path / "rows.npy", x)
    done = run(folder, "--activations", tmp_path / "rows.npy")
    assert "3 positions: rows.npy." in done.stderr
    assert "An average feature is active at 0.4 of them" in " ".join(done.stderr.split())


def test_a_coder_of_several_sites(model, tmp_path):
    draw = lambda *shape: np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)  # noqa: E731
    metadata = {"hook_names": ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]}
    cfg = iam.CoderConfig(architecture="topk", d_in=WIDTH, d_sae=D_SAE, k=3, metadata=metadata)
    shapes = {"W_enc": (2, WIDTH, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, 2, WIDTH), "b_dec": (2, WIDTH)}
    iam.Crosscoder(cfg, **{name: draw(*shape) for name, shape in shapes.items()}).save_model(tmp_path / "crosscoder")
    (tmp_path / "a.txt").write_text("the old house stood by the sea and the sea was calm")
    arguments = ("--model", "tiny", "--text", tmp_path / "a.txt", "--context", 8)
    done = run(tmp_path / "crosscoder", *arguments, "--json", tmp_path / "e.json")
    assert "site by site" in done.stdout and "resid_post.1" in done.stdout
    parts = json.loads((tmp_path / "e.json").read_text())["parts"]
    assert [part["site"] for part in parts] == ["resid_post.0", "resid_post.1"]
    assert all("ce_loss_score" in part["metrics"]["model_performance_preservation"] for part in parts)
    done = run(tmp_path / "crosscoder", *arguments, "--contexts")
    assert done.exit_code == 2 and "need a coder of one site, got a Crosscoder" in done.output
    np.save(tmp_path / "rows.npy", draw(2, 5, WIDTH))  # [sites, rows, width]
    assert "site by site" in run(tmp_path / "crosscoder", "--activations", tmp_path / "rows.npy").stdout


def test_ctrl_c_ends_it_without_files(model, folder, tmp_path, monkeypatch, capsys):
    from iam.cli import main
    from iam.cli._app import INTERRUPTS

    monkeypatch.setattr(INTERRUPTS, "requested", False)  # and again after this test
    (tmp_path / "a.txt").write_text("the old house stood by the sea and the sea was calm")
    read, passes = model._read, []

    def interrupted(*arguments):
        passes.append(1)
        if len(passes) == 2:
            signal.raise_signal(signal.SIGINT)
        return read(*arguments)

    monkeypatch.setattr(model, "_read", interrupted)
    arguments = ["eval", folder, "--model", "tiny", "--text", tmp_path / "a.txt", "--context", 8, "--batch-size", 2]
    code = main([*map(str, arguments), "--json", str(tmp_path / "e.json"), "--picture", str(tmp_path / "d.svg")])
    assert code == 130 and len(passes) == 2
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "e.json").exists() and not (tmp_path / "d.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --model and --text, or --activations"),
        (("--model", "m"), "--model and --text go together"),
        (("--model", "m", "--text", "t", "--activations", "a"), "give --model and --text, or --activations"),
        (("--model", "m", "--text", "t", "--targets", "a"), "--targets goes with --activations"),
        (("--activations", "a", "--contexts"), "need --model and --text"),
        (("--model", "m", "--text", "t", "--neuronpedia", "d"), "--neuronpedia and --sae-set go together"),
        (("--activations", "a", "--picture", "p.png"), "expected a name that ends in .svg, got p.png"),
    ],
)
def test_options_that_do_not_go_together(folder, arguments, message):
    done = run(folder, *arguments)
    assert done.exit_code == 2 and message in done.output


def test_files_that_are_not_what_they_should_be(model, folder, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(FormatError, match=r"expected a \.npy file of floats"):
        run(folder, "--activations", tmp_path / "bad.npy")
    (tmp_path / "bad.jsonl").write_text('{"texts": 1}\n')
    with pytest.raises(FormatError, match="line 1"):
        run(folder, "--model", "m", "--text", tmp_path / "bad.jsonl")
    with pytest.raises(FormatError, match="expected a text file"):
        run(folder, "--model", "m", "--text", tmp_path / "missing.txt")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(ArgumentError, match="at least 256 tokens"):
        run(folder, "--model", "m", "--text", tmp_path / "short.txt")


def test_beginning_of_text_as_the_coder_was_trained(model, folder, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("abcdefghijklmnop")
    sae = iam.SAE.load_from_disk(folder)
    from dataclasses import replace

    cfg = replace(sae.cfg, metadata={"hook_name": "blocks.0.hook_resid_post", "prepend_bos": True})
    weights = {n: getattr(sae, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    iam.SAE(cfg, **weights).save_model(tmp_path / "bos")
    arguments = ("--model", "m", "--text", tmp_path / "a.txt", "--context", 5, "--no-losses", "--json", "-")
    with pytest.raises(ArgumentError, match="pass --no-bos"):
        run(tmp_path / "bos", *arguments)
    monkeypatch.setattr(Letters, "bos_token_id", 0, raising=False)

    def counted(*more):
        return json.loads(run(tmp_path / "bos", *arguments, *more).stdout)["metrics"]["token_stats"]

    name = "total_tokens_eval_sparsity_variance"
    assert counted()[name] == 4 * 4  # four contexts of a BOS, which is not counted, and four letters
    assert counted("--count-special-tokens")[name] == 4 * 5
    assert counted("--no-bos")[name] == 3 * 5
