"""Eager attribution ops: what they compute on either kind of array, and what they say of bad input."""

import numpy as np
import pytest

import iam
from iam import ops
from iam.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from iam.reference import attr

torch = pytest.importorskip("torch")


def scores_of(shape, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, size=shape).astype(np.float32)  # many ties


@iam.jit
def select_three(scores):
    return ops.select(scores, 3)


HOW = {
    "numpy": lambda scores, n: ops.select(scores, n),
    "torch": lambda scores, n: ops.select(torch.from_numpy(scores), n),
    "autograd": lambda scores, n: ops.select(torch.from_numpy(scores).requires_grad_(), n),
}


def as_numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else x


class TestSelect:
    @pytest.mark.parametrize("how", HOW)
    @pytest.mark.parametrize(("shape", "n"), [((7,), 3), ((5, 1), 1), ((3, 17), 17), ((2, 3, 33), 5), ((0, 4), 2)])
    def test_is_the_oracle(self, how, shape, n):
        scores = scores_of(shape)
        indices, top = map(as_numpy, HOW[how](scores, n))
        expected = attr.select(scores, n=n)
        np.testing.assert_array_equal(indices, expected[0])
        np.testing.assert_array_equal(top, expected[1])
        assert indices.dtype == np.int32

    def test_in_a_program(self):
        scores = scores_of((6, 40))
        expected = attr.select(scores, n=3)
        for got, want in zip(select_three(scores), expected, strict=True):
            np.testing.assert_array_equal(got, want)

    def test_the_scores_record_their_gradient(self):
        scores = torch.tensor([[1.0, -3.0, 2.0]], requires_grad=True)
        ops.select(scores, 2)[1].sum().backward()
        assert scores.grad.tolist() == [[0.0, 1.0, 1.0]]

    @pytest.mark.parametrize("how", HOW)
    def test_nan(self, how):
        scores = scores_of((2, 2, 5))
        scores[1, 0, 3] = np.nan
        with pytest.raises(NonFiniteError, match="row 2, column 3"):
            HOW[how](scores, 2)

    @pytest.mark.parametrize("how", HOW)
    @pytest.mark.parametrize("n", [0, -1, 6, 10**15, True, 1.5, "2"])
    def test_n_out_of_range(self, how, n):
        with pytest.raises(ArgumentError, match=r"n: expected an integer in 1\.\.5") as error:
            HOW[how](scores_of((2, 5)), n)
        assert error.value.code == "k-range"

    def test_wrong_scores(self):
        with pytest.raises(ShapeError, match="at least one dimension"):
            ops.select(np.ones((), np.float32), 1)
        with pytest.raises(DtypeError, match="float type, got int64"):
            ops.select(np.arange(3), 1)


class TestPath:
    @pytest.mark.parametrize("rule", ops.PATH_RULES)
    def test_is_the_oracle(self, rule):
        x, baseline = scores_of((3, 4)), scores_of((3, 4), seed=1)
        expected = attr.path(x.astype(np.float64), baseline.astype(np.float64), steps=6, rule=rule)
        ours = ops.path(x, baseline, 6, rule)
        theirs = ops.path(torch.from_numpy(x), torch.from_numpy(baseline), 6, rule)
        for got, like, want in zip(ours, theirs, expected, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6)
            np.testing.assert_allclose(like.numpy(), want, atol=1e-6)

    @pytest.mark.parametrize("steps", [0, 4097, 10**12, 2.5])
    def test_steps_out_of_range(self, steps):
        x = np.ones((1, 2), np.float32)
        with pytest.raises(ArgumentError, match=r"steps: expected an integer in 1\.\.4096"):
            ops.path(x, x, steps)
        with pytest.raises(ArgumentError, match=r"steps: expected an integer in 1\.\.4096"):
            iam.jit(lambda h: ops.integrated_gradients(lambda p: p[:, 0], h, steps=steps))(x)

    def test_many_steps_compile(self):
        x = np.array([[1.0, 3.0]], np.float32)
        got = ops.integrated_gradients(lambda h: (h * h)[:, 1], x, steps=4096, rule="midpoint")
        np.testing.assert_allclose(got, [[0.0, 9.0]], rtol=1e-6)


class TestGrad:
    X = np.array([[1.0, 3.0], [2.0, -1.0]], np.float32)

    def recording(self):
        return torch.from_numpy(self.X.copy()).requires_grad_()

    def test_both_ways_agree(self):
        v = np.array([1.0, 2.0], np.float32)
        compiled = ops.integrated_gradients(lambda h: (h * h) @ v, self.X, steps=3)
        eager = ops.integrated_gradients(lambda h: (h * h) @ torch.from_numpy(v), self.recording(), steps=3)
        np.testing.assert_allclose(compiled, [[1.0, 18.0], [4.0, 2.0]], rtol=1e-6)
        np.testing.assert_allclose(eager.detach().numpy(), compiled, rtol=1e-6)

    def test_what_does_not_depend_on_x_has_no_attribution(self):
        for function in (lambda h: torch.ones(h.shape[0]), lambda h: torch.ones(h.shape[0], requires_grad=True) * 2):
            assert ops.integrated_gradients(function, self.recording(), steps=2).tolist() == [[0, 0], [0, 0]]

    def test_a_gradient_that_is_not_finite_names_the_point(self):
        def root(h):
            return (h * h * h * h).sum(-1).sqrt()  # at 0: 0 · inf

        with pytest.raises(NonFiniteError, match="nan at point 0 of 2, row 0, column 0"):
            ops.integrated_gradients(root, self.recording(), steps=2, rule="left")

    @pytest.mark.parametrize(
        ("function", "error", "text"),
        [
            (lambda h: h * h, ShapeError, r"shape \(2,\), got \(2, 2\)"),
            (lambda h: h.sum(), ShapeError, r"shape \(2,\), got \(\)"),
            (lambda h: 3, ArgumentError, "as a tensor, got int"),
            (lambda h: h[:, 0] > 1, DtypeError, "the result of the function of a float type"),
        ],
    )
    def test_a_function_that_is_no_metric(self, function, error, text):
        with pytest.raises(error, match=text):
            ops.integrated_gradients(function, self.recording(), steps=2)

    def test_arrays_that_do_not_fit(self):
        x = self.X
        tensor = torch.from_numpy(x)
        with pytest.raises(ShapeError, match="at least one dimension"):
            ops.integrated_gradients(lambda h: h[:, 0], np.ones((), np.float32))
        with pytest.raises(ShapeError, match="of one shape"):
            ops.integrated_gradients(lambda h: h[:, 0], x, x[:1])
        with pytest.raises(ArgumentError, match="x of NumPy, baseline of torch on cpu"):
            ops.integrated_gradients(lambda h: h[:, 0], x, tensor)
        with pytest.raises(ArgumentError, match="x of torch on cpu, points of NumPy"):
            ops.grad(lambda h: h[:, 0], tensor, tensor, *ops.path(x, x, 2))
        with pytest.raises(DtypeError, match="baseline to be a NumPy array or a torch tensor, got int"):
            ops.path(x, 0)
        points, weights = ops.path(x, x, 2)
        with pytest.raises(ShapeError, match=r"points of shape \[n, 2, 2\]"):
            ops.grad(lambda h: h[:, 0], x, x, points, weights[:1])
