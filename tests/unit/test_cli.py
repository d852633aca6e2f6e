"""The command line: help, exit codes, messages for bad input, and the commands on a small random model."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import iam
from iam.cli import _app, _choose, _contexts, _render, main
from iam.cli._report import Example

D, FEATURES, K = 32, 96, 4
SITE = "resid_post.1"
PROMPT = "the old house stood by the sea and the old man"


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    """A small random SAE with example contexts."""
    folder = tmp_path_factory.mktemp("coders") / "sae"
    make_coder(folder)
    return folder


def make_coder(folder, *, d=D, site="blocks.1.hook_resid_post", contexts=True):
    rng = np.random.default_rng(0)
    W_dec = rng.normal(size=(FEATURES, d)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    cfg = iam.SAEConfig(
        architecture="topk", d_in=d, d_sae=FEATURES, k=K, metadata={"hook_name": site, "seqpos_slice": [1, None]}
    )
    zeros = np.zeros(FEATURES, np.float32)
    sae = iam.SAE(cfg, W_enc=W_dec.T.copy(), b_enc=zeros, W_dec=W_dec, b_dec=np.zeros(d, np.float32))
    sae.save_model(folder)
    if contexts:
        example = {"text_before": "in the old", "token": " house", "text_after": " by the sea", "activation": 2.0}
        document = {
            "features": {str(feature): [example, example] for feature in (3, 5)},
            "source": "two made-up sentences",
            "max_activation": [2.0] * FEATURES,
            "density": [0.001] * FEATURES,
        }
        with gzip.open(folder / "contexts.json.gz", "wt") as stream:
            json.dump(document, stream)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Llama of two layers with random weights and a tokenizer of words, as a Hugging Face folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("models") / "llama"
    words = sorted({*PROMPT.split(), *(f"word{n}" for n in range(40))})
    vocabulary = {word: n for n, word in enumerate(["<unk>", "<eos>", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=D,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run(capsys, *arguments):
    """Exit code, standard output and standard error of a command in this process."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ------------------------------------------------------------------------------------------------ help and usage


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"iam {iam.__version__}\n", "")


