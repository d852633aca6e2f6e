"""SparseFeatures: forms, indexing, edits, containers, what a person reads."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import iam
from iam import ops
from iam.core.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from iam.reference import clt

CONTAINERS = ["numpy", "torch", "recorded"]  # recorded: gradients are on, so plain torch runs instead of the kernels

dense_rows = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 5), st.integers(1, 7)), elements=st.sampled_from([0, 0, 0, 1, 2, -1.5])
)
edit_modes = st.sampled_from([("set", 2.0, None), ("scale", -2.0, None), ("clamp", 0.5, 1.5), ("ablate", None, None)])
forms = st.sampled_from(["k", "csr"])


def make(dense, form, container="numpy"):
    """Features in a form and container; the k-form gets padding slots."""
    k = None if form == "csr" else max(1, min(dense.shape[-1], int((dense != 0).sum(-1).max(initial=0)) + 1))
    f = iam.SparseFeatures.from_dense(dense, k)
    if container == "numpy":
        return f
    f = f.to_torch()
    if container == "recorded":
        values, indices, offsets = f.components
        f = iam.SparseFeatures(values.clone().requires_grad_(), indices, offsets, f.n_features, f.prefix)
    return f


def dense_of(f):
    out = f.to_dense()
    return out.detach().numpy() if f.is_torch else out


def check(f):
    """The invariants that the kernels rely on."""
    g = f.to_numpy()
    iam.SparseFeatures(g.components[0], g.components[1], g.components[2], g.n_features, g.prefix, validate=True)
    if f.k is None:
        assert (g.values != 0).all()
        for row in range(f.rows):
            own = g.indices[g.offsets[row] : g.offsets[row + 1]]
            assert (np.diff(own) > 0).all()


@pytest.mark.parametrize("container", CONTAINERS)
@given(dense=dense_rows, form=forms)
def test_dense_round_trip(container, dense, form):
    f = make(dense, form, container)
    assert f.shape == dense.shape and f.rows == len(dense) and f.n_features == dense.shape[1]
    assert np.array_equal(dense_of(f), dense)
    assert f.nnz == np.count_nonzero(dense)
    check(f)


@pytest.mark.parametrize("container", CONTAINERS)
@given(dense=dense_rows, form=forms, edit=edit_modes, data=st.data())
def test_edits_and_deltas_match_the_oracle(container, dense, form, edit, data):
    mode, a, b = edit
    features = data.draw(st.lists(st.integers(0, dense.shape[1] - 1), unique=True, min_size=1))
    f = make(dense, form, container)
    out = ops.edit(f, features, mode, a, b)
    expected = clt.edit(dense, features, mode, a, b)
    assert np.array_equal(dense_of(out), expected)
    assert np.array_equal(dense_of(f), dense), "the original stays"
    if form == "k":
        assert out.k == f.k + (len(features) if mode in ("set", "clamp") else 0)
    check(out)
    change = ops.delta(f, features, mode, a, b)
    assert change.k == len(features)
    assert np.array_equal(dense_of(change), clt.delta(dense, features, mode, a, b))
    assert np.array_equal(dense_of(out - f), clt.sub(expected, dense))


@pytest.mark.parametrize("container", CONTAINERS)
@given(form=forms, data=st.data())
def test_sub_matches_the_oracle(container, form, data):
    a = data.draw(dense_rows)
    b = data.draw(hnp.arrays(np.float32, a.shape, elements=st.sampled_from([0, 0, 1, 2])))
    out = make(a, form, container) - make(b, form, container)
    assert np.array_equal(dense_of(out), a - b)
    check(out)
    assert not dense_of(make(a, form, container) - make(a, form, container)).any()


@pytest.mark.parametrize("container", CONTAINERS)
@given(dense=dense_rows, form=forms)
def test_decode_matches_the_oracle(container, dense, form):
    W_dec = np.arange(dense.shape[1] * 3, dtype=np.float32).reshape(-1, 3) - 4
    b_dec = np.array([1, 2, 3], dtype=np.float32)
    f = make(dense, form, container)
    for bias in (None, b_dec):
        y = ops.decode(f, W_dec, bias)
        y = y.detach().numpy() if f.is_torch else y
        assert np.array_equal(y, clt.decode(dense, W_dec, bias))


@pytest.mark.parametrize("form", ["k", "csr"])
@pytest.mark.parametrize("container", ["numpy", "torch"])
def test_indexing_is_that_of_the_dense_array(form, container, rng):
    dense = (rng.random((2, 3, 5)) * (rng.random((2, 3, 5)) < 0.4)).astype(np.float32)
    f = make(dense, form, container)
    keys = [
        0,
        -1,
        (1, 2),
        slice(0, 1),
        (slice(None), -1),
        ...,
        (0, [2, 0]),
        [1, 0, 1],
        np.array([True, False]),
        slice(5, 9),
    ]
    for key in keys:
        assert f[key].shape == dense[key].shape, key
        assert np.array_equal(dense_of(f[key]), dense[key]), key
    assert [np.array_equal(dense_of(part), dense[i]) for i, part in enumerate(f)] == [True, True]
    assert len(f) == 2
    assert f.active(4) == f.active((1, 1)) == f[1, 1].active(0)
    for bad in (2, (0, 3), (0, 0, 0)):
        with pytest.raises(IndexError, match="leading dimensions"):
            f[bad]
    with pytest.raises(IndexError):
        f.active(6)
    assert f.to_numpy().values.shape == (f.nnz,) if form == "csr" else f.values.shape == (2, 3, f.k)


def test_single_position():
    f = iam.SparseFeatures.from_dense(np.array([0.0, 3.0], dtype=np.float32), k=1)
    assert f.shape == (2,) and f.values.shape == (1,) and f.rows == 1
    assert np.array_equal(f.to_dense(), [0, 3])
    assert repr(f).splitlines()[1] == "  row 0: 1: 3"
    with pytest.raises(TypeError, match="single row"):
        len(f)


def test_active_is_sorted_by_strength():
    f = iam.SparseFeatures.from_dense(np.array([[1.0, -4.0, 0.0, 4.0]]))
    assert f.active(0) == [(1, -4.0), (3, 4.0), (0, 1.0)]
    assert f.active() == f.active(-1)


def test_repr_says_what_a_person_wants_to_know(rng):
    dense = np.zeros((9, 100), np.float32)
    dense[:, :8] = np.arange(1, 9)
    text = repr(iam.SparseFeatures.from_dense(dense, k=8))
    assert text.splitlines()[0] == "SparseFeatures: 9 rows x 100 features, L0 8 (k = 8, float32, numpy)"
    assert "  row 0: 7: 8, 6: 7, 5: 6, 4: 5, 3: 4, 2: 3, ... 2 more" in text
    assert text.endswith("... 5 more rows")
    empty = repr(iam.SparseFeatures.from_dense(np.zeros((0, 3))))
    assert empty == "SparseFeatures: 0 rows x 3 features, L0 0 (CSR, float64, numpy)"
    assert "row 0: none" in repr(iam.SparseFeatures.from_dense(np.zeros((1, 3))))


@pytest.mark.parametrize("form", ["k", "csr"])
def test_torch_sparse(form, rng):
    torch = pytest.importorskip("torch")
    dense = (rng.random((2, 3, 5)) * (rng.random((2, 3, 5)) < 0.4)).astype(np.float32)
    for f in (make(dense, form), make(dense, form, "torch"), make(dense[0], form), make(dense[0, 0], form)):
        sparse = f.to_torch_sparse()
        assert sparse.layout is torch.sparse_coo and sparse.is_coalesced() and tuple(sparse.shape) == f.shape
        assert sparse._nnz() == f.nnz
        assert np.array_equal(sparse.to_dense().numpy(), dense_of(f))


def test_containers_share_memory(rng):
    pytest.importorskip("torch")
    f = make(rng.random((3, 4)).astype(np.float32), "k")
    assert f.to_torch().values.data_ptr() == f.values.ctypes.data
    assert f.to_torch().to_numpy().values.ctypes.data == f.values.ctypes.data
    assert f.to_numpy() is f and f.to_torch().is_torch


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_come_back(dtype):
    torch = pytest.importorskip("torch")
    f = iam.SparseFeatures.from_dense(torch.tensor([[0.0, 2.0], [1.0, 0.0]], dtype=getattr(torch, dtype)), k=1)
    for out in (f, f.scale(0, 3.0), f.set(1, 0.5), f - f):
        assert out.dtype == out.to_dense().dtype == getattr(torch, dtype)
    assert f.set(1, 0.5).to_dense().tolist() == [[0, 0.5], [1, 0.5]]
    assert dtype in repr(f)


def test_gradients_flow_through_plain_torch():
    torch = pytest.importorskip("torch")
    f = make(np.array([[1.0, 0.0, 2.0]], np.float32), "k", "recorded")
    W = torch.tensor([[1.0], [10.0], [100.0]])
    ops.decode(f.scale(2, 3.0), W).sum().backward()
    assert f.indices[0, :2].tolist() == [2, 0]
    assert f.components[0].grad[0, :2].tolist() == [300.0, 1.0]


@pytest.mark.parametrize(
    ("values", "indices", "offsets", "n", "error", "says"),
    [
        (np.ones((2, 2)), np.zeros((2, 3), int), None, 4, ShapeError, "same shape"),
        (np.ones((1, 2)), np.array([[0, 4]]), None, 4, ArgumentError, "0..3, got 4"),
        (np.ones((1, 2)), np.array([[-1, 3]]), None, 4, ArgumentError, "got -1"),
        (np.ones((1, 2)), np.array([[1, 1]]), None, 4, ArgumentError, "feature 1 more than once in row 0"),
        (np.ones((1, 2), int), np.array([[0, 1]]), None, 4, DtypeError, "float"),
        (np.ones((1, 2)), np.array([[0.0, 1.0]]), None, 4, DtypeError, "integer"),
        (np.ones(2), np.array([0, 1]), np.array([0, 1]), 4, ShapeError, "nnz = 2"),
        (np.ones(2), np.array([0, 1]), np.array([0, 3, 2]), 4, ShapeError, "rise"),
        (np.ones(2), np.array([0, 1]), np.array([[0, 2]]), 4, ShapeError, "offsets"),
    ],
)
def test_components_are_checked(values, indices, offsets, n, error, says):
    with pytest.raises(error, match=says.replace(".", r"\.")):
        iam.SparseFeatures(values, indices, offsets, n)


def test_padding_may_repeat_an_index():
    f = iam.SparseFeatures(np.array([[2.0, 0.0, 0.0]]), np.array([[1, 1, 1]]), None, 4)
    assert f.to_dense().tolist() == [[0, 2, 0, 0]] and f.active(0) == [(1, 2.0)]


def test_mixed_containers_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(DtypeError, match="mixture"):
        iam.SparseFeatures(torch.ones(1, 1), np.zeros((1, 1), int), None, 4)
    f = iam.SparseFeatures.from_dense(np.ones((1, 2)))
    with pytest.raises(ArgumentError, match="torch CSR"):
        f - iam.SparseFeatures.from_dense(torch.ones(1, 2))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda f: f.set(4, 1.0), ArgumentError, "0..3, got 4"),
        (lambda f: f.ablate(-1), ArgumentError, "got -1"),
        (lambda f: f.ablate([1, 2, 1]), ArgumentError, r"\[1\] more than once"),
        (lambda f: f.ablate(1.5), DtypeError, "integer"),
        (lambda f: f.set([0, 1], [1.0, 2.0, 3.0]), ShapeError, "a number or 2 numbers"),
        (lambda f: f.set(0, "much"), DtypeError, "number"),
        (lambda f: f.set(0, float("nan")), NonFiniteError, "finite"),
        (lambda f: f.clamp(0, 2.0, 1.0), ArgumentError, "low <= high"),
        (lambda f: ops.edit(f, [0], "sett", 1.0), ArgumentError, 'did you mean "set"'),
        (lambda f: ops.edit(f, [0], "ablate", 1.0), ArgumentError, "takes 0"),
        (lambda f: f - iam.SparseFeatures.from_dense(np.ones((2, 4))), ShapeError, "one shape"),
        (lambda f: f - iam.SparseFeatures.from_dense(np.ones((1, 4)), k=4), ArgumentError, "k = 4"),
        (lambda f: ops.decode(f, np.ones((3, 2))), ShapeError, r"\(4, d_out\)"),
        (lambda f: ops.decode(np.ones((1, 4)), np.ones((4, 2))), DtypeError, "from_dense"),
        (lambda f: iam.SparseFeatures.from_dense(np.ones((1, 4)), k=3), ArgumentError, "row 0 has 4"),
        (lambda f: iam.SparseFeatures.from_dense(np.ones((1, 4)), k=5), ArgumentError, "1..4"),
        (lambda f: iam.SparseFeatures.from_dense(np.ones((1, 4), int)), DtypeError, "float"),
    ],
)
def test_bad_calls_say_what_is_wrong(call, error, says):
    f = iam.SparseFeatures.from_dense(np.array([[0.0, 1.0, 2.0, 0.0]]))
    with pytest.raises(error, match=says):
        call(f)


def test_no_features_to_edit_is_the_identity():
    for form in ("k", "csr"):
        f = make(np.array([[0.0, 1.0]], np.float32), form)
        for out in (f.ablate([]), f.set([], []), f.scale([], 2.0)):
            assert np.array_equal(out.to_dense(), f.to_dense())


def test_copies():
    f = make(np.array([[0.0, 1.0]], np.float32), "k")
    for other in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert np.array_equal(other.to_dense(), f.to_dense()) and other.shape == f.shape
