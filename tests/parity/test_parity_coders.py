"""Coders against those of SAELens 6: same weights, same inputs, codes and reconstructions equal within 1e-5.

Every architecture and convention that both have; the folds of both; and SAELens's mistakes with state and skips, which
each test here first shows in SAELens and then not in IAM.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens")

import iam  # noqa: E402

D, F, K, OUT = 32, 200, 7, 20
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

SAES = {
    "standard": ("StandardSAE", {}),
    "topk": ("TopKSAE", {"k": K}),
    "topk-rescaled": ("TopKSAE", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("AbsTopKSAE", {"k": K}),
    "abstopk-rescaled": ("AbsTopKSAE", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("JumpReLUSAE", {}),
    "gated": ("GatedSAE", {}),
    "matching_pursuit": ("MatchingPursuitSAE", {"residual_threshold": 0.3, "max_iterations": 12}),
    "matching_pursuit-all": (
        "MatchingPursuitSAE",
        {"residual_threshold": 0.0, "max_iterations": 9, "stop_on_duplicate_support": False},
    ),
    "matching_pursuit-default": ("MatchingPursuitSAE", {}),
}
TRANSCODERS = {
    "transcoder": ("Transcoder", "standard"),
    "skip_transcoder": ("SkipTranscoder", "standard"),
    "jumprelu_transcoder": ("JumpReLUTranscoder", "jumprelu"),
    "jumprelu_skip_transcoder": ("JumpReLUSkipTranscoder", "jumprelu"),
}


def randomise(theirs, seed=0):
    """Random weights for a SAELens coder; in the sizes of trained ones, so that codes are of the order of 1."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, parameter in theirs.named_parameters():
        array = rng.normal(size=tuple(parameter.shape)) * {"W_enc": D**-0.5, "W_dec": 0.3, "W_skip": 0.2}.get(name, 0.2)
        array = np.abs(array) if name == "threshold" else array
        if name == "W_dec" and type(theirs).__name__.startswith("Matching"):
            array /= np.linalg.norm(array, axis=1, keepdims=True)
        state[name] = torch.from_numpy(array.astype(np.float32))
    theirs.load_state_dict(state)
    return {name: tensor.numpy().copy() for name, tensor in state.items()}


def pair(name, **conventions):
    """A SAELens SAE and IAM's with the same weights."""
    cls, extra = SAES[name]
    common = {"d_in": D, "d_sae": F, "apply_b_dec_to_input": True, **extra, **conventions}
    theirs = getattr(sae_lens, cls)(getattr(sae_lens, cls + "Config")(**common))
    weights = randomise(theirs)
    cfg = iam.CoderConfig(architecture=name.split("-")[0], **common)
    return theirs, iam.SAE(cfg, **weights)


def pair_of_transcoders(name, d_out=OUT, **conventions):
    cls, architecture = TRANSCODERS[name]
    common = {"d_in": D, "d_sae": F, "d_out": d_out, "apply_b_dec_to_input": False, **conventions}
    theirs = getattr(sae_lens, cls)(_transcoder_config(cls)(**common))
    weights = randomise(theirs)
    return theirs, iam.Transcoder(iam.CoderConfig(architecture=architecture, **common), **weights)


def _transcoder_config(cls):
    from sae_lens.saes import transcoder

    return getattr(transcoder, cls + "Config")


def inputs(*shape, scale=1.0, seed=1):
    return np.random.default_rng(seed).normal(size=(*shape, D), scale=scale).astype(np.float32)


def agree(theirs, ours, x):
    tensor = torch.from_numpy(x)
    with torch.no_grad():
        codes = theirs.encode(tensor)
        decoded = theirs.decode(codes)
        output = theirs(tensor)
    f = ours.encode(x)
    assert (codes != 0).any()
    np.testing.assert_allclose(f.to_dense(), codes.numpy(), **CLOSE)
    np.testing.assert_allclose(ours.decode(f), decoded.numpy(), **CLOSE)
    np.testing.assert_allclose(ours(x), output.numpy(), **CLOSE)
    np.testing.assert_allclose(ours(tensor).numpy(), output.numpy(), **CLOSE)
    recorded = ours(tensor.clone().requires_grad_())  # IAM in torch, as on a device
    np.testing.assert_allclose(recorded.detach().numpy(), output.numpy(), **CLOSE)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("name", SAES)
def test_codes_and_reconstructions(name, subtract):
    theirs, ours = pair(name, apply_b_dec_to_input=subtract)
    agree(theirs, ours, inputs(50))
    agree(theirs, ours, inputs(3, 4, seed=2))
    agree(theirs, ours, inputs(1, seed=3))


@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("name", SAES)
def test_normalisation_per_row(name, normalization):
    theirs, ours = pair(name, normalize_activations=normalization)
    agree(theirs, ours, inputs(40, scale=2.0) + 0.5)


