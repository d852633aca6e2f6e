"""A coder as ``torch.nn.Module``: parameters, autograd through the sparse kernels, opaque to ``torch.compile``.

Four products over the active entries ``(row, feature, value)`` make up every forward and backward step, and each is the gradient of
the others, so that gradients of any order stay sparse:

* ``gather``:   ``y[r] = Σ value · W[feature]``                       (decode; gradient of the input)
* ``scatter``:  ``G[feature] += value · X[r]``                        (gradient of a weight)
* ``sampled``:  ``v[entry] = A[r] · W[feature]``                      (gradient of the values)
* ``encode``:   the active entries of ``x``                            (top k, or above a threshold)

They are custom ops of torch (``torch.ops.iam``): float32 on the CPU runs in the kernels of ``iam._runtime`` where there is one,
everything else in torch on the tensors' device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from iam.core.errors import ArgumentError, ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import native
from iam.core.sites import Site
from iam.vector.clt import _torch

__all__ = ["CoderModule", "to_module"]

Tensor = torch.Tensor

_CHUNK = 8192
"""Entries whose rows are held at once in the gradient of values."""

_FUSED = ("jumprelu", "standard", "topk")
_WHITENING = ("whitening_mean", "whitening_matrix", "whitening_inverse")
_LAYER_NORM_EPSILON = 1e-5


def _in_kernel(*tensors: Tensor | None) -> bool:
    return all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in tensors)


def _numpy(t: Tensor | None) -> Any:
    return None if t is None else t.detach().contiguous().numpy()


def _op(name: str, schema: str) -> Any:
    return torch.library.custom_op(f"iam::{name}", mutates_args=(), schema=schema)


def _rows_of(offsets: Tensor) -> Tensor:
    """The row of every entry."""
    return torch.arange(offsets.shape[0] - 1, device=offsets.device).repeat_interleave(offsets.diff())


# ------------------------------------------------------------------------------------------------------------------- ops


@_op("gather", "(Tensor values, Tensor indices, Tensor offsets, Tensor W) -> Tensor")
def gather(values: Tensor, indices: Tensor, offsets: Tensor, W: Tensor) -> Tensor:
    """``[rows, d]``: for each row the sum of the rows of ``W [n, d]`` at its indices, times the values."""
    if _in_kernel(values, W):
        arrays = _numpy(values), _numpy(indices), _numpy(offsets), _numpy(W)
        return torch.from_numpy(native().decode(*arrays, None))
    if values.numel() == 0:
        return W.new_zeros(offsets.shape[0] - 1, W.shape[1])
    return torch.nn.functional.embedding_bag(
        indices.long(), W, offsets[:-1], mode="sum", per_sample_weights=values.to(W.dtype)
    )


@_op("scatter", "(Tensor values, Tensor indices, Tensor offsets, Tensor X, int n) -> Tensor")
def scatter(values: Tensor, indices: Tensor, offsets: Tensor, X: Tensor, n: int) -> Tensor:
    """``[n, d]``: at each feature the sum of the rows of ``X [rows, d]`` where it is active, times the values."""
    if _in_kernel(values, X):
        runtime, weights = native(), _numpy(values)
        group = runtime.train_group(weights, _numpy(indices), _numpy(offsets), n)
        out = np.zeros((n, X.shape[1]), np.float32)
        if len(group[0]):
            out[group[0]] = runtime.train_grad_rows((group, weights, _numpy(X)))
        return torch.from_numpy(out)
    places = torch.stack([indices.long(), _rows_of(offsets)])
    matrix = torch.sparse_coo_tensor(places, values.to(X.dtype), (n, X.shape[0]), check_invariants=False)
    return torch.sparse.mm(matrix, X)


@_op("sampled", "(Tensor indices, Tensor offsets, Tensor A, Tensor W) -> Tensor")
def sampled(indices: Tensor, offsets: Tensor, A: Tensor, W: Tensor) -> Tensor:
    """``[entries]``: the products ``A[row] · W[feature]``."""
    rows = _rows_of(offsets)
    parts = [(A[rows[i : i + _CHUNK]] * W[indices[i : i + _CHUNK].long()]).sum(-1) for i in range(0, len(rows), _CHUNK)]
    return torch.cat(parts) if parts else A.new_zeros(0)


@_op("encode_topk", "(Tensor x, Tensor W_enc, Tensor b_enc, Tensor? shift, int k) -> (Tensor, Tensor)")
def encode_topk(x: Tensor, W_enc: Tensor, b_enc: Tensor, shift: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Values (rectified) and indices ``[rows, k]`` of the k largest pre-activations of ``x [rows, d_in]``."""
    if _in_kernel(x, W_enc, b_enc, shift):
        found = native().encode_topk(_numpy(x), _numpy(W_enc), _numpy(b_enc), _numpy(shift), k)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    values, indices, _ = _torch.topk(_torch.encode(x, W_enc, b_enc, shift), k)
    return values, indices


