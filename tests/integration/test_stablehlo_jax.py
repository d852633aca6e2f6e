"""Programs as StableHLO, run by JAX on the CPU, against the NumPy oracle and against compiled IAM.

JAX's own StableHLO parses and verifies every module, so the ops declared in mlir/include/iam/Dialect/Stablehlo are checked
against the real ones. Where inputs are small integers, sums and products are exact in float32 in any order: results are then
*equal*, ties included. Real numbers have a tolerance from epsilon, the length of the sums and their magnitude.
"""

import numpy as np
import pytest

import iam
from iam import ops
from iam.compiler._stablehlo import StablehloProgram, from_text
from iam.core.errors import ArgumentError, CompileError, DtypeError, ShapeError
from iam.reference import attr, clt, policy

jax = pytest.importorskip("jax", reason="JAX is an extra: pip install iam[jax]")
jnp = jax.numpy

U = 2.0**-24
EDITS = ("set", "scale", "clamp", "ablate")

# Rows, width, dictionary, k: nothing, one, odd, all of the dictionary.
SHAPES = [(0, 3, 7, 2), (1, 1, 1, 1), (1, 5, 13, 13), (2, 3, 70, 4), (5, 7, 33, 9), (17, 4, 129, 3)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def draw(rng, *shape, low=-2, high=3):
    return rng.integers(low, high, shape).astype(np.float32)


def wide(array):
    return None if array is None else np.asarray(array, np.float64)


def make_sae(architecture, shape, rng, subtract=True, numbers=draw):
    _, d, n, k = shape
    gated = architecture == "gated"
    cfg = iam.SAEConfig(
        architecture=architecture,
        d_in=d,
        d_sae=n,
        k=k if architecture == "topk" else None,
        apply_b_dec_to_input=subtract,
    )
    more = {"b_gate": numbers(rng, n), "b_mag": numbers(rng, n), "r_mag": np.zeros(n, np.float32)} if gated else {}
    return iam.SAE(
        cfg,
        W_enc=numbers(rng, d, n),
        W_dec=numbers(rng, n, d),
        b_dec=numbers(rng, d),
        threshold=np.abs(numbers(rng, n)) if architecture == "jumprelu" else None,
        **({} if gated else {"b_enc": numbers(rng, n)}),
        **more,
    )


def dense(f, n_features):
    """Features of JAX as a dense array, padding left out."""
    if not isinstance(f, tuple):
        return np.asarray(f)
    return clt.densify(np.asarray(f.values), np.asarray(f.indices), None, n_features)


def equal_slots(found, compiled):
    """Both have the same values in the same slots, and the same indices where these mean something."""
    np.testing.assert_array_equal(found.values, compiled.values)
    active = np.asarray(found.values) != 0
    np.testing.assert_array_equal(np.asarray(found.indices)[active], compiled.indices[active])


def equal(found, compiled, reference):
    """JAX's result and compiled IAM's are the reference; ``compiled`` is None where there is no kernel."""
    if isinstance(compiled, iam.SparseFeatures):
        if compiled.k is not None:
            equal_slots(found, compiled)
        np.testing.assert_array_equal(dense(found, compiled.n_features), reference)
        np.testing.assert_array_equal(compiled.to_dense(), reference)
        return
    np.testing.assert_array_equal(np.asarray(found), reference)
    if compiled is not None:
        np.testing.assert_array_equal(compiled, reference)


def both(function, *args):
    """What JAX and the runtime make of a function."""
    program = iam.jit(function)
    return program.stablehlo(*args).to_jax()(*args), program(*args)


# Coders.


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "gated"])
@shapes
def test_coders(architecture, subtract, shape, rng):
    sae = make_sae(architecture, shape, rng, subtract)
    x = draw(rng, shape[0], shape[1])

    def program(x):
        f = sae.encode(x)
        return f, sae.decode(f), f.to_dense()

    (f, y, d), compiled = both(program, x)
    reference = wide(sae.encode(x).to_dense())
    if architecture != "gated":  # its oracle takes other weights; test_three_way compares it
        activation = "relu" if architecture == "standard" else architecture
        shift = wide(sae.b_dec) if subtract else None
        reference = clt.encode_sparse(
            activation, wide(x), wide(sae.W_enc), wide(sae.b_enc), shift, threshold=wide(sae.threshold), k=sae.cfg.k
        )
    equal(f, compiled[0], reference)
    equal(y, compiled[1], clt.decode(reference, wide(sae.W_dec), wide(sae.b_dec)))
    equal(d, compiled[2], reference)


