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


def test_auxk_in_the_same_gradient_is_autograd():
    """Two losses with codes of their own: one CSR over twice the rows, one group, one gradient."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(27)
    rows, features, d, k, k_aux = 21, 50, 17, 6, 4
    x, b_enc = normal(rng, rows, d), normal(rng, features)
    W_enc, W_dec = normal(rng, d, features), normal(rng, features, d)
    dead = np.arange(0, features, 5, dtype=np.int32)  # some of them are active too, as after a revival
    p = {n: torch.tensor(w, dtype=torch.float64, requires_grad=True) for n, w in {"enc": W_enc, "dec": W_dec}.items()}
    xs = torch.tensor(x, dtype=torch.float64)
    pre = xs @ p["enc"] + torch.tensor(b_enc, dtype=torch.float64)
    top = torch.topk(pre, k)
    error = torch.zeros_like(pre).scatter(1, top.indices, torch.relu(top.values)) @ p["dec"] - xs
    top = torch.topk(pre[:, dead.tolist()], k_aux)
    aux = torch.zeros_like(pre).scatter(1, torch.tensor(dead).long()[top.indices], top.values)
    (error**2).sum().add(0.5 * ((aux @ p["dec"] + error.detach()) ** 2).sum()).backward()

    values, indices = _runtime.encode_topk(x, W_enc, b_enc, None, k)
    aux_values, aux_indices = _runtime.train_encode_among(x, W_enc, b_enc, None, dead, k_aux)
    error = _runtime.decode(values, indices, None, W_dec) - x
    missing = _runtime.decode(aux_values, aux_indices, None, W_dec) + error
    upstream = np.concatenate([2 * error, missing])  # 2 * 0.5
    weights = np.concatenate([values.ravel(), aux_values.ravel()])
    counts = np.repeat([k, k_aux], rows)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    group = _runtime.train_group(weights, np.concatenate([indices.ravel(), aux_indices.ravel()]), offsets, features)
    d_pre = _runtime.train_grad_values(group, upstream, W_dec, weights)
    for name, grad in (("dec", (group, weights, upstream)), ("enc", (group, d_pre, np.concatenate([x, x])))):
        got = np.zeros((features, d))
        got[group[0]] = _runtime.train_grad_rows(grad)
        want = p[name].grad.numpy()
        np.testing.assert_allclose(
            got, want if name == "dec" else want.T, rtol=0, atol=2e-5 * np.abs(want).max(), err_msg=name
        )


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
    for grad in ((group[0], held), (group, values, upstream)):  # the same rows, squared
        assert _runtime.train_sum_squares(grad, W_dec) == _runtime.train_sum_squares((group[0], projected))
    with pytest.raises(ShapeError, match=r"expected project of shape \[features, "):
        _runtime.train_sum_squares((group, values, upstream), normal(rng, features, d + 1))
    with pytest.raises(ArgumentError, match="expected project only with a sparse gradient"):
        _runtime.train_sum_squares(held, W_dec)

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


# ------------------------------------------------------------------------------------------------ optimisers


class Moments:
    """Weights [features, d] with the moments of Adam, in float32 or float64."""

    def __init__(self, rng, features, d, dtype=np.float32):
        self.p = rng.standard_normal((features, d)).astype(dtype)
        self.m, self.v = np.zeros_like(self.p), np.zeros_like(self.p)

    def copy(self, dtype=None):
        other = object.__new__(Moments)
        other.p, other.m, other.v = (np.array(a, dtype=dtype or a.dtype) for a in (self.p, self.m, self.v))
        return other

    def arrays(self):
        return {"p": self.p, "m": self.m, "v": self.v}


def gradients(rng, features, d, steps, density=0.4):
    """For each step: the active features and their gradient rows; feature 0 only at the first step, the last never."""
    out = []
    for t in range(steps):
        chosen = rng.random(features) < density
        chosen[0], chosen[-1] = t == 0, False
        active = np.flatnonzero(chosen).astype(np.int32)
        out.append((active, normal(rng, len(active), d)))
    return out


def expect_same(a, b, rtol=0.0, atol=0.0):
    for name, left in a.arrays().items():
        np.testing.assert_allclose(left, b.arrays()[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("size", [0, 1, 7, 40_000])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_the_oracle(size, decay, threads):
    rng = np.random.default_rng(9)
    p, m, v = normal(rng, size), np.zeros(size, np.float32), np.zeros(size, np.float32)
    want = tuple(a.astype(np.float64) for a in (p, m, v))
    kwargs = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": decay}
    for step in range(1, 6):
        grad = normal(rng, size)
        _runtime.train_adam(p, grad, m, v, step=step, scale=0.5, **kwargs)
        want = reference.adam(want[0], 0.5 * grad.astype(np.float64), want[1], want[2], step=step, **kwargs)
        for got, oracle in zip((p, m, v), want, strict=True):
            np.testing.assert_allclose(got, oracle, rtol=1e-6, atol=1e-6)


def test_adam_is_torch_s():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(10)
    start = normal(rng, 30)
    parameter = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([parameter], lr=0.01)
    p, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, 20):
        grad = normal(rng, 30)
        parameter.grad = torch.tensor(grad, dtype=torch.float64)
        optimiser.step()
        _runtime.train_adam(p, grad, m, v, lr=0.01, step=step)
    np.testing.assert_allclose(p, parameter.detach().numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("features", "d"), [(1, 1), (2, 3), (65, 17), (130, 40)])
@pytest.mark.parametrize("project", [False, True])
def test_sparse_adam_is_dense_adam(features, d, project, threads):
    """Exact form: rows, columns, held and factored gradients all take the dense step, bit for bit where they are held."""
    rng = np.random.default_rng(11)
    dense_, rows, columns = (Moments(np.random.default_rng(12), features, d) for _ in range(3))
    want = dense_.copy(np.float64)
    W = np.ascontiguousarray(columns.p.T)
    for step, (active, grad) in enumerate(gradients(rng, features, d, 6), start=1):
        full = np.zeros((features, d), np.float32)
        full[active] = grad
        if project:
            _runtime.train_project_rows(full, np.arange(features, dtype=np.int32), dense_.p)
        _runtime.train_adam(dense_.p, full, dense_.m, dense_.v, lr=0.01, step=step)
        _runtime.train_adam_rows(rows.p, rows.m, rows.v, (active, grad), lr=0.01, step=step, project=project)
        _runtime.train_adam_columns(W, columns.m, columns.v, (active, full[active]), lr=0.01, step=step)
        wide = np.zeros((features, d))
        wide[active] = grad
        if project:
            wide = reference.project_rows(wide, want.p)
        want.p, want.m, want.v = reference.adam(want.p, wide, want.m, want.v, lr=0.01, step=step)
    columns.p = np.ascontiguousarray(W.T)
    expect_same(rows, dense_)
    expect_same(columns, dense_)
    # A projected gradient that nearly vanishes (d = 1: altogether) has no sign that two roundings agree on.
    if not (project and d == 1):
        expect_same(rows, want, atol=1e-5)


def test_factored_gradients_are_held_ones(threads):
    rng = np.random.default_rng(13)
    values, indices = codes(rng, 33, 70, 5)
    basis = normal(rng, 33, 21)
    group = _runtime.train_group(values, indices, None, 70)
    held, factored = (group[0], _runtime.train_grad_rows((group, values, basis))), (group, values, basis)
    for project, normalize in itertools.product([False, True], repeat=2):
        a, b = (Moments(np.random.default_rng(14), 70, 21) for _ in range(2))
        for grad, w in ((held, a), (factored, b)):
            _runtime.train_adam_rows(w.p, w.m, w.v, grad, lr=0.1, step=1, project=project, normalize=normalize)
        expect_same(a, b)
        if normalize:
            np.testing.assert_allclose(_runtime.train_row_norms(a.p), 1, rtol=3e-7)


@pytest.mark.parametrize(("columns", "normalize"), [(False, False), (False, True), (True, False)])
def test_lazy_adam_caught_up_is_exact(columns, normalize, threads):
    """Rates change from step to step; the last feature never has a gradient, feature 0 only at step 1."""
    rng = np.random.default_rng(15)
    features, d, steps = 70, 19, 40
    exact, lazy = (Moments(np.random.default_rng(16), features, d) for _ in range(2))
    last = np.zeros(features, np.int64)
    rates = 0.01 / np.sqrt(np.arange(1, steps + 1))
    at_rest = np.ascontiguousarray(lazy.p.T) if columns else lazy.p
    step_of = _runtime.train_adam_columns if columns else _runtime.train_adam_rows
    extra = {} if columns else {"normalize": normalize}
    for step, grad in enumerate(gradients(rng, features, d, steps, 0.2), start=1):
        _runtime.train_adam_rows(exact.p, exact.m, exact.v, grad, lr=rates[step - 1], step=step, normalize=normalize)
        if step % 3 == 0:  # what is read is caught up first
            _runtime.train_adam_catch_up(
                at_rest, lazy.m, lazy.v, last, grad[0], lr=rates[: step - 1], step=step - 1, columns=columns, **extra
            )
        step_of(at_rest, lazy.m, lazy.v, grad, lr=rates[:step], step=step, last=last, **extra)
        assert (last[grad[0]] == step).all()
    assert last[0] in (0, 1) and last[-1] == 0
    _runtime.train_adam_catch_up(at_rest, lazy.m, lazy.v, last, lr=rates, step=steps, columns=columns, **extra)
    assert (last == steps).all()
    lazy.p = np.ascontiguousarray(at_rest.T) if columns else lazy.p
    expect_same(lazy, exact)  # the same operations in the same order for each feature


def test_long_catch_ups_end_in_one_closed_step():
    """After 2,000 steps without gradient: within rounding of taking them one by one, and quick."""
    rng = np.random.default_rng(17)
    one, many = (Moments(np.random.default_rng(18), 3, 9) for _ in range(2))
    grad = (np.arange(3, dtype=np.int32), normal(rng, 3, 9))
    none = (np.zeros(0, np.int32), np.zeros((0, 9), np.float32))
    last = np.zeros(3, np.int64)
    steps = 2001
    rates = np.full(steps, 0.01)
    _runtime.train_adam_rows(one.p, one.m, one.v, grad, lr=0.01, step=1)
    _runtime.train_adam_rows(many.p, many.m, many.v, grad, lr=rates[:1], step=1, last=last)
    for step in range(2, steps + 1):
        _runtime.train_adam_rows(one.p, one.m, one.v, none, lr=0.01, step=step)
    _runtime.train_adam_catch_up(many.p, many.m, many.v, last, lr=rates, step=steps)
    assert not one.m.any() or np.abs(one.m).min() > 2.0**-101  # no denormals are left to slow the CPU down
    np.testing.assert_allclose(many.p, one.p, rtol=0, atol=1e-7)
    np.testing.assert_allclose(many.v, one.v, rtol=1e-4)  # 2,000 roundings against one power
    np.testing.assert_allclose(many.m, one.m, rtol=0, atol=1e-30)


@pytest.mark.parametrize("momentum", [False, True])
def test_signum_is_the_oracle(momentum, threads):
    rng = np.random.default_rng(19)
    features, d = 67, 11
    beta = 0.9 if momentum else 0.0
    dense_, rows, columns = (Moments(np.random.default_rng(20), features, d) for _ in range(3))
    want = dense_.copy(np.float64)
    W = np.ascontiguousarray(columns.p.T)

    def m_of(w):
        return w.m if momentum else None

    for active, grad in gradients(rng, features, d, 5):
        full = np.zeros((features, d), np.float32)
        full[active] = grad
        kwargs = {"lr": 0.01, "beta": beta, "weight_decay": 0.1}
        _runtime.train_signum(dense_.p, full, m_of(dense_), **kwargs)
        _runtime.train_signum_rows(rows.p, m_of(rows), (active, grad), **kwargs)
        _runtime.train_signum_columns(W, m_of(columns), (active, grad), **kwargs)
        want.p, want.m = reference.signum(want.p, full, want.m, **kwargs)
    columns.p = np.ascontiguousarray(W.T)
    expect_same(rows, dense_)
    expect_same(columns, dense_)
    np.testing.assert_allclose(dense_.p, want.p, rtol=0, atol=1e-6)
    with_decay_off = rows.p.copy()
    _runtime.train_signum_rows(rows.p, None, (active, grad), lr=0.01)
    quiet = np.setdiff1d(np.arange(features), active)
    assert np.array_equal(rows.p[quiet], with_decay_off[quiet]) and not np.array_equal(rows.p, with_decay_off)


def test_arguments_of_optimisers_are_checked():
    w = Moments(np.random.default_rng(21), 4, 3)
    grad = (np.array([1, 3], np.int32), np.ones((2, 3), np.float32))

    def step(**changes):
        kwargs = {"lr": 0.1, "step": 1, **changes}
        _runtime.train_adam_rows(w.p, w.m, w.v, kwargs.pop("grad", grad), **kwargs)

    before = w.p.copy()
    for changes, code in [
        ({"step": 0}, "argument"),
        ({"beta1": 1.0}, "argument"),
        ({"beta2": -0.1}, "argument"),
        ({"eps": 0.0}, "argument"),
        ({"lr": float("nan")}, "argument"),
        ({"scale": float("inf")}, "argument"),
        ({"grad": (np.array([3, 1], np.int32), grad[1])}, "argument"),
        ({"grad": (np.array([1, 1], np.int32), grad[1])}, "feature-duplicate"),
        ({"grad": (np.array([1, 4], np.int32), grad[1])}, "feature-range"),
        ({"grad": (grad[0], grad[1][:1])}, "shape"),
        ({"grad": grad[1]}, "argument"),
        ({"last": np.zeros(4, np.int64)}, "argument"),  # lr must be the history
        ({"last": np.zeros(3, np.int64), "lr": np.ones(1)}, "shape"),
        ({"last": np.full(4, 1, np.int64), "lr": np.ones(1)}, "argument"),
    ]:
        with pytest.raises((ArgumentError, ShapeError)) as error:
            step(**changes)
        assert error.value.code == code, changes
    with pytest.raises(DtypeError):
        _runtime.train_adam_rows(w.p.astype(np.float64), w.m, w.v, grad, lr=0.1, step=1)
    with pytest.raises(ArgumentError, match="updated in place"):
        _runtime.train_adam_rows(w.p[:, ::-1], w.m, w.v, grad, lr=0.1, step=1)
    frozen = w.p.copy()
    frozen.flags.writeable = False
    with pytest.raises(ArgumentError, match="writable"):
        _runtime.train_adam_rows(frozen, w.m, w.v, grad, lr=0.1, step=1)
    assert np.array_equal(w.p, before) and not w.m.any()


# ------------------------------------------------------------------------------------------------ selections


@pytest.mark.parametrize(("rows", "k"), [(0, 2), (1, 1), (300, 5), (17, 30)])
def test_encode_among_is_the_oracle(rows, k, threads):
    rng = np.random.default_rng(22)
    d, features = 13, 90
    x, W_enc = np.round(2 * normal(rng, rows, d)), np.round(2 * normal(rng, d, features))  # integers: ties, exact
    b_enc, b_dec = np.round(3 * normal(rng, features)), np.round(normal(rng, d))
    among = np.arange(1, features, 3, dtype=np.int32)
    values, indices = _runtime.train_encode_among(x, W_enc, b_enc, b_dec, among, k)
    want = reference.encode_among((x - b_dec) @ W_enc + b_enc, among, k=k)
    assert np.array_equal(values, want[0]) and np.array_equal(indices, want[1])
    if rows > 1 and k == 30:
        assert (values < 0).any()  # no ReLU


def test_encode_among_names_what_is_wrong():
    x, W_enc = np.ones((2, 3), np.float32), np.ones((3, 5), np.float32)
    among = np.array([1, 4], np.int32)
    with pytest.raises(ArgumentError) as error:
        _runtime.train_encode_among(x, W_enc, None, None, among, 3)
    assert error.value.code == "k-range"
    with pytest.raises(ArgumentError) as error:
        _runtime.train_encode_among(x, W_enc, None, None, np.array([1, 5], np.int32), 1)
    assert error.value.code == "feature-range"
    W_enc[0, 4] = np.nan
    with pytest.raises(NonFiniteError, match="row 0"):
        _runtime.train_encode_among(x, W_enc, None, None, among, 1)
    _runtime.train_encode_among(x, W_enc, None, None, among[:1], 1)  # the NaN is in a column that is not used
    x[1, 2] = np.inf
    with pytest.raises(NonFiniteError):
        _runtime.train_encode_among(x, W_enc, None, None, among[:1], 1)


@pytest.mark.parametrize("total", [0, 1, 37, 10_000])
@pytest.mark.parametrize("ties", [False, True])
def test_batch_select_is_the_oracle_when_it_says_exact(total, ties):
    rng = np.random.default_rng(23)
    rows, features = 12, 31
    pre = np.round(2 * normal(rng, rows, features)) if ties else normal(rng, rows, features)
    for candidates in (features, 5):
        values, indices = _runtime.topk(pre, candidates)
        got = _runtime.train_batch_select(values, indices, total)
        want = reference.batch_select(pre, total)
        full = _runtime.densify(got[0], got[1], got[2], features)
        assert len(got[0]) == min(total, (values > 0).sum())
        for r in range(rows):
            assert (np.diff(got[1][got[2][r] : got[2][r + 1]]) > 0).all()
        if got[3]:
            assert np.array_equal(np.sort(full[full > 0]), np.sort(want[want > 0]))
            assert ties or np.array_equal(full, want)
        elif candidates == 5:
            assert (np.diff(got[2]) == 5).any()
    assert _runtime.train_batch_select(*_runtime.topk(pre, 5), 10_000)[3] is False


@pytest.mark.parametrize("least", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("bandwidth", [0.05, 0.6])
def test_encode_window_finds_all_that_has_a_gradient(least, bandwidth, threads):
    rng = np.random.default_rng(26)
    x, W_enc = normal(rng, 40, 9), normal(rng, 9, 70) / 3
    b_enc, b_dec = normal(rng, 70) / 10, normal(rng, 9) / 10
    threshold = (least + 0.3 * rng.random(70)).astype(np.float32)
    h, indices, offsets = _runtime.train_encode_window(x, W_enc, b_enc, b_dec, threshold, bandwidth)
    pre = (x - b_dec).astype(np.float64) @ W_enc + b_enc
    slack = 1e-5
    row_of = np.repeat(np.arange(40), np.diff(offsets))
    np.testing.assert_allclose(h, pre[row_of, indices], rtol=0, atol=slack)
    found = np.zeros(pre.shape, bool)
    found[row_of, indices] = True
    edge = threshold - np.float64(bandwidth) / 2
    assert found[pre > edge + slack].all()
    assert not found[pre < edge - slack].any()
    if least == 0:
        assert (h < 0).any()  # a window that reaches below zero is seen
    if least >= bandwidth / 2:
        want = _runtime.encode_threshold(x, W_enc, b_enc, b_dec, threshold - np.float32(bandwidth / 2))
        assert all(np.array_equal(a, b) for a, b in zip((h, indices, offsets), want, strict=True))


def test_encode_window_checks_thresholds():
    x, W_enc, threshold = np.ones((1, 2), np.float32), np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    values, indices, _ = _runtime.train_encode_window(0 * x, W_enc, None, None, threshold, 0.1)
    assert (
        indices.tolist() == [0, 1, 2] and (values != 0).all() and (np.abs(values) < 1e-8).all()
    )  # h = 0 is in the window
    for bad, bandwidth in ((threshold, 0.0), (threshold - 1, 0.1), (threshold + np.float32(np.nan), 0.1)):
        with pytest.raises(ArgumentError):
            _runtime.train_encode_window(x, W_enc, None, None, bad, bandwidth)
    with pytest.raises(ShapeError):
        _runtime.train_encode_window(x, W_enc, None, None, threshold[:2], 0.1)


@pytest.mark.parametrize("to_input", [False, True])
def test_jumprelu_gradients_are_the_oracle(to_input):
    rng = np.random.default_rng(24)
    threshold = np.abs(normal(rng, 11))
    indices = rng.integers(0, 11, 400).astype(np.int32)
    theta = threshold[indices]
    h = (theta + 0.3 * normal(rng, 400)).astype(np.float32)
    d_f, d_step = normal(rng, 400), normal(rng, 400)
    got = _runtime.train_jumprelu_grad(h, indices, threshold, 0.25, d_f, d_step, to_input)
    want = reference.jumprelu_grad(h, theta, np.float32(0.25), d_f, d_step, ste_to_input=to_input)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert (got[1] != 0).any() and (got[1] == 0).any()
    without = _runtime.train_jumprelu_grad(h, indices, threshold, 0.25, d_f, None, to_input)
    zero = _runtime.train_jumprelu_grad(h, indices, threshold, 0.25, d_f, np.zeros_like(d_f), to_input)
    assert np.array_equal(without[0], zero[0]) and np.array_equal(without[1], zero[1])
    with pytest.raises(ArgumentError):
        _runtime.train_jumprelu_grad(h, indices, threshold, 0.0, d_f)
    with pytest.raises(ArgumentError, match="entry 0"):
        _runtime.train_jumprelu_grad(h, indices + 11, threshold, 0.25, d_f)


# ------------------------------------------------------------------------------------------------ all together


def test_a_step_does_not_depend_on_the_number_of_threads():
    def step():
        rng = np.random.default_rng(25)
        rows, features, d, k = 150, 333, 65, 8
        x, b_enc, b_dec = normal(rng, rows, d), normal(rng, features), normal(rng, d)
        dec, enc = Moments(rng, features, d), Moments(rng, features, d)
        W_enc = np.ascontiguousarray(enc.p.T)
        out = []
        for t in range(1, 4):
            values, indices = _runtime.encode_topk(x, W_enc, b_enc, b_dec, k)
            upstream = (_runtime.decode(values, indices, None, dec.p, b_dec) - x) * np.float32(2 / rows)
            group = _runtime.train_group(values, indices, None, features)
            d_pre = _runtime.train_grad_values(group, upstream, dec.p, values)
            sums = _runtime.train_grad_sums(group, d_pre, rows)
            out += [_runtime.train_column_sums(upstream), _runtime.train_grad_input(W_enc, group[0], sums)]
            out += [np.array(_runtime.train_sum_squares((group, values, upstream))), d_pre]
            _runtime.train_adam_rows(
                dec.p, dec.m, dec.v, (group, values, upstream), lr=0.01, step=t, project=True, normalize=True
            )
            _runtime.train_adam_columns(W_enc, enc.m, enc.v, (group, d_pre, x - b_dec), lr=0.01, step=t)
        return [*out, dec.p, dec.m, dec.v, W_enc, enc.m, enc.v]

    for a, b in zip(with_threads(1, step), with_threads(2, step), strict=True):
        assert np.array_equal(a, b)
