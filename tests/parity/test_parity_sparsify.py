"""sparsify 1.3.3 (eai-sparsify): it loads what IAM writes, and the reverse. Codes and reconstructions are equal within 1e-5."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sparsify = pytest.importorskip("sparsify")

import iam  # noqa: E402
from iam.core.errors import FormatError  # noqa: E402
from iam.formats import detect  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
D, F, K, ROWS = 24, 96, 8, 40
CASES = [
    pytest.param(activation, transcode, skip, id=f"{activation}{'-transcode' * transcode}{'-skip' * skip}")
    for activation in ("topk", "groupmax")
    for transcode in (False, True)
    for skip in (False, True)
]


def theirs_of(activation, transcode, skip):
    cfg = sparsify.SparseCoderConfig(
        activation=activation, num_latents=F, k=K, transcode=transcode, skip_connection=skip, normalize_decoder=False
    )
    coder = sparsify.SparseCoder(D, cfg, device="cpu", dtype=torch.float32)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in coder.named_parameters():
            scale = {"encoder.weight": D**-0.5, "W_dec": 0.3}.get(name, 0.2)
            parameter.copy_(torch.from_numpy((rng.normal(size=tuple(parameter.shape)) * scale).astype(np.float32)))
    return coder


@torch.no_grad()
def same(theirs, ours):
    x = np.random.default_rng(1).normal(size=(ROWS, D)).astype(np.float32)
    found = theirs(torch.from_numpy(x))
    codes = np.zeros((ROWS, F), np.float32)
    np.put_along_axis(codes, found.latent_indices.numpy(), found.latent_acts.numpy(), -1)
    assert codes.any()
    np.testing.assert_allclose(ours.encode(x).to_dense(), codes, **CLOSE)
    np.testing.assert_allclose(ours(x), found.sae_out.numpy(), **CLOSE)


@pytest.mark.parametrize(("activation", "transcode", "skip"), CASES)
def test_iam_loads_what_sparsify_writes(activation, transcode, skip, tmp_path):
    theirs = theirs_of(activation, transcode, skip)
    theirs.save_to_disk(tmp_path / "layers.5.mlp")
    assert detect(tmp_path / "layers.5.mlp").format == "sparsify"
    ours = iam.formats.load(tmp_path / "layers.5.mlp")
    assert isinstance(ours, iam.Transcoder if transcode or skip else iam.SAE)
    assert ours.cfg.metadata["hook_name"] == "blocks.5.hook_mlp_out"
    same(theirs, ours)


@pytest.mark.parametrize(("activation", "transcode", "skip"), CASES)
def test_sparsify_loads_what_iam_writes(activation, transcode, skip, tmp_path):
    theirs_of(activation, transcode, skip).save_to_disk(tmp_path / "a")
    ours = iam.formats.load(tmp_path / "a")
    iam.formats.save(ours, tmp_path / "b", format="sparsify")
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"cfg.json", "sae.safetensors", "iam.json"}
    same(sparsify.SparseCoder.load_from_disk(tmp_path / "b"), ours)


def test_conventions_are_folded_into_what_sparsify_has(tmp_path):
    """An SAE that subtracts nothing, with a scale of its input and decoder rows that compete by their norm."""
    rng = np.random.default_rng(3)
    w = {"W_enc": rng.normal(size=(D, F)) * D**-0.5, "b_enc": rng.normal(size=F) * 0.2, "W_dec": rng.normal(size=(F, D)) * 0.3,
         "b_dec": rng.normal(size=D)}  # fmt: skip
    cfg = iam.CoderConfig(
        architecture="topk", d_in=D, d_sae=F, k=K, rescale_acts_by_decoder_norm=True,
        normalize_activations="expected_average_only_in", norm_scale=1.5,
    )  # fmt: skip
    ours = iam.SAE(cfg, **w)
    iam.formats.save(ours, tmp_path, format="sparsify")
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path)
    x = rng.normal(size=(ROWS, D)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).sae_out.numpy(), rtol=1e-5, atol=2e-5)


def test_signed_coders_are_read_and_not_written(tmp_path):
    """sparsify 1.3.3 drops ``signed`` from a config and runs the coder as plain TopK."""
    theirs = theirs_of("topk", False, False)
    theirs.save_to_disk(tmp_path)
    record = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**record, "signed": True}))
    assert not hasattr(sparsify.SparseCoder.load_from_disk(tmp_path).cfg, "signed")
    ours = iam.formats.load(tmp_path)
    assert ours.cfg.architecture == "abstopk"
    with pytest.raises(FormatError, match="sparsify holds"):
        iam.formats.save(ours, tmp_path / "again", format="sparsify")
