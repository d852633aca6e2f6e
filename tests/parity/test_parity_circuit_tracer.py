"""circuit-tracer 0.5.0: its transcoders and cross-layer transcoders load what IAM writes, and the reverse.

Codes and reconstructions are equal within 1e-5. Where circuit-tracer makes a mistake, the test shows it.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("circuit_tracer.transcoder")

import huggingface_hub.constants  # noqa: E402
from circuit_tracer.transcoder import SingleLayerTranscoder, TranscoderSet, load_transcoder_set  # noqa: E402
from circuit_tracer.transcoder import cross_layer_transcoder as clts  # noqa: E402
from circuit_tracer.transcoder.activation_functions import JumpReLU, TopK  # noqa: E402
from circuit_tracer.transcoder.single_layer_transcoder import (  # noqa: E402
    load_gemma_scope_2_transcoder,
    load_gemma_scope_transcoder,
)

import iam  # noqa: E402
from iam.core.errors import FormatError  # noqa: E402
from iam.formats import circuit_tracer as plt_format  # noqa: E402
from iam.formats import detect  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
D, F, L, ROWS = 24, 96, 3, 40
CPU = torch.device("cpu")
HOOKS = ("mlp.hook_in", "hook_mlp_out")


def metadata(layer):
    return {"model_name": "m", "hook_name": f"blocks.{layer}.{HOOKS[0]}", "hook_name_out": f"blocks.{layer}.{HOOKS[1]}"}


def numbers(seed):
    rng = np.random.default_rng(seed)
    return lambda *shape, scale=1.0: (rng.normal(size=shape) * scale).astype(np.float32)


def transcoder(layer=0, architecture="jumprelu", skip=False, **more):
    normal = numbers(layer)
    cfg = iam.CoderConfig(architecture=architecture, d_in=D, d_sae=F, metadata=metadata(layer), **more)
    w = {"W_enc": normal(D, F, scale=D**-0.5), "b_enc": normal(F, scale=0.2), "W_dec": normal(F, D, scale=0.3),
         "b_dec": normal(D, scale=0.2)}  # fmt: skip
    if architecture == "jumprelu":
        w["threshold"] = np.abs(normal(F, scale=0.3))
    if skip:
        w["W_skip"] = normal(D, D, scale=0.2)
    return iam.Transcoder(cfg, **w)


def clt(architecture="jumprelu", skip=False, seed=0):
    normal = numbers(seed)
    names = {f"hook_names{out}": [f"blocks.{i}.{hook}" for i in range(L)] for out, hook in (("", HOOKS[0]), ("_out", HOOKS[1]))}  # fmt: skip
    cfg = iam.CoderConfig(architecture=architecture, d_in=D, d_sae=F, metadata={"model_name": "m", **names})
    w = {"W_enc": [normal(D, F, scale=D**-0.5) for _ in range(L)], "b_enc": [normal(F, scale=0.2) for _ in range(L)],
         "W_dec": [normal(F, L - i, D, scale=0.3) for i in range(L)], "b_dec": [normal(D, scale=0.2) for _ in range(L)]}  # fmt: skip
    if architecture == "jumprelu":
        w["threshold"] = [np.abs(normal(F, scale=0.3)) for _ in range(L)]
    if skip:
        w["W_skip"] = [normal(D, D, scale=0.2) for _ in range(L)]
    return iam.CrossLayerTranscoder(cfg, **w)


def inputs(*lead):
    return numbers(9)(*lead, ROWS, D)


@torch.no_grad()
def same(theirs, ours, x):
    """One layer of each: codes and what comes out, skip and all."""
    codes, y = theirs.encode(torch.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    assert codes.any()
    np.testing.assert_allclose(ours.encode(x).to_dense(), codes, **CLOSE)
    np.testing.assert_allclose(ours(x), y, **CLOSE)


@torch.no_grad()
def same_clt(theirs, ours, x):
    codes = theirs.encode(torch.from_numpy(x))
    assert codes.any()
    for layer, f in enumerate(ours.encode(list(x))):
        np.testing.assert_allclose(f.to_dense(), codes[layer].numpy(), **CLOSE)
    decoded = theirs.decode(codes.to_sparse(), torch.from_numpy(x))
    for layer, y in enumerate(ours(list(x))):
        np.testing.assert_allclose(y, decoded[layer].numpy(), **CLOSE)


def load_set(folder, lazy):
    paths = {i: str(folder / f"layer_{i}.safetensors") for i in plt_format.layers(folder)}
    return load_transcoder_set(paths, "a scan", *HOOKS, device=CPU, lazy_encoder=lazy, lazy_decoder=lazy)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_circuit_tracer_loads_the_transcoders_that_iam_writes(architecture, skip, lazy, tmp_path):
    ours = [transcoder(i, architecture, skip) for i in range(L)]
    plt_format.write_all(ours, tmp_path)
    theirs = load_set(tmp_path, lazy)
    assert (theirs.n_layers, theirs.d_transcoder, theirs.skip_connection) == (L, F, skip)
    x = inputs(L)
    for layer in range(L):
        same(theirs[layer], ours[layer], x[layer])
    with torch.no_grad():  # the way attribution takes: sparse, all layers, position 0 left out
        parts = theirs.compute_attribution_components(torch.from_numpy(x))
    for layer in range(L):
        np.testing.assert_allclose(ours[layer](x[layer])[1:], parts["reconstruction"][layer, 1:].numpy(), **CLOSE)


def test_circuit_tracer_reads_the_config_that_iam_writes(tmp_path, monkeypatch):
    """config.yaml, by circuit-tracer's own reader, which needs a constant of huggingface_hub before 1.0 to be imported."""
    import yaml

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ENABLE_HF_TRANSFER", False, raising=False)
    from circuit_tracer.utils import hf_utils

    ours = [transcoder(i, skip=True) for i in range(L)]
    plt_format.write_all(ours, tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config |= {"scan": "a scan", "transcoders": [str(tmp_path / f"layer_{i}.safetensors") for i in range(L)]}
    theirs = hf_utils.load_transcoders(config, CPU)
    assert (theirs.feature_input_hook, theirs.feature_output_hook) == HOOKS
    for layer in range(L):
        same(theirs[layer], ours[layer], inputs())


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_iam_loads_the_transcoders_that_circuit_tracer_writes(architecture, skip, tmp_path):
    theirs = {}
    for layer in range(L):
        w = {
            name: torch.from_numpy(array) for name, array in transcoder(layer, architecture, skip).parameters().items()
        }
        activation = JumpReLU(w["threshold"], 0.1) if architecture == "jumprelu" else torch.nn.functional.relu
        each = SingleLayerTranscoder(D, F, activation, layer, skip_connection=skip, device=CPU, dtype=torch.float32)
        with torch.no_grad():
            each.W_enc.copy_(w["W_enc"].T)
            for name in ("W_dec", "b_enc", "b_dec", *(["W_skip"] if skip else [])):
                getattr(each, name).copy_(w[name])
        theirs[layer] = each
    TranscoderSet(theirs, *HOOKS).to_safetensors(str(tmp_path))
    assert detect(tmp_path).format == "circuit_tracer"
    for layer, ours in enumerate(plt_format.read_all(tmp_path)):
        assert ours.cfg.architecture == architecture
        same(theirs[layer], ours, inputs())


def test_topk(tmp_path):
    """Where the k largest are positive both keep the same. 0.5.0 has the activation and does not read ``activation: topk``."""
    ours = transcoder(0, "topk", k=8)
    ours.b_enc[:] += 1
    plt_format.write(ours, tmp_path)
    theirs = load_set(tmp_path, lazy=False)[0]
    assert theirs.activation_function is torch.nn.functional.relu
    theirs.activation_function = TopK(8)
    x = inputs()
    with torch.no_grad():
        assert (theirs.encode(torch.from_numpy(x)) > 0).sum(-1).min() == 8
    same(theirs, iam.formats.load(tmp_path), x)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_circuit_tracer_loads_the_clt_that_iam_writes(architecture, lazy, tmp_path):
    ours = clt(architecture)
    iam.formats.save(ours, tmp_path, format="circuit_tracer_clt")
    theirs = clts.load_clt(str(tmp_path), device=CPU, dtype=torch.float32, lazy_decoder=lazy, lazy_encoder=lazy)
    assert (theirs.n_layers, theirs.d_transcoder) == (L, F)
    x = inputs(L)
    same_clt(theirs, ours, x)
    with torch.no_grad():
        parts = theirs.compute_attribution_components(torch.from_numpy(x), zero_positions=slice(0, 0))
    for layer, y in enumerate(ours(list(x))):
        np.testing.assert_allclose(y, parts["reconstruction"][layer].numpy(), **CLOSE)


@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_iam_loads_the_clt_that_circuit_tracer_writes(architecture, tmp_path):
    source = clt(architecture)
    activation = "jump_relu" if architecture == "jumprelu" else "relu"
    theirs = clts.CrossLayerTranscoder(
        L, F, D, activation_function=activation, lazy_decoder=False, device=CPU, dtype=torch.float32
    )
    with torch.no_grad():
        for i in range(L):
            theirs.W_enc[i].copy_(torch.from_numpy(source.W_enc[i].T.copy()))
            theirs.W_dec[i].copy_(torch.from_numpy(source.W_dec[i]))
            theirs.b_enc[i].copy_(torch.from_numpy(source.b_enc[i]))
            theirs.b_dec[i].copy_(torch.from_numpy(source.b_dec[i]))
            if architecture == "jumprelu":
                theirs.activation_function.threshold[i, 0].copy_(torch.from_numpy(source.threshold[i]))
    theirs.to_safetensors(str(tmp_path))
    assert detect(tmp_path).format == "circuit_tracer_clt"
    same_clt(theirs, iam.formats.load(tmp_path), inputs(L))


def test_gemma_scope_files(tmp_path):
    """Both generations of Gemma Scope transcoders, written by IAM, in circuit-tracer's loaders."""
    plain, affine = transcoder(0), transcoder(1, skip=True)
    iam.formats.save(plain, tmp_path / "one", format="gemma_scope")
    theirs = load_gemma_scope_transcoder(str(tmp_path / "one" / "params.npz"), 0, device=CPU)
    same(theirs, plain, inputs())
    iam.formats.save(affine, tmp_path / "two", format="gemma_scope_2")
    theirs = load_gemma_scope_2_transcoder(str(tmp_path / "two" / "params.safetensors"), 0, device=CPU)
    same(theirs, affine, inputs())


def test_the_last_layer_of_a_gemma_scope_2_clt(tmp_path):
    """circuit-tracer's loader leaves the last layer out and then does not fit its own decoders; IAM reads all of them.

    With one entry more than there are layers it reads them all, and agrees.
    """
    ours = clt(skip=True)
    iam.formats.save(ours, tmp_path, format="gemma_scope_2")
    paths = {i: str(tmp_path / f"params_layer_{i}.safetensors") for i in range(L)}
    with pytest.raises(RuntimeError, match="size mismatch"):
        clts.load_gemma_scope_2_clt(paths, device=CPU, dtype=torch.float32)
    theirs = clts.load_gemma_scope_2_clt({**paths, L: "one more"}, device=CPU, dtype=torch.float32)
    again = iam.formats.load(tmp_path)
    assert again.n_layers == theirs.n_layers == L
    same_clt(theirs, again, inputs(L))


def test_the_skip_of_a_clt(tmp_path):
    """circuit-tracer cannot call a cross-layer transcoder with a skip, and its folder has no place for one: IAM refuses to write it there."""
    ours = clt(skip=True)
    iam.formats.save(ours, tmp_path / "a", format="gemma_scope_2")
    paths = {i: str(tmp_path / "a" / f"params_layer_{i}.safetensors") for i in range(L)} | {L: ""}
    theirs = clts.load_gemma_scope_2_clt(paths, device=CPU, dtype=torch.float32)
    with pytest.raises(AssertionError, match="no input_acts"):
        theirs(torch.from_numpy(inputs(L)))
    for decoder in theirs.W_dec:  # slices of one tensor, which safetensors does not save
        decoder.data = decoder.data.contiguous()
    theirs.to_safetensors(str(tmp_path / "b"))
    assert not any(
        "skip" in name for file in (tmp_path / "b").iterdir() for name in iam.formats.SafetensorsFile(file).tensors
    )
    with pytest.raises(FormatError, match="without skip connection"):
        iam.formats.save(ours, tmp_path / "c", format="circuit_tracer_clt")
    iam.formats.save(ours, tmp_path / "d", format="iam")
    assert np.array_equal(iam.formats.load(tmp_path / "d").W_skip[1], ours.W_skip[1])


def test_a_last_position_without_features(tmp_path):
    """circuit-tracer takes the last active position for the length of the text; IAM gives the bias there."""
    ours = clt()
    iam.formats.save(ours, tmp_path, format="circuit_tracer_clt")
    theirs = clts.load_clt(str(tmp_path), device=CPU, dtype=torch.float32)
    with torch.no_grad():
        codes = theirs.encode(torch.from_numpy(inputs(L)))
        codes[:, -1] = 0
        assert theirs.decode(codes.to_sparse()).shape == (L, ROWS - 1, D), "a position too few"
    decoded = ours.decode(list(codes.numpy()))
    for layer, y in enumerate(decoded):
        assert y.shape == (ROWS, D)
        np.testing.assert_allclose(y[-1], ours.b_dec[layer], **CLOSE)