def test_real_numbers_within_rounding(rng):
    shape = (9, 24, 200, 200)  # every feature is kept: rounding cannot choose another one
    normal = lambda r, *s: r.normal(size=s).astype(np.float32)  # noqa: E731
    sae = make_sae("topk", shape, rng, numbers=normal)
    x = normal(rng, 9, 24)
    found, compiled = both(lambda x: sae.decode(sae.encode(x)), x)
    f = clt.encode_sparse("topk", wide(x), wide(sae.W_enc), wide(sae.b_enc), wide(sae.b_dec), k=200)
    reference = clt.decode(f, wide(sae.W_dec), wide(sae.b_dec))
    # |error of f_j| <= (24 + 3) u sum|..|; it enters the decode with |W_dec|, whose own sum has 200 terms.
    encode = 27 * U * (np.abs(x - sae.b_dec) @ np.abs(sae.W_enc) + np.abs(sae.b_enc))
    bound = encode @ np.abs(sae.W_dec) + 203 * U * (np.abs(f) @ np.abs(sae.W_dec) + np.abs(sae.b_dec))
    assert (np.abs(found - reference) <= bound).all()
    assert (np.abs(compiled - reference) <= bound).all()


def divisor(k, n):
    """The largest number of groups up to k that n features can form."""
    return max(g for g in range(1, k + 1) if n % g == 0)


