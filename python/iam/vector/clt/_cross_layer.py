"""Cross-layer transcoders: features of each layer write to that layer and to all later ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iam import ops
from iam.core.arrays import check_float, needs_torch, shape_of
from iam.core.errors import ArgumentError, DtypeError, FormatError, ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch, torch_if_loaded
from iam.core.sites import Site
from iam.vector.clt._config import CoderConfig
from iam.vector.clt._encoder import Encoder, Weight, _site, encoder_weights, take_weight

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CrossLayerTranscoder", "LayerEncoder"]

_BLOCK = 2**24
"""Numbers of decoder rows that are held at once: 64 MB."""


class LayerEncoder(Encoder):
    """The encoder of one layer of a :class:`CrossLayerTranscoder`: :meth:`encode` and its weights.

    A lazy ``W_enc`` is read in blocks of features at every call, and not kept; the features are the same.
    """

    _carries_statistics = False

    def __init__(self, cfg: CoderConfig, weights: dict[str, Any]) -> None:
        shapes = encoder_weights(cfg)
        self._lazy: Any = None
        if hasattr(weights["W_enc"], "rows"):
            self._lazy = _lazy(type(self).__name__, "W_enc", weights["W_enc"], shapes.pop("W_enc"))
            weights = {name: array for name, array in weights.items() if name != "W_enc"}
        super().__init__(cfg, weights, shapes)

    @property
    def W_enc(self) -> Any:
        """Encoder ``[d_in, d_sae]``: an array, or the lazy array that was given."""
        return self._weights["W_enc"] if self._lazy is None else self._lazy

    def _encode_rows(self, z: Weight) -> tuple[Any, Any, Any]:
        if self._lazy is None:
            return super()._encode_rows(z)
        parts = [(start, block._encode_rows(z)) for start, block in self._blocks()]
        return self._merge(parts, len(z))

    def _encode_torch(self, z: Any) -> tuple[Any, Any, Any]:
        if self._lazy is None:
            return super()._encode_torch(z)
        parts = [(start, block._encode_torch(z)) for start, block in self._blocks()]
        return self._merge(parts, int(z.shape[0]))

    def _blocks(self) -> Iterator[tuple[int, LayerEncoder]]:
        """Encoders of consecutive features, with the first feature of each; one is in memory at a time."""
        cfg = self._cfg
        group = cfg.d_sae // cfg.k if cfg.architecture == "groupmax" and cfg.k else 1
        step = max(1, _BLOCK // cfg.d_in // group) * group
        for start in range(0, cfg.d_sae, step):
            stop = min(start + step, cfg.d_sae)
            if hasattr(self._lazy, "T"):
                columns = self._lazy.T.rows(slice(start, stop)).T
            else:
                columns = self._lazy.rows(slice(None))[:, start:stop]
            size = stop - start
            k = None if cfg.k is None else size // group if cfg.architecture == "groupmax" else min(cfg.k, size)
            weights = {name: array[start:stop] for name, array in self._weights.items()} | {"W_enc": columns}
            yield start, LayerEncoder(replace(cfg, d_sae=size, k=k), weights)

    def _merge(self, parts: list[tuple[int, tuple[Any, Any, Any]]], rows: int) -> tuple[Any, Any, Any]:
        """Codes of all blocks as the codes of the layer."""
        first = parts[0][1][0]
        xp: Any = torch_if_loaded() if is_torch(first) else np
        join = xp.cat if is_torch(first) else np.concatenate
        if parts[0][1][2] is not None:
            ids = join([_rows_of(part[2], rows) for _, part in parts])
            order = xp.argsort(ids, stable=True) if is_torch(first) else np.argsort(ids, kind="stable")
            csr = [join([part[0] for _, part in parts]), join([part[1] + start for start, part in parts])]
            return csr[0][order], csr[1][order], sum((part[2] for _, part in parts[1:]), start=parts[0][1][2])
        values: Any = join([part[0] for _, part in parts], -1)
        indices: Any = join([part[1] + start for start, part in parts], -1)
        if self._cfg.architecture == "groupmax" or len(parts) == 1:
            return values, indices, None
        key = abs(values.detach() if is_torch(values) else values)  # topk has no negative values
        if is_torch(key):
            best = key.sort(dim=-1, descending=True, stable=True).indices[:, : self._cfg.k]
            return values.gather(-1, best), indices.gather(-1, best), None
        best = np.argsort(-key, axis=-1, kind="stable")[
            :, : self._cfg.k
        ]  # blocks ascend: ties stay with the lowest index
        return np.take_along_axis(values, best, -1), np.take_along_axis(indices, best, -1), None

    def __repr__(self) -> str:
        return f"LayerEncoder({self.cfg.architecture}, d_in={self.d_in}, d_sae={self.d_sae})"


def _rows_of(offsets: Any, rows: int) -> Any:
    """The row of every entry of CSR codes."""
    if is_torch(offsets):
        return torch_if_loaded().arange(rows, device=offsets.device).repeat_interleave(offsets.diff())
    return np.repeat(np.arange(rows), np.diff(offsets))


class CrossLayerTranscoder:
    """A cross-layer transcoder over L layers, exact: ``y_t = b_dec[t] + Σ_{i ≤ t} f_i · W_dec[i][:, t − i]``.

    Layer i is encoded on its own, ``f_i = activation(x_i·W_enc[i] + b_enc[i])``, and its features write to layers
    i..L-1. Encoders and decoders may be lazy arrays: objects with ``shape``, ``dtype`` and ``rows(index) -> array`` (and
    ``T`` for encoders, which are read by columns). Nothing of them is read when the coder is made, and nothing is kept:
    of decoders the rows of active features are read, of encoders blocks of features, some 64 MB at a time.

    Args:
        cfg: What every layer has in common: ``d_in``, ``d_out``, and ``d_sae`` features for each layer.
        W_enc: L arrays or lazy arrays ``[d_in, d_sae]``.
        b_enc: L arrays ``[d_sae]``.
        W_dec: L arrays or lazy arrays; of layer i ``[d_sae, L − i, d_out]``, slice j for layer i + j.
        b_dec: L arrays ``[d_out]``: of each layer that is written.
        threshold: L arrays ``[d_sae]``, for ``jumprelu`` only.
        W_skip: L arrays ``[d_out, d_in]``, or None: ``x_t·W_skip[t]ᵀ`` is added to ``y_t``.
        b_gate, b_mag, r_mag: L arrays ``[d_sae]``, for ``gated`` only, instead of ``b_enc``.

    Raises:
        ShapeError: not one array for each layer, or of another shape than cfg says.
        DtypeError, NonFiniteError: as :class:`iam.SAE`. A lazy decoder is checked as it is read.
        ArgumentError: a weight missing or superfluous; a convention that needs the decoder to encode.

    Source: Ameisen et al. 2025, transformer-circuits.pub/2025/attribution-graphs.

    >>> cfg = CoderConfig(architecture="standard", d_in=1, d_sae=1)
    >>> one = [np.ones((1, 1)), np.ones((1, 1))]
    >>> decoders = [np.array([[[1.0], [10.0]]]), np.array([[[100.0]]])]  # layer 0 writes to 0 and 1, layer 1 to 1
    >>> clt = CrossLayerTranscoder(cfg, W_enc=one, b_enc=[np.zeros(1)] * 2, W_dec=decoders, b_dec=[np.zeros(1)] * 2)
    >>> clt([np.array([[2.0]]), np.array([[3.0]])])
    [array([[2.]]), array([[320.]])]
    """

    def __init__(
        self,
        cfg: CoderConfig,
        *,
        W_enc: Sequence[Any],
        W_dec: Sequence[Any],
        b_dec: Sequence[Any],
        b_enc: Sequence[Any] | None = None,
        threshold: Sequence[Any] | None = None,
        W_skip: Sequence[Any] | None = None,
        b_gate: Sequence[Any] | None = None,
        b_mag: Sequence[Any] | None = None,
        r_mag: Sequence[Any] | None = None,
    ) -> None:
        what = type(self).__name__
        if not isinstance(cfg, CoderConfig):
            raise ArgumentError(f"{what}: expected cfg to be a CoderConfig, got {type(cfg).__name__}")
        for convention, given in (
            ("apply_b_dec_to_input", cfg.apply_b_dec_to_input),
            ("rescale_acts_by_decoder_norm", cfg.rescale_acts_by_decoder_norm),
            ("reshape_activations hook_z", cfg.reshape_activations == "hook_z"),
            ("architecture matching_pursuit", cfg.architecture == "matching_pursuit"),
            ("normalize_activations covariance_whitening", cfg.normalize_activations == "covariance_whitening"),
        ):
            if given:
                raise ArgumentError(f"{what}: a cross-layer transcoder has no {convention}, got a config with it")
        lists = {
            "W_enc": W_enc,
            "b_enc": b_enc,
            "threshold": threshold,
            "b_gate": b_gate,
            "b_mag": b_mag,
            "r_mag": r_mag,
        }
        count = len(W_dec)
        for name, each in {**lists, "W_dec": W_dec, "b_dec": b_dec, "W_skip": W_skip}.items():
            if each is not None and len(each) != count:
                raise ShapeError(f"{what}: expected {count} arrays in {name}, one for each of W_dec, got {len(each)}")
        if count == 0:
            raise ShapeError(f"{what}: expected at least one layer, got none")
        self._cfg = cfg
        names, names_out = (_names(cfg, key, count) for key in ("hook_names", "hook_names_out"))
        self._layers: list[LayerEncoder] = []
        for i in range(count):
            own = cfg if names is None else replace(cfg, metadata={**cfg.metadata, "hook_name": names[i]})
            self._layers.append(LayerEncoder(own, {n: None if a is None else a[i] for n, a in lists.items()}))
        self._W_dec = tuple(
            _decoder(what, i, array, (cfg.d_sae, count - i, cfg.d_out)) for i, array in enumerate(W_dec)
        )
        self._b_dec = tuple(take_weight(what, f"b_dec[{i}]", b, (cfg.d_out,)) for i, b in enumerate(b_dec))
        self._W_skip: tuple[Weight, ...] | None = None
        self._skip: tuple[Weight, ...] = ()
        if W_skip is not None:
            shape = (cfg.d_out, cfg.d_in)
            self._W_skip = tuple(take_weight(what, f"W_skip[{i}]", w, shape) for i, w in enumerate(W_skip))
            self._skip = tuple(np.ascontiguousarray(w.T) for w in self._W_skip)
        self._lists = {n: tuple(getattr(layer, n) for layer in self._layers) for n, a in lists.items() if a is not None}
        self._sites = tuple(_site(n) for n in names or [None] * count)
        self._sites_out = tuple(_site(n) for n in names_out or [None] * count)

    # Weights and sizes.

    @property
    def cfg(self) -> CoderConfig:
        return self._cfg

    @property
    def n_layers(self) -> int:
        """Layers that are read, which are also those that are written."""
        return len(self._layers)

    @property
    def layers(self) -> list[LayerEncoder]:
        """The encoder of each layer."""
        return list(self._layers)

    @property
    def W_enc(self) -> tuple[Any, ...]:
        """``[d_in, d_sae]`` of each layer: arrays, or the lazy arrays that were given."""
        return self._lists["W_enc"]

    @property
    def b_enc(self) -> tuple[Weight, ...] | None:
        """``[d_sae]`` of each layer; None for gated."""
        return self._lists.get("b_enc")

    @property
    def W_dec(self) -> tuple[Any, ...]:
        """``[d_sae, L − i, d_out]`` of each layer i: arrays, or the lazy arrays that were given."""
        return self._W_dec

    @property
    def b_dec(self) -> tuple[Weight, ...]:
        """``[d_out]`` of each layer that is written."""
        return self._b_dec

    @property
    def threshold(self) -> tuple[Weight, ...] | None:
        """``[d_sae]`` of each layer (jumprelu), or None."""
        return self._lists.get("threshold")

    @property
    def W_skip(self) -> tuple[Weight, ...] | None:
        """``[d_out, d_in]`` of each layer, or None."""
        return self._W_skip

    @property
    def d_in(self) -> int:
        """Width of the activations that are read at each layer."""
        return self._cfg.d_in

    @property
    def d_out(self) -> int:
        """Width of the activations that are written at each layer."""
        return self._cfg.d_out

    @property
    def d_sae(self) -> int:
        """Number of features of each layer."""
        return self._cfg.d_sae

    @property
    def sites(self) -> list[Site | None]:
        """Where each layer reads, from ``cfg.metadata["hook_names"]``."""
        return list(self._sites)

    @property
    def sites_out(self) -> list[Site | None]:
        """Where each layer writes, from ``cfg.metadata["hook_names_out"]``."""
        return list(self._sites_out)

    def parameters(self) -> dict[str, Any]:
        """The weights that are there: of layer i ``W_enc.i``, ``W_dec.i``..., decoders as they were given."""
        lists = {**self._lists, "W_dec": self._W_dec, "b_dec": self._b_dec}
        if self._W_skip is not None:
            lists["W_skip"] = self._W_skip
        return {f"{name}.{i}": array for name, each in lists.items() for i, array in enumerate(each)}

    @classmethod
    def load_from_disk(cls, path: str | Path) -> Self:
        """Read a cross-layer transcoder in any format that IAM reads; decoders stay in their files.

        Raises:
            FormatError: no format or several fit; the files are malformed; they hold another kind of coder.
        """
        from iam import formats

        coder = formats.load(path)
        if not isinstance(coder, cls):
            kind = type(coder).__name__
            raise FormatError(
                f"{path}: expected a {cls.__name__}, got a {kind}; read it with iam.{kind}.load_from_disk",
                code="architecture",
            )
        return coder

    def save_model(self, path: str | Path, *, dtype: str | None = None) -> Path:
        """Write a folder in IAM's own format (:mod:`iam.formats.native`); returns it. Others: :func:`iam.formats.save`.

        Args:
            path: The folder, made if missing.
            dtype: Storage of encoders and decoders; by default ``cfg.dtype``.

        Raises:
            FormatError: an unknown storage type, or a weight that it cannot hold.
            OSError: the folder cannot be written.
        """
        from iam.formats import native

        return native.write(self, path, dtype)

    def __repr__(self) -> str:
        cfg = self._cfg
        parts = [cfg.architecture, f"{self.n_layers} layers", f"d_in={cfg.d_in}", f"d_sae={cfg.d_sae}"]
        if cfg.d_out != cfg.d_in:
            parts.append(f"d_out={cfg.d_out}")
        if cfg.k is not None:
            parts.append(f"k={cfg.k}")
        if self._W_skip is not None:
            parts.append("skip")
        if any(hasattr(w, "rows") for w in (*self._W_dec, *self.W_enc)):
            parts.append("lazy")
        return f"{type(self).__name__}({', '.join(parts)})"

    # The work.

    def encode(self, xs: Iterable[Any]) -> list[SparseFeatures]:
        """Features of every layer.

        Args:
            xs: L activations ``[..., d_in]``, one for each layer, NumPy or torch, with the same leading dimensions.

        Returns:
            L features ``[..., d_sae]``.

        Raises:
            ShapeError: another number of activations, or of another shape. DtypeError, NonFiniteError: as
            :meth:`iam.SAE.encode`.
        """
        xs = self._take(xs, "encode", "activations")
        return [layer.encode(x) for layer, x in zip(self._layers, xs, strict=True)]

    def decode(self, features: Iterable[Any]) -> list[Any]:
        """What the features write at every layer, without a skip connection.

        Args:
            features: L features ``[..., d_sae]``, one for each layer, with the same leading dimensions.

        Returns:
            L arrays ``[..., d_out]`` in the container and float type of the features of their layer.

        Raises:
            ShapeError: another number of features, or of another shape.
            DtypeError: no SparseFeatures nor arrays of floats.
        """
        given = self._take(features, "decode", "features")
        fs = [self._as_features(f, i) for i, f in enumerate(given)]
        sums: list[Any] = [0.0] * self.n_layers
        for i, f in enumerate(fs):
            written = self._write(f, self._W_dec[i])
            for j in range(self.n_layers - i):
                sums[i + j] = sums[i + j] + written[:, j]
        out = []
        for f, total, bias in zip(fs, sums, self._b_dec, strict=True):
            values = f.components[0]
            if is_torch(total):
                y = (total + torch_if_loaded().from_numpy(bias).to(total.device)).to(values.dtype)
            else:
                y = (total + bias).astype(values.dtype, copy=False)
            out.append(y.reshape(*f.prefix, self.d_out))
        return out

    def __call__(self, xs: Iterable[Any]) -> list[Any]:
        """``decode(encode(xs))``, plus ``x_t·W_skip[t]ᵀ`` at each layer where there are skip connections."""
        xs = self._take(xs, "forward", "activations")
        ys = self.decode(self.encode(xs))
        if self._W_skip is None:
            return ys
        return [ops.residual(y, x, skip) for y, x, skip in zip(ys, xs, self._skip, strict=True)]

    forward = __call__

    def _take(self, items: Iterable[Any], method: str, noun: str) -> list[Any]:
        op = f"{type(self).__name__}.{method}"
        if hasattr(items, "__iam_trace__"):
            items.__iam_trace__.fail(f"{op}: expected {self.n_layers} {noun}, got one traced value", _UNTRACED)
        if isinstance(items, (np.ndarray, SparseFeatures)) or is_torch(items) or not isinstance(items, Iterable):
            raise DtypeError(f"{op}: expected a list of {self.n_layers} {noun}, one for each layer")
        items = list(items)
        for item in items:
            if hasattr(item, "__iam_trace__"):
                item.__iam_trace__.fail(f"{op} cannot be recorded", _UNTRACED)
        if len(items) != self.n_layers:
            raise ShapeError(f"{op}: expected {self.n_layers} {noun}, one for each layer, got {len(items)}")
        prefixes = [shape_of(item)[:-1] for item in items if hasattr(item, "shape")]
        if any(prefix != prefixes[0] for prefix in prefixes):
            raise ShapeError(f"{op}: expected {noun} of the same leading dimensions at every layer, got {prefixes}")
        if len({item.is_torch if isinstance(item, SparseFeatures) else is_torch(item) for item in items}) > 1:
            raise DtypeError(f"{op}: expected all {noun} from NumPy or all from torch, got a mixture")
        return items

    def _as_features(self, f: Any, layer: int) -> SparseFeatures:
        op = f"{type(self).__name__}.decode"
        if not isinstance(f, SparseFeatures):
            check_float(f, op=op, name=f"features of layer {layer}")
            f = SparseFeatures.from_dense(f)
        if f.n_features != self.d_sae:
            raise ShapeError(
                f"{op}: expected features of shape [..., {self.d_sae}] at layer {layer}, got {f.shape}", code="width"
            )
        return f

    def _write(self, f: SparseFeatures, W_dec: Any) -> Any:
        """What features of one layer write to each layer from it on: ``[rows, L − i, d_out]`` float32."""
        targets = int(W_dec.shape[1])
        width = targets * self.d_out
        if not hasattr(W_dec, "rows"):
            return _decode(f, W_dec.reshape(self.d_sae, width)).reshape(f.rows, targets, self.d_out)
        values, indices, offsets = f.components
        flat, active = (_host(a).reshape(-1) for a in (indices, values != 0))
        used = np.unique(flat[active])
        if offsets is None:
            rows = np.repeat(np.arange(f.rows), values.shape[1])
        else:
            rows = np.repeat(np.arange(f.rows), np.diff(_host(offsets)))
        total: Any = 0.0
        step = max(1, _BLOCK // width)
        for at in range(0, max(1, len(used)), step):
            block = used[at : at + step]
            keep = np.flatnonzero(active & np.isin(flat, block))
            table = np.asarray(W_dec.rows(block), dtype=np.float32).reshape(len(block), width)
            part = _only(f, keep, np.searchsorted(block, flat[keep]).astype(np.int32), rows[keep], max(1, len(block)))
            total = total + _decode(part, table if len(block) else np.zeros((1, width), np.float32))
        return total.reshape(f.rows, targets, self.d_out)


_UNTRACED = "Cross-layer coders run outside of compiled functions; their layers' encoders and iam.ops run inside."


def _host(array: Any) -> Any:
    return array.cpu().numpy() if is_torch(array) else array


def _only(f: SparseFeatures, keep: Any, indices: Any, rows: Any, n_features: int) -> SparseFeatures:
    """Slots ``keep`` of ``f`` as features of another dictionary; ``rows`` of the slots, ascending."""
    offsets = np.zeros(f.rows + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=f.rows), out=offsets[1:])
    values = f.components[0].reshape(-1)
    if is_torch(values):
        torch = torch_if_loaded()
        keep, indices, offsets = (torch.from_numpy(a).to(values.device) for a in (keep, indices, offsets))
    return SparseFeatures(values[keep], indices, offsets, n_features, [f.rows], validate=False)


def _decode(f: SparseFeatures, W: Weight) -> Any:
    """``f·W [rows, m]`` in float32, whatever the float type of the features."""
    values, indices, offsets = f.components
    values = values.float() if is_torch(values) else values.astype(np.float32, copy=False)
    table: Any = W
    if needs_torch(values):
        table = torch_if_loaded().from_numpy(np.ascontiguousarray(W)).to(values.device)
    return ops.decode(SparseFeatures(values, indices, offsets, f.n_features, [f.rows], validate=False), table)


def _decoder(what: str, layer: int, array: Any, shape: tuple[int, ...]) -> Any:
    name = f"W_dec[{layer}]"
    return _lazy(what, name, array, shape) if hasattr(array, "rows") else take_weight(what, name, array, shape)


def _lazy(what: str, name: str, array: Any, shape: tuple[int, ...]) -> Any:
    if shape_of(array) != shape:
        raise ShapeError(f"{what}: expected {name} of shape {shape}, got {shape_of(array)}")
    return array


def _names(cfg: CoderConfig, key: str, count: int) -> list[Any] | None:
    names = cfg.metadata.get(key)
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or len(names) != count:
        raise ArgumentError(f"CrossLayerTranscoder: expected {count} names in metadata {key}, got {names!r}")
    return list(names)
