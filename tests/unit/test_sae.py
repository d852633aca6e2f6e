"""SAE: encode and decode against the oracles, in every container; config; folding; metrics."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import iam
from iam import ops
from iam.core.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from iam.reference import clt
from iam.vector.clt import explained_variance, l0, mean_squared_error

ARCHITECTURES = ["topk", "jumprelu", "standard"]


def make_sae(architecture="topk", d_in=6, d_sae=20, k=4, *, seed=0, exact=False, **cfg):
    """An SAE with random weights; ``exact``: small integers, so that float32 sums are exact and ties are many."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        array = rng.integers(-2, 3, shape) if exact else rng.normal(size=shape)
        return array.astype(np.float32)

    config = iam.SAEConfig(
        architecture=architecture, d_in=d_in, d_sae=d_sae, k=k if architecture == "topk" else None, **cfg
    )
    return iam.SAE(
        config,
        W_enc=draw(d_in, d_sae),
        b_enc=draw(d_sae),
        W_dec=draw(d_sae, d_in),
        b_dec=draw(d_in),
        threshold=np.abs(draw(d_sae)) if architecture == "jumprelu" else None,
    )


def oracle(sae, x):
    """Features by the oracle, dense, in float64."""
    weights = [a.astype(np.float64) for a in (sae.W_enc, sae.b_enc, sae.b_dec)]
    shift = weights[2] if sae.cfg.apply_b_dec_to_input else None
    activation = "relu" if sae.cfg.architecture == "standard" else sae.cfg.architecture
    theta = None if sae.threshold is None else sae.threshold.astype(np.float64)
    x = x.astype(np.float64)
    return clt.encode_sparse(activation, x, weights[0], weights[1], shift, threshold=theta, k=sae.cfg.k)


def dense_of(f):
    out = f.to_dense()
    return out.detach().numpy() if f.is_torch else out


def wrap(x, container):
    if container == "numpy":
        return x
    torch = pytest.importorskip("torch")
    return torch.from_numpy(x.copy()).requires_grad_(container == "recorded")


