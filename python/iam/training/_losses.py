"""Losses of the architectures and their gradients, written out; nothing here runs autograd.

One path serves all kinds of coders. A coder is a list of layers: layer i reads rows `x_i`, and what its codes decode to is added
to outputs `i, i + 1, ...`, side by side in its decoder rows. An SAE and a transcoder are one layer with one output; a crosscoder is an
SAE whose rows are those of several sites side by side; a cross-layer transcoder has as many outputs as layers. The loss of a layer,
here per architecture, is a generator: it yields what it decodes to and is sent the error of its outputs, to which other layers
may have added; :func:`loss_of` runs those of all layers in step.

Notation: `x [rows, d_in]` is read, `y [rows, d_out]` is predicted (`y = x` for an SAE), `h` pre-activations, `f` codes, `n` norms
of decoder rows (for a crosscoder the sum of the norms at its sites, Lindsey et al. 2024; for a cross-layer transcoder the norm of the
whole row, all outputs, Ameisen et al. 2025). Every loss starts with the mean over rows of the squared error, ``mean_r sum_d (x_hat - y)^2``, the scale on
which the coefficients of SAELens are meant. Weights by name: `encoder [d_sae, d_in]`, `decoder [d_sae, d_out]`, `b_enc`, `b_dec`,
`threshold`, `b_gate`, `b_mag`, `r_mag`, `W_skip [d_out, d_in]`. Each function is compared with autograd in float64 by
``tests/unit/test_training_losses.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

from iam.training import _steps as steps
from iam.training._steps import Codes, Gradient, Product

__all__ = ["ARCHITECTURES", "Loss", "Terms", "layer_weights", "loss_of"]

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Numbers that a loss needs besides weights and rows; those of the current step where a schedule changes them.

    `dead [features]` marks features that have not fired for long; None marks none. `sites` is the number of sites side by side in
    decoder rows, of each of which the norm counts in sparsity losses.
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
    sites: int = 1


@dataclass
class Loss:
    """What a step found.

    Attributes:
        parts: The loss by part (`mse`, `sparsity`, `aux`...); their sum is what the gradients are of.
        factored: Gradients by name of the weight, in the form that the optimiser takes.
        squared_error: Sum over the batch of (x_hat - y)^2 of the full reconstruction.
        fired: `[features]`, which features were active.
        active: Number of active codes in the batch.
        smallest: The smallest code that is > 0 of each layer, for BatchTopK's threshold; None if there is none, and for
            architectures that have no such threshold.
    """

    parts: dict[str, torch.Tensor]
    factored: dict[str, Gradient]
    squared_error: torch.Tensor
    fired: torch.Tensor
    active: int
    smallest: list[torch.Tensor | None]

    @property
    def gradients(self) -> Weights:
        """The gradients as arrays of the weights' shapes, for comparisons."""
        return {name: one.dense() if isinstance(one, Product) else one for name, one in self.factored.items()}


@dataclass
class _Found:
    """What the loss of one layer found; `parts` without the squared errors that it yielded for."""

    fired: torch.Tensor
    active: int
    parts: dict[str, torch.Tensor]
    smallest: torch.Tensor | None = None


_Pass: TypeAlias = Generator[tuple[str, torch.Tensor], torch.Tensor, _Found]
"""Yields the name of a squared error and what the codes of the layer decode to, ``[rows, width of its outputs]``; is sent the
error of these outputs, which other layers see too; gathers gradients on the way."""


