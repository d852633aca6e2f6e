"""Attributions in programs: every rule of iam-differentiate against the oracles' differences and torch's autograd.

The gradient that the oracle sums is a central difference of a float64 oracle. Between kinks the functions are polynomials
or smooth, so its error is below 1e-8. What is left is float32: sums of at most 16 terms below 16 in a chain of at most 4,
4·16·16·2⁻²⁴ = 6e-5 of a result of magnitude 1.
"""

import numpy as np
import pytest

import iam
from iam import ops
from iam.errors import CompileError, NonFiniteError, ShapeError, TraceError
from iam.reference import attr, clt, policy

D, F, STEP, TOLERANCE = 5, 16, 1e-6, 6e-5
LISTED = [1, 4, 9]


def weights_of(seed):
    rng = np.random.default_rng(seed)
    shapes = {"W": (D, F), "b": F, "B": (D, F), "c": F, "U": (F, D), "o": D, "S": (D, D), "v": D, "r": D}
    w = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    w |= {"theta": np.abs(w["b"]) / 2, "a": rng.uniform(0.1, 0.5, 3).astype(np.float32)}
    w |= {"z": w["a"] + np.float32(0.7), "low": -np.abs(w["v"]) / 2, "high": np.abs(w["r"]) / 2}
    w["basis"] = rng.normal(size=(2, D)).astype(np.float32)
    return w


def encoded(o, h, w):
    return o.encode(h, w["W"], w["b"])


def quarter_of(h):
    return 0.25 * h


# Each metric for iam.ops (recorded, or on torch), and for the oracles, on dense features.
FEATURES = {
    "topk": (lambda h, w: ops.topk(encoded(ops, h, w), 3), lambda h, w: clt.topk(encoded(clt, h, w), k=3)),
    "abstopk": (lambda h, w: ops.abstopk(encoded(ops, h, w), 3), lambda h, w: clt.abstopk(encoded(clt, h, w), k=3)),
    "groupmax": (lambda h, w: ops.groupmax(encoded(ops, h, w), 4), lambda h, w: clt.groupmax(encoded(clt, h, w), k=4)),
    "relu": (lambda h, w: ops.relu(encoded(ops, h, w)), lambda h, w: clt.relu(encoded(clt, h, w))),
    "jumprelu": (
        lambda h, w: ops.jumprelu(encoded(ops, h, w), w["theta"]),
        lambda h, w: clt.jumprelu(encoded(clt, h, w), w["theta"]),
    ),
    "batch_topk": (
        lambda h, w: ops.batch_topk(encoded(ops, h, w), 3),
        lambda h, w: clt.batch_topk(encoded(clt, h, w), k=3),
    ),
    "gate": (
        lambda h, w: ops.gate(encoded(ops, h, w), ops.encode(h, w["B"], w["c"])),
        lambda h, w: clt.gate(encoded(clt, h, w), clt.encode(h, w["B"], w["c"])),
    ),
    "of_arithmetic": (
        lambda h, w: ops.topk(encoded(ops, h, w) * encoded(ops, h, w) * 0.25, 3),
        lambda h, w: clt.topk(encoded(clt, h, w) ** 2 * 0.25, k=3),
    ),
    "gate_of_arithmetic": (
        lambda h, w: ops.gate(encoded(ops, h, w), 0.5 * encoded(ops, h, w) - ops.encode(h, w["B"], w["c"])),
        lambda h, w: clt.gate(encoded(clt, h, w), 0.5 * encoded(clt, h, w) - clt.encode(h, w["B"], w["c"])),
    ),
    "subtracted": (
        lambda h, w: ops.relu(ops.encode(h, w["W"], w["b"], w["o"])),
        lambda h, w: clt.relu(clt.encode(h, w["W"], w["b"], w["o"])),
    ),
}


def reconstruction(encode):
    return lambda h, w: ops.decode(encode(h, w), w["U"], w["o"]) @ w["r"]


def reconstruction_oracle(encode):
    return lambda h, w: clt.decode(encode(h, w), w["U"], w["o"]) @ w["r"]


def feature(encode):
    return lambda h, w: ops.densify(encode(h, w))[:, 4]


def feature_oracle(encode):
    return lambda h, w: encode(h, w)[:, 4]


METRICS = {}
for _name, (_ours, _theirs) in FEATURES.items():
    METRICS[f"{_name}-decode"] = (reconstruction(_ours), reconstruction_oracle(_theirs))
    METRICS[f"{_name}-feature"] = (feature(_ours), feature_oracle(_theirs))