@pytest.mark.parametrize("container", ["numpy", "torch", "recorded"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(
    rows=st.sampled_from([0, 1, 5]),
    d_in=st.integers(1, 9),
    d_sae=st.integers(1, 40),
    subtract=st.booleans(),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_encode_and_decode_equal_the_oracle_where_sums_are_exact(
    architecture, container, rows, d_in, d_sae, subtract, seed, data
):
    k = data.draw(st.integers(1, d_sae))
    sae = make_sae(architecture, d_in, d_sae, k, seed=seed, exact=True, apply_b_dec_to_input=subtract)
    x = np.random.default_rng(seed).integers(-2, 3, (rows, d_in)).astype(np.float32)
    f = sae.encode(wrap(x, container))
    expected = oracle(sae, x)
    assert np.array_equal(dense_of(f), expected)
    assert f.k == (k if architecture == "topk" else None)
    y = sae.decode(f)
    y = y.detach().numpy() if container != "numpy" else y
    assert np.array_equal(y, clt.decode(expected, sae.W_dec, sae.b_dec))
    assert np.array_equal(sae(x), y)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_close_to_the_float64_oracle(architecture, rng):
    sae = make_sae(architecture, 48, 300, 16)
    x = rng.normal(size=(33, 48)).astype(np.float32)
    assert np.allclose(dense_of(sae.encode(x)), oracle(sae, x), rtol=1e-5, atol=1e-4)
    assert np.allclose(sae(x), clt.decode(oracle(sae, x), sae.W_dec, sae.b_dec), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 0, 6), (1, 1, 1, 6)])
@pytest.mark.parametrize("container", ["numpy", "torch", "recorded"])
def test_leading_dimensions_come_back(shape, container, rng):
    sae = make_sae()
    x = rng.normal(size=shape).astype(np.float32)
    f = sae.encode(wrap(x, container))
    assert f.shape == (*shape[:-1], 20) and tuple(f.values.shape) == tuple(f.indices.shape) == (*shape[:-1], 4)
    assert tuple(f.to_dense().shape) == f.shape
    assert tuple(sae.decode(f).shape) == shape
    assert np.allclose(dense_of(f), oracle(sae, x), atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_torch_in_torch_out_in_the_type_that_came(architecture, rng):
    torch = pytest.importorskip("torch")
    sae = make_sae(architecture)
    x = rng.normal(size=(2, 3, 6)).astype(np.float32)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        given = torch.from_numpy(x).to(dtype)
        f, y = sae.encode(given), sae(given)
        assert isinstance(y, torch.Tensor) and f.is_torch
        assert f.dtype == f.to_dense().dtype == y.dtype == dtype
        same = sae.encode(given.float().numpy())  # computed in float32, whatever came
        assert np.array_equal(f.indices.numpy(), same.indices)
        assert torch.equal(f.values, torch.from_numpy(same.values).to(dtype))
    for dtype in (np.float16, np.float64):
        assert sae(x.astype(dtype)).dtype == sae.encode(x.astype(dtype)).dtype == dtype


def test_plain_torch_and_kernels_agree_on_ties(rng):
    torch = pytest.importorskip("torch")
    from iam.vector.clt import _torch

    for _ in range(20):
        pre = rng.integers(-2, 3, (7, 13)).astype(np.float32)
        for k in (1, 4, 13):
            plain = _torch.topk(torch.from_numpy(pre), k)
            kernel = ops.topk(pre, k)
            assert np.array_equal(plain[0].numpy(), kernel.values) and np.array_equal(plain[1].numpy(), kernel.indices)
            batch = ops.batch_topk(pre, k)
            recorded = ops.batch_topk(torch.from_numpy(pre).requires_grad_(), k)
            assert np.array_equal(dense_of(batch), clt.batch_topk(pre, k=k))
            assert np.array_equal(dense_of(recorded), dense_of(batch))


def test_inputs_stay_as_they_are_and_views_are_fine(rng):
    torch = pytest.importorskip("torch")
    sae = make_sae()
    big = rng.normal(size=(10, 12)).astype(np.float32)
    before = big.copy()
    for view in (big[::2, :6], big[:, 3:9], big.T[:6].T, big[::-1, :6]):
        assert np.array_equal(sae(view), sae(np.ascontiguousarray(view)))
    assert np.array_equal(big, before)
    tensor = torch.from_numpy(big)
    assert torch.equal(sae(tensor[:, :6]), sae(tensor[:, :6].contiguous()))
    assert torch.equal(sae(tensor.T[:6].T), sae(tensor[:, :6].contiguous()))
    frozen = big[:, :6].copy()
    frozen.flags.writeable = False
    assert np.array_equal(sae(frozen), sae(big[:, :6]))


def test_gradients_reach_the_input(rng):
    torch = pytest.importorskip("torch")
    sae = make_sae()
    x = torch.from_numpy(rng.normal(size=(2, 6)).astype(np.float32)).requires_grad_()
    sae(x).sum().backward()
    active = dense_of(sae.encode(x.detach())) > 0
    expected = (active * sae.W_dec.sum(1)) @ sae.W_enc.T
    assert np.allclose(x.grad.numpy(), expected, atol=1e-4)
    with torch.no_grad():
        assert not sae(x).requires_grad


def test_decode_takes_dense_features(rng):
    sae = make_sae()
    f = sae.encode(rng.normal(size=(2, 3, 6)).astype(np.float32))
    assert np.allclose(sae.decode(f.to_dense()), sae.decode(f), atol=1e-5)
    edited = sae.decode(f.ablate(3))
    assert np.allclose(edited, sae.decode(clt.edit(f.to_dense(), [3], "ablate")), atol=1e-5)


@pytest.mark.parametrize("container", ["numpy", "torch", "recorded"])
def test_bad_inputs(container, rng):
    sae = make_sae()
    x = rng.normal(size=(3, 6)).astype(np.float32)
    with pytest.raises(ShapeError, match=r"expected x of shape \[..., 6\] \(d_in\), got \(3, 5\)") as caught:
        sae.encode(wrap(x[:, :5], container))
    assert caught.value.code == "width"
    for bad in (np.nan, np.inf, -np.inf):
        y = x.copy()
        y[1, 4] = bad
        with pytest.raises(NonFiniteError, match=r"row 1.*column 4"):
            sae.encode(wrap(y, container))
    with pytest.raises(ShapeError, match="20") as caught:
        sae.decode(make_sae(d_sae=21).encode(wrap(x, container)))
    assert caught.value.code == "width"


def test_bad_types():
    torch = pytest.importorskip("torch")
    sae = make_sae()
    for bad in (np.ones((2, 6), int), np.ones((2, 6), complex), np.ones((2, 6), bool), [[1.0] * 6], None, "text"):
        with pytest.raises(DtypeError, match=r"SAE.encode: expected x"):
            sae.encode(bad)
    for bad in (torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6).to_sparse()):
        with pytest.raises(DtypeError, match=r"SAE.encode: expected x"):
            sae.encode(bad)
    with pytest.raises(ShapeError, match="scalar"):
        sae.encode(np.array(1.0, np.float32))
    with pytest.raises(DtypeError, match=r"SAE.decode: expected f"):
        sae.decode([1.0])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"W_enc": np.ones((20, 6))}, ShapeError, r"W_enc of shape \(6, 20\), got \(20, 6\)"),
        ({"b_dec": np.ones(20)}, ShapeError, "b_dec"),
        ({"W_dec": np.ones((20, 6), int)}, DtypeError, "W_dec of a float type"),
        ({"b_enc": np.full(20, np.nan)}, NonFiniteError, r"b_enc, got nan at \(0,\)"),
        ({"W_enc": np.full((6, 20), 1e300)}, NonFiniteError, "W_enc"),
        ({"threshold": np.ones(20)}, ArgumentError, "no threshold"),
    ],
)
def test_bad_weights(change, error, says):
    sae = make_sae()
    weights = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    with pytest.raises(error, match=says):
        iam.SAE(sae.cfg, **{**weights, **change})


