"""Composing, projecting and verifying: the NumPy oracle in float64, the eager kernels, and compiled programs agree.

Eager and compiled results are equal. The kernels sum in float64, so they differ from the oracle by the rounding of the
result to float32, and by what keeps a moved row inside: twice that rounding again.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import iam
from iam.errors import ArgumentError, DtypeError, NonFiniteError, PolicyError, ShapeError
from iam.reference import policy

KINDS = ("halfspace", "ball", "subspace", "box")
SHAPES = [(0, 3, 2), (1, 1, 1), (1, 1, 3), (2, 3, 0), (5, 4, 7), (33, 7, 3), (65, 97, 5), (129, 16, 16)]
shapes = st.sampled_from(SHAPES)
seeds = st.integers(0, 2**16)
scales = st.sampled_from([1e-3, 1.0, 1e4, 1e15])
EPS = float(np.finfo(np.float32).eps)


def drawn_set(kind, rng, width, count, scale):
    """``first`` and ``second``, in the neighbourhood of activations of that scale."""
    if kind == "subspace":
        basis = rng.normal(size=(count, width)).astype(np.float32)
        if count > 2:
            basis[1] = 0
            basis[2] = -2 * basis[0]  # exact: of lower rank
        return basis, None
    centre = (rng.normal(size=width) * scale).astype(np.float32)
    if kind == "box":
        return centre - np.float32(0.5 * scale), centre + np.float32(0.25 * scale)
    return centre, float(np.float32(scale * (scale if kind == "halfspace" else 1) * rng.uniform(0, 2)))


def activations(rng, rows, width, scale):
    return (rng.normal(size=(rows, width)) * scale).astype(np.float32)


def wide(x):
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x


_alive = []
"""Every compiled function, so that examples of one shape share machine code."""


def compiled(function, *args):
    _alive.append(iam.jit(function))
    return _alive[-1](*args)


@pytest.mark.parametrize("kind", KINDS)
@given(shapes, seeds, scales)
@settings(max_examples=30)
def test_project_and_verify(kind, shape, seed, scale):
    rng = np.random.default_rng(seed)
    rows, width, count = shape
    h = activations(rng, rows, width, scale)
    first, second = drawn_set(kind, rng, width, count, scale)

    def program(h):
        moved = iam.project(h, kind, first, second)
        # A span is reached by a rounding of each coordinate.
        tolerance = 0.0 if kind != "subspace" else float(EPS * 10 * scale * np.sqrt(width))
        margins = iam.verify(moved, kind, first, second, tolerance=tolerance)
        return moved, margins, iam.verify(h, kind, first, second, tolerance=1e30)

    moved, inside, margins = program(h)
    for a, b in zip((moved, inside, margins), compiled(program, h), strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)
    expected = policy.project(wide(h), kind, wide(first), wide(second))
    # Rounding the result, and twice the most that it can add to the norm of a row (or to an inner product, over the norm of
    # the normal): in all, 4 eps of the length of the row and of what it is measured from.
    size = np.linalg.norm(expected, axis=-1) + (np.linalg.norm(first) if kind == "ball" else 0) + 1e-30
    assert (np.abs(moved - expected) <= 4 * EPS * size[:, None]).all()
    reference = policy.verify(wide(h), kind, wide(first), wide(second))
    np.testing.assert_allclose(margins, reference, rtol=2 * EPS, atol=1e-12 * scale * width)
    if kind != "subspace":
        still = reference >= 0
        np.testing.assert_array_equal(moved[still], h[still])
        np.testing.assert_array_equal(iam.project(moved, kind, first, second), moved)


@pytest.mark.parametrize("rule", ["sum", "mean", "orthogonal"])
@given(shapes, seeds, scales)
@settings(max_examples=30)
def test_compose(rule, shape, seed, scale):
    rng = np.random.default_rng(seed)
    rows, width, count = shape
    vectors = activations(rng, count, width, scale)
    if count > 2:
        vectors[1] = 2 * vectors[0]
    strengths = rng.normal(size=count).astype(np.float32)
    h = activations(rng, rows, width, scale)
    edit = iam.compose(vectors, strengths, rule)
    np.testing.assert_array_equal(edit, iam.compose(vectors, strengths.tolist(), rule))
    reference = policy.compose(wide(vectors), wide(strengths), rule)
    np.testing.assert_allclose(edit, reference, rtol=EPS, atol=1e-9 * scale * max(count, 1))
    program = compiled(lambda h, s: (iam.compose(vectors, s, rule), h + iam.compose(vectors, s, rule)), h, strengths)
    np.testing.assert_array_equal(program[0], edit)
    np.testing.assert_array_equal(program[1], h + edit)


H = np.array([[3.0, 4.0], [0.0, 0.5]], np.float32)
ZERO = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("kind", "first", "second", "error", "message"),
    [
        ("halfspace", ZERO, 1.0, ArgumentError, "norm 0"),
        ("halfspace", ZERO + 1, np.nan, NonFiniteError, "a bound, got nan"),
        ("ball", ZERO, -0.5, ArgumentError, "radius >= 0, got -0.5"),
        ("ball", np.array([0, np.inf], np.float32), 1.0, NonFiniteError, "inf at index 1"),
        ("box", np.array([0, 2], np.float32), 1.0, ArgumentError, "got 2 and 1 at index 1"),
        ("box", np.nan, 1.0, NonFiniteError, "got nan at index 0"),
        ("subspace", np.array([[0, np.nan]], np.float32), None, NonFiniteError, "row 0, column 1"),
    ],
)
def test_sets_without_a_projection_are_errors(kind, first, second, error, message):
    for function in (iam.project, iam.verify):
        for call in (lambda f, h: f(h), compiled):
            with pytest.raises(error, match=message):
                call(lambda h, f=function: f(h, kind, first, second) + 0, H)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="did you mean"):
        iam.project(H, "bal", ZERO, 1.0)
    with pytest.raises(ArgumentError, match="expected a second operand"):
        iam.project(H, "ball", ZERO)
    with pytest.raises(ArgumentError, match="expected no second operand"):
        iam.verify(H, "subspace", H, 1.0)
    with pytest.raises(ShapeError, match=r"first of shape \(2,\), got \(3,\)"):
        iam.project(H, "ball", np.zeros(3), 1.0)
    with pytest.raises(ShapeError, match=r"first of shape \(n, 2\)"):
        iam.project(H, "subspace", np.zeros((1, 3)))
    with pytest.raises(DtypeError, match="second to be a number"):
        iam.project(H, "ball", ZERO, "far")
    with pytest.raises(ArgumentError, match="tolerance >= 0"):
        iam.verify(H, "ball", ZERO, 1.0, tolerance=-1.0)
    with pytest.raises(ShapeError, match=r"strengths of shape \(2,\)"):
        iam.compose(H, [1.0])
    with pytest.raises(ArgumentError, match="unknown mode"):
        iam.compose(H, [1.0, 2.0], "product")


@pytest.mark.parametrize("call", [lambda f, h: f(h), compiled], ids=["eager", "compiled"])
def test_a_broken_policy_is_an_error_with_its_row_and_margin(call):
    def program(h):
        iam.verify(h, "ball", ZERO, 1.0, tolerance=0.25, message="stays small – ü")  # the margin is not used
        return h * 2.0

    np.testing.assert_array_equal(call(program, H[1:]), H[1:] * 2)
    rows = np.concatenate([np.zeros((97, 2), np.float32), H, H])
    with pytest.raises(PolicyError, match=r"stays small – ü: expected margins >= -0\.25, got -4 at row 97") as caught:
        call(program, rows)
    assert (caught.value.code, caught.value.row, caught.value.margin) == ("policy", 97, -4.0)
    assert isinstance(caught.value, iam.errors.IamError)
    with pytest.raises(PolicyError) as caught:
        call(program, np.array([[0, 0], [0, np.inf]], np.float32))
    assert caught.value.row == 1
    assert np.isnan(caught.value.margin)
    np.testing.assert_array_equal(call(program, H[1:]), H[1:] * 2)  # nothing sticks


@pytest.mark.parametrize("call", [lambda f, h: f(h), compiled], ids=["eager", "compiled"])
def test_leading_dimensions_and_types(call):
    h = np.random.default_rng(0).normal(size=(2, 3, 4))

    def program(h):
        moved = iam.project(h, "box", -0.5, 0.5)
        return moved, iam.verify(moved, "box", [-0.5] * 4, [0.5] * 4)

    moved, margins = call(program, h)
    assert moved.shape == (2, 3, 4)
    assert margins.shape == (2, 3)
    np.testing.assert_allclose(moved, np.clip(h, -0.5, 0.5), rtol=EPS)
    np.testing.assert_allclose(margins, (0.5 - np.abs(moved)).min(-1), rtol=EPS, atol=1e-7)


def test_bounds_and_strengths_given_by_the_call():
    h = activations(np.random.default_rng(0), 9, 4, 1.0)

    def program(h, low, radius, s):
        moved = iam.project(iam.project(h, "box", low, np.inf), "ball", np.ones(4, np.float32), radius)
        return moved + iam.compose(np.eye(4, dtype=np.float32), [s, 1.0, s, 2.0], "orthogonal")

    expected = program(h, -0.25, 0.5, 3.0)
    np.testing.assert_array_equal(compiled(program, h, -0.25, 0.5, 3.0), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_batches_do_not_matter(kind, restore_threads):
    rng = np.random.default_rng(3)
    h = activations(rng, 517, 65, 1.0)
    first, second = drawn_set(kind, rng, 65, 9, 1.0)
    results = []
    for threads in (1, 2):
        restore_threads.set_num_threads(threads)
        results.append((iam.project(h, kind, first, second), iam.verify(h, kind, first, second, tolerance=1e9)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    for rows in (slice(0, 1), slice(5, 40), slice(500, 517)):
        np.testing.assert_array_equal(iam.project(h[rows], kind, first, second), results[0][0][rows])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_through_torch(kind):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    h = activations(rng, 11, 6, 1.0)
    first, second = drawn_set(kind, rng, 6, 3, 1.0)
    leaf = torch.from_numpy(h.copy()).requires_grad_()
    moved = iam.project(leaf, kind, first, second)
    np.testing.assert_allclose(moved.detach().numpy(), iam.project(h, kind, first, second), rtol=1e-5, atol=1e-6)
    margins = iam.verify(leaf, kind, first, second, tolerance=1e9)
    expected = iam.verify(h, kind, first, second, tolerance=1e30)
    np.testing.assert_allclose(margins.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.from_numpy(rng.normal(size=h.shape))
    (moved.double() * weights).sum().backward()

    def value(x):
        return (policy.project(x, kind, wide(first), wide(second)) * weights.numpy()).sum()

    step = 1e-6
    for at in np.ndindex(h.shape):
        low, high = wide(h), wide(h)
        low[at] -= step
        high[at] += step
        slope = (value(high) - value(low)) / (2 * step)
        assert leaf.grad[at].item() == pytest.approx(slope, rel=1e-4, abs=1e-5)
    with pytest.raises(PolicyError, match=r"got -.* at row") as caught:
        iam.verify(leaf + 100.0, kind, first, second if kind != "halfspace" else -1e4, message="near")
    assert caught.value.margin < 0


@pytest.mark.parametrize("rule", ["sum", "mean", "orthogonal"])
def test_compose_in_torch(rule):
    torch = pytest.importorskip("torch")
    vectors = activations(np.random.default_rng(5), 4, 6, 1.0)
    vectors[2] = vectors[0] - vectors[1]
    strengths = torch.tensor([1.0, -2.0, 0.5, 3.0], requires_grad=True)
    edit = iam.compose(torch.from_numpy(vectors), strengths, rule)
    np.testing.assert_allclose(edit.detach(), iam.compose(vectors, strengths.tolist(), rule), rtol=1e-5, atol=1e-6)
    edit.sum().backward()
    for i in range(4):
        one = np.eye(4, dtype=np.float32)[i]
        assert strengths.grad[i].item() == pytest.approx(iam.compose(vectors, one, rule).sum(), rel=1e-5, abs=1e-6)


def test_a_projection_proves_its_assertion_until_the_value_changes():
    centre = np.zeros(2, np.float32)

    @iam.jit
    def program(h):
        moved = iam.project(h, "ball", centre, 1.0)
        iam.verify(moved, "ball", centre, 1.0)
        pushed = iam.steer(moved, np.ones(2, np.float32), 0.5)
        iam.verify(pushed, "ball", centre, 1.0, message="not pushed out")
        return pushed

    proved, stays = (remark for remark in program.explain(H).remarks if 'iam.policy.verify "' in remark)
    assert "test_policy_three_way.py" in proved
    assert "is proved and not checked" in proved
    assert "after the projection onto its set, iam.policy.steer changed the activations" in stays
    with pytest.raises(PolicyError, match="not pushed out"):
        program(H)


@pytest.mark.parametrize(("kind", "inner", "outer"), [("ball", 1.0, 2.0), ("halfspace", -1.0, 0.5), ("ball", 2.0, 1.0)])
def test_numbers_of_a_function_order_its_sets(kind, inner, outer):
    point = np.ones(2, np.float32)

    @iam.jit
    def program(h):
        near = iam.project(h, kind, point, inner)
        iam.verify(near, kind, point, outer, message="around")
        return near

    (said,) = (remark for remark in program.explain(H).remarks if 'iam.policy.verify "' in remark)
    assert "test_policy_three_way.py" in said
    if inner <= outer:
        assert "is proved and not checked: its set is around the one projected onto" in said
        np.testing.assert_array_equal(program(H), iam.project(H, kind, point, inner))
    else:
        assert "constants do not show that the set projected onto is inside of it" in said


@pytest.mark.parametrize("kind", ["ball", "halfspace"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_projected_rows_are_inside_of_every_set_around(kind, scale):
    # What iam-verify-discharge relies on: exact, with a tolerance of 0 and down to the next bound.
    rng = np.random.default_rng(11)
    for width in (1, 3, 64, 257):
        h, point = activations(rng, 50, width, scale), activations(rng, 1, width, scale)[0]
        inner = np.float32(0.3 * scale)
        for outer in (inner, np.nextafter(inner, np.float32(np.inf)), 2 * inner):
            assert (iam.verify(iam.project(h, kind, point, float(inner)), kind, point, float(outer)) >= 0).all()


@pytest.mark.parametrize("rows", [0, 1, 5, 67])
@pytest.mark.parametrize("width", [1, 7, 64, 129])
def test_a_sequence_is_its_steps(rng, rows, width):
    """One pass gives what the ops one after the other give, and what the oracle gives, within rounding."""
    v = rng.standard_normal((4, width)).astype(np.float32) + 0.1
    x = rng.standard_normal((rows, width)).astype(np.float32)
    steps = ["ablate", "add", "clamp", "halfspace"]
    strengths = [0.5, -2.0, 1.5, 0.25]

    def edited(h):
        for step, direction, s in zip(steps, v, strengths, strict=True):
            h = iam.project(h, "halfspace", direction, s) if step == "halfspace" else iam.steer(h, direction, s, step)
        return h

    program = iam.jit(edited)
    found = program(x)
    assert "iam.policy.sequence" in program.mlir("fused")
    oracle = iam.reference.policy.sequence(x.astype(np.float64), steps, v.astype(np.float64), np.array(strengths))
    tolerance = 1e-5 * max(1, np.abs(oracle).max(initial=0))
    np.testing.assert_allclose(found, oracle, rtol=0, atol=tolerance)
    np.testing.assert_allclose(found, edited(x), rtol=0, atol=2 * tolerance)
    assert (found.astype(np.float64) @ v[3] <= strengths[3]).all()


def test_a_sequence_names_what_is_wrong(rng):
    v = rng.standard_normal(4).astype(np.float32)
    program = iam.jit(lambda h, w: iam.steer(iam.steer(h, v, 1.0, "ablate"), w, 1.0, "clamp"))
    x = np.ones((3, 4), np.float32)
    with pytest.raises(iam.errors.ArgumentError, match="step 1: expected a v with a finite norm > 0 to clamp along"):
        program(x, np.zeros(4, np.float32))
    x[2, 1] = np.nan
    with pytest.raises(iam.errors.NonFiniteError, match="got nan at row 2, column 1"):
        program(x, v)


def test_an_assertion_that_an_edit_breaks_is_a_compile_error(rng):
    v = rng.standard_normal(4).astype(np.float32)

    @iam.jit
    def broken(h):
        h = iam.project(h, "halfspace", v, 1.0)
        h = iam.steer(h, v, 0.5)
        iam.verify(h, "halfspace", v, 1.0, message="stays below")
        return h

    with pytest.raises(iam.errors.CompileError, match=r"stays below.*is refuted") as caught:
        broken(np.ones((2, 4), np.float32))
    assert "test_policy_three_way.py" in str(caught.value)
