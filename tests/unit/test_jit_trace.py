"""Recording: what cannot be recorded, and what the message then says. None of these reaches the compiler."""

import re

import numpy as np
import pytest

import iam
from iam import ops
from iam.core.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError, TraceError

X = np.ones((2, 4), np.float32)


def make_sae(architecture="topk", d_in=4, d_sae=10, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return iam.SAE(
        iam.SAEConfig(architecture=architecture, d_in=d_in, d_sae=d_sae, k=k if architecture == "topk" else None),
        W_enc=rng.normal(size=(d_in, d_sae)),
        b_enc=rng.normal(size=d_sae),
        W_dec=rng.normal(size=(d_sae, d_in)),
        b_dec=rng.normal(size=d_in),
        threshold=np.full(d_sae, 0.1) if architecture == "jumprelu" else None,
    )


SAE = make_sae()
JUMP = make_sae("jumprelu")


def refused(function, *args, error=TraceError):
    """The message of the error of a call, which names this file."""
    with pytest.raises(error) as caught:
        iam.jit(function)(*(args or (X,)))
    message = str(caught.value)
    assert re.search(r"test_jit_trace\.py:\d+", message), message
    return message


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x if x else -x, "no truth value"),
        (lambda x: x.sum(), ".sum of TracedTensor[rows, 4] cannot be recorded"),
        (lambda x: x > 0, "no comparison"),
        (lambda x: x == x, "no comparison"),
        (lambda x: max(x, 0), "no comparison"),
        (lambda x: x[0], "no indexing"),
        (lambda x: list(x), "no iteration"),
        (lambda x: len(x) * x, "no len()"),
        (lambda x: float(x), "no float()"),
        (lambda x: x @ x, "Matrix products are recorded through coders"),
        (lambda x: x**2, "no **"),
        (lambda x: np.exp(x), "numpy.exp"),
        (lambda x: np.sum(x), "numpy.sum"),
        (lambda x: np.asarray(x), "no NumPy array"),
        (lambda x: x * x.shape[0], "the number of rows is not known"),
        (lambda x: x + "a", "cannot be recorded"),
        (lambda x: x + np.ones((2, 4)), "only vectors [d] combine with every row"),
        (lambda x: SAE.decode(x), "expected features"),
        (lambda x: SAE.encode(SAE.encode(x)), "expected an activation [rows, d]"),
        (lambda x: SAE.encode(x) + SAE.encode(x), "no arithmetic"),
        (lambda x: SAE.encode(x) * 2.0, "no arithmetic"),
        (lambda x: SAE.encode(x).values, ".values of TracedFeatures"),
        (lambda x: SAE.encode(x).set(x, 1.0), "which features are edited must be known"),
        (lambda x: SAE.encode(x).set(1, "a"), "expected a number or 1 numbers"),
        (lambda x: SAE.encode(x) - JUMP.encode(x), "both features with k slots or both without"),
        (lambda x: ops.topk(x, 2.5), "expected k to be an int"),
        (lambda x: iam.steer(x, 3.0, 1.0), "expected a vector [d]"),
        (lambda x: iam.project(x, "ball", 3.0, 1.0), "expected a vector [d]"),
        (lambda x: iam.project(x, "ball", np.ones(4)), "expected a second operand for a ball"),
        (lambda x: iam.project(x, "subspace", np.ones((2, 4)), 1.0), "expected no second operand for a subspace"),
        (lambda x: iam.verify(x, "box", ["a"] * 4, 1.0), "expected numbers"),
        (lambda x: iam.steer(iam.verify(x, "box", 0, 1), np.ones(4), 1.0), "got a number for each row"),
        (lambda x: iam.steer(x, np.ones(4), "much"), "expected a number"),
    ],
)
def test_what_cannot_be_recorded(function, says):
    assert says in refused(function)


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (
            lambda x: make_sae(d_in=5).encode(x),
            ShapeError,
            "expected x of shape [..., 5] (d_in of the coder), got [..., 4]",
        ),
        (
            lambda x: make_sae(d_sae=7).decode(SAE.encode(x)),
            ShapeError,
            "expected features [..., 7] (d_sae of the coder)",
        ),
        (lambda x: x + np.ones(5), ShapeError, "expected two tensors of one width, got [rows, 4] and [5]"),
        (lambda x: iam.steer(x, np.ones(3), 1.0), ShapeError, "steer: v of shape (4,), got (3,)"),
        (lambda x: iam.project(x, "ball", np.ones(3), 1.0), ShapeError, "project: first of shape (4,), got (3,)"),
        (
            lambda x: iam.project(x, "box", 0.0, [1.0, 2.0, 3.0, 4.0, 5.0]),
            ShapeError,
            "project: second of shape (4,), got (5,)",
        ),
        (
            lambda x: iam.verify(x, "subspace", np.ones((2, 3))),
            ShapeError,
            "verify: expected first of shape (n, 4), got (2, 3)",
        ),
        (lambda x: ops.encode(x, np.ones((4, 6)), np.ones(5)), ShapeError, "encode: b_enc of shape (6,), got (5,)"),
        (
            lambda x: ops.residual(ops.encode(x, np.ones((4, 6)), np.ones(6)), x),
            ShapeError,
            "two activations of one width",
        ),
        (lambda x: ops.jumprelu(x, np.ones(3)), ShapeError, "threshold of shape (4,), got (3,)"),
        (lambda x: SAE.encode(x).set([1, 2], [1.0, 2.0, 3.0]), ShapeError, "expected a number or 2 numbers"),
        (lambda x: SAE.encode(x).set(10, 1.0), ArgumentError, "expected features in 0..9, got 10"),
        (lambda x: SAE.encode(x).ablate([1, 2, 1]), ArgumentError, "[1] more than once"),
        (lambda x: SAE.encode(x).clamp(1, 2.0, 1.0), ArgumentError, "low <= high, got 2.0 > 1.0 for feature 1"),
        (lambda x: ops.edit(SAE.encode(x), 1, "scale"), ArgumentError, "scale takes 1 operand(s), got 0"),
        (lambda x: ops.topk(x, 5), ArgumentError, "expected k in 1..4 (features), got k=5"),
        (lambda x: SAE.encode(x).set(1, float("nan")), NonFiniteError, "expected finite numbers"),
        (lambda x: SAE.encode(x).set([1.5], 1.0), DtypeError, "expected features to be an int or a list of ints"),
    ],
)
def test_what_does_not_fit(function, error, says):
    assert says in refused(function, error=error)