ACTIVATIONS = {
    "topk": (lambda pre, k, t: ops.topk(pre, k), lambda pre, k, t: clt.topk(pre, k=k)),
    "abstopk": (lambda pre, k, t: ops.abstopk(pre, k), lambda pre, k, t: clt.abstopk(pre, k=k)),
    "groupmax": (
        lambda pre, k, t: ops.groupmax(pre, divisor(k, pre.shape[-1])),
        lambda pre, k, t: clt.groupmax(pre, k=divisor(k, pre.shape[-1])),
    ),
    "batch_topk": (lambda pre, k, t: ops.batch_topk(pre, k), lambda pre, k, t: clt.batch_topk(pre, k=k)),
    "jumprelu": (lambda pre, k, t: ops.jumprelu(pre, t), lambda pre, k, t: clt.jumprelu(pre, t)),
    "relu": (lambda pre, k, t: ops.relu(pre), lambda pre, k, t: clt.relu(pre)),
    "gate": (lambda pre, k, t: ops.gate(pre + t, pre), lambda pre, k, t: clt.gate(pre + t, pre)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@shapes
def test_activations_with_many_ties(name, shape, rng):
    rows, _, n, k = shape
    pre, threshold = draw(rng, rows, n), draw(rng, n)
    apply, oracle = ACTIVATIONS[name]
    found, compiled = both(lambda pre, t: apply(pre, k, t), pre, threshold)
    equal(found, compiled, oracle(wide(pre), k, wide(threshold)))


def signed_units(rng, n, d):
    """Decoder rows of norm 1 that are exact, many of them equal or opposite."""
    W = np.zeros((n, d), np.float32)
    W[np.arange(n), rng.integers(0, d, n)] = rng.choice([-1, 1], n)
    return W


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize(("threshold", "steps"), [(0.0, 1), (0.0, 7), (1.5, 7)])
@shapes
def test_matching_pursuit(threshold, steps, stop, shape, rng):
    rows, d, n, _ = shape
    x, W, b = draw(rng, rows, d, high=4), signed_units(rng, n, d), draw(rng, d)
    how = {"residual_threshold": threshold, "max_iterations": steps, "stop_on_duplicate_support": stop}
    found, compiled = both(lambda x: ops.matching_pursuit(x, W, b, **how), x)
    equal(found, compiled, clt.matching_pursuit(wide(x) - b, wide(W), **how))


def test_matching_pursuit_of_real_numbers(rng):
    W = rng.normal(size=(40, 12)).astype(np.float32)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    x = rng.normal(size=(9, 12)).astype(np.float32)
    f = lambda x: ops.decode(ops.matching_pursuit(x, W, max_iterations=5), W)  # noqa: E731
    found, compiled = both(f, x)
    # Five steps, each a dot product of 12 terms and an update, on numbers of size 1 to 4.
    np.testing.assert_allclose(found, compiled, atol=5 * 15 * U * 8)
    check_gradient(iam.jit(f).stablehlo(x).to_jax(), x)


def test_ties_go_to_the_lowest_index():
    f = iam.jit(lambda pre: ops.topk(pre, 3)).stablehlo(np.zeros((1, 6))).to_jax()
    found = f(np.array([[1, 2, 1, 2, 2, 1], [-1, -1, -1, -1, -1, -1]], np.float32))
    np.testing.assert_array_equal(found.indices, [[1, 3, 4], [0, 1, 2]])
    np.testing.assert_array_equal(found.values, [[2, 2, 2], [0, 0, 0]])


# Features: edits and differences.


def features(rng, rows, n, k):
    """Features in k-form with padding that points at an active feature, or in compressed rows."""
    values = draw(rng, rows, k or n, low=-1, high=3)
    if k is None:
        offsets = np.concatenate([[0], np.cumsum((values != 0).sum(1))])
        return iam.SparseFeatures(values[values != 0], np.nonzero(values)[1].astype(np.int32), offsets, n)
    indices = np.stack([rng.permutation(n)[:k] for _ in range(rows)]).astype(np.int32) if rows else np.zeros((0, k))
    indices = np.where(values == 0, indices[:, :1], indices).astype(np.int32)
    return iam.SparseFeatures(values, indices, None, n)


@pytest.mark.parametrize("kform", [True, False])
@pytest.mark.parametrize("mode", EDITS)
@shapes
def test_edits_and_deltas(mode, kform, shape, rng):
    rows, d, n, k = shape
    f = features(rng, rows, n, k if kform else None)
    chosen = tuple(int(i) for i in rng.permutation(n)[: min(n, 3)])
    a, b = draw(rng, len(chosen)), draw(rng, len(chosen)) + 5
    arguments = {"set": (a,), "scale": (a,), "clamp": (a, b), "ablate": ()}[mode]
    W = draw(rng, n, d)

    def program(f):
        edited = getattr(f, mode)(chosen, *arguments)
        delta = ops.delta(f, chosen, mode, *arguments)
        return edited, delta, ops.decode(edited, W), edited.to_dense()

    (edited, delta, y, d_), compiled = both(program, f)
    before = clt.densify(*f.components, n)
    reference = clt.edit(wide(before), chosen, mode, *map(wide, arguments))
    equal(edited, compiled[0], reference)
    equal(delta, compiled[1], reference - before)
    equal(y, compiled[2], clt.decode(reference, wide(W)))
    equal(d_, compiled[3], reference)


@pytest.mark.parametrize("kform", [True, False])
@shapes
def test_differences(kform, shape, rng):
    rows, _, n, k = shape
    f, g = features(rng, rows, n, k if kform else None), features(rng, rows, n, min(n, k + 1) if kform else None)
    found, compiled = both(lambda f, g: f - g, f, g)
    equal(found, compiled, wide(clt.densify(*f.components, n)) - clt.densify(*g.components, n))


def test_an_edit_of_no_feature_of_text():
    text = """func.func @f(%f: !iam.features<?x8xf32, k = 2>) -> !iam.features<?x8xf32, k = 2> {
      %g = iam.clt.edit ablate %f features [] : (!iam.features<?x8xf32, k = 2>) -> !iam.features<?x8xf32, k = 2>
      return %g : !iam.features<?x8xf32, k = 2>
    }"""
    f = iam.SparseFeatures(np.ones((1, 2), np.float32), np.array([[3, 5]], np.int32), None, 8)
    np.testing.assert_array_equal(from_text(text).to_jax()(f).indices, [[3, 5]])


# Activations: residual, steering.


@shapes
def test_residual(shape, rng):
    rows, d, n, _ = shape
    y, x, W = draw(rng, rows, n), draw(rng, rows, d), draw(rng, d, n)
    found, compiled = both(lambda y, x: ops.residual(y, x, W), y, x)
    equal(found, compiled, clt.residual(wide(y), wide(x), wide(W)))
    found, compiled = both(lambda y: ops.residual(y, y + 1.0), y)
    equal(found, compiled, wide(y) + y + 1)


@pytest.mark.parametrize("mode", ["add", "ablate", "clamp"])
@shapes
def test_steer(mode, shape, rng):
    rows, d, _, _ = shape
    h, v = draw(rng, rows, d), draw(rng, d, low=1)
    found, compiled = both(lambda h, v, s: ops.steer(h, v, s, mode), h, v, 2.0)
    reference = policy.steer(wide(h), wide(v), 2.0, mode)
    if mode == "add":
        return equal(found, compiled, reference)
    # The share of the direction is a quotient of exact sums: a handful of roundings of numbers of this size.
    bound = 8 * U * (np.abs(h) + (np.abs(h @ v)[:, None] + 2) * np.abs(v))
    assert (np.abs(found - reference) <= bound).all()
    assert (np.abs(compiled - reference) <= bound).all()
    return None


def test_error_preserving_edit_is_a_delta(rng):
    sae = make_sae("jumprelu", (3, 5, 40, 0), rng)
    x = draw(rng, 3, 5)
    program = iam.jit(lambda x: x + (sae.decode(sae.encode(x).set(7, 2.0)) - sae.decode(sae.encode(x))))
    stablehlo = program.stablehlo(x)
    assert "tensor<?x40xf32>, tensor<40x5xf32>" not in str(stablehlo)  # no decode of the whole dictionary
    np.testing.assert_array_equal(stablehlo.to_jax()(x), program(x))


# Policies and attribution: no kernel yet, so oracle and JAX.


def run_text(body, types, result, *args, rows=None):
    names = ", ".join(f"%{chr(97 + i)}: {t}" for i, t in enumerate(types))
    text = f"func.func @f({names}) -> ({result}) {{\n{body}\n}}"
    return from_text(text).to_jax()(*args)


@pytest.mark.parametrize("rule", ["sum", "mean", "orthogonal"])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_compose(rule, n, rng):
    v, s = rng.normal(size=(n, 4)).astype(np.float32), rng.normal(size=n).astype(np.float32)
    if n >= 2:
        v[1] = 2 * v[0]  # in the span of the first
    found = run_text(
        f"""%0 = iam.policy.compose {rule} %a, %b : tensor<{n}x4xf32>, tensor<{n}xf32> -> tensor<4xf32>
            return %0 : tensor<4xf32>""",
        [f"tensor<{n}x4xf32>", f"tensor<{n}xf32>"],
        "tensor<4xf32>",
        v,
        s,
    )
    # Gram-Schmidt loses up to a few digits where directions are close; these are random.
    np.testing.assert_allclose(found, policy.compose(wide(v), wide(s), rule), atol=1e-5)


SETS = {
    "halfspace": ("tensor<4xf32>", "f32"),
    "ball": ("tensor<4xf32>", "f32"),
    "box": ("tensor<4xf32>", "tensor<4xf32>"),
    "subspace": ("tensor<2x4xf32>", None),
}


def project(kind, h, first, second=None):
    types = ["tensor<?x4xf32>", *(t for t in SETS[kind] if t)]
    operands = "%a, %b" + (", %c" if len(types) == 3 else "")
    return run_text(
        f"""%0 = iam.policy.project {kind} {operands} : ({", ".join(types)}) -> tensor<?x4xf32>
            return %0 : tensor<?x4xf32>""",
        types,
        "tensor<?x4xf32>",
        h,
        first,
        *([] if second is None else [second]),
    )


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_project(kind, rows, rng):
    h = (2 * rng.normal(size=(rows, 4))).astype(np.float32)
    first = rng.normal(size=(2, 4) if kind == "subspace" else 4).astype(np.float32)
    second = {"halfspace": 0.5, "ball": 1.5, "box": first + 1, "subspace": None}[kind]
    found = np.asarray(project(kind, h, first, second))
    np.testing.assert_allclose(found, policy.project(wide(h), kind, wide(first), second), atol=2e-6)
    inside = policy.verify(wide(h), kind, wide(first), second) > 1e-5
    np.testing.assert_array_equal(found[inside], h[inside])  # to the bit


RULES = ("gauss_legendre", "left", "right", "midpoint", "trapezoid")
# The trapezoid rule has two ends: attr_path_c3.
PATHS = [(rule, steps) for rule in RULES for steps in (1, 2, 3, 20, 64) if (rule, steps) != ("trapezoid", 1)]


@pytest.mark.parametrize(("rule", "steps"), PATHS)
def test_path(rule, steps, rng):
    x, baseline = (rng.normal(size=(3, 4)).astype(np.float32) for _ in "ab")
    points, weights = run_text(
        f"""%p, %w = iam.attr.path {rule} %a, %b, steps = {steps}
              : tensor<?x4xf32>, tensor<?x4xf32> -> tensor<{steps}x?x4xf32>, tensor<{steps}xf32>
            return %p, %w : tensor<{steps}x?x4xf32>, tensor<{steps}xf32>""",
        ["tensor<?x4xf32>"] * 2,
        f"tensor<{steps}x?x4xf32>, tensor<{steps}xf32>",
        x,
        baseline,
    )
    wanted, wanted_weights = attr.path(wide(x), wide(baseline), steps=steps, rule=rule)
    # The node, the difference, the product and the sum are rounded once each.
    assert (np.abs(points - wanted) <= 4 * U * (2 * np.abs(x) + 2 * np.abs(baseline))).all()
    np.testing.assert_allclose(weights, wanted_weights, rtol=2 * U)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_select(rows, rng):
    scores = draw(rng, rows, 64)
    indices, top = run_text(
        """%i, %t = iam.attr.select %a, n = 10 : tensor<?x64xf32> -> tensor<?x10xi32>, tensor<?x10xf32>
           return %i, %t : tensor<?x10xi32>, tensor<?x10xf32>""",
        ["tensor<?x64xf32>"],
        "tensor<?x10xi32>, tensor<?x10xf32>",
        scores,
    )
    wanted, wanted_top = attr.select(scores, n=10)
    np.testing.assert_array_equal(indices, wanted)
    np.testing.assert_array_equal(top, wanted_top)


@pytest.mark.parametrize("through", [True, False])
def test_circuit(through, rng):
    f, W_dec, W_enc, J = draw(rng, 5), draw(rng, 5, 4), draw(rng, 4, 3), draw(rng, 4, 4)
    types = ["tensor<?xf32>", "tensor<?x4xf32>", "tensor<4x?xf32>", *(["tensor<4x4xf32>"] if through else [])]
    found = run_text(
        f"""%0 = iam.attr.circuit %a, %b, %c{", through %d" if through else ""} : ({", ".join(types)}) -> tensor<?x?xf32>
            return %0 : tensor<?x?xf32>""",
        types,
        "tensor<?x?xf32>",
        f,
        W_dec,
        W_enc,
        *([J] if through else []),
    )
    np.testing.assert_array_equal(found, attr.circuit(f, W_dec, W_enc, J if through else None))


# What the runtime refuses becomes NaN, in the rows concerned only.


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_a_row_that_is_not_finite_is_nan(architecture, bad, rng):
    sae = make_sae(architecture, (3, 5, 40, 4), rng)
    x = draw(rng, 3, 5)
    x[1, 2] = bad
    sae.W_enc[2] = 0  # inf·0 is NaN, so every pre-activation of the row is
    program = iam.jit(lambda x: sae.decode(sae.encode(x)))
    with pytest.raises(iam.errors.NonFiniteError):
        program(x)
    found = np.asarray(program.stablehlo(x).to_jax()(x))
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], program(x[[0, 2]]))