@pytest.mark.parametrize(
    "command", ["demo", "analyze", "inspect", "convert", "eval", "export", "run", "train", "doctor"]
)
def test_help_has_examples(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Examples:" in out and f"iam {command}" in out


def test_help_lists_commands_and_exit_codes(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(name in out for name in ("demo", "analyze", "inspect", "doctor", "130"))


def test_unknown_command_suggests_the_nearest(capsys):
    code, _, err = run(capsys, "inspct", "x")
    assert code == 2 and "'inspect'" in err


def test_unknown_option_suggests_the_nearest(capsys):
    code, _, err = run(capsys, "demo", "--max-new-token", "3")
    assert code == 2 and "--max-new-tokens" in err


@pytest.mark.parametrize("arguments", [["--top", "0"], ["--max-new-tokens", "x"], ["--emit", "ptx"]])
def test_values_out_of_range(capsys, arguments):
    code, _, err = run(capsys, "demo", *arguments)
    assert code == 2 and arguments[0] in err


def test_help_loads_no_torch():
    script = "import sys; from iam.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


# ------------------------------------------------------------------------------------------------------- inspect


def test_inspect_coder(capsys, coder):
    code, out, _ = run(capsys, "inspect", coder)
    assert code == 0
    for text in (
        "SAELens",
        "topk",
        SITE,
        "W_enc",
        f"{D} x {FEATURES}",
        "F32",
        "examples from real text for 2 features",
    ):
        assert text in out


def test_inspect_json_has_norms(capsys, coder):
    code, out, _ = run(capsys, "inspect", coder, "--json")
    found = json.loads(out)
    assert code == 0 and found["kind"] == "coder" and found["facts"]["k"] == K
    rows = {row["name"]: row for row in found["tensors"]}
    assert rows["W_dec"]["norm"] == pytest.approx(np.sqrt(FEATURES), rel=1e-5)
    assert rows["W_dec"]["shape"] == [FEATURES, D]


def test_inspect_model(capsys, model):
    code, out, _ = run(capsys, "inspect", model)
    assert code == 0
    for text in ("LlamaForCausalLM", "transformers", "layers", "embed_tokens.weight"):
        assert text in out


def test_inspect_single_file(capsys, coder):
    code, out, _ = run(capsys, "inspect", coder / "sae_weights.safetensors")
    assert code == 0 and "b_enc" in out


# One test for each way in which a weight directory can be bad. `break_it` damages a good one.


def _truncate(folder):
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _wrong_shape(folder):
    edit_json(folder / "cfg.json", d_sae=FEATURES + 1)


def _wrong_dtype(folder):
    path = folder / "sae_weights.safetensors"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"F32"', b'"I32"', 1))


def _unknown_activation(folder):
    edit_json(folder / "cfg.json", architecture="topkk")


def _k_above_dictionary(folder):
    edit_json(folder / "cfg.json", k=FEATURES + 1)


def _damaged_config(folder):
    (folder / "cfg.json").write_text("{")


def _damaged_contexts(folder):
    (folder / "contexts.json.gz").write_bytes(b"not gzip")


def _contexts_of_another_coder(folder):
    with gzip.open(folder / "contexts.json.gz", "wt") as stream:
        json.dump({"features": {}, "max_activation": [1.0]}, stream)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (_truncate, "truncated"),
        (_wrong_shape, "shape"),
        (_wrong_dtype, "I32"),
        (_unknown_activation, "topk"),
        (_k_above_dictionary, str(FEATURES + 1)),
        (_damaged_config, "JSON"),
        (_damaged_contexts, "contexts.json.gz"),
        (_contexts_of_another_coder, "max_activation"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_bad_weight_directory(capsys, tmp_path, break_it, expected):
    make_coder(tmp_path / "sae")
    break_it(tmp_path / "sae")
    code, out, err = run(capsys, "inspect", tmp_path / "sae")
    assert code == 2 and out == ""
    assert err.startswith("Error: ") and expected in err
    assert "Traceback" not in err


def test_missing_directory_suggests_the_nearest(capsys, coder):
    code, _, err = run(capsys, "inspect", coder.parent / "sea")
    assert code == 2 and str(coder) in err


def test_empty_directory_says_what_is_expected(capsys, tmp_path):
    code, _, err = run(capsys, "inspect", tmp_path)
    assert code == 2 and "cfg.json" in err and "config.json" in err


def test_pickle_is_refused(capsys, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"\x80\x04.")
    code, _, err = run(capsys, "inspect", tmp_path)
    assert code == 2 and "pickle" in err


def test_text_that_is_no_gguf(capsys, tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUX" + bytes(64))
    code, _, err = run(capsys, "inspect", tmp_path / "x.gguf")
    assert code == 2 and "GGUF" in err


# -------------------------------------------------------------------------------------------------------- doctor


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0, out
    for text in ("iam", "MLIR", "numpy", "torch", "transformers", "CPU level", "threads", "memory pool", "works"):
        assert text in out


def test_doctor_json(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["healthy"] is True
    assert {"runtime", "compiler", "CPU level"} <= {check["name"] for check in found["checks"]}


def test_doctor_names_the_remedy(capsys, monkeypatch):
    from iam.cli import _doctor

    monkeypatch.setattr(_doctor, "package_version", lambda name: None)
    code, out, _ = run(capsys, "doctor")
    assert code == 1  # numpy is required
    assert 'pip install "iam[models]"' in out and "Not usable: numpy" in out


# ------------------------------------------------------------------------------------------------------- analyze


def test_analyze_writes_a_report(capsys, tmp_path, model, coder):
    target = tmp_path / "report.json"
    code, out, err = run(
        capsys, "analyze", "--model", model, "--sae", coder, PROMPT, "--max-new-tokens", 4, "--json", target
    )
    assert code == 0, err
    for text in ("variance explained", "house", "KL", "steered", "Time"):
        assert text in out
    assert "\x1b[" not in out  # no terminal, no colour
    report = json.loads(target.read_text())
    assert os.listdir(tmp_path) == ["report.json"]
    assert report["schema"] == "iam.report/1"
    assert report["site"] == SITE
    assert report["quality"]["l0"] <= K
    assert not report["tokens"][0]["counted"] and all(token["counted"] for token in report["tokens"][1:])
    assert all(len(token["features"]) <= 3 for token in report["tokens"])
    steering = report["steering"]
    assert steering["feature"] in (3, 5) and steering["kl"] >= 0
    assert "iam.clt.encode" in report["programs"]["steered"]["iam"]
    assert "iam.clt.delta" in report["programs"]["steered"]["fused"]
    assert set(report["hashes"]) == {"prompt", "coder", "model"}
    assert report["versions"]["iam"] == iam.__version__ and report["seed"] == 0


def test_report_agrees_with_the_library(capsys, model, coder):
    """The reported activations are those of the coder on the captured activations."""
    code, out, _ = run(
        capsys, "analyze", "--model", model, "--sae", coder, PROMPT, "--max-new-tokens", 1, "--json", "-"
    )
    assert code == 0
    report = json.loads(out)
    sae = iam.SAE.load_from_disk(coder)
    x = iam.LanguageModel(str(model)).capture(PROMPT, SITE)[iam.Site.parse(SITE)][0, 1:].numpy()
    dense = sae.encode(x).to_dense()
    for token, row in zip(report["tokens"][1:], dense, strict=True):
        best = int(row.argmax())
        assert token["features"][0]["feature"] == best
        assert token["features"][0]["activation"] == pytest.approx(float(row[best]), rel=1e-5)
    centred = x - x.mean(axis=0)
    variance = 1 - ((x - sae.decode(sae.encode(x))) ** 2).sum() / (centred**2).sum()
    assert report["quality"]["explained_variance"] == pytest.approx(float(variance), abs=1e-4)


def test_feature_and_strength_as_asked_for(capsys, model, coder):
    arguments = ["--feature", 7, "--strength", 3.5, "--max-new-tokens", 1, "--json", "-"]
    code, out, _ = run(capsys, "analyze", "--model", model, "--sae", coder, PROMPT, *arguments)
    steering = json.loads(out)["steering"]
    assert code == 0 and (steering["feature"], steering["strength"]) == (7, 3.5)


def test_coder_without_contexts(capsys, tmp_path, model):
    make_coder(tmp_path / "sae", contexts=False)
    code, out, err = run(capsys, "analyze", "--model", model, "--sae", tmp_path / "sae", PROMPT, "--max-new-tokens", 2)
    assert code == 0, err
    assert "ships no examples" in out


@pytest.mark.parametrize(
    ("stage", "expected"), [("iam", "iam.clt.topk"), ("fused", "iam.clt.delta"), ("llvm", "llvm.")]
)
def test_emit(capsys, coder, stage, expected):
    code, out, _ = run(capsys, "analyze", "--model", "unused", "--sae", coder, "unused", "--emit", stage)
    assert code == 0 and expected in out and "// -----" in out


def test_emitted_program_is_read_by_iam_opt(capsys, coder, tmp_path):
    from iam._tools import install_root

    _, out, _ = run(capsys, "analyze", "--model", "unused", "--sae", coder, "unused", "--emit", "iam")
    (tmp_path / "program.mlir").write_text(out)
    tool = install_root() / "bin" / "iam-opt"
    subprocess.run([tool, "--split-input-file", tmp_path / "program.mlir"], check=True, capture_output=True)


def test_malformed_mlir_through_iam_opt(tmp_path):
    from iam._tools import install_root

    (tmp_path / "bad.mlir").write_text("func.func @f(%x: tensor<2x3xf32>) { %y = iam.clt.topk %x k 3 }")
    done = subprocess.run(
        [install_root() / "bin" / "iam-opt", tmp_path / "bad.mlir"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1  # an exit code, not a signal
    assert re.search(r"bad\.mlir:1:\d+: error: ", done.stderr)


def test_site_that_the_model_does_not_have(capsys, model, coder):
    code, _, err = run(capsys, "analyze", "--model", model, "--sae", coder, "--site", "resid_post.9", PROMPT)
    assert code == 2 and "resid_post.9" in err and "0..2" in err


def test_misspelt_site_suggests_the_nearest(capsys, model, coder):
    code, _, err = run(capsys, "analyze", "--model", model, "--sae", coder, "--site", "resid_pst.1", PROMPT)
    assert code == 2 and '"resid_post"' in err


def test_coder_of_another_site(capsys, model, coder):
    code, _, err = run(capsys, "analyze", "--model", model, "--sae", coder, "--site", "resid_post.0", PROMPT)
    assert code == 2 and f"--site {SITE}" in err


def test_coder_of_another_width(capsys, tmp_path, model):
    make_coder(tmp_path / "sae", d=D + 8)
    code, _, err = run(capsys, "analyze", "--model", model, "--sae", tmp_path / "sae", PROMPT)
    assert code == 2 and str(D + 8) in err and str(D) in err


def test_feature_out_of_range(capsys, model, coder):
    code, _, err = run(capsys, "analyze", "--model", model, "--sae", coder, PROMPT, "--feature", FEATURES)
    assert code == 2 and f"0..{FEATURES - 1}" in err


def test_missing_model(capsys, tmp_path, coder):
    code, _, err = run(capsys, "analyze", "--model", tmp_path / "nothing", "--sae", coder, PROMPT)
    assert code == 2 and "nothing" in err


def test_missing_coder(capsys, tmp_path, model):
    code, _, err = run(capsys, "analyze", "--model", model, "--sae", tmp_path / "nothing", PROMPT)
    assert code == 2 and "nothing" in err


def test_empty_prompt(capsys, model, coder):
    code, _, err = run(capsys, "analyze", "--model", model, "--sae", coder, "  ")
    assert code == 2 and "prompt" in err


def test_prompt_of_one_token(capsys, model, coder):
    code, _, err = run(capsys, "analyze", "--model", model, "--sae", coder, "house")
    assert code == 2 and "at least one token that counts" in err


def test_report_into_a_missing_folder_fails_before_the_work(capsys, tmp_path, coder):
    code, _, err = run(
        capsys, "analyze", "--model", "unused", "--sae", coder, PROMPT, "--json", tmp_path / "no" / "report.json"
    )
    assert code == 2 and "no such folder" in err


# ----------------------------------------------------------------------------------------- failures and interrupts


def test_unexpected_failure(capsys, monkeypatch, coder):
    from iam.cli import _inspect

    def fail(_path):
        raise ZeroDivisionError("made for this test")

    monkeypatch.setattr(_inspect, "inspect_path", fail)
    code, _, err = run(capsys, "inspect", coder)
    assert code == 1 and "made for this test" in err and "Traceback" not in err
    code, _, err = run(capsys, "--traceback", "inspect", coder)
    assert code == 1 and "Traceback" in err


def test_ctrl_c_is_clean(capsys, monkeypatch, coder):
    from iam.cli import _inspect

    monkeypatch.setattr(_inspect, "inspect_path", lambda _path: signal.raise_signal(signal.SIGINT))
    code, _, err = run(capsys, "inspect", coder)
    assert code == 130 and "interrupted" in err and "Traceback" not in err


def test_ctrl_c_that_a_library_swallowed(capsys, monkeypatch, coder):
    from iam.cli import _inspect

    def swallow(_path):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("import failed") from None

    monkeypatch.setattr(_inspect, "inspect_path", swallow)
    code, _, err = run(capsys, "inspect", coder)
    assert code == 130 and "import failed" not in err


def test_interrupt_handler_is_put_back(capsys):
    before = signal.getsignal(signal.SIGINT)
    run(capsys, "--version")
    assert signal.getsignal(signal.SIGINT) is before
    assert not _app.INTERRUPTS.requested


# ------------------------------------------------------------------------------------------------------ its parts


def example(token, activation=1.0):
    return Example(text_before="a", token=token, text_after=" b", activation=activation)


def test_candidates_agree_on_a_word_and_are_new_to_the_prompt():
    contexts = _contexts.Contexts(
        examples={
            0: [example(" the"), example(" the")],  # too short to be a content word
            1: [example(" ocean"), example(" oceans")],
            2: [example(" garden"), example(" winter")],  # no agreement
            3: [example(" castle"), example(" castle")],
            4: [example("ing"), example("ing")],  # part of a word
        },
        max_activation=[],
        density=[],
        source=None,
    )
    assert _choose.candidates(contexts, active=[1]) == [3, 1]


def test_best_discounts_text_that_goes_round_in_circles():
    loop = _choose.Trial(feature=1, multiple=2, unit=1.0, echo=0.6, variety=0.2)
    fluent = _choose.Trial(feature=2, multiple=2, unit=1.5, echo=0.4, variety=0.9)
    choice = _choose.best([loop, fluent])
    assert (choice.feature, choice.strength) == (2, 3.0)


def test_kl_divergence():
    p = np.array([0.5, 0.5, 0.0])
    assert _choose.kl_divergence(p, p) == 0
    assert _choose.kl_divergence(np.array([1.0, 0.0, 0.0]), p) == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("fraction", "cells"), [(0.0, "    "), (0.5, "██  "), (1.0, "████"), (7.0, "████"), (-1, "    ")]
)
def test_bar(fraction, cells):
    assert _render.bar(fraction, 4) == cells


def test_label_of_examples():
    assert _contexts.label([example(" sea"), example(" sea"), example(" ship")]) == "sea"
    assert _contexts.label([example(" sea"), example(" ship")]) == "sea/ship"
    assert _contexts.label([]) == ""
