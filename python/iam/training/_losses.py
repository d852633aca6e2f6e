"""Losses of the architectures and their gradients, written out; nothing here runs autograd.

Notation: `x [rows, d_in]` is read, `y [rows, d_out]` is predicted (`y = x` for an SAE), `h` pre-activations, `f` codes, `n` norms
of decoder rows. Every loss starts with the mean over rows of the squared error, ``mean_r sum_d (x_hat - y)^2``, the scale on
which the coefficients of SAELens are meant. Weights by name: `encoder [d_sae, d_in]`, `decoder [d_sae, d_out]`, `b_enc`, `b_dec`,
`threshold`, `b_gate`, `b_mag`, `r_mag`, `W_skip [d_out, d_in]`. Each function is compared with autograd in float64 by
``tests/unit/test_training_losses.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from iam.training import _steps as steps
from iam.training._steps import Codes

__all__ = ["LOSSES", "Loss", "Terms"]

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Numbers that a loss needs besides weights and rows; those of the current step where a schedule changes them.

    `dead [features]` marks features that have not fired for long; None marks none.
    """

    apply_b_dec_to_input: bool
    k: int = 0
    widths: tuple[int, ...] = ()
    rescale: bool = False
    coefficient: float = 0.0
    mode: str = "step"
    target_l0: float | None = None
    tanh_scale: float = 4.0
    pre_act_coefficient: float | None = None
    aux_coefficient: float = 0.0
    bandwidth: float = 0.05
    dead: torch.Tensor | None = None


@dataclass
class Loss:
    """What a step found.

    Attributes:
        parts: The loss by part (`mse`, `sparsity`, `aux`...); their sum is what the gradients are of.
        gradients: By name of the weight.
        squared_error: Sum over the batch of (x_hat - y)^2 of the full reconstruction.
        fired: `[features]`, which features were active.
        active: Number of active codes in the batch.
        smallest: The smallest code that is > 0, for BatchTopK's threshold; None if there is none.
    """

    parts: dict[str, torch.Tensor]
    gradients: Weights
    squared_error: torch.Tensor
    fired: torch.Tensor
    active: int
    smallest: torch.Tensor | None = None


@dataclass
class _Backward:
    """Gradients while they are gathered."""

    weights: Weights
    x: torch.Tensor
    centred: torch.Tensor
    subtract: bool
    gradients: Weights = field(default_factory=dict)
    _pre_sums: torch.Tensor | None = None

    def add(self, name: str, value: torch.Tensor) -> None:
        if name in self.gradients:
            self.gradients[name] += value
        else:
            self.gradients[name] = value

    def output(self, upstream: torch.Tensor) -> None:
        """Through what is added to the decoded codes: `b_dec` and the skip."""
        self.add("b_dec", upstream.sum(0))
        if "W_skip" in self.weights:
            self.add("W_skip", upstream.T @ self.x)

    def encoder(self, codes: Codes, d_pre: torch.Tensor, bias: str | None = "b_enc") -> None:
        """Through `h = (x - b_dec) @ encoder.T + bias` at the entries of `codes`."""
        self.add("encoder", steps.transposed(codes, d_pre, self.centred))
        self.pre_sums(steps.column_sums(codes, d_pre), bias)

    def pre_sums(self, sums: torch.Tensor, bias: str | None) -> None:
        if bias is not None:
            self.add(bias, sums)
        self._pre_sums = sums.clone() if self._pre_sums is None else self._pre_sums + sums

    def norms(self, d_norm: torch.Tensor, norms: torch.Tensor) -> None:
        """Through the norms of decoder rows; a row of zeros gets none, as in torch."""
        scale = torch.where(norms > 0, d_norm / norms.clamp_min(torch.finfo(norms.dtype).tiny), torch.zeros_like(norms))
        self.add("decoder", self.weights["decoder"] * scale[:, None])

    def finish(self) -> Weights:
        if self.subtract and self._pre_sums is not None:
            self.gradients["b_dec"] = self.gradients["b_dec"] - self._pre_sums @ self.weights["encoder"]
        return {
            name: self.gradients[name] if name in self.gradients else torch.zeros_like(weight)
            for name, weight in self.weights.items()
        }


def _start(weights: Weights, x: torch.Tensor, terms: Terms) -> _Backward:
    centred = x - weights["b_dec"] if terms.apply_b_dec_to_input else x
    return _Backward(weights, x, centred, terms.apply_b_dec_to_input)