def test_nan_is_kept_by_every_activation():
    pre = np.array([[1, np.nan, -3, 2], [1, 5, -3, 2]], np.float32)
    pre[0, 1] = np.copysign(np.nan, -1)  # what 0/0 gives on x86
    t = np.zeros(4, np.float32)
    for name, (apply, _) in ACTIVATIONS.items():
        example = np.zeros((2, 4), np.float32)
        f = iam.jit(lambda p, t, apply=apply: apply(p, 2, t)).stablehlo(example, t).to_jax()(pre, t)
        assert np.isnan(dense(f, 4)[0]).any(), name
        if name != "batch_topk":  # whose rows compete with each other
            assert np.isfinite(dense(f, 4)[1]).all(), name


def test_sets_that_are_no_sets_give_nan():
    h = np.ones((2, 4), np.float32)
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert np.isnan(project("ball", h, zero, -1.0)).all()
    assert np.isnan(project("halfspace", h, zero, 1.0)).all()
    assert np.isnan(project("box", h, one, zero)).all()
    for mode in ("ablate", "clamp"):
        steer = iam.jit(lambda h, v, mode=mode: ops.steer(h, v, 1.0, mode))
        assert np.isnan(steer.stablehlo(h, zero).to_jax()(h, zero)).all()


# Derivatives.