@pytest.mark.parametrize("normalization", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("d_out", [OUT, D])
@pytest.mark.parametrize("name", TRANSCODERS)
def test_transcoders(name, d_out, normalization):
    theirs, ours = pair_of_transcoders(name, d_out, normalize_activations=normalization)
    agree(theirs, ours, inputs(40))
    agree(theirs, ours, inputs(2, 3))


@pytest.mark.parametrize("name", SAES)
def test_heads(name):
    theirs, ours = pair(name, reshape_activations="hook_z")
    z = inputs(5, 6).reshape(5, 6, 4, D // 4)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(z)).numpy()
    y = ours(z)
    assert y.shape == z.shape
    np.testing.assert_allclose(y, expected, **CLOSE)


@pytest.mark.parametrize("name", SAES)
def test_a_folded_factor(name):
    """SAELens runs such a coder only once the factor is folded; IAM also before, and folds to the same."""
    theirs, ours = pair(name)
    theirs.fold_activation_norm_scaling_factor(2.5)
    weights = ours.parameters()
    given = {n: getattr(ours.cfg, n) for n in ("architecture", "d_in", "d_sae", "k", "apply_b_dec_to_input")}
    given |= {n: getattr(ours.cfg, n) for n in ("residual_threshold", "max_iterations", "stop_on_duplicate_support")}
    given["rescale_acts_by_decoder_norm"] = ours.cfg.rescale_acts_by_decoder_norm
    unfolded = iam.SAE(
        iam.CoderConfig(**given, normalize_activations="expected_average_only_in", norm_scale=2.5), **weights
    )
    x = inputs(40)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(unfolded(x), expected, **CLOSE)
    unfolded.fold_activation_norm_scaling_factor()
    np.testing.assert_allclose(unfolded(x), expected, **CLOSE)
    with pytest.raises(iam.errors.ArgumentError, match="expected a positive number, got None"):
        iam.CoderConfig(**given, normalize_activations="expected_average_only_in")


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("name", [n for n in SAES if not n.startswith("matching")])
def test_folded_whitening(name, subtract):
    theirs, ours = pair(name, apply_b_dec_to_input=subtract)
    rng = np.random.default_rng(4)
    mean = rng.normal(size=D).astype(np.float32)
    matrix = (np.linalg.qr(rng.normal(size=(D, D)))[0] * rng.uniform(0.5, 2, D)).astype(np.float32)
    inverse = np.linalg.inv(matrix.astype(np.float64)).astype(np.float32)
    theirs.fold_activation_whitening(*(torch.from_numpy(a) for a in (mean, matrix, inverse)))
    ours.fold_activation_whitening(mean, matrix, inverse)
    x = inputs(40)
    with torch.no_grad():
        codes = theirs.encode(torch.from_numpy(x))
        expected = theirs.decode(codes).numpy()
    np.testing.assert_allclose(
        ours.encode(x).to_dense(), codes.numpy(), rtol=1e-5, atol=3e-5
    )  # folded in float32 there
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("name", [n for n in SAES if n in ("standard", "jumprelu", "gated") or n.endswith("rescaled")])
def test_folded_norms(name):
    theirs, ours = pair(name)
    theirs.fold_W_dec_norm()
    ours.fold_W_dec_norm()
    agree(theirs, ours, inputs(40))
    np.testing.assert_allclose(ours.W_dec, theirs.W_dec.detach().numpy(), **CLOSE)


@pytest.mark.parametrize("name", TRANSCODERS)
def test_folded_norms_of_transcoders(name):
    theirs, ours = pair_of_transcoders(name)
    theirs.fold_W_dec_norm()
    ours.fold_W_dec_norm()
    agree(theirs, ours, inputs(40))


# Mistakes of SAELens that touch coders, shown there and not here.


@pytest.mark.parametrize("name", [n for n in TRANSCODERS if "skip" in n])
def test_the_skip_is_not_lost_between_encode_and_decode(name):
    """SAELens's wrapper in a model calls encode and decode, so that ``x·W_skipᵀ`` is never added; calling IAM's coder does."""
    theirs, ours = pair_of_transcoders(name)
    x = inputs(10)
    with torch.no_grad():
        whole, parts = theirs(torch.from_numpy(x)), theirs.decode(theirs.encode(torch.from_numpy(x)))
    assert not torch.allclose(whole, parts, atol=0.1)
    np.testing.assert_allclose(ours(x), whole.numpy(), **CLOSE)
    np.testing.assert_allclose(iam.jit(lambda x: ours(x))(x), whole.numpy(), **CLOSE)
    skip = ours(x) - ours.decode(ours.encode(x))
    np.testing.assert_allclose(skip, x @ ours.W_skip.T, atol=1e-4)


@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
def test_normalisation_keeps_no_state(normalization):
    theirs, ours = pair("topk", normalize_activations=normalization)
    x, other = inputs(6), inputs(6, scale=30.0, seed=9)
    tensor, other_tensor = torch.from_numpy(x), torch.from_numpy(other)
    with torch.no_grad():
        right = theirs(tensor)
        codes = theirs.encode(tensor)
        theirs.encode(other_tensor)  # its statistics replace those of x
        wrong = theirs.decode(codes)
        with pytest.raises(AttributeError):  # and are gone after one decode
            theirs.decode(codes)
    assert not torch.allclose(wrong, right, atol=0.1)
    f = ours.encode(x)
    ours.encode(other)
    for _ in range(2):
        np.testing.assert_allclose(ours.decode(f), right.numpy(), **CLOSE)


def test_heads_keep_no_state():
    """SAELens fixes the size of a head by the first input it sees; IAM takes each input as it comes."""
    theirs, ours = pair("topk", reshape_activations="hook_z")
    first, second = (inputs(3).reshape(3, heads, D // heads) for heads in (4, 8))
    with torch.no_grad():
        theirs(torch.from_numpy(first))
        assert theirs(torch.from_numpy(second)).shape != second.shape
    assert ours(first).shape == first.shape and ours(second).shape == second.shape
    np.testing.assert_array_equal(ours(first).reshape(3, D), ours(second).reshape(3, D))