_OPERANDS = {"set": ("a",), "scale": ("a",), "clamp": ("a", "z"), "ablate": ()}
for _mode, _names in _OPERANDS.items():
    for _activation in ("topk", "relu"):
        _ours, _theirs = FEATURES[_activation]
        for _kind in ("edit", "delta"):

            def _edited(h, w, *, f=_ours, mode=_mode, names=_names, kind=_kind):
                g = getattr(ops, kind)(f(h, w), LISTED, mode, *(w[n] for n in names))
                return ops.decode(g, w["U"]) @ w["r"]

            def _edited_oracle(h, w, *, f=_theirs, mode=_mode, names=_names, kind=_kind):
                g = getattr(clt, kind)(f(h, w), LISTED, mode, *(w[n] for n in names))
                return clt.decode(g, w["U"]) @ w["r"]

            METRICS[f"{_activation}-{_kind}-{_mode}"] = (_edited, _edited_oracle)

METRICS |= {
    "sub": (
        lambda h, w: (
            ops.decode(ops.sub(ops.topk(encoded(ops, h, w), 3), ops.topk(ops.encode(h, w["B"], w["c"]), 4)), w["U"])
            @ w["r"]
        ),
        lambda h, w: (
            (clt.topk(encoded(clt, h, w), k=3) - clt.topk(clt.encode(h, w["B"], w["c"]), k=4)) @ w["U"] @ w["r"]
        ),
    ),
    "residual": (
        lambda h, w: ops.residual(ops.decode(ops.topk(encoded(ops, h, w), 3), w["U"]), h) @ w["r"],
        lambda h, w: (h + clt.topk(encoded(clt, h, w), k=3) @ w["U"]) @ w["r"],
    ),
    "skip": (
        lambda h, w: ops.residual(ops.decode(ops.topk(encoded(ops, h, w), 3), w["U"]), h, w["S"]) @ w["r"],
        lambda h, w: clt.residual(clt.topk(encoded(clt, h, w), k=3) @ w["U"], h, w["S"]) @ w["r"],
    ),
    "columns": (lambda h, w: h[:, 0] * h[:, 1] - h[:, 4] * h[:, 4], lambda h, w: h[:, 0] * h[:, 1] - h[:, 4] ** 2),
    "square": (lambda h, w: (h * h + h) @ w["r"], lambda h, w: (h * h + h) @ w["r"]),
    "quotient": (
        lambda h, w: h[:, 0] / (h[:, 1] * h[:, 1] + 2.0),
        lambda h, w: h[:, 0] / (h[:, 1] ** 2 + 2.0),
    ),
    "negated": (lambda h, w: -(quarter_of(h) @ w["r"]) * h[:, 2], lambda h, w: -(0.25 * h @ w["r"]) * h[:, 2]),
    "constant": (lambda h, w: (0.0 * h) @ w["r"], lambda h, w: 0.0 * h[:, 0]),
    "steer-square": (
        lambda h, w: (lambda y: (y * y) @ w["r"])(ops.steer(h, w["v"], 0.5, "ablate")),
        lambda h, w: policy.steer(h, w["v"], 0.5, "ablate") ** 2 @ w["r"],
    ),
}
for _mode in ("add", "ablate", "clamp"):
    METRICS[f"steer-{_mode}"] = (
        lambda h, w, mode=_mode: (
            ops.decode(ops.relu(encoded(ops, ops.steer(h, w["v"], 0.75, mode), w)), w["U"]) @ w["r"]
        ),
        lambda h, w, mode=_mode: clt.relu(encoded(clt, policy.steer(h, w["v"], 0.75, mode), w)) @ w["U"] @ w["r"],
    )
_SETS = {
    "halfspace": lambda w: (w["v"], 0.1),
    "ball": lambda w: (w["v"], 0.8),
    "subspace": lambda w: (w["basis"], None),
    "box": lambda w: (w["low"], w["high"]),
}
for _kind, _set in _SETS.items():
    METRICS[f"project-{_kind}"] = (
        lambda h, w, kind=_kind, of=_set: (lambda y: (y * y) @ w["r"])(ops.project(h, kind, *of(w))),
        lambda h, w, kind=_kind, of=_set: policy.project(h, kind, *of(w)) ** 2 @ w["r"],
    )


def wide(w):
    return {name: array.astype(np.float64) for name, array in w.items()}