def finite_differences(f, x, step=1e-3):
    """The gradient of a number by central differences, in float64 outside of ``f``."""
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (float(f(up)) - float(f(down))) / (float(up[i]) - float(down[i]))
    return gradient


def smooth(rng, *shape):
    """Numbers away from kinks: a change by a small step changes no choice."""
    return (rng.permutation(np.arange(np.prod(shape))).reshape(shape) * 0.37 - 2.1).astype(np.float32)


def check_gradient(f, *args, at=0):
    found = jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), argnums=at)(*map(jnp.asarray, args))

    def number(x):
        given = [*args[:at], x, *args[at + 1 :]]
        return np.sum(np.sin(np.asarray(f(*given), np.float64)))

    wanted = finite_differences(number, np.asarray(args[at], np.float32))
    # Truncation O(step²) and float32 results divided by the step: two to three digits remain.
    np.testing.assert_allclose(found, wanted, rtol=3e-2, atol=3e-2 * (1 + np.abs(wanted).max(initial=0)) * 0.1)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_gradients_of_coders(architecture, rng):
    normal = lambda r, *s: (0.5 * r.normal(size=s)).astype(np.float32)  # noqa: E731
    sae = make_sae(architecture, (2, 4, 10, 3), rng, numbers=normal)
    x = normal(rng, 2, 4)
    f = iam.jit(lambda x: sae.decode(sae.encode(x))).stablehlo(x).to_jax()
    check_gradient(f, x)
    for name in f.weights:
        others = {k: v for k, v in f.weights.items() if k != name}
        check_gradient(lambda w, others=others, name=name: f.call({**others, name: w}, x), np.asarray(f.weights[name]))


