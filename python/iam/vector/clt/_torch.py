"""The clt ops and those of the policy family in plain torch: for tensors that the kernels cannot take.

These run where the tensors are (a GPU), and gradients flow through them. Same results as the kernels up to float32
rounding, same tie rule, sparse in and sparse out. Inputs are checked by the callers; ``x`` and ``pre`` are ``[rows, width]``.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from iam.core.errors import NonFiniteError, PolicyError

__all__ = [
    "abstopk",
    "batch_topk",
    "decode",
    "densify",
    "edit",
    "encode",
    "gate",
    "groupmax",
    "matching_pursuit",
    "steer",
    "sub",
    "threshold",
    "topk",
]

Tensor = torch.Tensor
Components = tuple[Tensor, Tensor, "Tensor | None"]


def check_finite(x: Tensor, *, op: str, name: str) -> None:
    """Raise NonFiniteError naming the first NaN or infinity of ``x [rows, width]``."""
    x = x.detach()
    if x.numel() and not bool(torch.isfinite(x).all()):
        row, column = (int(i) for i in (~torch.isfinite(x)).nonzero()[0])
        raise NonFiniteError(
            f"{op}: expected finite {name}, got {float(x[row, column])} at row {row}, column {column}; "
            f"{name} has shape {tuple(x.shape)}"
        )


def encode(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor | None) -> Tensor:
    """Pre-activations ``[rows, F]``."""
    check_finite(x, op="iam.clt.encode", name="x")
    return torch.addmm(b_enc, x if b_dec is None else x - b_dec, W_enc)


def topk(pre: Tensor, k: int) -> Components:
    """Top k by value, ties to the lowest index, sorted by descending pre-activation; then ReLU."""
    indices = _largest(pre.detach(), k)
    return pre.gather(-1, indices).relu(), indices.to(torch.int32), None


def _largest(key: Tensor, k: int) -> Tensor:
    """Where the k largest of each row are ``[rows, k]``, by descending value, ties to the lowest index.

    torch.topk does not say which of equal values it takes, so it only finds the k-th value here.
    """
    rows = key.shape[0]
    kth = key.topk(k, dim=-1).values[:, -1:]
    above = key > kth
    tied = key == kth
    room = k - above.sum(-1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(-1) <= room))
    indices = chosen.nonzero()[:, 1].reshape(rows, k)  # ascending, so a stable sort keeps ties in the order of indices
    order = key.gather(-1, indices).sort(dim=-1, descending=True, stable=True).indices
    return indices.gather(-1, order)


def abstopk(pre: Tensor, k: int) -> Components:
    """Top k by magnitude, ties to the lowest index, sorted by descending magnitude; signs stay."""
    indices = _largest(pre.detach().abs(), k)
    return pre.gather(-1, indices), indices.to(torch.int32), None


def groupmax(pre: Tensor, k: int) -> Components:
    """The largest of each of k groups of neighbouring features, ties to the lowest index; then ReLU."""
    rows, n_features = pre.shape
    groups = pre.detach().reshape(rows * k, n_features // k)
    indices = _largest(groups, 1).reshape(rows, k) + torch.arange(0, n_features, n_features // k, device=pre.device)
    return pre.gather(-1, indices).relu(), indices.to(torch.int32), None


def matching_pursuit(
    x: Tensor, W_dec: Tensor, residual_threshold: float, max_iterations: int, stop_on_duplicate_support: bool
) -> Components:
    """Greedy steps over the rows of ``W_dec [F, d]`` for each row of ``x [rows, d]``; gradients flow through the values."""
    rows, n_features = x.shape[0], W_dec.shape[0]
    residual = x
    live = torch.ones(rows, dtype=torch.bool, device=x.device)
    keys: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=x.device)]
    values: list[Tensor] = [x.new_zeros(0)]
    chosen: list[Tensor] = []
    ids = torch.arange(rows, device=x.device)
    for _ in range(max_iterations):
        if not bool(live.any()):
            break
        best = _largest((residual @ W_dec.T).detach(), 1)[:, 0]
        direction = W_dec[best]
        value = (residual * direction).sum(-1).relu() * live
        residual = residual - value.unsqueeze(-1) * direction
        keys.append(ids * n_features + best)
        values.append(value)
        done = ~live
        if stop_on_duplicate_support:
            seen = torch.stack([c == best for c in chosen]).any(0) if chosen else torch.zeros_like(live)
            done = done | (value.detach() == 0) | seen
            chosen.append(best)
        if residual_threshold > 0:
            done = done | (residual.detach().norm(dim=-1) < residual_threshold)
        live = ~done
    unique, place = torch.cat(keys).unique(return_inverse=True)
    total = x.new_zeros(unique.shape[0]).index_add(0, place, torch.cat(values))
    return _sorted_csr(total, (unique % n_features).to(torch.int32), unique // n_features, rows, n_features)


def _csr(dense: Tensor) -> Components:
    rows, indices = dense.detach().nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=dense.shape[0])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return dense[rows, indices], indices.to(torch.int32), offsets


def threshold(pre: Tensor, theta: Tensor | None) -> Components:
    """JumpReLU ``relu(pre)·[pre > theta]``, or ReLU when theta is None."""
    active = pre.relu()
    return _csr(active if theta is None else torch.where(pre > theta, active, torch.zeros_like(active)))


def gate(gate_pre: Tensor, magnitude_pre: Tensor) -> Components:
    return _csr(torch.where(gate_pre > 0, magnitude_pre.relu(), torch.zeros_like(magnitude_pre)))


def batch_topk(pre: Tensor, k: int) -> Components:
    """The ``k·rows`` largest of ``relu(pre)`` over the batch, ties to the lowest flat index."""
    flat = pre.relu().reshape(1, -1)
    count = k * pre.shape[0]
    if count == 0:
        return _csr(pre)
    values, indices, _ = topk(flat, count)
    kept = torch.zeros_like(flat).scatter(-1, indices.to(torch.int64), values)
    return _csr(kept.reshape(pre.shape))


def row_ids(values: Tensor, offsets: Tensor | None, rows: int) -> Tensor:
    """The row of every slot, flattened."""
    ids = torch.arange(rows, device=values.device)
    return ids.repeat_interleave(values.shape[1]) if offsets is None else ids.repeat_interleave(offsets.diff())


def _rows(values: Tensor, offsets: Tensor | None) -> int:
    return int(values.shape[0]) if offsets is None else int(offsets.shape[0]) - 1


def decode(values: Tensor, indices: Tensor, offsets: Tensor | None, W_dec: Tensor, b_dec: Tensor | None) -> Tensor:
    """Sum of the active rows of W_dec ``[rows, d_out]``."""
    rows = _rows(values, offsets)
    if values.numel() == 0:
        y = values.new_zeros(rows, W_dec.shape[1])
    else:
        ends = (
            torch.arange(0, values.numel(), values.shape[1], device=values.device) if offsets is None else offsets[:-1]
        )
        y = torch.nn.functional.embedding_bag(
            indices.reshape(-1).to(torch.int64),
            W_dec,
            ends,
            mode="sum",
            per_sample_weights=values.reshape(-1),
        )
    return y if b_dec is None else y + b_dec


def densify(values: Tensor, indices: Tensor, offsets: Tensor | None, n_features: int) -> Tensor:
    rows = _rows(values, offsets)
    flat = row_ids(values, offsets, rows) * n_features + indices.reshape(-1)
    dense = values.new_zeros(rows * n_features)
    return dense.index_add(0, flat, values.reshape(-1)).reshape(rows, n_features)


def edit(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor | None,
    features: Tensor,
    mode: str,
    a: Tensor | None,
    b: Tensor | None,
    n_features: int,
) -> Components:
    """Set, scale, clamp or ablate ``features [n]`` (int64) of every row."""
    rows, count = _rows(values, offsets), int(features.shape[0])
    if count == 0:
        return values, indices, offsets
    hit = indices.unsqueeze(-1) == features  # [rows, k, n], or [nnz, n]
    if mode in ("scale", "ablate"):
        factors = values.new_zeros(count) if a is None else a
        factor = torch.where(hit, factors, torch.ones_like(factors)).prod(-1)  # at most one of them is not 1
        if offsets is None:
            return values * factor, indices, None
        return _drop_zeros(values * factor, indices, offsets)
    if offsets is None:
        old = (values.unsqueeze(-1) * hit).sum(1)
    else:
        ids = row_ids(values, offsets, rows)
        old = values.new_zeros(rows, count).index_add(0, ids, values.unsqueeze(-1) * hit)
    assert a is not None
    new = a.expand(rows, count) if mode == "set" else torch.minimum(torch.maximum(old, a), _given(b))
    kept = torch.where(hit.any(-1), torch.zeros_like(values), values)
    if offsets is None:
        added = features.to(indices.dtype).expand(rows, count)
        return torch.cat([kept, new], -1), torch.cat([indices, added], -1), None
    ids = torch.cat([ids, torch.arange(rows, device=values.device).repeat_interleave(count)])
    return _sorted_csr(
        torch.cat([kept, new.reshape(-1)]),
        torch.cat([indices, features.to(indices.dtype).repeat(rows)]),
        ids,
        rows,
        n_features,
    )


def _given(b: Tensor | None) -> Tensor:
    assert b is not None
    return b


def _sorted_csr(values: Tensor, indices: Tensor, ids: Tensor, rows: int, n_features: int) -> Components:
    """Entries in any order, distinct but for zeros, to CSR."""
    keep = values.detach() != 0
    values, indices, ids = values[keep], indices[keep], ids[keep]
    order = (ids * n_features + indices).argsort()
    counts = torch.bincount(ids, minlength=rows)
    return values[order], indices[order], torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _drop_zeros(values: Tensor, indices: Tensor, offsets: Tensor) -> Components:
    keep = values.detach() != 0
    rows = int(offsets.shape[0]) - 1
    counts = torch.bincount(row_ids(values, offsets, rows)[keep], minlength=rows)
    return values[keep], indices[keep], torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def sub(first: Components, second: Components, n_features: int) -> Components:
    """``first − second``; both in k-form or both in CSR form."""
    v1, i1, o1 = first
    v2, i2, o2 = second
    if o1 is None or o2 is None:
        same = (i1.unsqueeze(-1) == i2.unsqueeze(-2)) & (v1.detach() != 0).unsqueeze(-1)  # [rows, k1, k2]
        left = v1 - (same * v2.unsqueeze(-2)).sum(-1)
        right = torch.where(same.any(1), torch.zeros_like(v2), -v2)
        return torch.cat([left, right], -1), torch.cat([i1, i2], -1), None
    rows = int(o1.shape[0]) - 1
    ids = torch.cat([row_ids(v1, o1, rows), row_ids(v2, o2, rows)])
    keys, place = (ids * n_features + torch.cat([i1, i2])).unique(return_inverse=True)
    values = v1.new_zeros(keys.shape[0]).index_add(0, place, torch.cat([v1, -v2]))
    return _sorted_csr(values, (keys % n_features).to(torch.int32), keys // n_features, rows, n_features)


def steer(h: Tensor, v: Tensor, strength: float, mode: str) -> Tensor:
    """``h [rows, d]`` moved along ``v [d]``."""
    check_finite(h, op="iam.policy.steer", name="h")
    if mode == "add":
        return h + strength * v
    square = v @ v
    if mode == "ablate":
        return h - strength * ((h @ v) / square).unsqueeze(-1) * v
    unit = v / square.sqrt()
    return h + (strength - h @ unit).unsqueeze(-1) * unit


_DEPENDENT = 1e-6
"""What a direction keeps of its norm outside of the span of others is more than this, or it lies in the span."""


def _orthonormal(vectors: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
    """A basis of the span of ``vectors [n, d]`` (Gram-Schmidt), and what each does not share with those before it."""
    units: list[Tensor] = []
    parts: list[Tensor | None] = []
    for v in vectors:
        left = v
        for unit in units * 2:  # once more for what rounding left of the first pass
            left = left - (left @ unit) * unit
        norm = torch.linalg.vector_norm(left)
        independent = bool(norm > _DEPENDENT * torch.linalg.vector_norm(v))
        parts.append(left if independent else None)
        if independent:
            units.append(left / norm)
    return units, parts


def compose(vectors: Tensor, strengths: Tensor, rule: str) -> Tensor:
    """``vectors [n, d]`` as one edit ``[d]``."""
    vectors, strengths = vectors.double(), strengths.double()
    if rule != "orthogonal":
        total = strengths @ vectors
        return total / max(len(vectors), 1) if rule == "mean" else total
    total = vectors.new_zeros(vectors.shape[1])
    finite = vectors.isfinite().all(dim=-1)
    for s, v in zip(strengths[~finite], vectors[~finite], strict=True):
        total = total + s * v  # passes through whole
    for s, part in zip(strengths[finite], _orthonormal(vectors[finite])[1], strict=True):
        total = total if part is None else total + s * part
    return total


def project(h: Tensor, kind: str, first: Tensor, second: Any) -> Tensor:
    """``h [rows, d]`` moved into a set that was checked; float64 arithmetic."""
    check_finite(h, op="iam.policy.project", name="h")
    h, first = h.double(), first.double()
    if kind == "halfspace":
        return h - (torch.relu(h @ first - second) / (first @ first)).unsqueeze(-1) * first
    if kind == "ball":
        offset = h - first
        norm = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
        outside = norm > second
        if not math.isfinite(second):
            return h
        return torch.where(outside, first + offset * (second / torch.where(outside, norm, 1.0)), h)
    if kind == "box":
        return torch.minimum(torch.maximum(h, first), second.double())
    return _into_span(h, first)


def _into_span(h: Tensor, basis: Tensor) -> Tensor:
    units, _ = _orthonormal(basis)
    if len(units) == h.shape[1]:
        return h
    moved = torch.zeros_like(h)
    for unit in units:
        moved = moved + (h @ unit).unsqueeze(-1) * unit
    return moved


def margins(h: Tensor, kind: str, first: Tensor, second: Any, tolerance: float, message: str) -> Tensor:
    """How far inside a set each row of ``h`` is ``[rows]``; PolicyError below ``-tolerance``."""
    h, first = h.double(), first.double()
    if kind == "halfspace":
        margin = (second - h @ first) / torch.linalg.vector_norm(first)
    elif kind == "ball":
        margin = second - torch.linalg.vector_norm(h - first, dim=-1)
    elif kind == "box":
        room = torch.minimum(h - first, second.double() - h)
        outside = torch.linalg.vector_norm(room.clamp(max=0), dim=-1)
        margin = torch.where(outside > 0, -outside, room.amin(dim=-1))
    else:
        margin = -torch.linalg.vector_norm(h - _into_span(h, first), dim=-1)
    margin = torch.where(h.isfinite().all(dim=-1), margin, math.nan)
    bad = ~(margin.float() >= -tolerance)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        value = float(margin.detach()[row])
        raise PolicyError(
            f"iam.policy.verify: {message}: expected margins >= {0 - tolerance:g}, got {value:g} at row {row}; "
            f"h has shape {list(h.shape)}",
            row=row,
            margin=value,
        )
    return margin


def residual(y: Tensor, x: Tensor, W_skip: Tensor | None) -> Any:
    return y + (x if W_skip is None else x @ W_skip)
