"""iam._runtime.train_*: against the oracles of iam.reference.training, against autograd, and against themselves.

Tolerances. Products of n float32 terms: an error of at most (n + 2) u times the sum of magnitudes, u = 2^-24; the helper
``bound`` takes that sum. Elementwise steps: a few roundings, so a relative 1e-6 of the quantities involved.
"""

import itertools

import numpy as np
import pytest

from iam import _runtime
from iam.core.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from iam.reference import training as reference

U = 2.0**-24
# rows, features, d, k: odd sizes, one of each, none
SHAPES = [(7, 13, 5, 3), (1, 1, 1, 1), (0, 4, 3, 2), (33, 100, 37, 9), (64, 70, 96, 70), (20, 130, 33, 1)]


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def codes(rng, rows, features, k):
    """k-form codes with distinct indices in a row, signs of both kinds and some padding."""
    indices = np.stack([rng.permutation(features)[:k] for _ in range(rows)]) if rows else np.zeros((0, k))
    values = normal(rng, rows, k)
    values[rng.random((rows, k)) < 0.2] = 0
    return values, indices.astype(np.int32)


def csr(values, indices):
    """The same codes as CSR, entries in the same order."""
    kept = values != 0
    offsets = np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int64)
    return values[kept], indices[kept], offsets


def dense(values, indices, features):
    out = np.zeros((len(values), features))
    for r, j in zip(*np.nonzero(values), strict=True):
        out[r, indices[r, j]] += values[r, j]
    return out


def close(got, want, terms, magnitude):
    np.testing.assert_array_less(np.abs(got - want), (terms + 2) * U * magnitude + 1e-30)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = _runtime.get_num_threads()
    _runtime.set_num_threads(request.param)
    yield request.param
    _runtime.set_num_threads(before)


def with_threads(n, run):
    before = _runtime.get_num_threads()
    _runtime.set_num_threads(n)
    try:
        return run()
    finally:
        _runtime.set_num_threads(before)


# ------------------------------------------------------------------------------------------------ grouping


@pytest.mark.parametrize("shape", SHAPES)
def test_group_is_the_oracle(shape):
    rows, features, _, k = shape
    values, indices = codes(np.random.default_rng(1), rows, features, k)
    got = _runtime.train_group(values, indices, None, features)
    want = reference.group(values, indices)
    assert got[0].tolist() == [f for f, _ in want]
    assert np.diff(got[1]).tolist() == [len(entries) for _, entries in want]
    pairs = list(itertools.chain.from_iterable(entries for _, entries in want))
    assert list(zip(got[2].tolist(), got[3].tolist(), strict=True)) == pairs


def test_group_of_csr_numbers_entries_of_csr():
    rng = np.random.default_rng(2)
    values, indices = codes(rng, 9, 20, 6)
    flat, flat_indices, offsets = csr(values, indices)
    k_form = _runtime.train_group(values, indices, None, 20)
    got = _runtime.train_group(flat, flat_indices, offsets, 20)
    for name, a, b in zip(
        ("features", "offsets", "rows"), (got[0], got[1], got[3]), (*k_form[:2], k_form[3]), strict=True
    ):
        assert np.array_equal(a, b), name
    assert np.array_equal(flat[got[2]], values.ravel()[k_form[2]])


def test_group_refuses_features_outside_the_dictionary():
    values, indices = np.ones((2, 2), np.float32), np.array([[0, 1], [2, 5]], np.int32)
    with pytest.raises(ArgumentError, match=r"feature indices in 0\.\.4, got 5 in row 1") as error:
        _runtime.train_group(values, indices, None, 5)
    assert error.value.code == "feature-range"
    values[1, 1] = 0  # padding
    assert _runtime.train_group(values, indices, None, 5)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("part", range(4))