def test_torch_functions():
    torch = pytest.importorskip("torch")
    assert "torch.relu" in refused(lambda x: torch.relu(x))
    assert "torch.cat" in refused(lambda x: torch.cat([x, x]))


def test_the_line_is_the_users_not_ours():
    def inner(x):
        return SAE.encode(x).set(99, 1.0)

    line = inner.__code__.co_firstlineno + 1
    message = refused(lambda x: SAE.decode(inner(x)), error=ArgumentError)
    assert f"test_jit_trace.py:{line} in " in message
    assert "inner" in message


def test_attribute_errors_are_both():
    assert not iam.jit(lambda x: (hasattr(x, "sum"), x))._record((), [X], (X,), {})._tree[1][0].value


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda x: 3.0, "nothing that depends on its array arguments"),
        (lambda x: None, "nothing that depends on its array arguments"),
        (lambda x: (x, np.ones(3)), "a result is numpy ndarray of shape (3,)"),
        (lambda x: (x, {1, 2}), "a result is set"),
    ],
)
def test_results_that_are_no_program(returned, says):
    with pytest.raises(TraceError, match=re.escape(says)):
        iam.jit(returned)(X)


def test_a_number_is_no_result():
    with pytest.raises(TraceError, match="returned a number"):
        iam.jit(lambda x, s: s * 2.0)(X, 1.0)


def test_leaked_values():
    kept = []
    with pytest.raises(TraceError, match="nothing that depends"):
        iam.jit(kept.append)(X)
    with pytest.raises(TraceError, match="after its function had been recorded"):
        kept[0] + 1.0
    with pytest.raises(TraceError, match="belongs to another traced function"):
        iam.jit(lambda x: x + kept[0])(X)


@pytest.mark.parametrize(
    ("argument", "error", "says"),
    [
        (np.ones((2, 4), np.int64), DtypeError, "argument x: expected an array of a float type, got int64"),
        (np.ones((2, 4), bool), DtypeError, "expected an array of a float type, got bool"),
        ({1, 2}, TraceError, "an argument is set"),
    ],
)
def test_arguments_that_are_no_activations(argument, error, says):
    with pytest.raises(error, match=re.escape(says)):
        iam.jit(lambda x: x + x)(argument)


def test_jit_of_no_function():
    with pytest.raises(DtypeError, match="expected a function, got int 3"):
        iam.jit(3)


def test_mlir_before_a_call():
    function = iam.jit(lambda x: x + x)
    with pytest.raises(ArgumentError, match="not recorded yet"):
        function.mlir("iam")
    with pytest.raises(ArgumentError, match='unknown stage "fuse"; did you mean "fused"'):
        function.mlir("fuse")