@dataclass
class _Backward:
    """Gradients while they are gathered."""

    weights: Weights
    x: torch.Tensor
    centred: torch.Tensor
    subtract: bool
    sites: int = 1
    gradients: dict[str, Gradient] = field(default_factory=dict)
    _pre_sums: torch.Tensor | None = None

    def add(self, name: str, value: Gradient) -> None:
        self.gradients[name] = steps.add(self.gradients[name], value) if name in self.gradients else value

    def output(self, upstream: torch.Tensor) -> None:
        """Through what is added to the decoded codes at the first output: `b_dec` and the skip."""
        upstream = upstream[:, : len(self.weights["b_dec"])]
        self.add("b_dec", steps.row_sum(upstream))
        if "W_skip" in self.weights:
            self.add("W_skip", upstream.T @ self.x)

    def encoder(
        self, codes: Codes, d_pre: torch.Tensor, bias: str | None = "b_enc", basis: torch.Tensor | None = None
    ) -> None:
        """Through `h = (x - b_dec) @ encoder.T + bias` at the entries of `codes`; `basis` is x - b_dec where rows of codes
        are not those of the batch."""
        self.add("encoder", steps.product(codes, d_pre, self.centred if basis is None else basis))
        self.pre_sums(steps.column_sums(codes, d_pre), bias)

    def pre_sums(self, sums: torch.Tensor, bias: str | None) -> None:
        if bias is not None:
            self.add(bias, sums)
        self._pre_sums = sums.clone() if self._pre_sums is None else self._pre_sums + sums

    def decoder_norms(self) -> torch.Tensor:
        """`n [features]`: norms of decoder rows; of several sites side by side, the sum of their norms."""
        return self._by_site().norm(dim=2).sum(1)

    def norms(self, d_norm: torch.Tensor) -> None:
        """Through :meth:`decoder_norms`; zeros get none, as in torch."""
        rows = self._by_site()
        norms = rows.norm(dim=2)
        scale = torch.where(norms > 0, d_norm[:, None] / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
        self.add("decoder", (rows * scale[:, :, None]).flatten(1))

    def _by_site(self) -> torch.Tensor:
        decoder = self.weights["decoder"]
        return decoder.view(len(decoder), self.sites, -1)

    def finish(self) -> dict[str, Gradient]:
        if self.subtract and self._pre_sums is not None:
            self.add("b_dec", -(self._pre_sums @ self.weights["encoder"]))
        return {
            name: self.gradients[name] if name in self.gradients else torch.zeros_like(weight)
            for name, weight in self.weights.items()
        }


def layer_weights(weights: Weights, layer: int) -> Weights:
    """Those of a layer of a cross-layer transcoder, `layers.i.name`, by name."""
    prefix = f"layers.{layer}."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _start(weights: Weights, x: torch.Tensor, terms: Terms) -> _Backward:
    centred = x - weights["b_dec"] if terms.apply_b_dec_to_input else x
    return _Backward(weights, x, centred, terms.apply_b_dec_to_input, terms.sites)


def _affine(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    if "W_skip" in weights:
        return torch.addmm(weights["b_dec"], x, weights["W_skip"].T)
    return weights["b_dec"]


def loss_of(
    architecture: str, weights: Weights, xs: Sequence[torch.Tensor], ys: Sequence[torch.Tensor], terms: Terms
) -> Loss:
    """The loss of a coder of L layers and its gradients.

    ``y_hat_t = b_dec_t + W_skip_t x_t + sum_{i <= t} f_i decoder_i[:, t - i]``, ``mse = mean_r sum_t sum_d (y_hat_t - y_t)^2``. Sparsity
    losses and AuxK are those of the layers, added up.

    Args:
        architecture: A key of :data:`ARCHITECTURES`.
        weights: By name; with several layers ``layers.i.name``, and the decoder of layer i is `[features, width of outputs i .. L - 1]`.
        xs: L rows `[rows, d_in]`.
        ys: L rows `[rows, d_out]` to predict.
        terms: Of every layer, `dead` of all layers, one after the other.
    """
    rows, many = len(xs[0]), len(xs) > 1
    layers = [layer_weights(weights, layer) for layer in range(len(xs))] if many else [weights]
    backs = [_start(one, x, terms) for one, x in zip(layers, xs, strict=True)]
    dead = [None] * len(xs) if terms.dead is None else terms.dead.split([len(one["encoder"]) for one in layers])
    passes = [
        ARCHITECTURES[architecture](back, replace(terms, dead=one)) for back, one in zip(backs, dead, strict=True)
    ]
    affine = [_affine(one, x) for one, x in zip(layers, xs, strict=True)]
    starts = [sum(y.shape[1] for y in ys[:layer]) for layer in range(len(ys))]
    parts: dict[str, torch.Tensor] = {}
    found: list[_Found] = []
    said = [next(one) for one in passes]
    while said:
        name, decoded = said[0]  # layer 0 writes to all outputs
        error = decoded
        for start, (_, decoded) in zip(starts[1:], said[1:], strict=True):
            error[:, start:] += decoded
        for start, constant, y in zip(starts, affine, ys, strict=True):
            error[:, start : start + y.shape[1]].add_(constant).sub_(y)
        parts[name] = steps.squares(error) / rows
        said = []
        for one, start in zip(passes, starts, strict=True):
            try:
                said.append(one.send(error[:, start:] if start else error))
            except StopIteration as stop:
                found.append(stop.value)
    for each in found:
        for name, value in each.parts.items():
            parts[name] = parts[name] + value if name in parts else value
    return Loss(
        parts,
        {
            f"layers.{layer}.{name}" if many else name: gradient
            for layer, back in enumerate(backs)
            for name, gradient in back.finish().items()
        },
        parts["mse"] * rows,
        torch.cat([one.fired for one in found]),
        sum(one.active for one in found),
        [one.smallest for one in found],
    )


def topk(back: _Backward, terms: Terms) -> _Pass:
    """TopK (Gao et al. 2024, arXiv:2406.04093): ``f`` keeps the k largest of ``h``, rectified. Plus AuxK."""
    return _topk_family(back, terms, whole_batch=False)


def batch_topk(back: _Backward, terms: Terms) -> _Pass:
    """BatchTopK (Bussmann et al. 2024, arXiv:2412.06410): the ``k * rows`` largest codes of the batch, of each layer. Plus AuxK.

    With ``terms.widths`` w_1 < ... < w_m = d_sae, Matryoshka (Bussmann et al. 2025, arXiv:2503.17547): the squared error of each
    prefix ``f[:w_j] @ decoder[:w_j] + b_dec`` is added, unweighted; one layer only.
    """
    return _topk_family(back, terms, whole_batch=True)


def _topk_family(back: _Backward, terms: Terms, *, whole_batch: bool) -> _Pass:
    weights, rows = back.weights, len(back.x)
    decoder, encoder, b_enc = weights["decoder"], weights["encoder"], weights["b_enc"]
    # With rescaling, features are chosen by h n and decoded as h n / n: the norm cancels in value and in gradient.
    norms = decoder.norm(dim=1) if terms.rescale else None
    if whole_batch:
        codes, values = steps.encode_batch_topk(back.centred, encoder, b_enc, terms.k * rows, norms)
    else:
        codes, values = steps.encode_topk(back.centred, encoder, b_enc, terms.k, norms)
    fired, active = steps.fired(codes, values)
    smallest = None
    if whole_batch and active:
        # the threshold is compared with what chose the feature
        smallest = (values if norms is None else values * norms[codes.indices])[values > 0].min()

    levels = max(1, len(terms.widths))
    if levels > 1:
        codes, order = codes.nested(terms.widths)
        values = values[order]
    # The prefix of level j is what levels 0 .. j decode to.
    decoded = steps.decode(codes, values, decoder).view(levels, rows, -1)
    error = yield "mse" if levels == 1 else "prefixes", decoded[0]
    errors = error[None] if levels == 1 else torch.cat([error[None], decoded[1:]]).cumsum(0)
    parts = {}
    if levels > 1:
        squared = [steps.squares(one) / rows for one in errors[1:]]
        parts = {"mse": squared[-1], "prefixes": sum(squared[:-1], torch.zeros_like(squared[-1]))}
    # A feature of level j is part of the prefixes j, j + 1, ...: the errors of these add up on its way back.
    upstream = (errors if levels == 1 else errors.flip(0).cumsum(0).flip(0)) * (2 / rows)
    back.output(upstream[0])
    upstream = upstream.flatten(0, 1)
    basis = back.centred if levels == 1 else back.centred.repeat(levels, 1)
    d_pre = steps.sampled(codes, upstream, decoder) * (values > 0)
    back.pre_sums(steps.column_sums(codes, d_pre), "b_enc")
    if terms.aux_coefficient and terms.dead is not None and bool(terms.dead.any()):
        parts["aux"], dead, d_decoder, d_encoder = _aux(back, errors[-1], terms, norms)
        # A gradient row of a dead feature is one more row of the product, with the value 1 at that feature.
        codes, ones = steps.stacked(codes, steps.one_each(dead, codes.width)), values.new_ones(len(dead))
        values, upstream = torch.cat([values, ones]), torch.cat([upstream, d_decoder])
        d_pre, basis = torch.cat([d_pre, ones]), torch.cat([basis, d_encoder])
    back.add("decoder", steps.product(codes, values, upstream))
    back.add("encoder", steps.product(codes, d_pre, basis))
    return _Found(fired, active, parts, smallest)


def _aux(
    back: _Backward, error: torch.Tensor, terms: Terms, norms: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """AuxK: the ``k_aux`` largest pre-activations of dead features, not rectified, explain the error that is left.

    ``e = y - x_hat`` is a constant; ``k_aux = min(d // 2, dead)``; ``loss = c min(dead / (d // 2), 1) mean_r sum_d (e_hat - e)^2``
    with ``e_hat = aux @ decoder``, no bias. `d` is the width of the rows that are predicted.

    Returns:
        The loss, the dead features, and the gradients of their rows of decoder and encoder. Those of biases are added to `back`.
    """
    assert terms.dead is not None
    weights, dead = back.weights, terms.dead.nonzero().flatten()
    rows, half = len(error), max(1, error.shape[1] // 2)
    scale = terms.aux_coefficient * min(len(dead) / half, 1.0)
    decoder, encoder = weights["decoder"][dead], weights["encoder"].T[:, dead].T
    norms = None if norms is None else norms[dead]
    k = min(half, len(dead))
    codes, values = steps.encode_largest(back.centred, encoder, weights["b_enc"][dead], k, norms)
    missing = steps.decode(codes, values, decoder).add_(error)  # e_hat - e, and e = -error
    upstream = missing * (2 * scale / rows)
    d_pre = steps.sampled(codes, upstream, decoder)
    sums = torch.zeros_like(weights["b_enc"])
    sums[dead] = steps.column_sums(codes, d_pre)
    back.pre_sums(sums, "b_enc")
    d_decoder = steps.transposed(codes, values, upstream)
    return steps.squares(missing) * (scale / rows), dead, d_decoder, steps.transposed(codes, d_pre, back.centred)


def standard(back: _Backward, terms: Terms) -> _Pass:
    """ReLU with ``lambda mean_r sum_i f_i n_i`` (Anthropic 2024, "April update")."""
    weights, rows = back.weights, len(back.x)
    decoder, norms = weights["decoder"], back.decoder_norms()
    codes, values = steps.encode_above(back.centred, weights["encoder"], weights["b_enc"])
    error = yield "mse", steps.decode(codes, values, decoder)
    upstream = error * (2 / rows)
    each = terms.coefficient / rows
    back.output(upstream)
    back.add("decoder", steps.product(codes, values, upstream))
    back.encoder(codes, steps.sampled(codes, upstream, decoder) + each * norms[codes.indices])
    sums = steps.column_sums(codes, values)
    back.norms(each * sums)
    return _Found(*steps.fired(codes, values), {"sparsity": each * (sums * norms).sum()})


def gated(back: _Backward, terms: Terms) -> _Pass:
    """Gated (Rajamanoharan et al. 2024, arXiv:2404.16014), the decoder not detached in the auxiliary reconstruction.

    ``q = (x - b_dec) @ encoder.T``, gate ``pi = q + b_gate``, magnitude ``relu(q exp(r_mag) + b_mag)``, ``f = [pi > 0] magnitude``;
    ``loss = mse + lambda mean_r sum relu(pi) n + mse of relu(pi) @ decoder + b_dec``.
    """
    weights, rows = back.weights, len(back.x)
    decoder, norms, stretch = weights["decoder"], back.decoder_norms(), weights["r_mag"].exp()
    codes, gate = steps.encode_above(back.centred, weights["encoder"], weights["b_gate"])
    at = codes.indices
    q = gate - weights["b_gate"][at]
    raw = q * stretch[at] + weights["b_mag"][at]
    values = raw.relu()
    error = yield "mse", steps.decode(codes, values, decoder)
    aux_error = yield "aux", steps.decode(codes, gate, decoder)
    upstream, aux_upstream = error * (2 / rows), aux_error * (2 / rows)
    each = terms.coefficient / rows
    back.output(upstream + aux_upstream)
    back.add("decoder", steps.product(codes, values, upstream))
    back.add("decoder", steps.product(codes, gate, aux_upstream))
    d_raw = steps.sampled(codes, upstream, decoder) * (raw > 0)
    d_gate = steps.sampled(codes, aux_upstream, decoder) + each * norms[at]
    back.add("b_mag", steps.column_sums(codes, d_raw))
    back.add("r_mag", steps.column_sums(codes, d_raw * q * stretch[at]))
    back.add("b_gate", steps.column_sums(codes, d_gate))
    back.encoder(codes, d_raw * stretch[at] + d_gate, bias=None)
    sums = steps.column_sums(codes, gate)
    back.norms(each * sums)
    return _Found(*steps.fired(codes, values), {"sparsity": each * (sums * norms).sum()})


def jumprelu(back: _Backward, terms: Terms) -> _Pass:
    """JumpReLU ``f = h [h > theta]`` with straight-through thresholds (Rajamanoharan et al. 2024, arXiv:2407.14435).

    With the window ``w = [|h - theta| < eps / 2] / eps`` the pseudo-derivatives are ``df/dtheta = -theta w`` and
    ``d[h > theta]/dtheta = -w``. Sparsity, by mode: ``step`` ``lambda mean_r L0``; ``quadratic`` (Gemma Scope 2)
    ``lambda mean_r (2 / L0*) (L0 - L0*)^2``; ``tanh`` (Anthropic 2025) ``lambda mean_r sum tanh(c f n)``. Optional:
    ``c mean_r sum_dead relu(theta - h) n``.
    """
    weights, rows = back.weights, len(back.x)
    decoder, norms, theta = weights["decoder"], back.decoder_norms(), weights["threshold"]
    # the active ones, and those of the window below
    codes, h = steps.encode_window(back.centred, weights["encoder"], weights["b_enc"], theta, terms.bandwidth)
    at = codes.indices
    on = h > theta[at]
    window = ((h - theta[at]).abs() < terms.bandwidth / 2).to(h.dtype) / terms.bandwidth
    values = torch.where(on, h, torch.zeros_like(h))
    error = yield "mse", steps.decode(codes, values, decoder)
    upstream = error * (2 / rows)
    back.output(upstream)
    back.add("decoder", steps.product(codes, values, upstream))
    d_values = steps.sampled(codes, upstream, decoder)
    each = terms.coefficient / rows
    d_theta = torch.zeros_like(h)
    if terms.mode == "tanh":
        bent = torch.tanh(terms.tanh_scale * values * norms[at])
        slope = each * terms.tanh_scale * (1 - bent.square())
        d_values = d_values + slope * norms[at]
        back.norms(steps.column_sums(codes, slope * values))
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
    parts = {"sparsity": sparsity}
    if terms.pre_act_coefficient and terms.dead is not None and bool(terms.dead.any()):
        parts["pre_act"] = _pre_act(back, norms, terms)
    return _Found(*steps.fired(codes, values), parts)


def _pre_act(back: _Backward, norms: torch.Tensor, terms: Terms) -> torch.Tensor:
    assert terms.dead is not None and terms.pre_act_coefficient is not None
    weights, dead = back.weights, terms.dead.nonzero().flatten()
    each = terms.pre_act_coefficient / len(back.centred)
    pre = steps.encode(back.centred, weights["encoder"][dead], weights["b_enc"][dead])
    below = weights["threshold"][dead] - pre
    local = steps.above(below > 0)
    codes = Codes(dead[local.indices], local.offsets, len(norms))
    push = -each * norms[codes.indices]
    back.encoder(codes, push)
    back.add("threshold", -steps.column_sums(codes, push))
    gaps = each * steps.column_sums(codes, local.at(below))
    back.norms(gaps)
    return (gaps * norms).sum()


ARCHITECTURES: dict[str, Callable[[_Backward, Terms], _Pass]] = {
    "batchtopk": batch_topk,
    "gated": gated,
    "jumprelu": jumprelu,
    "matryoshka": batch_topk,
    "standard": standard,
    "topk": topk,
}
"""The loss of a layer, for each architecture."""