@_op(
    "encode_threshold",
    "(Tensor x, Tensor W_enc, Tensor b_enc, Tensor? shift, Tensor? threshold) -> (Tensor, Tensor, Tensor)",
)
def encode_threshold(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, shift: Tensor | None, threshold: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and indices ``[entries]`` and offsets ``[rows + 1]`` of the pre-activations above the threshold and above 0."""
    if _in_kernel(x, W_enc, b_enc, shift, threshold):
        arrays = (_numpy(t) for t in (x, W_enc, b_enc, shift, threshold))
        values, indices, offsets = (torch.from_numpy(a) for a in native().encode_threshold(*arrays))
        return values, indices, offsets
    values, indices, offsets = _torch.threshold(_torch.encode(x, W_enc, b_enc, shift), threshold)  # type: ignore[assignment]
    return values, indices, offsets.clone()


_WEIGHTS = "Tensor x, Tensor W_enc, Tensor b_enc, Tensor? shift, Tensor? threshold, int? k, Tensor W_dec, Tensor b_dec"


@_op("reconstruct", f"({_WEIGHTS}) -> Tensor")
def reconstruct(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    shift: Tensor | None,
    threshold: Tensor | None,
    k: int | None,
    W_dec: Tensor,
    b_dec: Tensor,
) -> Tensor:
    """Encode and decode as one op, whose shapes do not depend on values: what a compiled graph calls."""
    return gather(*_entries(x, W_enc, b_enc, shift, threshold, k), W_dec) + b_dec


@_op("reconstruct_backward", f"(Tensor upstream, {_WEIGHTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)")
def reconstruct_backward(
    upstream: Tensor,
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    shift: Tensor | None,
    threshold: Tensor | None,
    k: int | None,
    W_dec: Tensor,
    b_dec: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``x, W_enc, b_enc, W_dec, b_dec``. The features are computed again: a graph cannot keep their number."""
    values, indices, offsets = _entries(x, W_enc, b_enc, shift, threshold, k)
    inner = sampled(indices, offsets, upstream, W_dec) * (values > 0)
    dx, dW_enc, db_enc = _encoder_gradients(inner, indices, offsets, x, W_enc, shift)
    db_dec = upstream.sum(0)
    if shift is not None:
        db_dec = db_dec - dx.sum(0)
    return dx, dW_enc, db_enc, scatter(values, indices, offsets, upstream, W_dec.shape[0]), db_dec


def _entries(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, shift: Tensor | None, threshold: Tensor | None, k: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    if k is None:
        return encode_threshold(x, W_enc, b_enc, shift, threshold)  # type: ignore[no-any-return]
    values, indices = encode_topk(x, W_enc, b_enc, shift, k)
    return values.reshape(-1), indices.reshape(-1), _k_offsets(x.shape[0], k, x.device)


def _k_offsets(rows: int, k: int, device: Any) -> Tensor:
    return torch.arange(rows + 1, device=device) * k


def _encoder_gradients(
    inner: Tensor, indices: Tensor, offsets: Tensor, x: Tensor, W_enc: Tensor, shift: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``W_enc`` and ``b_enc`` from those of the active pre-activations."""
    features = W_enc.shape[1]
    dx = gather(inner, indices, offsets, W_enc.t().contiguous())
    dW = scatter(inner, indices, offsets, x if shift is None else x - shift, features).t()
    db = inner.new_zeros(features).index_add(0, indices.long(), inner)
    return dx, dW, db


# What shapes they give, for tracing without data.


@gather.register_fake
def _(values: Tensor, indices: Tensor, offsets: Tensor, W: Tensor) -> Tensor:
    return W.new_empty(offsets.shape[0] - 1, W.shape[1])


@scatter.register_fake
def _(values: Tensor, indices: Tensor, offsets: Tensor, X: Tensor, n: int) -> Tensor:
    return X.new_empty(n, X.shape[1])


@sampled.register_fake
def _(indices: Tensor, offsets: Tensor, A: Tensor, W: Tensor) -> Tensor:
    return A.new_empty(indices.shape[0])


@encode_topk.register_fake
def _(x: Tensor, W_enc: Tensor, b_enc: Tensor, shift: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], k), x.new_empty(x.shape[0], k, dtype=torch.int32)


@encode_threshold.register_fake
def _(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, shift: Tensor | None, threshold: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    n = torch.library.get_ctx().new_dynamic_size()
    return x.new_empty(n), x.new_empty(n, dtype=torch.int32), x.new_empty(x.shape[0] + 1, dtype=torch.int64)


@reconstruct.register_fake
def _(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape[0], others[5].shape[1])


@reconstruct_backward.register_fake
def _(upstream: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, *others: Any) -> tuple[Tensor, ...]:
    W_dec, b_dec = others[3], others[4]
    dW_enc = W_enc.new_empty(W_enc.shape[1], W_enc.shape[0]).t()  # the strides of the transposed product
    return x.new_empty(x.shape), dW_enc, torch.empty_like(b_enc), torch.empty_like(W_dec), torch.empty_like(b_dec)


# Gradients: each product in terms of the others.


def _gather_saves(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _gather_backward(ctx: Any, upstream: Tensor) -> Any:
    values, indices, offsets, W = ctx.saved_tensors
    upstream = upstream.contiguous()
    wanted = ctx.needs_input_grad
    dv = sampled(indices, offsets, upstream, W) if wanted[0] else None
    dW = scatter(values, indices, offsets, upstream, W.shape[0]) if wanted[3] else None
    return dv, None, None, dW


def _scatter_saves(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])


def _scatter_backward(ctx: Any, upstream: Tensor) -> Any:
    values, indices, offsets, X = ctx.saved_tensors
    upstream = upstream.contiguous()
    wanted = ctx.needs_input_grad
    dv = sampled(indices, offsets, X, upstream) if wanted[0] else None
    dX = gather(values, indices, offsets, upstream) if wanted[3] else None
    return dv, None, None, dX, None


def _sampled_backward(ctx: Any, upstream: Tensor) -> Any:
    indices, offsets, A, W = ctx.saved_tensors
    upstream = upstream.contiguous()
    wanted = ctx.needs_input_grad
    dA = gather(upstream, indices, offsets, W) if wanted[2] else None
    dW = scatter(upstream, indices, offsets, A, W.shape[0]) if wanted[3] else None
    return None, None, dA, dW


def _topk_saves(ctx: Any, inputs: Any, output: Any) -> None:
    x, W_enc, _, shift, k = inputs
    values, indices = output
    offsets = _k_offsets(x.shape[0], k, x.device)
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(x, W_enc, shift, values.detach().reshape(-1) > 0, indices.reshape(-1), offsets)


def _threshold_saves(ctx: Any, inputs: Any, output: Any) -> None:
    x, W_enc, _, shift, _ = inputs
    values, indices, offsets = output
    ctx.mark_non_differentiable(indices, offsets)
    ctx.save_for_backward(x, W_enc, shift, values.detach() > 0, indices, offsets)


def _encode_backward(ctx: Any, upstream: Tensor, *_: Any) -> Any:
    x, W_enc, shift, active, indices, offsets = ctx.saved_tensors
    inner = upstream.reshape(-1) * active
    wanted = ctx.needs_input_grad
    if not any(wanted):
        return None, None, None, None, None
    dx = dW = dshift = None
    if wanted[0] or wanted[3]:
        dx = gather(inner, indices, offsets, W_enc.t().contiguous())
    if wanted[1]:
        dW = scatter(inner, indices, offsets, x if shift is None else x - shift, W_enc.shape[1]).t()
    if wanted[3] and dx is not None:
        dshift = -dx.sum(0)
    db = inner.new_zeros(W_enc.shape[1]).index_add(0, indices.long(), inner) if wanted[2] else None
    return dx, dW, db, dshift, None


def _reconstruct_saves(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.k = inputs[5]
    ctx.save_for_backward(*inputs[:5], *inputs[6:])


def _reconstruct_backward(ctx: Any, upstream: Tensor) -> Any:
    x, W_enc, b_enc, shift, threshold, W_dec, b_dec = ctx.saved_tensors
    dx, dW_enc, db_enc, dW_dec, db_dec = torch.ops.iam.reconstruct_backward(
        upstream.contiguous(), x, W_enc, b_enc, shift, threshold, ctx.k, W_dec, b_dec
    )
    return dx, dW_enc, db_enc, None, None, None, dW_dec, db_dec  # the shift is b_dec: its part is in db_dec


gather.register_autograd(_gather_backward, setup_context=_gather_saves)
scatter.register_autograd(_scatter_backward, setup_context=_scatter_saves)
sampled.register_autograd(_sampled_backward, setup_context=_gather_saves)
encode_topk.register_autograd(_encode_backward, setup_context=_topk_saves)
encode_threshold.register_autograd(_encode_backward, setup_context=_threshold_saves)
reconstruct.register_autograd(_reconstruct_backward, setup_context=_reconstruct_saves)


# ---------------------------------------------------------------------------------------------------------------- module


class CoderModule(torch.nn.Module):
    """A sparse coder whose weights are parameters, for your own losses, attribution and steering by gradients.

    Args:
        coder: An :class:`iam.SAE` or :class:`iam.Transcoder`; its weights are copied.
        dtype: Of the parameters; float32 by default.
        device: Of the parameters; the CPU by default.

    Parameters are named and oriented as in SAELens: ``W_enc [d_in, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_out]``,
    ``b_dec [d_out]``, ``threshold [d_sae]`` (JumpReLU), ``W_skip [d_out, d_in]``, ``b_gate, b_mag, r_mag [d_sae]`` (gated), so
    ``state_dict`` exchanges weights with SAELens.

    ``encode`` gives :class:`iam.SparseFeatures` of tensors, ``decode`` takes them or a dense tensor; both record gradients of
    inputs and weights. ReLU, TopK and JumpReLU in float32 on the CPU run in the kernels, forward, and touch only active features
    backward; other types, devices and architectures run in torch. ``threshold`` and ``b_gate``, which only choose features, get no
    gradient: the straight-through estimators that train them belong to a loss (:mod:`iam.training`). Gradients of gradients go through encoder and decoder alike.

    Inside ``torch.compile`` calling the module is one opaque op, also with ``fullgraph=True``; its backward encodes again.
    ``encode`` of ReLU and JumpReLU has as many entries as there are active features: in a compiled graph it needs
    ``torch._dynamo.config.capture_dynamic_output_shape_ops``.

    A normalisation of the input is part of the module: statistics of rows travel with the features and get gradients of their own;
    those of whitening are buffers. With ``rescale_acts_by_decoder_norm`` gradients flow through the norms.

    Raises:
        ArgumentError: a coder that reads several sites, or matching pursuit (``architecture``).

    >>> import iam
    >>> cfg = iam.SAEConfig(architecture="topk", d_in=2, d_sae=3, k=1)
    >>> eye = np.eye(2, 3, dtype=np.float32)
    >>> sae = CoderModule(iam.SAE(cfg, W_enc=eye, b_enc=np.zeros(3), W_dec=eye.T, b_dec=np.zeros(2)))
    >>> x = torch.tensor([[2.0, 5.0]])
    >>> (sae(x) - x).square().sum().backward()
    >>> sae.b_dec.grad
    tensor([-4.,  0.])
    """

    W_enc: torch.nn.Parameter
    b_enc: torch.nn.Parameter
    W_dec: torch.nn.Parameter
    b_dec: torch.nn.Parameter
    threshold: torch.nn.Parameter | None
    W_skip: torch.nn.Parameter | None
    b_gate: torch.nn.Parameter
    b_mag: torch.nn.Parameter
    r_mag: torch.nn.Parameter
    whitening_mean: Tensor
    whitening_matrix: Tensor
    whitening_inverse: Tensor

    def __init__(self, coder: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> None:
        super().__init__()
        what = "CoderModule"
        cfg = getattr(coder, "cfg", None)
        if cfg is None or getattr(coder, "n_layers", None) is not None:
            raise ArgumentError(
                f"{what}: expected a coder that reads one site (iam.SAE, iam.Transcoder), got {type(coder).__name__}"
            )
        if cfg.architecture == "matching_pursuit":
            raise ArgumentError(f"{what}: architecture matching_pursuit has no module", code="architecture")
        self.cfg = cfg
        self._undoes = bool(getattr(coder, "_carries_statistics", True))
        self._kind = type(coder)
        weights = _weights_of(coder)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip", "b_gate", "b_mag", "r_mag"):
            if name in weights:
                value = torch.tensor(weights[name]).to(dtype=dtype or torch.float32, device=device)
                self.register_parameter(name, torch.nn.Parameter(value.contiguous()))
            elif name in ("threshold", "W_skip"):
                self.register_parameter(name, None)
        for name in _WHITENING:
            if name in weights:
                value = torch.tensor(weights[name]).to(dtype=dtype or torch.float32, device=device)
                self.register_buffer(name, value)

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return int(self.cfg.d_in)

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return int(self.cfg.d_sae)

    @property
    def d_out(self) -> int:
        """Width of the activations that it writes."""
        return int(self.W_dec.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.W_dec.dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self.W_dec.device

    @property
    def site(self) -> Site | None:
        """Where it was trained to read; see :attr:`iam.SAE.site`."""
        return _site(self.cfg.metadata.get("hook_name"))

    @property
    def site_out(self) -> Site | None:
        """Where it writes."""
        name = self.cfg.metadata.get("hook_name_out")
        return self.site if name is None else _site(name)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"{self.cfg.architecture}, d_in={self.d_in}, d_sae={self.d_sae}, d_out={self.d_out}, {self.dtype}"

    def _shift(self) -> Tensor | None:
        return self.b_dec if self.cfg.apply_b_dec_to_input else None

    def _flat(self, x: Tensor, width: int, what: str) -> Tensor:
        if x.dim() < 1 or x.shape[-1] != width:
            raise ShapeError(f"CoderModule.{what}: expected [..., {width}], got {tuple(x.shape)}", code="width")
        return x.to(self.dtype).reshape(-1, width)

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """``x [rows, d_in]`` as the weights expect it, and what a reconstruction of each row is scaled and shifted by."""
        cfg = self.cfg
        kind = cfg.normalize_activations
        if kind == "none":
            return x, None, None
        if not torch.compiler.is_compiling():
            _torch.check_finite(x, op="CoderModule.encode", name="x")
        if kind == "expected_average_only_in":
            return x * cfg.norm_scale, None, None
        if kind == "covariance_whitening":
            return (x - self.whitening_mean) @ self.whitening_matrix, None, None
        shift = x.mean(-1, keepdim=True) if kind == "layer_norm" else None
        centred = x if shift is None else x - shift
        # vector_norm has gradient 0 where the row is 0, a square root would have none
        length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
        if kind == "layer_norm":
            scale = length / (cfg.d_in - 1) ** 0.5
            return centred / (scale + _LAYER_NORM_EPSILON), scale, shift
        scale = length / cfg.d_in**0.5
        return centred / (scale + (scale == 0)), scale, None

    def _undo(self, y: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """A reconstruction ``[rows, d_out]`` in the units of the activations."""
        kind = self.cfg.normalize_activations
        if not self._undoes or kind == "none":
            return y
        if kind == "expected_average_only_in":
            return y / self.cfg.norm_scale
        if kind == "covariance_whitening":
            return y @ self.whitening_inverse + self.whitening_mean
        y = y if scale is None else y * scale
        return y if shift is None else y + shift

    def _norms(self) -> Tensor | None:
        """What features are multiplied by and divided by again: norms of decoder rows, 1 where they are 0; None for nothing."""
        if not self.cfg.rescale_acts_by_decoder_norm:
            return None
        return torch.linalg.vector_norm(self.W_dec, dim=1)

    def _scaled(self) -> tuple[Tensor, Tensor, Tensor]:
        """``W_enc``, ``b_enc`` and ``W_dec`` as ops take them."""
        norms = self._norms()
        if norms is None:
            return self.W_enc, self.b_enc, self.W_dec
        return self.W_enc * norms, self.b_enc * norms, self.W_dec / (norms + (norms == 0))[:, None]

    def encode(self, x: Tensor) -> SparseFeatures:
        """Features ``[..., d_sae]`` of ``x [..., d_in]``; their values record gradients.

        Raises:
            ShapeError: another width (``width``).
            NonFiniteError: NaN or infinity in ``x``.
        """
        cfg = self.cfg
        flat, scale, shift = self._normalise(self._flat(x, self.d_in, "encode"))
        if cfg.architecture in _FUSED:
            W_enc, b_enc, _ = self._scaled()
            if cfg.k is not None:
                values, indices = encode_topk(flat, W_enc, b_enc, self._shift(), cfg.k)
                offsets = None
            else:
                values, indices, offsets = encode_threshold(flat, W_enc, b_enc, self._shift(), self.threshold)
        else:
            values, indices, offsets = self._encode_in_torch(flat)
        if not self._undoes:
            scale = shift = None
        prefix = tuple(x.shape[:-1])
        return SparseFeatures(
            values, indices, offsets, self.d_sae, prefix, validate=False, row_scale=scale, row_shift=shift
        )

    def _encode_in_torch(self, flat: Tensor) -> Any:
        cfg = self.cfg
        if cfg.architecture == "gated":
            pre = _torch.encode(flat, self.W_enc, torch.zeros_like(self.b_gate), self._shift())
            return _torch.gate(pre + self.b_gate, pre * self.r_mag.exp() + self.b_mag)
        W_enc, b_enc, _ = self._scaled()
        pre = _torch.encode(flat, W_enc, b_enc, self._shift())
        return (_torch.abstopk if cfg.architecture == "abstopk" else _torch.groupmax)(pre, cfg.k)

    def decode(self, f: SparseFeatures | Tensor) -> Tensor:
        """``f·W_dec + b_dec [..., d_out]``, without a skip term.

        Raises:
            ShapeError: not ``d_sae`` features (``width``).
            ArgumentError: the coder undoes a normalisation whose statistics the features do not carry, as dense ones cannot, or
                they carry those of another coder (``normalization``).
        """
        by_row = self._undoes and self.cfg.normalize_activations in ("constant_norm_rescale", "layer_norm")
        carried = not isinstance(f, Tensor) and f.row_scale is not None
        if by_row != carried:
            raise ArgumentError(
                f"CoderModule.decode: normalize_activations {self.cfg.normalize_activations} needs features with"
                f"{'' if by_row else 'out'} statistics of their rows, got some with{'' if carried else 'out'}",
                code="normalization",
            )
        W_dec = self._scaled()[2] if self.cfg.rescale_acts_by_decoder_norm else self.W_dec
        if isinstance(f, Tensor):
            y = self._flat(f, self.d_sae, "decode").matmul(W_dec).add(self.b_dec)
            return self._undo(y, None, None).reshape(*f.shape[:-1], self.d_out)
        if f.n_features != self.d_sae:
            raise ShapeError(
                f"CoderModule.decode: expected features of shape [..., {self.d_sae}], got {f.shape}", code="width"
            )
        values, indices, offsets = f.to_torch().components
        if offsets is None:
            offsets = _k_offsets(values.shape[0], values.shape[1], values.device)
        y = gather(values.to(self.dtype).reshape(-1), indices.reshape(-1), offsets, W_dec) + self.b_dec
        scale, shift = (None if n is None else n.reshape(-1, 1) for n in (f.row_scale, f.row_shift))
        return self._undo(y, scale, shift).reshape(*f.prefix, self.d_out)

    def forward(self, x: Tensor) -> Tensor:
        """``decode(encode(x))``, with ``x·W_skipᵀ`` where there is a skip; in the dtype of ``x``."""
        if torch.compiler.is_compiling() and self.cfg.architecture in _FUSED:
            flat, scale, shift = self._normalise(self._flat(x, self.d_in, "forward"))
            W_enc, b_enc, W_dec = self._scaled()
            y = reconstruct(flat, W_enc, b_enc, self._shift(), self.threshold, self.cfg.k, W_dec, self.b_dec)
            y = self._undo(y, scale, shift).reshape(*x.shape[:-1], self.d_out)
        else:
            y = self.decode(self.encode(x))
        if self.W_skip is not None:
            y = y + x.to(self.dtype) @ self.W_skip.t()
        return y.to(x.dtype)

    def to_coder(self) -> Any:
        """The coder with these weights, in float32: what saves, attaches and compiles."""
        named = [*self.named_parameters(), *self.named_buffers()]
        weights = {name: p.detach().float().cpu().numpy().copy() for name, p in named}
        return self._kind(self.cfg, **weights)


def _weights_of(coder: Any) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in coder.parameters().items() if value is not None}


def _site(name: Any) -> Site | None:
    from iam.core.errors import SiteError

    try:
        return Site.parse(name) if isinstance(name, str) else None
    except SiteError:
        return None


def to_module(coder: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> CoderModule:
    """``coder`` as :class:`CoderModule`; the body of ``coder.to_module()``."""
    return CoderModule(coder, dtype=dtype, device=device)