@pytest.mark.parametrize("kform", [True, False])
@pytest.mark.parametrize("mode", EDITS)
def test_gradients_of_edits(mode, kform, rng):
    W = smooth(rng, 6, 3)
    a, b = np.array([0.3, -0.2], np.float32), np.array([0.9, 0.8], np.float32)
    arguments = {"set": 1, "scale": 1, "clamp": 2, "ablate": 0}[mode]
    act = (lambda p: ops.topk(p, 3)) if kform else ops.relu

    def program(pre, a, b):
        f = act(pre)
        return ops.decode(getattr(f, mode)((1, 4), *(a, b)[:arguments]) - f, W)

    pre = smooth(rng, 2, 6)
    f = iam.jit(program).stablehlo(pre, a, b).to_jax()
    for at in range(1 + arguments):
        check_gradient(f, pre, a, b, at=at)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_activations(name, rng):
    pre, t = smooth(rng, 3, 5), np.full(5, 0.1, np.float32)
    W = smooth(rng, 5, 2)
    apply = ACTIVATIONS[name][0]
    check_gradient(iam.jit(lambda p, t: ops.decode(apply(p, 2, t), W)).stablehlo(pre, t).to_jax(), pre, t)


@pytest.mark.parametrize("mode", ["add", "ablate", "clamp"])
def test_gradients_of_steering(mode, rng):
    h, v = smooth(rng, 3, 4), np.array([0.5, -0.3, 0.2, 0.9], np.float32)
    f = iam.jit(lambda h, v, s: ops.steer(h, v, s, mode)).stablehlo(h, v, 0.7).to_jax()
    for at in range(3):
        check_gradient(f, h, v, np.float32(0.7), at=at)


@pytest.mark.parametrize("kind", SETS)
def test_gradients_of_projections(kind, rng):
    h = smooth(rng, 3, 4)
    first = np.array([0.5, -0.3, 0.2, 0.9], np.float32)
    first = np.stack([first, first[::-1]]) if kind == "subspace" else first
    second = {"halfspace": 0.5, "ball": 1.5, "box": first + 1, "subspace": None}[kind]
    check_gradient(lambda h: project(kind, h, first, second), h)
    check_gradient(lambda first: project(kind, h, first, second), first)


def test_gradients_of_composed_directions(rng):
    v, s = smooth(rng, 3, 4), np.array([0.5, -1.0, 2.0], np.float32)
    text = """func.func @f(%v: tensor<3x4xf32>, %s: tensor<3xf32>) -> tensor<4xf32> {
      %0 = iam.policy.compose orthogonal %v, %s : tensor<3x4xf32>, tensor<3xf32> -> tensor<4xf32>
      return %0 : tensor<4xf32>
    }"""
    f = from_text(text).to_jax()
    check_gradient(f, v, s)
    check_gradient(f, v, s, at=1)


def test_derivatives_come_from_the_same_program(rng):
    """The module called through PJRT and the one that is differentiated agree to the bit on exact numbers."""
    sae = make_sae("topk", (4, 5, 30, 6), rng)
    x = draw(rng, 4, 5)
    f = iam.jit(lambda x: sae.encode(sae.decode(sae.encode(x).scale((3, 7), 2.0)))).stablehlo(x).to_jax()
    primal, tangent = jax.jvp(lambda x: f(x).values, (jnp.asarray(x),), (jnp.ones_like(x),))
    np.testing.assert_array_equal(primal, f(x).values)
    assert np.isfinite(tangent).all()


def test_a_pre_activation_of_zero_has_derivative_zero():
    f = iam.jit(lambda pre: ops.relu(pre).to_dense()).stablehlo(np.zeros((1, 3))).to_jax()
    gradient = jax.grad(lambda x: f(x).sum())(jnp.array([[-1.0, 0.0, 1.0]]))
    np.testing.assert_array_equal(gradient, [[0, 0, 1]])


# Transformations and calling.


@pytest.fixture
def reconstruct(rng):
    sae = make_sae("topk", (4, 5, 30, 6), rng)
    return iam.jit(lambda x: sae.decode(sae.encode(x)))


def test_jit_and_vmap(reconstruct, rng):
    x = draw(rng, 3, 4, 5)
    f = reconstruct.stablehlo(x[0]).to_jax()
    wanted = np.stack([reconstruct(each) for each in x])
    np.testing.assert_array_equal(jax.jit(f)(x[0]), wanted[0])
    np.testing.assert_array_equal(jax.vmap(f)(x), wanted)
    np.testing.assert_array_equal(jax.jit(jax.vmap(f))(x), wanted)
    jax.vmap(jax.grad(lambda x: f(x).sum()))(x)


def test_features_are_pytrees(rng):
    sae = make_sae("topk", (4, 5, 30, 6), rng)
    x = draw(rng, 3, 4, 5)
    encode = iam.jit(lambda x: sae.encode(x)).stablehlo(x[0]).to_jax()
    decode = iam.jit(lambda f: sae.decode(f)).stablehlo(sae.encode(x[0])).to_jax()
    f = jax.vmap(encode)(x)
    assert f.values.shape == (3, 4, 6) and f.indices.dtype == jnp.int32
    wanted = np.stack([sae.decode(sae.encode(each)) for each in x])
    np.testing.assert_array_equal(jax.vmap(decode)(f), wanted)
    np.testing.assert_array_equal(decode(sae.encode(x[0])), wanted[0])
    by_x = jax.jit(jax.grad(lambda x: decode(encode(x)).sum()))(jnp.asarray(x[0]))
    by_values = jax.grad(lambda v: decode(f._replace(values=v, indices=f.indices[0])).sum())(f.values[0])
    assert by_x.shape == (4, 5) and by_values.shape == (4, 6)