def test_a_broken_group_is_an_error_and_not_a_crash(part):
    rng = np.random.default_rng(3)
    values, indices = codes(rng, 5, 9, 4)
    group = list(_runtime.train_group(values, indices, None, 9))
    upstream, W_dec = normal(rng, 5, 3), normal(rng, 9, 3)
    for bad in (-1, 1 << 30):
        broken = list(group)
        broken[part] = group[part].copy()
        broken[part][-1] = bad
        with pytest.raises(ArgumentError):
            _runtime.train_grad_values(tuple(broken), upstream, W_dec, values)
    short = list(group)
    short[part] = group[part][:-1]
    with pytest.raises(ArgumentError):
        _runtime.train_grad_rows((tuple(short), values, upstream))


# ------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_the_oracles(shape, threads):
    rows, features, d, k = shape
    rng = np.random.default_rng(4)
    values, indices = codes(rng, rows, features, k)
    upstream, x, b_dec = normal(rng, rows, d), normal(rng, rows, d), normal(rng, d)
    W_enc, W_dec = normal(rng, d, features), normal(rng, features, d)
    group = _runtime.train_group(values, indices, None, features)
    active = group[0]

    d_values = _runtime.train_grad_values(group, upstream, W_dec, values)
    want = reference.grad_values(values, indices, upstream, W_dec)
    close(d_values, want, d, reference.grad_values(values, indices, np.abs(upstream), np.abs(W_dec)))
    flat, flat_indices, offsets = csr(values, indices)
    flat_group = _runtime.train_group(flat, flat_indices, offsets, features)
    assert np.array_equal(_runtime.train_grad_values(flat_group, upstream, W_dec, flat), d_values[values != 0])

    f = dense(values, indices, features)
    centred = x - b_dec
    grads = reference.coder_gradients(f, upstream.astype(np.float64), x.astype(np.float64), W_enc, W_dec, b_dec)
    size = reference.coder_gradients(np.abs(f), np.abs(upstream), np.abs(centred), np.abs(W_enc), np.abs(W_dec), None)
    d_dec = _runtime.train_grad_rows((group, values, upstream))
    close(d_dec, grads["W_dec"][active], rows, size["W_dec"][active])
    assert not np.delete(grads["W_dec"], active, axis=0).any()
    d_enc = _runtime.train_grad_rows((group, d_values, centred))
    close(d_enc, grads["W_enc"].T[active], rows + d, size["W_enc"].T[active])
    d_b_enc = _runtime.train_grad_sums(group, d_values, rows)
    close(d_b_enc, grads["b_enc"][active], d + 1, size["b_enc"][active])
    d_b_dec = _runtime.train_column_sums(upstream) - _runtime.train_grad_input(W_enc, active, d_b_enc)
    close(d_b_dec, grads["b_dec"], d + 4, np.abs(upstream).sum(0) + np.abs(W_enc) @ size["b_enc"])


def test_every_row_on_one_feature(threads):
    rng = np.random.default_rng(5)
    rows, d = 501, 19
    values, indices = np.abs(normal(rng, rows, 1)), np.full((rows, 1), 7, np.int32)
    upstream = normal(rng, rows, d)
    group = _runtime.train_group(values, indices, None, 9)
    assert group[0].tolist() == [7] and np.array_equal(group[3], np.arange(rows))
    got = _runtime.train_grad_rows((group, values, upstream))
    want = values.astype(np.float64).T @ upstream
    close(got, want, rows, np.abs(values).T @ np.abs(upstream))


def test_a_feature_twice_in_a_row_counts_twice():
    values, indices = np.array([[2.0, 3.0]], np.float32), np.array([[1, 1]], np.int32)
    upstream = np.array([[1.0, 10.0]], np.float32)
    group = _runtime.train_group(values, indices, None, 3)
    assert _runtime.train_grad_rows((group, values, upstream)).tolist() == [[5.0, 50.0]]