def differences(metric, w):
    """The gradient of the sum over rows of ``metric``, by central differences in float64."""

    def gradient(h):
        result = np.zeros_like(h)
        for at in np.ndindex(h.shape):
            up, down = h.copy(), h.copy()
            up[at] += STEP
            down[at] -= STEP
            result[at] = (metric(up, w).sum() - metric(down, w).sum()) / (2 * STEP)
        return result

    return gradient


def drawn(rows, seed):
    rng = np.random.default_rng([seed, rows])
    return tuple(rng.normal(size=(rows, D)).astype(np.float32) for _ in range(2))


@pytest.mark.parametrize("name", METRICS)
def test_rule_agrees_with_differences_of_the_oracle(name):
    ours, theirs = METRICS[name]
    w = weights_of(1)
    for rows in (0, 1, 3):
        x, baseline = drawn(rows, 2)
        points, weights = ops.path(x, baseline, steps=3)
        found = ops.grad(lambda h: ours(h, w), x, baseline, points, weights)
        exact = points.astype(np.float64), weights.astype(np.float64), x.astype(np.float64), baseline.astype(np.float64)
        expected = attr.grad(differences(theirs, wide(w)), *exact)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(1.0, np.abs(expected).max(initial=0)))


@pytest.mark.parametrize("name", METRICS)
def test_rule_agrees_with_torch(name):
    torch = pytest.importorskip("torch")
    ours, _ = METRICS[name]
    w = weights_of(1)
    on_torch = {key: torch.from_numpy(value) for key, value in w.items()}
    x, baseline = drawn(3, 5)
    points, weights = ops.path(x, baseline, steps=3)
    found = ops.grad(lambda h: ours(h, w), x, baseline, points, weights)
    leaf = torch.from_numpy(x).requires_grad_()
    others = (torch.from_numpy(array) for array in (baseline, points, weights))
    expected = ops.grad(lambda h: ours(h, on_torch), leaf, *others).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * TOLERANCE * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 17])
def test_points_at_once_make_no_difference(steps):
    """8 points are differentiated at once, with what is left of them; the oracle takes one after the other."""
    ours, theirs = METRICS["topk-decode"]
    w = weights_of(3)
    x, baseline = drawn(3, 4)
    points, weights = ops.path(x, baseline, steps=steps)
    found = ops.grad(lambda h: ours(h, w), x, baseline, points, weights)
    exact = [array.astype(np.float64) for array in (points, weights, x, baseline)]
    expected = attr.grad(differences(theirs, wide(w)), *exact)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(1.0, np.abs(expected).max()))


def test_equal_preactivations_go_to_the_lowest_feature():
    """Features 0 and 1 tie everywhere; the gradient is that of feature 0, which TopK keeps."""
    W = np.array([[1, 1, 0], [0, 0, 1]], np.float32)
    U = np.array([[1, 0], [5, 0], [0, 1]], np.float32)
    x = np.array([[3, 1], [2, 1]], np.float32)
    f = ops.integrated_gradients(
        lambda h: ops.decode(ops.topk(ops.encode(h, W, np.zeros(3, np.float32)), 1), U)[:, 0], x, steps=4
    )
    np.testing.assert_allclose(f, [[3, 0], [2, 0]], rtol=1e-6)


def test_the_derivative_of_relu_at_zero_is_zero():
    W, b = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    x, baseline = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)
    points, weights = np.zeros((1, 1, 2), np.float32), np.ones(1, np.float32)
    found = ops.grad(
        lambda h: ops.decode(ops.relu(ops.encode(h, W, b)), W) @ np.ones(2, np.float32), x, baseline, points, weights
    )
    assert not found.any()


def test_what_cancels_has_a_derivative():
    """At the baseline, features set to what they are there: the difference has no entries, but a derivative."""
    w = weights_of(1)
    x, baseline = drawn(1, 6)
    points, weights = ops.path(x, baseline, steps=1, rule="left")
    f = ops.densify(ops.relu(encoded(ops, points[0], w)))
    listed = [int(j) for j in np.flatnonzero(f[0])]
    whole = ops.grad(lambda h: reconstruction(FEATURES["relu"][0])(h, w), x, baseline, points, weights)

    def change(h):
        return ops.decode(ops.delta(ops.relu(encoded(ops, h, w)), listed, "set", f[0][listed]), w["U"]) @ w["r"]

    np.testing.assert_array_equal(ops.grad(change, x, baseline, points, weights), -whole)

    # A second encoder gives the same activations to the bit, and does not depend on h.
    pre = ops.encode(points[0], w["W"], w["b"])[0]

    def difference(h):
        return ops.sub(ops.relu(encoded(ops, h, w)), ops.relu(ops.encode(h, 0 * w["W"], pre)))

    for metric in (lambda d: ops.decode(d, w["U"], w["o"]) @ w["r"], lambda d: ops.densify(d)[:, listed[0]]):
        expected = ops.grad(lambda h, m=metric: m(ops.relu(encoded(ops, h, w))), x, baseline, points, weights)
        found = ops.grad(lambda h, m=metric: m(difference(h)), x, baseline, points, weights)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["square", "columns", "relu-decode", "steer-square"])