def test_leading_dimensions(reconstruct, rng):
    x = draw(rng, 3, 4, 5)
    f = reconstruct.stablehlo(x).to_jax()
    np.testing.assert_array_equal(f(x), reconstruct(x))
    np.testing.assert_array_equal(f(x[0, 0]), reconstruct(x[0, 0]))
    np.testing.assert_array_equal(f(x[:0]), reconstruct(x[:0]))


def test_one_module_for_each_number_of_rows(reconstruct, rng):
    f = reconstruct.stablehlo(draw(rng, 4, 5)).to_jax()
    for rows in (4, 4, 2, 4):
        f(draw(rng, rows, 5))
    assert len(f._modules) == 2


def test_structures_and_names(rng):
    sae = make_sae("standard", (4, 5, 30, 6), rng)
    x = draw(rng, 4, 5)

    def program(x, strength):
        y = ops.steer(x, sae.W_dec[3], strength)
        return {"y": y, "again": [y, y + 1.0], "name": "steered"}

    found = iam.jit(program).stablehlo(x, 2.0).to_jax()(x, 3.0)
    compiled = iam.jit(program)(x, 3.0)
    assert found.keys() == compiled.keys()
    assert found["name"] == "steered"
    np.testing.assert_array_equal(found["again"][1], compiled["again"][1])


def test_messages(reconstruct, rng):
    f = reconstruct.stablehlo(draw(rng, 4, 5)).to_jax()
    with pytest.raises(ShapeError, match=r"argument x: expected shape \(rows, 5\), got \(4, 6\)"):
        f(draw(rng, 4, 6))
    with pytest.raises(ArgumentError, match=r"expected 1 arguments \(x\), got 2"):
        f(1, 2)
    with pytest.raises(DtypeError, match="expected an array or a number, got str"):
        f("x")
    with pytest.raises(ArgumentError, match=r"weight .* is missing"):
        f.call({}, draw(rng, 4, 5))
    g = iam.jit(lambda x, y: x + y).stablehlo(draw(rng, 4, 5), draw(rng, 4, 5)).to_jax()
    with pytest.raises(ShapeError, match="do not fit"):
        g(draw(rng, 4, 5), draw(rng, 3, 5))
    h = iam.jit(lambda f: f.to_dense()).stablehlo(features(rng, 2, 8, 3)).to_jax()
    with pytest.raises(DtypeError, match="expected SlotFeatures"):
        h(draw(rng, 2, 8))


# The module with open sizes, and artefacts.


def refined(program, *args):
    """Run the module with its sizes open, as jax.export does: it fixes them when the types of a call are known."""
    import dataclasses

    from jax import export

    dims = export.symbolic_shape("n")
    specs = []
    for argument in program.arguments:
        for _, shape in argument.tensors:
            specs.append(jax.ShapeDtypeStruct(tuple(dims[0] if n is None else n for n in shape), jnp.float32))
    results = [tuple(t[1]) for r in program.results for t in r.tensors]
    kinds = [{"f32": jnp.float32, "i32": jnp.int32}[t[0]] for r in program.results for t in r.tensors]

    def shaped(*xs):
        n = next(x.shape[0] for x, s in zip(xs, specs, strict=True) if s.shape and s.shape[0] is dims[0])
        return tuple(jnp.zeros([n if m is None else m for m in s], k) for s, k in zip(results, kinds, strict=True))

    exported = export.export(jax.jit(shaped, keep_unused=True))(*specs)
    assert exported.uses_global_constants
    return dataclasses.replace(exported, mlir_module_serialized=program.bytecode()).call(*args)


OPEN = {
    "topk": lambda x, sae: sae["topk"].encode(x),
    "jumprelu": lambda x, sae: sae["jumprelu"].encode(x),
    "abstopk": lambda x, sae: ops.abstopk(x, 2),
    "groupmax": lambda x, sae: ops.groupmax(ops.residual(x, x), 5),
    "matching pursuit": lambda x, sae: ops.matching_pursuit(x, sae["units"], max_iterations=3),
    "gate": lambda x, sae: ops.gate(x, x + 1.0),
    "decode": lambda x, sae: sae["topk"].decode(sae["topk"].encode(x)),
    "densify": lambda x, sae: sae["topk"].encode(x).to_dense(),
    "edit of slots": lambda x, sae: sae["topk"].encode(x).clamp((1, 2), -1.0, 1.0),
    "edit of dense codes": lambda x, sae: sae["jumprelu"].encode(x).set((1, 2), 3.0),
    "delta": lambda x, sae: ops.delta(sae["jumprelu"].encode(x), (1, 2), "scale", 3.0),
    "sub": lambda x, sae: sae["topk"].encode(x) - sae["topk"].encode(x).ablate(3),
    "residual": lambda x, sae: ops.residual(x * 2.0, x),
    "steer": lambda x, sae: ops.steer(ops.steer(x, sae["topk"].W_dec[3], 2.0), sae["topk"].W_dec[4], 1.0, "ablate"),
}


