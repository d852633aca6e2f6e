"""Demand-driven encode: programs that use a few features of a coder, by oracle, eagerly and compiled.

The programs use integers, so that every sum is exact and the three agree to the bit.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iam
from iam import _runtime, ops
from iam.core.errors import ArgumentError
from iam.reference import clt

ARCHITECTURES = ("standard", "jumprelu")
seeds = st.integers(0, 2**31)


def draw(rng, *shape, low=-4):
    return rng.integers(low, 5, size=shape).astype(np.float32)


def make_sae(architecture, d, n, seed, k=None):
    rng = np.random.default_rng(seed)
    cfg = iam.SAEConfig(architecture=architecture, d_in=d, d_sae=n, k=k, apply_b_dec_to_input=bool(seed % 2))
    threshold = draw(rng, n, low=0) if architecture == "jumprelu" else None
    return iam.SAE(
        cfg, W_enc=draw(rng, d, n), b_enc=draw(rng, n), W_dec=draw(rng, n, d), b_dec=draw(rng, d), threshold=threshold
    )


def wide(array):
    return None if array is None else array.astype(np.float64)


def oracle(sae, x, edits, only=None):
    """``x + decode(edited) - decode(f)``, dense, in float64."""
    activation = "relu" if sae.cfg.architecture == "standard" else sae.cfg.architecture
    shift = wide(sae.b_dec) if sae.cfg.apply_b_dec_to_input else None
    weights = wide(sae.W_enc), wide(sae.b_enc), shift
    f = clt.encode_sparse(activation, wide(x), *weights, threshold=wide(sae.threshold), k=sae.cfg.k, only=only)
    g = f
    for mode, features, operands in edits:
        g = clt.edit(g, features, mode, *operands)
    return wide(x) + clt.decode(g, wide(sae.W_dec)) - clt.decode(f, wide(sae.W_dec))


def edited(f, edits):
    for mode, features, operands in edits:
        f = getattr(f, mode)(features, *operands)
    return f


def encoded(program, *args):
    """The features that each encode of the compiled program is restricted to, and the remarks."""
    explanation = program.explain(*args)
    lines = [line for line in explanation.after.mlir.splitlines() if "iam.clt.encode" in line]
    only = [line.partition(" only [")[2].partition("]")[0] for line in lines]
    return [[int(i) for i in one.split(",")] if one else None for one in only], explanation.remarks


def operands_of(rng, mode, count):
    if mode == "ablate":
        return ()
    a = draw(rng, count)
    return (a,) if mode != "clamp" else (a, a + draw(rng, count, low=0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(seeds, st.sampled_from([0, 1, 5, 33]), st.sampled_from([1, 7, 65]), st.sampled_from([96, 97, 391]), st.data())
@settings(max_examples=20, deadline=None)
def test_edits_in_a_chain(architecture, seed, rows, d, n, data):
    """Up to three edits that may name the same features, the first and the last of the dictionary among them."""
    rng = np.random.default_rng(seed)
    sae = make_sae(architecture, d, n, seed)
    x = draw(rng, rows, d)
    pool = data.draw(
        st.lists(st.sampled_from([0, n - 1, n // 2, 1, 17, 64]), min_size=1, max_size=n // 16, unique=True)
    )
    edits = []
    for _ in range(data.draw(st.integers(1, 3))):
        mode = data.draw(st.sampled_from(["set", "scale", "clamp", "ablate"]))
        features = data.draw(st.lists(st.sampled_from(pool), min_size=1, unique=True))
        edits.append((mode, features, operands_of(rng, mode, len(features))))

    def program(x):
        f = sae.encode(x)
        return x + sae.decode(edited(f, edits)) - sae.decode(f)

    compiled = iam.jit(program)
    reference = oracle(sae, x, edits)
    np.testing.assert_array_equal(program(x), reference)
    np.testing.assert_array_equal(compiled(x), reference)
    used = sorted({feature for _, features, _ in edits for feature in features})
    (only,), _ = encoded(compiled, x)
    assert only is not None
    assert set(only) <= set(used)
    np.testing.assert_array_equal(oracle(sae, x, edits, only=only), reference)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_strengths_that_are_arguments(architecture):
    sae = make_sae(architecture, 9, 97, 3)
    x = draw(np.random.default_rng(0), 6, 9)

    @iam.jit
    def program(x, s, t):
        f = sae.encode(x)
        return x + sae.decode(f.set([96, 0], s).scale([5], t)) - sae.decode(f)

    assert encoded(program, x, 3.0, 2.0)[0] == [[0, 5, 96]]
    for s, t in ((3.0, 2.0), (-1.0, 0.0), (0.0, 7.0)):
        expected = oracle(sae, x, [("set", [96, 0], (np.full(2, s),)), ("scale", [5], (np.full(1, t),))])
        np.testing.assert_array_equal(program(x, s, t), expected)
    assert program.stats()["compilations"] == 1


def test_features_that_are_used_twice():
    """Two edits of one encode: the union is encoded, once."""
    sae = make_sae("jumprelu", 9, 97, 4)
    x = draw(np.random.default_rng(1), 6, 9)

    @iam.jit
    def program(x):
        f = sae.encode(x)
        y = sae.decode(f)
        return x + sae.decode(f.ablate([7, 3])) - y, x + sae.decode(f.scale([7, 40], 2.0)) - y

    assert encoded(program, x)[0] == [[3, 7, 40]]
    a, b = program(x)
    np.testing.assert_array_equal(a, oracle(sae, x, [("ablate", [7, 3], ())]))
    np.testing.assert_array_equal(b, oracle(sae, x, [("scale", [7, 40], (np.full(2, 2.0),))]))


def test_random_weights_change_no_bit():
    """The value of a feature does not depend on what else is encoded: the edit of all that the pass spares is equal."""
    rng = np.random.default_rng(5)
    d, n, rows = 67, 333, 19
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("W", (d, n)), ("b", n), ("t", n))}
    x = rng.normal(size=(rows, d)).astype(np.float32)
    for only in ([0], [332], [0, 15, 16, 17, 331, 332], list(range(333))):
        every = _runtime.encode_threshold(x, weights["W"], weights["b"], None, weights["t"])
        some = _runtime.encode_threshold_only(
            x, weights["W"], weights["b"], None, weights["t"], np.array(only, np.int32)
        )
        dense = [_runtime.densify(*codes, n) for codes in (every, some)]
        expected = np.zeros_like(dense[0])
        expected[:, only] = dense[0][:, only]
        np.testing.assert_array_equal(dense[1], expected)


def test_gated_coders_are_sliced():
    """Their gate and magnitude are one JumpReLU when they are recorded."""
    rng = np.random.default_rng(6)
    d, n = 9, 97
    cfg = iam.SAEConfig(architecture="gated", d_in=d, d_sae=n)
    names = {"b_gate": draw(rng, n), "b_mag": draw(rng, n), "r_mag": np.zeros(n, np.float32)}
    sae = iam.SAE(cfg, W_enc=draw(rng, d, n), W_dec=draw(rng, n, d), b_dec=draw(rng, d), **names)
    x = draw(rng, 6, d)

    @iam.jit
    def program(x):
        f = sae.encode(x)
        return x + sae.decode(f.scale([7, 96], 2.0)) - sae.decode(f)

    assert encoded(program, x)[0] == [[7, 96]]
    np.testing.assert_array_equal(program(x), program.function(x))


@pytest.mark.parametrize("shared", [True, False])
def test_gates_of_two_encodes_are_sliced(shared):
    rng = np.random.default_rng(7)
    d, n = 9, 97
    x, W, b, c, D = draw(rng, 6, d), draw(rng, d, n), draw(rng, n), draw(rng, n), draw(rng, n, d)
    V = W if shared else draw(rng, d, n)

    @iam.jit
    def program(x):
        f = ops.gate(ops.encode(x, W, b), ops.encode(x, V, c))
        return x + ops.decode(f.scale([7, 96], 2.0), D) - ops.decode(f, D)

    assert encoded(program, x)[0] == [[7, 96]]
    f = clt.encode_sparse("gate", wide(x), wide(W), wide(b), W_mag=wide(V), b_mag=wide(c))
    edited = clt.edit(f, [7, 96], "scale", np.full(2, 2.0))
    reference = wide(x) + clt.decode(edited, wide(D)) - clt.decode(f, wide(D))
    np.testing.assert_array_equal(program.function(x), reference)
    np.testing.assert_array_equal(program(x), reference)


def test_several_activations_of_one_encode_are_sliced():
    rng = np.random.default_rng(8)
    d, n = 9, 97
    x, W, b, t, D = draw(rng, 6, d), draw(rng, d, n), draw(rng, n), draw(rng, n, low=0), draw(rng, n, d)

    @iam.jit
    def program(x):
        pre = ops.encode(x, W, b)
        f, g = ops.relu(pre), ops.jumprelu(pre, t)
        y = x + ops.decode(f.ablate([3]), D) - ops.decode(f, D)
        return y + ops.decode(g.ablate([3, 96]), D) - ops.decode(g, D)

    assert encoded(program, x)[0] == [[3], [3, 96]]
    np.testing.assert_array_equal(program(x), program.function(x))


def test_what_else_reads_the_features_keeps_the_encode_whole():
    sae = make_sae("jumprelu", 9, 97, 6)
    x = draw(np.random.default_rng(2), 6, 9)

    @iam.jit
    def program(x):
        f = sae.encode(x)
        return x + sae.decode(f.ablate([7])) - sae.decode(f), f

    only, remarks = encoded(program, x)
    assert only == [None]
    assert not any("features" in remark for remark in remarks)
    np.testing.assert_array_equal(program(x)[0], oracle(sae, x, [("ablate", [7], ())]))


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_remarks_name_the_line(architecture):
    sae = make_sae(architecture, 9, 97, 7, k=4 if architecture == "topk" else None)
    x = draw(np.random.default_rng(3), 6, 9)

    @iam.jit
    def program(x):
        f = sae.encode(x)
        return x + sae.decode(f.ablate([7])) - sae.decode(f)

    only, remarks = encoded(program, x)
    line = f"{__file__}:{program.function.__code__.co_firstlineno + 2}: remark: "
    if architecture == "topk":
        assert only == [None]
        assert (
            f"{line}encodes all features although 1 would do: topk cannot be sliced, "
            "whether a feature is active depends on all others of its row"
        ) in remarks
    else:
        assert only == [[7]]
        assert f"{line}encodes 1 of 97 features: no other is used" in remarks
    np.testing.assert_array_equal(program(x), oracle(sae, x, [("ablate", [7], ())]))


def test_costs_are_those_of_the_features_in_use():
    sae = make_sae("standard", 9, 97, 8)
    x = draw(np.random.default_rng(4), 6, 9)

    @iam.jit
    def program(x):
        f = sae.encode(x)
        return x + sae.decode(f.ablate([7, 9])) - sae.decode(f)

    explanation = program.explain(x)
    (encode,) = [op for op in explanation.after.ops if op.op.startswith("iam.clt.encode_sparse")]
    assert encode.flops == 2 * 6 * 9 * 2 + 2 * 6 * 2
    assert encode.read == 4 * (6 * 9 + 9 * 2 + 2)
    assert encode.memory == 8 * 6 * 2


def test_only_of_the_oracle():
    x, W, b = np.array([[1.0, 2.0]]), np.eye(2), np.zeros(2)
    with pytest.raises(ArgumentError, match='no only for "topk"'):
        clt.encode_sparse("topk", x, W, b, k=1, only=[0])