def test_threshold_is_required_and_not_negative():
    sae = make_sae("jumprelu")
    weights = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    with pytest.raises(ArgumentError, match="needs a threshold"):
        iam.SAE(sae.cfg, **weights)
    with pytest.raises(ArgumentError, match=">= 0"):
        iam.SAE(sae.cfg, **weights, threshold=np.full(20, -0.1))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"architecture": "topkk"}, "architecture"),
        ({"architecture": 3}, "architecture"),
        ({"k": 21}, "k-range"),
        ({"k": 0}, "k-range"),
        ({"k": None}, "k-range"),
        ({"k": True}, "k-range"),
        ({"architecture": "standard"}, "config-value"),
        ({"d_in": 0}, "config-value"),
        ({"d_sae": 2.5}, "config-value"),
        ({"apply_b_dec_to_input": 1}, "config-value"),
        ({"normalize_activations": "layer_norm"}, "normalization"),
        ({"reshape_activations": "hook_q"}, "config-value"),
        ({"dtype": "int4"}, "config-value"),
        ({"metadata": [1]}, "config-value"),
    ],
)
def test_config_is_checked(change, code):
    good = {"architecture": "topk", "d_in": 6, "d_sae": 20, "k": 4}
    with pytest.raises(ArgumentError) as caught:
        iam.SAEConfig(**{**good, **change})
    assert caught.value.code == code


def test_config_is_frozen():
    given = {"hook_name": "blocks.3.hook_resid_post"}
    cfg = iam.SAEConfig(architecture="topk", d_in=6, d_sae=20, k=np.int64(4), metadata=given)
    given["hook_name"] = "changed"
    assert cfg.metadata["hook_name"] == "blocks.3.hook_resid_post" and type(cfg.k) is int
    with pytest.raises(AttributeError):
        cfg.k = 5
    with pytest.raises(TypeError):
        cfg.metadata["hook_name"] = "changed"
    for other in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert other == cfg


def test_site_comes_from_the_metadata():
    assert make_sae(metadata={"hook_name": "blocks.15.hook_resid_post"}).site == iam.Site(15, "resid_post")
    assert make_sae().site is None
    assert make_sae(metadata={"hook_name": "somewhere"}).site is None
    assert repr(make_sae(metadata={"hook_name": "resid_pre.2"})) == "SAE(topk, d_in=6, d_sae=20, k=4, site=resid_pre.2)"


def test_weights_are_kept_without_a_copy():
    W_enc = np.ones((6, 20), np.float32)
    cfg = iam.SAEConfig(architecture="standard", d_in=6, d_sae=20)
    sae = iam.SAE(cfg, W_enc=W_enc, b_enc=np.zeros(20), W_dec=np.ones((20, 6)), b_dec=np.zeros(6))
    assert sae.W_enc is W_enc and sae.W_dec.dtype == np.float32
    assert (sae.d_in, sae.d_sae, sae.threshold) == (6, 20, None)