def test_rows_accumulate_into_what_is_there():
    rng = np.random.default_rng(6)
    values, indices = codes(rng, 8, 12, 4)
    upstream = np.round(4 * normal(rng, 8, 6))
    group = _runtime.train_group(np.round(values * 4), indices, None, 12)
    fresh = _runtime.train_grad_rows((group, np.round(values * 4), upstream))
    out = np.full_like(fresh, 3)
    assert _runtime.train_grad_rows((group, np.round(values * 4), upstream), out, accumulate=True) is out
    assert np.array_equal(out, fresh + 3)  # integers: exact
    _runtime.train_grad_rows((group, np.round(values * 4), upstream), out)
    assert np.array_equal(out, fresh)
    _runtime.train_grad_rows((group[0], fresh), out, accumulate=True)
    assert np.array_equal(out, 2 * fresh)


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_a_whole_backward_pass_is_autograd(activation):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    rows, features, d, k = 21, 50, 17, 6
    x, b_enc, b_dec = normal(rng, rows, d), normal(rng, features), normal(rng, d)
    W_enc, W_dec = normal(rng, d, features), normal(rng, features, d)
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    p = {name: torch.tensor(w, dtype=torch.float64, requires_grad=True) for name, w in weights.items()}
    xs = torch.tensor(x, dtype=torch.float64)
    pre = (xs - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    if activation == "topk":
        top = torch.topk(pre, k)
        f = torch.zeros_like(pre).scatter(1, top.indices, torch.relu(top.values))
    else:
        f = torch.relu(pre)
    loss = ((f @ p["W_dec"] + p["b_dec"] - xs) ** 2).sum(1).mean()
    loss.backward()

    if activation == "topk":
        values, indices = _runtime.encode_topk(x, W_enc, b_enc, b_dec, k)
        offsets = None
    else:
        values, indices, offsets = _runtime.encode_threshold(x, W_enc, b_enc, b_dec, None)
    upstream = (_runtime.decode(values, indices, offsets, W_dec, b_dec) - x) * np.float32(2 / rows)
    group = _runtime.train_group(values, indices, offsets, features)
    d_pre = _runtime.train_grad_values(group, upstream, W_dec, values)
    got = {name: np.zeros_like(w) for name, w in weights.items()}
    got["W_dec"][group[0]] = _runtime.train_grad_rows((group, values, upstream))
    got["W_enc"].T[group[0]] = _runtime.train_grad_rows((group, d_pre, x - b_dec))
    got["b_enc"][group[0]] = sums = _runtime.train_grad_sums(group, d_pre, rows)
    got["b_dec"] = _runtime.train_column_sums(upstream) - _runtime.train_grad_input(W_enc, group[0], sums)
    for name, grad in got.items():
        want = p[name].grad.numpy()
        np.testing.assert_allclose(grad, want, rtol=0, atol=2e-5 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_sum_of_squares_projection_and_lengths(shape, threads):
    rows, features, d, k = shape
    rng = np.random.default_rng(8)
    values, indices = codes(rng, rows, features, k)
    upstream, W_dec = normal(rng, rows, d), normal(rng, features, d)
    W_dec[::3] = 0
    group = _runtime.train_group(values, indices, None, features)
    held = _runtime.train_grad_rows((group, values, upstream))
    want = (held.astype(np.float64) ** 2).sum()
    for grad in (held, (group[0], held), (group, values, upstream)):
        np.testing.assert_allclose(_runtime.train_sum_squares(grad), want, rtol=1e-12)

    projected = held.copy()
    _runtime.train_project_rows(projected, group[0], W_dec)
    oracle = reference.project_rows(held.astype(np.float64), W_dec[group[0]].astype(np.float64))
    np.testing.assert_allclose(projected, oracle, rtol=0, atol=3e-6 * max(1, np.abs(held).max(initial=0)))
    zero = ~W_dec[group[0]].any(1)
    assert np.array_equal(projected[zero], held[zero])

    np.testing.assert_allclose(
        _runtime.train_row_norms(W_dec), np.linalg.norm(W_dec.astype(np.float64), axis=1), rtol=1e-7
    )
    unit = W_dec.copy()
    _runtime.train_normalize_rows(unit, group[0])
    unlisted = np.setdiff1d(np.arange(features), group[0])
    assert np.array_equal(unit[unlisted], W_dec[unlisted])
    _runtime.train_normalize_rows(unit)
    np.testing.assert_allclose(unit, reference.normalize_rows(W_dec.astype(np.float64)), rtol=0, atol=2e-7)
    assert not unit[::3].any()