@pytest.mark.parametrize("name", OPEN)
def test_open_sizes_are_refined(name, rng):
    sae = {kind: make_sae(kind, (4, 5, 30, 6), rng) for kind in ("topk", "jumprelu")}
    sae["topk"].W_dec[:] += 3  # no direction is zero
    sae["units"] = signed_units(rng, 30, 5)
    x = draw(rng, 4, 5)
    program = iam.jit(lambda x: OPEN[name](x, sae)).stablehlo(x)
    assert "tensor<?x" in str(program)
    found = refined(program, *(program.weights[a.name] if a.is_weight else x for a in program.arguments))
    wanted = program.to_jax()(x)
    for a, b in zip(found, wanted if isinstance(wanted, tuple) else [wanted], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(20))
def test_random_programs(seed):
    """Chains of features, edits, differences and steering: fused, lowered and run by both, equal to the bit."""
    rng = np.random.default_rng(seed)
    rows, d, n, k = [int(rng.integers(low, high)) for low, high in ((0, 6), (1, 6), (4, 40), (1, 4))]
    kind = ("topk", "jumprelu", "standard")[seed % 3]
    sae = make_sae(kind, (rows, d, n, k), rng, subtract=bool(rng.integers(2)))
    x = draw(rng, rows, d)
    steps = [int(s) for s in rng.integers(0, 6, 5)]
    picks = [tuple(int(i) for i in rng.permutation(n)[: rng.integers(1, 4)]) for _ in steps]
    numbers = [float(v) for v in rng.integers(-2, 3, len(steps))]

    def program(x):
        f = sae.encode(x)
        for step, chosen, number in zip(steps, picks, numbers, strict=True):
            if step == 0:
                f = f.set(chosen, number)
            elif step == 1:
                f = f.scale(chosen, number)
            elif step == 2:
                f = f.clamp(chosen, min(number, 1.0), max(number, 1.0))
            elif step == 3:
                f = f.ablate(chosen)
            elif step == 4:
                x = x + (sae.decode(f) - sae.decode(sae.encode(x)))
            else:
                x = ops.steer(x, sae.W_dec[chosen[0]], number)
        return x, f, sae.decode(f)

    found, compiled = both(program, x)
    for a, b in zip(found, compiled, strict=True):
        equal(a, b, np.asarray(b.to_dense() if isinstance(b, iam.SparseFeatures) else b))


def test_a_donated_argument_is_none_of_jaxs_business(rng):
    x = draw(rng, 3, 4)
    program = iam.jit(lambda x: x + 1.0, donate=("x",)).stablehlo(x)
    found = program.to_jax()(x)
    np.testing.assert_array_equal(found, x + 1)


def test_topk_is_xlas_own(reconstruct, rng):
    x = draw(rng, 4, 5)
    f = reconstruct.stablehlo(x).to_jax()
    assert 'custom_call_target="TopK"' in jax.jit(f).lower(jnp.asarray(x)).compile().as_text()


def test_saved_and_loaded(reconstruct, tmp_path, rng):
    x = draw(rng, 4, 5)
    program = reconstruct.stablehlo(x)
    folder = program.save(tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest.json", "program.mlir", "program.stablehlo", "weights.safetensors",
    ]  # fmt: skip
    loaded = StablehloProgram.load(folder)
    np.testing.assert_array_equal(loaded.to_jax()(x), reconstruct(x))
    from iam.compiler._jax import deserialize

    text = deserialize((folder / "program.stablehlo").read_bytes())
    assert "func.func public @main" in text or "func.func @main" in text
    assert "stablehlo.sort" in text


def test_what_has_no_stablehlo_form():
    text = """func.func @f(%h: tensor<?x4xf32>, %v: tensor<4xf32>, %b: f32) -> tensor<?xf32> {
      %m = iam.policy.verify halfspace %h, %v, %b message "below" : (tensor<?x4xf32>, tensor<4xf32>, f32) -> tensor<?xf32>
      return %m : tensor<?xf32>
    }"""
    with pytest.raises(CompileError, match=r"iam.policy.verify' op has no StableHLO form: StableHLO has no assertions"):
        from_text(text).text()