def _affine(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    if "W_skip" in weights:
        return torch.addmm(weights["b_dec"], x, weights["W_skip"].T)
    return weights["b_dec"]


def _fired(codes: Codes, values: torch.Tensor) -> tuple[torch.Tensor, int]:
    on = values > 0
    fired = torch.zeros(codes.width, dtype=torch.bool)
    fired[codes.indices[on]] = True
    return fired, int(on.sum())


def topk(weights: Weights, x: torch.Tensor, y: torch.Tensor, terms: Terms) -> Loss:
    """TopK (Gao et al. 2024, arXiv:2406.04093): ``f`` keeps the k largest of ``h``, rectified. Plus AuxK."""
    return _topk_family(weights, x, y, terms, None)


def batch_topk(weights: Weights, x: torch.Tensor, y: torch.Tensor, terms: Terms) -> Loss:
    """BatchTopK (Bussmann et al. 2024, arXiv:2412.06410): the ``k * rows`` largest codes of the batch. Plus AuxK.

    With ``terms.widths`` w_1 < ... < w_m = d_sae, Matryoshka (Bussmann et al. 2025, arXiv:2503.17547): the squared error of each
    prefix ``f[:w_j] @ decoder[:w_j] + b_dec`` is added, unweighted.
    """
    return _topk_family(weights, x, y, terms, lambda score: steps.batch_topk(score, terms.k * len(score)))


def _topk_family(
    weights: Weights, x: torch.Tensor, y: torch.Tensor, terms: Terms, choose: Callable[[torch.Tensor], Codes] | None
) -> Loss:
    back = _start(weights, x, terms)
    rows, decoder = len(x), weights["decoder"]
    fused = (
        None
        if choose is not None or terms.rescale
        else steps.encode_topk(back.centred, weights["encoder"], weights["b_enc"], terms.k)
    )
    pre: torch.Tensor | None = None
    if fused is not None:
        codes, values = fused
        open_ = values > 0
    else:
        pre = steps.encode(back.centred, weights["encoder"], weights["b_enc"])
        # With rescaling, features are chosen by h n and decoded as h n / n: the norm cancels in value and in gradient.
        score = pre * decoder.norm(dim=1) if terms.rescale else pre
        codes = steps.topk(score, terms.k) if choose is None else choose(score)
        raw = codes.at(pre)
        values, open_ = raw.relu(), raw > 0

    d_values = torch.empty_like(values)
    d_decoder = torch.empty_like(decoder)
    widths = terms.widths or (codes.width,)
    error = _affine(weights, x) - y
    groups, errors = [], []
    for low, high in zip((0, *widths), widths, strict=False):
        part, entries = codes.within(low, high) if len(widths) > 1 else (codes, slice(None))
        error = error + steps.decode(part, values[entries], decoder[low:high])
        groups.append((low, high, part, entries))
        errors.append(error)
    # A feature of group j is part of the prefixes j, j + 1, ...: the errors of these add up on its way back.
    upstream = torch.zeros_like(error)
    for (low, high, part, entries), error_j in zip(reversed(groups), reversed(errors), strict=True):
        upstream = upstream + error_j * (2 / rows)
        d_values[entries] = steps.sampled(part, upstream, decoder[low:high])
        d_decoder[low:high] = steps.transposed(part, values[entries], upstream)
    back.output(upstream)
    back.add("decoder", d_decoder)
    back.encoder(codes, d_values * open_)
    squared = [one.square().sum() for one in errors]
    parts = {"mse": squared[-1] / rows}
    if len(widths) > 1:
        parts["prefixes"] = torch.stack(squared[:-1]).sum() / rows
    if terms.aux_coefficient and terms.dead is not None and bool(terms.dead.any()):
        parts["aux"] = _aux(back, pre, errors[-1], terms)
    fired, active = _fired(codes, values)
    positive = values[open_]
    if terms.rescale:  # the threshold is compared with what chose the feature
        positive = positive * decoder.norm(dim=1)[codes.indices[open_]]
    return Loss(parts, back.finish(), squared[-1], fired, active, smallest=positive.min() if len(positive) else None)


def _aux(back: _Backward, pre: torch.Tensor | None, error: torch.Tensor, terms: Terms) -> torch.Tensor:
    """AuxK: the ``k_aux`` largest pre-activations of dead features, not rectified, explain the error that is left.

    ``e = y - x_hat`` is a constant; ``k_aux = min(d // 2, dead)``; ``loss = c min(dead / (d // 2), 1) mean_r sum_d (e_hat - e)^2``
    with ``e_hat = aux @ decoder``, no bias. `d` is the width of the rows that are predicted.
    """
    assert terms.dead is not None
    dead = terms.dead.nonzero().flatten()
    rows, half = len(error), max(1, error.shape[1] // 2)
    scale = terms.aux_coefficient * min(len(dead) / half, 1.0)
    decoder = back.weights["decoder"][dead]
    if pre is not None:
        pre = pre[:, dead]
    else:
        pre = steps.encode(back.centred, back.weights["encoder"][dead], back.weights["b_enc"][dead])
    codes = steps.topk(pre * decoder.norm(dim=1) if terms.rescale else pre, min(half, len(dead)))
    values = codes.at(pre)
    missing = steps.decode(codes, values, decoder) + error  # e_hat - e, and e = -error
    upstream = missing * (2 * scale / rows)
    back.gradients["decoder"][dead] += steps.transposed(codes, values, upstream)
    d_pre = steps.sampled(codes, upstream, decoder)
    back.gradients["encoder"][dead] += steps.transposed(codes, d_pre, back.centred)
    sums = torch.zeros_like(back.weights["b_enc"])
    sums[dead] = steps.column_sums(codes, d_pre)
    back.pre_sums(sums, "b_enc")
    return missing.square().sum() * (scale / rows)


def standard(weights: Weights, x: torch.Tensor, y: torch.Tensor, terms: Terms) -> Loss:
    """ReLU with ``lambda mean_r sum_i f_i n_i`` (Anthropic 2024, "April update")."""
    back = _start(weights, x, terms)
    rows, decoder = len(x), weights["decoder"]
    norms = decoder.norm(dim=1)
    pre = steps.encode(back.centred, weights["encoder"], weights["b_enc"])
    codes = steps.above(pre > 0)
    values = codes.at(pre)
    error = steps.decode(codes, values, decoder) + _affine(weights, x) - y
    upstream = error * (2 / rows)
    each = terms.coefficient / rows
    back.output(upstream)
    back.add("decoder", steps.transposed(codes, values, upstream))
    back.encoder(codes, steps.sampled(codes, upstream, decoder) + each * norms[codes.indices])
    sums = steps.column_sums(codes, values)
    back.norms(each * sums, norms)
    squared = error.square().sum()
    fired, active = _fired(codes, values)
    return Loss({"mse": squared / rows, "sparsity": each * (sums * norms).sum()}, back.finish(), squared, fired, active)


def gated(weights: Weights, x: torch.Tensor, y: torch.Tensor, terms: Terms) -> Loss:
    """Gated (Rajamanoharan et al. 2024, arXiv:2404.16014), the decoder not detached in the auxiliary reconstruction.

    ``q = (x - b_dec) @ encoder.T``, gate ``pi = q + b_gate``, magnitude ``relu(q exp(r_mag) + b_mag)``, ``f = [pi > 0] magnitude``;
    ``loss = mse + lambda mean_r sum relu(pi) n + mse of relu(pi) @ decoder + b_dec``.
    """
    back = _start(weights, x, terms)
    rows, decoder = len(x), weights["decoder"]
    norms, stretch = decoder.norm(dim=1), weights["r_mag"].exp()
    dot = steps.encode(back.centred, weights["encoder"], None)
    codes = steps.above(dot + weights["b_gate"] > 0)
    at = codes.indices
    q = codes.at(dot)
    gate = q + weights["b_gate"][at]
    raw = q * stretch[at] + weights["b_mag"][at]
    values = raw.relu()
    rest = _affine(weights, x) - y
    error = steps.decode(codes, values, decoder) + rest
    aux_error = steps.decode(codes, gate, decoder) + rest
    upstream, aux_upstream = error * (2 / rows), aux_error * (2 / rows)
    each = terms.coefficient / rows
    back.output(upstream + aux_upstream)
    back.add("decoder", steps.transposed(codes, values, upstream) + steps.transposed(codes, gate, aux_upstream))
    d_raw = steps.sampled(codes, upstream, decoder) * (raw > 0)
    d_gate = steps.sampled(codes, aux_upstream, decoder) + each * norms[at]
    back.add("b_mag", steps.column_sums(codes, d_raw))
    back.add("r_mag", steps.column_sums(codes, d_raw * q * stretch[at]))
    back.add("b_gate", steps.column_sums(codes, d_gate))
    back.encoder(codes, d_raw * stretch[at] + d_gate, bias=None)
    sums = steps.column_sums(codes, gate)
    back.norms(each * sums, norms)
    squared = error.square().sum()
    fired, active = _fired(codes, values)
    parts = {
        "mse": squared / rows,
        "sparsity": each * (sums * norms).sum(),
        "aux": aux_error.square().sum() / rows,
    }
    return Loss(parts, back.finish(), squared, fired, active)


def jumprelu(weights: Weights, x: torch.Tensor, y: torch.Tensor, terms: Terms) -> Loss:
    """JumpReLU ``f = h [h > theta]`` with straight-through thresholds (Rajamanoharan et al. 2024, arXiv:2407.14435).

    With the window ``w = [|h - theta| < eps / 2] / eps`` the pseudo-derivatives are ``df/dtheta = -theta w`` and
    ``d[h > theta]/dtheta = -w``. Sparsity, by mode: ``step`` ``lambda mean_r L0``; ``quadratic`` (Gemma Scope 2)
    ``lambda mean_r (2 / L0*) (L0 - L0*)^2``; ``tanh`` (Anthropic 2025) ``lambda mean_r sum tanh(c f n)``. Optional:
    ``c mean_r sum_dead relu(theta - h) n``.
    """
    back = _start(weights, x, terms)
    rows, decoder, theta = len(x), weights["decoder"], weights["threshold"]
    norms, half = decoder.norm(dim=1), terms.bandwidth / 2
    pre = steps.encode(back.centred, weights["encoder"], weights["b_enc"])
    codes = steps.above(pre > theta - half)  # the active ones, and those of the window below
    h, at = codes.at(pre), codes.indices
    on = h > theta[at]
    window = ((h - theta[at]).abs() < half).to(h.dtype) / terms.bandwidth
    values = torch.where(on, h, torch.zeros_like(h))
    error = steps.decode(codes, values, decoder) + _affine(weights, x) - y
    upstream = error * (2 / rows)
    back.output(upstream)
    back.add("decoder", steps.transposed(codes, values, upstream))
    d_values = steps.sampled(codes, upstream, decoder)
    each = terms.coefficient / rows
    d_theta = torch.zeros_like(h)
    if terms.mode == "tanh":
        bent = torch.tanh(terms.tanh_scale * values * norms[at])
        slope = each * terms.tanh_scale * (1 - bent.square())
        d_values = d_values + slope * norms[at]
        back.norms(steps.column_sums(codes, slope * values), norms)
        sparsity = each * bent.sum()
    else:
        l0 = h.new_zeros(rows).index_add_(0, codes.row_of, on.to(h.dtype))
        if terms.mode == "quadratic":
            assert terms.target_l0 is not None
            away = l0 - terms.target_l0
            sparsity = each * (2 / terms.target_l0) * away.square().sum()
            d_theta = -window * (each * (4 / terms.target_l0)) * away[codes.row_of]
        else:
            sparsity = each * l0.sum()
            d_theta = -window * each
    back.encoder(codes, d_values * on)
    back.add("threshold", steps.column_sums(codes, d_theta - d_values * theta[at] * window))
    squared = error.square().sum()
    parts = {"mse": squared / rows, "sparsity": sparsity}
    if terms.pre_act_coefficient and terms.dead is not None and bool(terms.dead.any()):
        parts["pre_act"] = _pre_act(back, pre, norms, terms)
    fired, active = _fired(codes, values)
    return Loss(parts, back.finish(), squared, fired, active)


def _pre_act(back: _Backward, pre: torch.Tensor, norms: torch.Tensor, terms: Terms) -> torch.Tensor:
    assert terms.dead is not None and terms.pre_act_coefficient is not None
    dead = terms.dead.nonzero().flatten()
    each = terms.pre_act_coefficient / len(pre)
    below = back.weights["threshold"][dead] - pre[:, dead]
    short = (below > 0).to(pre.dtype)
    push = short * (-each * norms[dead])
    back.gradients["encoder"][dead] += push.T @ back.centred
    sums = torch.zeros_like(norms)
    sums[dead] = push.sum(0)
    back.pre_sums(sums, "b_enc")
    back.add("threshold", -sums)
    gaps = torch.zeros_like(norms)
    gaps[dead] = each * below.clamp_min(0).sum(0)
    back.norms(gaps, norms)
    return (gaps * norms).sum()


LOSSES: dict[str, Callable[[Weights, torch.Tensor, torch.Tensor, Terms], Loss]] = {
    "batchtopk": batch_topk,
    "gated": gated,
    "jumprelu": jumprelu,
    "matryoshka": batch_topk,
    "standard": standard,
    "topk": topk,
}
"""The loss of each architecture."""
