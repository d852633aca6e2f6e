"""Every architecture and convention: the oracle in float64, the kernels, torch, and compiled programs where there are any.

Plain conventions are tested on small integers, where float32 is exact and ties are many, so results must be *equal*. Where
a convention divides or takes a root, a tolerance: float32 rounding of sums of at most 9 terms below 100, and of what such
an error is divided by.
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import iam
from iam.reference import clt
from iam.vector.clt import ARCHITECTURES, NORMALIZATIONS, _cross_layer

ROWS = [0, 1, 7]
CONTAINERS = ["numpy", "torch", "recorded"]
WITH_K = ("topk", "abstopk", "groupmax")
COMPILED = ("topk", "abstopk", "groupmax", "jumprelu", "standard", "gated")

_alive = []


def random_config(architecture, d_in, d_sae, k, *, d_out=None, **conventions):
    if architecture == "groupmax":
        k = max(n for n in range(1, k + 1) if d_sae % n == 0)
    scale = {"norm_scale": 0.25} if conventions.get("normalize_activations") == "expected_average_only_in" else {}
    return iam.CoderConfig(
        architecture=architecture,
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_in if d_out is None else d_out,
        k=k if architecture in WITH_K else None,
        **scale,
        **conventions,
    )


def random_weights(cfg, rng, *, exact=True, skip=False):
    def draw(*shape):
        array = rng.integers(-2, 3, shape) if exact else rng.normal(size=shape)
        return array.astype(np.float32)

    w = {"W_dec": draw(cfg.d_sae, cfg.d_out), "b_dec": draw(cfg.d_out)}
    if cfg.architecture == "matching_pursuit":
        w["W_dec"] = draw(cfg.d_sae, cfg.d_out)
        w["W_dec"] += w["W_dec"].sum(1, keepdims=True) == 0
        w["W_dec"] /= np.maximum(np.linalg.norm(w["W_dec"], axis=1, keepdims=True), 1e-3)
    else:
        w["W_enc"] = draw(cfg.d_in, cfg.d_sae)
    if cfg.architecture == "gated":
        w.update({name: draw(cfg.d_sae) for name in ("b_gate", "b_mag", "r_mag")})
        if exact:
            w["r_mag"][:] = 0  # exp of another integer is not exact
    elif cfg.architecture != "matching_pursuit":
        w["b_enc"] = draw(cfg.d_sae)
    if cfg.architecture == "jumprelu":
        w["threshold"] = np.abs(draw(cfg.d_sae))
    if skip:
        w["W_skip"] = draw(cfg.d_out, cfg.d_in)
    if cfg.normalize_activations == "covariance_whitening":
        matrix = rng.normal(size=(cfg.d_in, cfg.d_in)) + 3 * np.eye(cfg.d_in)
        w["whitening_mean"], w["whitening_matrix"] = draw(cfg.d_in), matrix.astype(np.float32)
        w["whitening_inverse"] = np.linalg.inv(matrix).astype(np.float32)
    return w


def wide(weights):
    return {name: array.astype(np.float64) for name, array in weights.items()}


def wrap(x, container):
    if container == "numpy":
        return x
    torch = pytest.importorskip("torch")
    return torch.from_numpy(x.copy()).requires_grad_(container == "recorded")


def plain(value):
    if isinstance(value, iam.SparseFeatures):
        value = value.to_dense()
    return value.detach().numpy() if hasattr(value, "detach") else value


def compiled(function, *args):
    program = iam.jit(function)
    _alive.append(program)
    return program(*args)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "matching_pursuit"])
@given(
    rows=st.sampled_from(ROWS),
    d_in=st.integers(1, 9),
    d_sae=st.integers(1, 40),
    subtract=st.booleans(),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_sae_is_exact(architecture, container, rows, d_in, d_sae, subtract, seed, data):
    k = data.draw(st.integers(1, d_sae))
    rng = np.random.default_rng(seed)
    cfg = random_config(architecture, d_in, d_sae, k, apply_b_dec_to_input=subtract)
    weights = random_weights(cfg, rng)
    x = rng.integers(-2, 3, (rows, d_in)).astype(np.float32)
    codes, y = clt.coder(cfg, wide(weights), x.astype(np.float64))
    sae = iam.SAE(cfg, **weights)
    f = sae.encode(wrap(x, container))
    assert f.k == cfg.k
    np.testing.assert_array_equal(plain(f), codes)
    np.testing.assert_array_equal(plain(sae.decode(f)), y)
    np.testing.assert_array_equal(plain(sae(wrap(x, container))), y)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "matching_pursuit"])
@settings(max_examples=12)
@given(
    rows=st.sampled_from(ROWS),
    d_in=st.integers(1, 9),
    d_out=st.integers(1, 9),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_transcoder_is_exact(architecture, skip, container, rows, d_in, d_out, seed, data):
    d_sae = data.draw(st.integers(1, 30))
    rng = np.random.default_rng(seed)
    cfg = random_config(architecture, d_in, d_sae, data.draw(st.integers(1, d_sae)), d_out=d_out)
    weights = random_weights(cfg, rng, skip=skip)
    x = rng.integers(-2, 3, (rows, d_in)).astype(np.float32)
    codes, y = clt.coder(cfg, wide(weights), x.astype(np.float64))
    coder = iam.Transcoder(cfg, **weights)
    f = coder.encode(wrap(x, container))
    np.testing.assert_array_equal(plain(f), codes)
    np.testing.assert_array_equal(plain(coder(wrap(x, container))), y)
    without = y - x @ weights["W_skip"].T if skip else y
    np.testing.assert_array_equal(plain(coder.decode(f)), without)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", COMPILED)
@pytest.mark.parametrize("rows", ROWS)
def test_compiled_programs_are_exact(architecture, skip, rows, rng):
    cfg = random_config(architecture, 6, 33, 4, d_out=5)
    weights = random_weights(cfg, rng, skip=skip)
    coder = iam.Transcoder(cfg, **weights)
    x = rng.integers(-2, 3, (rows, 6)).astype(np.float32)
    codes, y = clt.coder(cfg, wide(weights), x.astype(np.float64))
    f, out = compiled(lambda x: (coder.encode(x), coder(x)), x)
    np.testing.assert_array_equal(plain(f), codes)
    np.testing.assert_array_equal(out, y)
    eager = coder.encode(x)
    for a, b in zip(f.components, eager.components, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize(
    "rule", [{}, {"residual_threshold": 0.0, "max_iterations": 3}, {"stop_on_duplicate_support": False}]
)
@pytest.mark.parametrize("rows", [*ROWS, 200])
def test_compiled_matching_pursuit(rule, subtract, rows, rng):
    """Against the oracle within rounding, against the eager kernel to the bit. 200 rows are screened."""
    cfg = random_config("matching_pursuit", 6, 33, None, apply_b_dec_to_input=subtract, **rule)
    weights = random_weights(cfg, rng, exact=False)
    sae = iam.SAE(cfg, **weights)
    x = rng.normal(size=(rows, 6)).astype(np.float32)
    codes, y = clt.coder(cfg, wide(weights), x.astype(np.float64))
    f, out = compiled(lambda x: (sae.encode(x), sae(x)), x)
    np.testing.assert_allclose(plain(f), codes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out, y, rtol=1e-4, atol=1e-4)
    for a, b in zip(f.components, sae.encode(x).components, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(out, sae(x))


def test_compiled_gated_and_rescaled_saes(rng):
    rescaled = {"rescale_acts_by_decoder_norm": True}
    for architecture, conventions in (("gated", {}), ("topk", rescaled), ("abstopk", rescaled)):
        cfg = random_config(architecture, 6, 33, 4, apply_b_dec_to_input=True, **conventions)
        weights = random_weights(cfg, rng, exact=False)
        sae = iam.SAE(cfg, **weights)
        x = rng.normal(size=(9, 6)).astype(np.float32)
        program = iam.jit(lambda x, sae=sae: (sae.encode(x), sae.decode(sae.encode(x))))
        for _ in range(2):
            codes, y = clt.coder(sae.cfg, wide(sae.parameters()), x.astype(np.float64))
            f, out = program(x)
            np.testing.assert_allclose(plain(f), codes, rtol=2e-5, atol=1e-4)
            np.testing.assert_allclose(out, y, rtol=2e-5, atol=1e-3)
            sae.fold_W_dec_norm()  # the program notices


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_normalised_saes_are_close(architecture, normalization, subtract, container, rng):
    for rows in ROWS:
        for d_in in (2, 9):
            cfg = random_config(
                architecture, d_in, 40, 6, normalize_activations=normalization, apply_b_dec_to_input=subtract
            )
            weights = random_weights(cfg, rng, exact=False)
            x = rng.normal(size=(rows, d_in), scale=3).astype(np.float32)
            codes, y = clt.coder(cfg, wide(weights), x.astype(np.float64))
            sae = iam.SAE(cfg, **weights)
            f = sae.encode(wrap(x, container))
            np.testing.assert_allclose(plain(f), codes, rtol=2e-5, atol=2e-4)
            np.testing.assert_allclose(plain(sae.decode(f)), y, rtol=2e-5, atol=2e-3)
            transcoder = iam.Transcoder(cfg, **weights) if architecture != "matching_pursuit" and not subtract else None
            if transcoder is not None:  # the output is at another site: nothing is undone there
                bare = clt.decode(codes, wide(weights)["W_dec"], wide(weights)["b_dec"])
                np.testing.assert_allclose(plain(transcoder(wrap(x, container))), bare, rtol=2e-5, atol=2e-3)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("architecture", ["topk", "abstopk"])
@given(rows=st.sampled_from(ROWS), seed=st.integers(0, 999), subtract=st.booleans())
def test_rescaling_by_decoder_norms(architecture, container, rows, seed, subtract):
    rng = np.random.default_rng(seed)
    cfg = random_config(architecture, 5, 30, 4, rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=subtract)
    weights = random_weights(cfg, rng, exact=False)
    weights["W_dec"][3] = 0  # a feature that writes nothing competes with nothing
    x = rng.normal(size=(rows, 5)).astype(np.float32)
    codes, y = clt.coder(cfg, wide(weights), x.astype(np.float64))
    sae = iam.SAE(cfg, **weights)
    f = sae.encode(wrap(x, container))
    np.testing.assert_allclose(plain(f), codes, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(plain(sae.decode(f)), y, rtol=2e-5, atol=1e-3)


@pytest.mark.parametrize("container", CONTAINERS)
@given(
    rows=st.sampled_from(ROWS),
    d_in=st.integers(1, 8),
    d_sae=st.integers(1, 30),
    threshold=st.sampled_from([0.0, 0.01, 1.0]),
    steps=st.sampled_from([None, 1, 3]),
    stop=st.booleans(),
    subtract=st.booleans(),
    seed=st.integers(0, 999),
)
def test_matching_pursuit(container, rows, d_in, d_sae, threshold, steps, stop, subtract, seed):
    rng = np.random.default_rng(seed)
    cfg = random_config(
        "matching_pursuit",
        d_in,
        d_sae,
        1,
        residual_threshold=threshold,
        max_iterations=steps,
        stop_on_duplicate_support=stop,
        apply_b_dec_to_input=subtract,
    )
    weights = {"W_dec": rng.normal(size=(d_sae, d_in)).astype(np.float32), "b_dec": rng.normal(size=d_in)}
    weights["W_dec"] /= np.linalg.norm(weights["W_dec"], axis=1, keepdims=True)
    x = rng.normal(size=(rows, d_in), scale=3).astype(np.float32)
    codes, y = clt.coder(cfg, wide(weights), x.astype(np.float64))
    assume(rows == 0 or stable(cfg, weights, x))
    sae = iam.SAE(cfg, **weights)
    f = sae.encode(wrap(x, container))
    np.testing.assert_allclose(plain(f), codes, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(plain(sae(wrap(x, container))), y, rtol=2e-5, atol=1e-3)


def stable(cfg, weights, x):
    """Whether an input that differs by rounding takes the same greedy steps; elsewhere nobody can tell which is right."""
    w = wide(weights)
    other, _ = clt.coder(cfg, w, x.astype(np.float64) * (1 + 1e-6))
    codes, _ = clt.coder(cfg, w, x.astype(np.float64))
    return np.allclose(codes, other, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "matching_pursuit"])
@settings(max_examples=12)
@given(
    rows=st.sampled_from(ROWS), layers=st.integers(1, 4), skip=st.booleans(), seed=st.integers(0, 999), data=st.data()
)
def test_cross_layer_transcoder_is_exact(architecture, lazy, container, rows, layers, skip, seed, data):
    d_in, d_out, d_sae = (data.draw(st.integers(1, 12)) for _ in range(3))
    rng = np.random.default_rng(seed)
    cfg = random_config(architecture, d_in, d_sae, data.draw(st.integers(1, d_sae)), d_out=d_out)
    each = [random_weights(cfg, rng, skip=skip) for _ in range(layers)]
    lists = {name: [w[name] for w in each] for name in each[0]}
    lists["W_dec"] = [rng.integers(-2, 3, (d_sae, layers - i, d_out)).astype(np.float32) for i in range(layers)]
    xs = [rng.integers(-2, 3, (rows, d_in)).astype(np.float32) for _ in range(layers)]
    codes = [clt.coder(cfg, wide(w), x.astype(np.float64))[0] for w, x in zip(each, xs, strict=True)]
    ys = clt.cross_layer(codes, [w.astype(np.float64) for w in lists["W_dec"]], lists["b_dec"])
    given_lists = dict(lists)
    if lazy:
        given_lists.update({name: [LazyRows(w) for w in lists[name]] for name in ("W_enc", "W_dec")})
    coder = iam.CrossLayerTranscoder(cfg, **given_lists)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cross_layer, "_BLOCK", data.draw(st.sampled_from([1, 5 * d_in, 2**24])))
        check_cross_layer(coder, xs, codes, ys, container, lists.get("W_skip"))


def check_cross_layer(coder, xs, codes, ys, container, skips):
    fs = coder.encode([wrap(x, container) for x in xs])
    for f, expected in zip(fs, codes, strict=True):
        np.testing.assert_array_equal(plain(f), expected)
    for y, expected in zip(coder.decode(fs), ys, strict=True):
        np.testing.assert_array_equal(plain(y), expected)
    outs = coder([wrap(x, container) for x in xs])
    for t, (out, expected) in enumerate(zip(outs, ys, strict=True)):
        np.testing.assert_array_equal(plain(out), expected + (xs[t] @ skips[t].T if skips else 0))


class LazyRows:
    """A weight that is read by rows, or by columns through ``T``."""

    def __init__(self, array):
        self.array = array

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    T = property(lambda self: LazyRows(self.array.T))

    def rows(self, index):
        return self.array[index]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "matching_pursuit"])
@settings(max_examples=12)
@given(rows=st.sampled_from(ROWS), sites=st.integers(1, 3), seed=st.integers(0, 999), data=st.data())
def test_crosscoder_is_exact(architecture, container, rows, sites, seed, data):
    d, d_sae = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(seed)
    cfg = random_config(architecture, d, d_sae, data.draw(st.integers(1, d_sae)))
    weights = random_weights(cfg, rng)
    for name, shape in (("W_enc", (sites, d, d_sae)), ("W_dec", (d_sae, sites, d)), ("b_dec", (sites, d))):
        weights[name] = rng.integers(-2, 3, shape).astype(np.float32)
    xs = [rng.integers(-2, 3, (rows, d)).astype(np.float32) for _ in range(sites)]
    codes, ys = clt.crosscoder(cfg, wide(weights), [x.astype(np.float64) for x in xs])
    coder = iam.Crosscoder(cfg, **weights)
    f = coder.encode([wrap(x, container) for x in xs])
    np.testing.assert_array_equal(plain(f), codes)
    for y, expected in zip(coder([wrap(x, container) for x in xs]), ys, strict=True):
        np.testing.assert_array_equal(plain(y), expected)