def test_attributions_are_complete(name):
    """Gauss-Legendre of 64 points: exact for squares; a kink costs at most its jump in slope times a gap of 1/40."""
    ours, theirs = METRICS[name]
    w = weights_of(7)
    x, baseline = drawn(4, 8)
    found = ops.integrated_gradients(lambda h: ours(h, w), x, baseline, steps=64).sum(axis=1)
    expected = theirs(x.astype(np.float64), wide(w)) - theirs(baseline.astype(np.float64), wide(w))
    slack = 0.05 if name.startswith("relu") else 2e-4
    np.testing.assert_allclose(found, expected, rtol=0, atol=slack * max(1.0, np.abs(expected).max()))


def test_a_gradient_that_is_not_finite_names_its_point():
    x, baseline = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)
    points = np.array([[[1, 1]], [[1, 0]], [[1, 2]]], np.float32)
    with pytest.raises(NonFiniteError, match="point 1"):
        ops.grad(lambda h: h[:, 0] / h[:, 1], x, baseline, points, np.full(3, 1 / 3, np.float32))


def test_what_cannot_be_differentiated_is_an_error():
    x, W = np.ones((2, D), np.float32), weights_of(1)["U"]
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    with pytest.raises(CompileError, match="each coefficient depends"):
        ops.integrated_gradients(lambda h: ops.decode(ops.matching_pursuit(h, W), W)[:, 0], x)
    with pytest.raises(TraceError, match="not one number for each row"):
        ops.integrated_gradients(lambda h: h, x)
    with pytest.raises(ShapeError, match="one shape"):
        ops.path(x, x[:1])


def test_inside_of_a_program():
    w = weights_of(1)

    @iam.jit
    def attribution(x):
        h = ops.steer(x, w["v"], 0.5)
        points, weights = ops.path(h, 0 * h, steps=5)
        return ops.grad(
            lambda y: ops.topk(ops.encode(y, w["W"], w["b"]), 3).to_dense()[:, 4], h, 0 * h, points, weights
        )

    x, _ = drawn(3, 2)
    h = x + np.float32(0.5) * w["v"]
    expected = ops.integrated_gradients(lambda y: FEATURES["topk"][0](y, w).to_dense()[:, 4], h, steps=5)
    np.testing.assert_allclose(attribution(x), expected, rtol=0, atol=TOLERANCE)


def test_through_a_model_and_a_coder(one_thread):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 31}
    config = transformers.LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    prompt = iam.LanguageModel(transformers.AutoModelForCausalLM.from_config(config).eval()).on([[3, 1, 4, 1, 5]])
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(16, 24)).astype(np.float32), np.zeros(24, np.float32)
    v = rng.normal(size=24).astype(np.float32)

    @iam.jit
    def attribution(prompt):
        h = prompt.run(to="resid_post.0")
        points, weights = ops.path(h, 0.5 * h, steps=3)

        def metric(h):
            y = prompt.run(h, from_="resid_post.0", to="resid_post.1")
            return ops.topk(ops.encode(y, W, b), 4).to_dense() @ v

        return ops.grad(metric, h, 0.5 * h, points, weights)

    found = np.asarray(attribution(prompt)).reshape(-1, 16)
    h = prompt.run(to="resid_post.0").detach()
    total = torch.zeros_like(h)
    for alpha, weight in zip(*np.polynomial.legendre.leggauss(3), strict=True):
        leaf = (0.5 * h + (alpha + 1) / 2 * 0.5 * h).float().requires_grad_()
        y = prompt.run(leaf, from_="resid_post.0", to="resid_post.1").reshape(-1, 16)
        pre = y @ torch.from_numpy(W)
        kept = (pre >= pre.topk(4).values[:, -1:]) * pre.relu()
        (gradient,) = torch.autograd.grad((kept @ torch.from_numpy(v)).sum(), leaf)
        total += weight / 2 * gradient
    expected = (0.5 * h * total).reshape(-1, 16).numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