@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_fold_keeps_reconstructions(architecture, rng):
    torch = pytest.importorskip("torch")
    sae = make_sae(architecture)
    x = rng.normal(size=(9, 6)).astype(np.float32)
    recorded = torch.from_numpy(x).requires_grad_()
    y, norms, f = sae(x), np.linalg.norm(sae.W_dec, axis=1), dense_of(sae.encode(x))
    sae(recorded)
    sae.fold_W_dec_norm()
    assert np.allclose(np.linalg.norm(sae.W_dec, axis=1), 1, atol=1e-6)
    assert np.allclose(sae(x), y, atol=1e-4)
    assert np.allclose(dense_of(sae.encode(x)), f * norms, atol=1e-4)
    assert np.allclose(sae(recorded).detach().numpy(), y, atol=1e-4)


def test_fold_of_topk_needs_equal_norms(rng):
    with pytest.raises(ArgumentError, match="largest"):
        make_sae().fold_W_dec_norm()
    sae = make_sae()
    x = rng.normal(size=(9, 6)).astype(np.float32)
    even = sae.W_dec / np.linalg.norm(sae.W_dec, axis=1, keepdims=True) * 3
    sae = iam.SAE(sae.cfg, W_enc=sae.W_enc, b_enc=sae.b_enc, W_dec=even, b_dec=sae.b_dec)
    y = sae(x)
    sae.fold_W_dec_norm()
    assert np.allclose(sae(x), y, atol=1e-4)


def test_explained_variance(rng):
    x = rng.normal(size=(50, 4)) + 7
    hat = x + 0.3 * rng.normal(size=x.shape)
    error = ((x - hat) ** 2).sum(-1).mean()
    assert np.isclose(explained_variance(x, hat), 1 - error / ((x**2).sum(-1).mean() - (x.mean(0) ** 2).sum()))
    assert explained_variance(x, x) == 1 and abs(explained_variance(x, np.broadcast_to(x.mean(0), x.shape))) < 1e-12
    assert explained_variance(x, 0 * x) < 0
    assert explained_variance(x.reshape(5, 10, 4), hat.reshape(5, 10, 4)) == explained_variance(x, hat)
    assert np.isnan(explained_variance(x[:1], hat[:1])) and np.isnan(explained_variance(x[:0], hat[:0]))
    assert np.isclose(mean_squared_error(x, hat), error)
    assert iam.explained_variance is explained_variance
    torch = pytest.importorskip("torch")
    half = torch.from_numpy(x).to(torch.bfloat16)
    assert explained_variance(half, half) == 1
    with pytest.raises(ShapeError, match="one shape"):
        explained_variance(x, hat[:3])
    assert l0(make_sae().encode(rng.normal(size=(8, 6)).astype(np.float32))) <= 4


