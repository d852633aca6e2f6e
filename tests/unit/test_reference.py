"""Laws of the oracles: what every other implementation is compared with must itself be right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from iam.core.errors import ArgumentError, ShapeError
from iam.reference import attr, clt, policy

# Small integers as floats: many ties, and sums that are exact.
rows = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(-3, 3))


@given(rows, st.data())
def test_topk_laws(pre, data):
    a, b = (data.draw(st.integers(1, pre.shape[1])) for _ in "ab")
    codes = clt.topk(pre, k=a)
    assert ((codes != 0).sum(-1) <= a).all()
    assert np.array_equal(clt.topk(codes, k=b), clt.topk(pre, k=min(a, b)))
    assert np.array_equal(clt.topk(4 * pre, k=a), 4 * codes)
    assert np.array_equal(clt.topk(pre, k=pre.shape[1]), clt.relu(pre))


@given(rows, st.data())
def test_topk_takes_the_lowest_index_of_a_tie(pre, data):
    k = data.draw(st.integers(1, pre.shape[1]))
    expected = np.zeros_like(pre)
    for r, row in enumerate(pre):
        for j in sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]:
            expected[r, j] = max(row[j], 0)
    assert np.array_equal(clt.topk(pre, k=k), expected)


@given(rows, st.data())
def test_batch_topk_laws(pre, data):
    k = data.draw(st.integers(1, pre.shape[1]))
    codes = clt.batch_topk(pre, k=k)
    assert (codes != 0).sum() <= k * len(pre)
    assert np.array_equal(clt.batch_topk(pre[:1], k=k), clt.topk(pre[:1], k=k))
    kept, lost = codes[codes > 0], clt.relu(pre)[(codes == 0) & (pre > 0)]
    if kept.size and lost.size:
        assert kept.min() >= lost.max() and (codes != 0).sum() == k * len(pre)


@given(rows)
def test_thresholds(pre):
    zero, one = np.zeros(pre.shape[1]), np.ones(pre.shape[1])
    assert np.array_equal(clt.jumprelu(pre, zero), clt.relu(pre))
    assert set(np.unique(clt.jumprelu(pre, one))) <= {0.0, 2.0, 3.0}  # strict: 1 is not above 1
    assert np.array_equal(clt.gate(pre, pre), clt.relu(pre))
    assert np.array_equal(clt.gate(-np.ones_like(pre), pre), np.zeros_like(pre))
    assert np.array_equal(clt.jumprelu(4 * pre, 4 * one), 4 * clt.jumprelu(pre, one))


edits = st.sampled_from([("set", 2.0, None), ("scale", -1.0, None), ("clamp", 0.0, 1.0), ("ablate", None, None)])


@given(rows, edits, st.data())
def test_edit_laws(f, edit, data):
    mode, a, b = edit
    features = data.draw(st.lists(st.integers(0, f.shape[1] - 1), unique=True))
    out = clt.edit(f, features, mode, a, b)
    others = np.setdiff1d(np.arange(f.shape[1]), features)
    assert np.array_equal(out[:, others], f[:, others])
    assert np.array_equal(f + clt.delta(f, features, mode, a, b), out)
    assert np.array_equal(clt.sub(out, f), clt.delta(f, features, mode, a, b))
    if mode in ("set", "clamp", "ablate"):
        assert np.array_equal(clt.edit(out, features, mode, a, b), out)
    if mode == "ablate":
        assert np.array_equal(out, clt.edit(f, features, "set", 0.0)) or not features


def test_edit_with_one_operand_each():
    f = np.array([[1.0, 2.0, 3.0]])
    assert np.array_equal(clt.edit(f, [2, 0], "set", [7.0, 8.0]), [[8.0, 2.0, 7.0]])
    assert np.array_equal(clt.edit(f, [2, 0], "clamp", [0.0, 2.0], [1.0, 3.0]), [[2.0, 2.0, 1.0]])


@pytest.mark.parametrize(
    ("features", "mode", "a", "b", "code"),
    [
        ([3], "set", 1.0, None, "feature-range"),
        ([-1], "ablate", None, None, "feature-range"),
        ([1, 1], "set", 1.0, None, "feature-duplicate"),
        ([1], "double", 1.0, None, "mode"),
        ([1], "ablate", 1.0, None, "argument"),
        ([1], "clamp", 1.0, None, "argument"),
        ([1], "scale", None, None, "argument"),
    ],
)
def test_edit_refuses(features, mode, a, b, code):
    with pytest.raises(ArgumentError) as caught:
        clt.edit(np.ones((1, 3)), features, mode, a, b)
    assert caught.value.code == code


@given(rows, rows)
def test_decode_is_linear_and_error_preserving_edits_are_deltas(f, W):
    W_dec = np.resize(W, (f.shape[1], 5)).astype(np.float64)
    b_dec, x = np.arange(5.0), np.full((len(f), 5), 3.0)
    edited = clt.edit(f, [0], "set", 2.0)
    long = x + clt.decode(edited, W_dec, b_dec) - clt.decode(f, W_dec, b_dec)
    assert np.allclose(long, x + clt.decode(clt.delta(f, [0], "set", 2.0), W_dec))
    assert np.array_equal(clt.decode(2 * f, W_dec), 2 * clt.decode(f, W_dec))


def test_encode_conventions(rng):
    x, W, b, shift = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 6)), rng.normal(size=6), rng.normal(size=4)
    assert np.allclose(clt.encode(x, W, b, shift), clt.encode(x - shift, W, b))
    assert np.allclose(clt.encode(x, W, b), np.einsum("abi,if->abf", x, W) + b)
    for activation, extra in (
        ("topk", {"k": 2}),
        ("abstopk", {"k": 2}),
        ("groupmax", {"k": 2}),
        ("batch_topk", {"k": 2}),
        ("relu", {}),
        ("jumprelu", {"threshold": np.ones(6)}),
    ):
        expected = getattr(clt, activation)(clt.encode(x, W, b, shift), **extra)
        assert np.array_equal(clt.encode_sparse(activation, x, W, b, shift, **extra), expected)
    gated = clt.gate(clt.encode(x, W, b, shift), clt.encode(x, -W, b, shift))
    assert np.array_equal(clt.encode_sparse("gate", x, W, b, shift, W_mag=-W, b_mag=b), gated)
    only = clt.encode_sparse("gate", x, W, b, shift, W_mag=-W, b_mag=b, only=[1])
    assert np.array_equal(only[..., 1], gated[..., 1]) and not only[..., [0, 2, 3, 4, 5]].any()
    with pytest.raises(ArgumentError, match="W_mag"):
        clt.encode_sparse("gate", x, W, b)
    with pytest.raises(ArgumentError, match="topk"):
        clt.encode_sparse("topk", x, W, b)
    with pytest.raises(ShapeError, match="d_in"):
        clt.encode(x[..., :3], W, b)


def test_residual(rng):
    y, x, skip = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(3, 3))
    assert np.array_equal(clt.residual(y, x), x + y)
    assert np.allclose(clt.residual(y, x, np.eye(3)), x + y)
    assert np.allclose(clt.residual(y, x, skip), y + x @ skip)


@pytest.mark.parametrize("k", [0, 4, -1])
def test_k_is_checked(k):
    for function in (clt.topk, clt.batch_topk):
        with pytest.raises(ArgumentError, match=r"k in 1\.\.3") as caught:
            function(np.ones((2, 3)), k=k)
        assert caught.value.code == "k-range"


def test_steer(rng):
    h, v = rng.normal(size=(2, 5, 3)), rng.normal(size=3)
    unit = v / np.linalg.norm(v)
    assert np.allclose(policy.steer(h, v, 2.0) - h, 2 * v)
    assert np.allclose(policy.steer(h, v, 1.0, "ablate") @ v, 0)
    assert np.allclose(policy.steer(h, v, 7.0, "clamp") @ unit, 7)
    for mode in ("ablate", "clamp"):  # nothing but the component along v moves
        moved = policy.steer(h, v, 0.5, mode) - h
        assert np.allclose(moved - (moved @ unit)[..., None] * unit, 0)
    assert np.allclose(policy.steer(h, 9 * v, 1.0, "ablate"), policy.steer(h, v, 1.0, "ablate"))
    with pytest.raises(ArgumentError, match="not zero"):
        policy.steer(h, np.zeros(3), 1.0, "clamp")
    with pytest.raises(ArgumentError, match="unknown mode"):
        policy.steer(h, v, 1.0, "rotate")


SETS = [
    ("halfspace", np.array([1.0, -2.0, 0.5]), 0.3),
    ("ball", np.array([0.1, 0.2, 0.3]), 0.7),
    ("subspace", np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), None),
    ("box", np.array([-0.2, -0.3, 0.0]), np.array([0.5, 0.1, 0.4])),
]


@pytest.mark.parametrize(("kind", "first", "second"), SETS, ids=lambda s: s if isinstance(s, str) else "")
def test_projection_is_the_nearest_point(kind, first, second, rng):
    h = rng.normal(size=(50, 3))
    nearest = policy.project(h, kind, first, second)
    assert (policy.verify(nearest, kind, first, second) >= -1e-9).all()
    assert np.allclose(policy.project(nearest, kind, first, second), nearest)
    distance = np.linalg.norm(h - nearest, axis=-1)
    others = policy.project(rng.normal(size=(50, 3)), kind, first, second)
    assert (distance[:, None] <= np.linalg.norm(h[:, None] - others[None], axis=-1) + 1e-9).all()
    outside = distance > 1e-9
    assert np.allclose(policy.verify(h, kind, first, second)[outside], -distance[outside])


def test_compose(rng):
    v, s = rng.normal(size=(3, 6)), np.array([1.0, 2.0, -1.0])
    assert np.allclose(policy.compose(v, s), (s[:, None] * v).sum(0))
    assert np.allclose(policy.compose(v, s, "mean") * 3, policy.compose(v, s))
    orthogonal = policy.compose(v, s, "orthogonal")
    assert np.isclose(orthogonal @ v[0], s[0] * v[0] @ v[0])  # the first is not undone
    assert np.allclose(policy.compose(np.stack([v[0], 2 * v[0]]), np.ones(2), "orthogonal"), v[0])
    with pytest.raises(ArgumentError, match="unknown rule"):
        policy.compose(v, s, "vote")


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint", "left", "right", "trapezoid"])
def test_integrated_gradients_are_complete(rule, rng):
    x, baseline = rng.normal(size=4), rng.normal(size=4)
    steps = 8 if rule == "gauss_legendre" else 2000
    points, weights = attr.path(x, baseline, steps=steps, rule=rule)
    assert np.isclose(weights.sum(), 1)
    given = attr.grad(lambda p: np.cos(p) * np.exp(p[0] * 0), points, weights, x, baseline)
    assert np.allclose(given, np.sin(x) - np.sin(baseline), atol=2e-3)  # F = Σ sin: separable, so exact per element


def test_gauss_legendre_is_exact_for_polynomials():
    x, baseline = np.array([2.0]), np.array([-1.0])
    points, weights = attr.path(x, baseline, steps=3)
    assert np.isclose(attr.grad(lambda p: 6 * p**5, points, weights, x, baseline)[0], 2**6 - 1)


def test_select_and_circuit(rng):
    indices, scores = attr.select(np.array([[1.0, -2.0, 2.0, 0.0]]), n=3)
    assert indices.tolist() == [[1, 2, 0]] and scores.tolist() == [[-2.0, 2.0, 1.0]]
    with pytest.raises(ArgumentError, match=r"n in 1\.\.4"):
        attr.select(np.ones(4), n=5)
    f, W_dec, J, W_enc = rng.random(3), rng.normal(size=(3, 4)), rng.normal(size=(4, 4)), rng.normal(size=(4, 5))
    edges = attr.circuit(f, W_dec, W_enc, J)
    assert np.allclose(edges.sum(0), f @ W_dec @ J @ W_enc)
    without = f.copy()
    without[1] = 0  # intervene: what the target loses is the edge
    assert np.allclose(f @ W_dec @ J @ W_enc - without @ W_dec @ J @ W_enc, edges[1])