@pytest.mark.parametrize("container", ["numpy", "torch", "recorded"])
@pytest.mark.parametrize("mode", ops.STEER_MODES)
def test_steer_equals_the_oracle(container, mode, rng):
    from iam.reference import policy

    h, v = rng.normal(size=(2, 3, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    out = iam.steer(wrap(h, container), wrap(v, container), 1.5, mode)
    out = out.detach().numpy() if container != "numpy" else out
    assert np.allclose(out, policy.steer(h.astype(np.float64), v.astype(np.float64), 1.5, mode), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((np.ones((2, 3)), np.ones(4), 1.0), ShapeError, r"v of shape \(3,\), got \(4,\)"),
        ((np.ones((2, 3)), np.ones((1, 3)), 1.0), ShapeError, "v of shape"),
        ((np.ones((2, 3), int), np.ones(3), 1.0), DtypeError, "h of a float type"),
        ((np.ones((2, 3)), np.ones(3), "1x"), DtypeError, "strength"),
        ((np.ones((2, 3)), np.ones(3), np.inf), NonFiniteError, "strength"),
        ((np.ones((2, 3)), np.array([1, np.nan, 0]), 1.0), NonFiniteError, "nan at index 1"),
        ((np.array([[1, np.nan, 0.0]]), np.ones(3), 1.0), NonFiniteError, "row 0.*column 1"),
        ((np.ones((2, 3)), np.zeros(3), 1.0, "ablate"), ArgumentError, "not zero"),
        ((np.ones((2, 3)), np.ones(3), 1.0, "clmap"), ArgumentError, 'did you mean "clamp"'),
    ],
)
def test_steer_refuses(arguments, error, says):
    with pytest.raises(error, match=says):
        iam.steer(*arguments)


def test_ops_equal_the_oracles(rng):
    torch = pytest.importorskip("torch")
    pre = rng.integers(-3, 4, (4, 9)).astype(np.float32)
    other = rng.integers(-3, 4, (4, 9)).astype(np.float32)
    theta = rng.integers(0, 2, 9).astype(np.float32)
    for convert in (lambda a: a, torch.from_numpy, lambda a: torch.from_numpy(a.copy()).requires_grad_()):
        assert np.array_equal(dense_of(ops.relu(convert(pre))), clt.relu(pre))
        assert np.array_equal(dense_of(ops.jumprelu(convert(pre), convert(theta))), clt.jumprelu(pre, theta))
        assert np.array_equal(dense_of(ops.gate(convert(pre), convert(other))), clt.gate(pre, other))
        assert np.array_equal(dense_of(ops.topk(convert(pre), 3)), clt.topk(pre, k=3))
        x, W = rng.normal(size=(2, 2, 3)).astype(np.float32), rng.normal(size=(3, 9)).astype(np.float32)
        b, shift = np.ones(9, np.float32), np.ones(3, np.float32)
        out = ops.encode(convert(x), W, b, shift)
        assert np.allclose(np.asarray(out if convert(x) is x else out.detach()), clt.encode(x, W, b, shift), atol=1e-5)
        y = ops.residual(convert(pre), convert(other))
        assert np.allclose(np.asarray(y if convert(x) is x else y.detach()), pre + other)
        skip = rng.normal(size=(9, 9)).astype(np.float32)
        y = ops.residual(convert(pre), convert(other), skip)
        assert np.allclose(np.asarray(y if convert(x) is x else y.detach()), pre + other @ skip, atol=1e-4)
    for k in (0, 10, 1.5, "3"):
        with pytest.raises(ArgumentError, match=r"1\.\.9"):
            ops.topk(pre, k)
    with pytest.raises(ShapeError, match="one shape"):
        ops.gate(pre, other[:2])
    with pytest.raises(ShapeError, match="threshold"):
        ops.jumprelu(pre, theta[:3])
    with pytest.raises(ShapeError, match="W_skip"):
        ops.residual(pre, other, np.ones((9, 3), np.float32))


def test_traced_values_are_recorded():
    """Every op hands a traced value to its tracer, unread."""

    class Trace:
        def op(self, name, *arguments):
            return (name, *arguments)

        def encode(self, sae, x):
            return ("encode", sae)

        def decode(self, sae, f):
            return ("decode", sae)

    class Value:
        __iam_trace__ = Trace()

    x, sae, v = Value(), make_sae(), np.ones(6)
    assert sae.encode(x) == ("encode", sae) and sae.decode(x) == ("decode", sae)
    assert ops.steer(x, v, 2.0, "ablate") == ("steer", x, v, 2.0, "ablate")
    assert ops.steer(np.ones((1, 6)), v, x)[0] == "steer"
    assert ops.topk(x, 3) == ("topk", x, 3)
    assert ops.abstopk(x, 3) == ("abstopk", x, 3)
    assert ops.groupmax(x, 3) == ("groupmax", x, 3)
    assert ops.matching_pursuit(x, v, max_iterations=2) == ("matching_pursuit", x, v, None, 1e-2, 2, True)
    assert ops.batch_topk(x, 3) == ("batch_topk", x, 3)
    assert ops.relu(x) == ("relu", x)
    assert ops.jumprelu(x, v) == ("jumprelu", x, v)
    assert ops.gate(x, x) == ("gate", x, x)
    assert ops.densify(x) == ("densify", x)
    assert ops.decode(x, v, None) == ("decode", x, v, None)
    assert ops.encode(x, v, v) == ("encode", x, v, v, None)
    assert ops.residual(v, x) == ("residual", v, x, None)
    assert ops.edit(x, [1], "set", 2.0) == ("edit", x, [1], "set", 2.0, None)
    assert ops.delta(x, [1], "ablate") == ("delta", x, [1], "ablate", None, None)
    assert ops.sub(x, x) == ("sub", x, x)
