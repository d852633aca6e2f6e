"""One pass over activations or text: how well a coder reconstructs, how sparse it is, what it costs the model."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iam.core.arrays import as_float32, check_float, check_width, shape_of
from iam.core.errors import ArgumentError, ShapeError
from iam.core.features import SparseFeatures
from iam.core.lazy import is_torch, require
from iam.evaluation._accumulate import Reconstruction, RowSums, Sparsity
from iam.evaluation._result import Evaluation
from iam.models._coders import counted

if TYPE_CHECKING:
    from iam.core.sites import Site

__all__ = ["evaluate", "weight_metrics"]

Rows = npt.NDArray[np.float32]


def evaluate(
    coder: Any,
    *,
    activations: Any = None,
    targets: Any = None,
    model: Any = None,
    tokens: Any = None,
    site: Site | str | Sequence[Site | str] | None = None,
    losses: bool = True,
    batch_size: int | None = None,
    max_batches: int | None = None,
    from_position: int = 0,
    exclude_special_tokens: bool | Sequence[int] = False,
    dense_threshold: float = 0.1,
) -> Evaluation:
    """Measure a coder on activations, or on text that a model reads.

    Args:
        coder: An SAE, a transcoder, a cross-layer transcoder or a crosscoder.
        activations: ``[..., d_in]``, or an iterable of such arrays, each a batch. NumPy or torch, any float type. Of a coder that
            reads S sites: S of them with the same leading dimensions (a list, or one array ``[S, ..., d_in]``), or an
            iterable of such lists.
        targets: For a transcoder: what it should give, ``[..., d_out]`` of the same leading dimensions, or an iterable of such; for
            a cross-layer transcoder L of them.
        model: An :class:`iam.LanguageModel`, in place of `activations`.
        tokens: What it reads: a text, texts (padded, padding does not count), token ids ``[position]`` or ``[batch, position]``, or an
            iterable of such batches.
        site: Where an SAE is measured, or the list of a crosscoder's sites; by default where it was trained.
        losses: Whether to measure cross-entropy and KL divergence too, which takes two more forward passes (of a crosscoder two more
            for each site, too).
        batch_size: Prompts of a forward pass (8), or rows of `activations` taken at a time (4,096).
        max_batches: Stop after so many.
        from_position: First position of each sequence that counts and that is replaced; 1 leaves the attention sink alone.
        exclude_special_tokens: Ids of tokens that are neither counted nor replaced; True: those of the model's tokenizer. With
            zero ablation all positions from `from_position` on are zero, as in SAELens.
        dense_threshold: Density above which a feature counts as dense.

    Returns:
        An :class:`Evaluation`. Computed in one pass, sparse, sums in float64. Of a coder that writes several sites, it takes these
        side by side as one activation, and its ``parts`` are the sites alone:

        * Cross-layer transcoder: what a layer's output is reconstructed from is this and all earlier layers' features, read from the
          model as it is; ``l0``, ``dead_features``... of a part are of the layer's own features. The losses are with all
          layers replaced in one forward pass, where each reads what the model has become by then.
        * Crosscoder: the features are those of all parts. Losses are by two passes (``LanguageModel.run_with_crosscoder``): all
          sites replaced, and in each part that site alone.

    Raises:
        ArgumentError: neither or both of `activations` and `model`, nothing to count, targets that are missing or superfluous.
        ShapeError: activations of another width (``width``) or number, targets that do not fit them.
        SiteError: no site, or not the one of the coder.
        NonFiniteError: NaN or infinity in activations.

    The formulas are those of SAELens 6.54.12 (``run_evals``); see :class:`Evaluation`.

    >>> import iam
    >>> cfg = iam.SAEConfig(architecture="standard", d_in=2, d_sae=3)
    >>> eye = np.eye(2, 3, dtype=np.float32)
    >>> sae = iam.SAE(cfg, W_enc=eye, b_enc=np.zeros(3), W_dec=eye.T, b_dec=np.zeros(2))
    >>> found = evaluate(sae, activations=np.array([[1.0, 0.0], [2.0, -1.0]]))
    >>> found.mse, found.l0, found.dead_features
    (0.5, 1.0, 2)
    """
    op = "iam.evaluate"
    _check_sizes(op, activations, model, batch_size, max_batches, from_position)
    view = _view(coder)
    if model is None:
        for name, given in (("tokens", tokens), ("site", site)):
            if given is not None:
                raise ArgumentError(f"{op}: {name} goes with a model")
        measured = _Measured(view, view.names(None), op)
        batches = view.batches(activations, targets, batch_size or 4096, op)
        for xs, ys in itertools.islice(batches, max_batches):
            measured.add(xs, ys, None)
        return measured.result(dense_threshold)
    if tokens is None or targets is not None:
        raise ArgumentError(f"{op}: a model needs tokens, and no targets")
    require("torch", extra="models", purpose=op)
    reads, writes = view.sites(model, site)
    excluded = model._excluded(exclude_special_tokens)
    measured = _Measured(view, view.names(writes), op)
    splices = view.splices(model, reads, writes, from_position, excluded) if losses else []
    lost = [_Losses() for _ in splices]
    sites = list(dict.fromkeys([*reads, *writes]))
    for ids, mask in itertools.islice(token_batches(model, tokens, batch_size or 8, op), max_batches):
        clean, found = _read(model, ids, mask, sites, logits=losses)
        keep = counted(ids, mask, from_position, excluded)
        if not bool(keep.any()):
            continue
        xs, ys = ([_kept(found[one], keep) for one in places] for places in (reads, writes))
        outs = measured.add(xs, ys, keep.nonzero()[:, 0].cpu().numpy())
        for sums, splice in zip(lost, splices, strict=True):
            sums.add(model, splice, ids, mask, clean, keep, from_position, outs)
    return measured.result(dense_threshold, lost)


def _check_sizes(op: str, activations: Any, model: Any, batch_size: Any, max_batches: Any, from_position: Any) -> None:
    if (activations is None) == (model is None):
        raise ArgumentError(
            f"{op}: expected activations, or a model and tokens, got {'both' if model is not None else 'neither'}"
        )
    for name, value, low in (
        ("batch_size", batch_size, 1),
        ("max_batches", max_batches, 1),
        ("from_position", from_position, 0),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            raise ArgumentError(f"{op}: expected {name} to be an integer >= {low}, got {value!r}")


def weight_metrics(coder: Any) -> dict[str, npt.NDArray[np.float64]]:
    """What the weights alone say about each feature, with SAELens's names.

    Returns:
        ``encoder_norm``, ``encoder_bias`` (not for gated coders) and ``encoder_decoder_cosine_sim`` (only where d_in is d_out),
        ``[d_sae]`` each.

    >>> import iam
    >>> cfg = iam.SAEConfig(architecture="standard", d_in=2, d_sae=1)
    >>> sae = iam.SAE(cfg, W_enc=np.array([[3.0], [4.0]]), b_enc=np.zeros(1), W_dec=np.array([[1.0, 0.0]]), b_dec=np.zeros(2))
    >>> {name: float(value[0]) for name, value in weight_metrics(sae).items()}
    {'encoder_norm': 5.0, 'encoder_decoder_cosine_sim': 0.6, 'encoder_bias': 0.0}
    """
    encoder = np.asarray(coder.W_enc)
    norm = np.sqrt(np.einsum("df,df->f", encoder, encoder, dtype=np.float64))
    found = {"encoder_norm": norm}
    decoder = np.asarray(coder.W_dec)
    if decoder.shape == encoder.shape[::-1]:
        lengths = norm * np.sqrt(np.einsum("fd,fd->f", decoder, decoder, dtype=np.float64))
        inner = np.einsum("df,fd->f", encoder, decoder, dtype=np.float64)
        found["encoder_decoder_cosine_sim"] = inner / np.where(lengths > 0, lengths, 1.0)
    bias = getattr(coder, "b_enc", None)
    if bias is not None:
        found["encoder_bias"] = np.asarray(bias, np.float64)
    return found


# -------------------------------------------------------------------------------------------------------- kinds of coders


@dataclass(frozen=True, slots=True)
class _Splice:
    """A way to put the coder into the model, and what zero ablation it is compared with."""

    enter: Callable[[Any, Any, Any], contextlib.AbstractContextManager[Any]]
    """Of what the coder writes (rows, site by site), the rows that count ``[batch, position]`` and the mask."""
    ablated: list[Site]


class _View:
    """A coder that reads one site and writes one, as lists of one: what :func:`evaluate` asks of every coder."""

    def __init__(self, coder: Any) -> None:
        self.coder = coder
        self.d_in, self.d_out = coder.d_in, getattr(coder, "d_out", coder.d_in)
        self.count = 1

    @property
    def needs_targets(self) -> bool:
        out = getattr(self.coder, "site_out", None)
        return bool(self.d_in != self.d_out or (out is not None and out != getattr(self.coder, "site", None)))

    def run(self, xs: list[Rows]) -> tuple[list[SparseFeatures], list[Rows]]:
        """Features (one for each layer that has its own) and what is written, site by site."""
        features = self.coder.encode(xs[0])
        return [features], [reconstruct(self.coder, features, xs[0])]

    def names(self, writes: list[Site] | None) -> list[str]:
        """What the parts are called; none where there is only one."""
        return []

    def sites(self, model: Any, given: Any) -> tuple[list[Site], list[Site]]:
        """Where the coder reads and writes in this model."""
        site, out = model._sites_of(self.coder, None if given is None else model.site(given), allow_other_site=False)
        return [site], [out]

    def splices(
        self, model: Any, reads: list[Site], writes: list[Site], from_position: int, excluded: list[int]
    ) -> list[_Splice]:
        """First that of the coder as a whole, then those of the parts, if they have any."""
        coders = self.attached(reads)

        def enter(outs: Any, keep: Any, mask: Any) -> contextlib.AbstractContextManager[Any]:
            return model.with_coders(coders, exclude_special_tokens=excluded, from_position=from_position)

        return [_Splice(enter, writes)]

    def attached(self, reads: list[Site]) -> Any:
        return {reads[0]: self.coder}

    def batches(self, activations: Any, targets: Any, size: int, op: str) -> Iterator[tuple[list[Rows], list[Rows]]]:
        """What the coder reads and what it should give, site by site."""
        for x, y in _pairs(self, activations, targets, size, op):
            yield [x], [y]


class _Several(_View):
    """A coder that reads and writes several sites."""

    def __init__(self, coder: Any, count: int) -> None:
        super().__init__(coder)
        self.count = count

    def names(self, writes: list[Site] | None) -> list[str]:
        return [f"{i}" for i in range(self.count)] if writes is None else [str(site) for site in writes]

    def batches(self, activations: Any, targets: Any, size: int, op: str) -> Iterator[tuple[list[Rows], list[Rows]]]:
        if targets is None and self.needs_targets:
            raise _no_targets(self.coder, op)
        if targets is not None and not self.needs_targets:
            raise ArgumentError(
                f"{op}: expected no targets for a {type(self.coder).__name__}, which gives what it reads"
            )
        sets = self._sets(activations, size), None if targets is None else self._sets(targets, size)
        for given in zip(*(one for one in sets if one is not None), strict=True):
            xs = self._rows(given[0], "activations", self.d_in, "d_in", op)
            ys = xs if len(given) == 1 else self._rows(given[1], "targets", self.d_out, "d_out", op)
            if len({len(a) for a in xs + ys}) != 1:
                raise ShapeError(
                    f"{op}: expected activations and targets of the same rows at every site, got {[len(a) for a in xs + ys]}"
                )
            for start in range(0, len(xs[0]), size):
                yield [a[start : start + size] for a in xs], [a[start : start + size] for a in ys]

    def _sets(self, given: Any, size: int) -> Iterable[Any]:
        """Sets of one array for each site: one, or as many as an iterable yields."""
        one = hasattr(given, "ndim") or (isinstance(given, (list, tuple)) and all(hasattr(a, "ndim") for a in given))
        return [given] if one else given

    def _rows(self, given: Any, name: str, width: int, width_name: str, op: str) -> list[Rows]:
        if not isinstance(given, (list, tuple)) and not hasattr(given, "ndim"):
            raise ArgumentError(f"{op}: expected {name} as {self.count} arrays, got {type(given).__name__}")
        if len(given) != self.count:
            raise ShapeError(
                f"{op}: expected {self.count} {name}, one for each site of the {type(self.coder).__name__}, got {len(given)}"
            )
        return [_flat(one, width, op, name, width_name) for one in given]


class _CrossLayer(_Several):
    def __init__(self, coder: Any) -> None:
        super().__init__(coder, coder.n_layers)

    @property
    def needs_targets(self) -> bool:
        return True

    def run(self, xs: list[Rows]) -> tuple[list[SparseFeatures], list[Rows]]:
        codes = self.coder.encode(xs)
        outs, skips = self.coder.decode(codes), self.coder.W_skip
        if skips is not None:
            outs = [out + x @ np.asarray(skip).T for out, x, skip in zip(outs, xs, skips, strict=True)]
        return codes, outs

    def sites(self, model: Any, given: Any) -> tuple[list[Site], list[Site]]:
        if given is not None:
            raise ArgumentError(
                "iam.evaluate: expected no site for a cross-layer transcoder, whose metadata name its sites"
            )
        reads, writes = zip(*model._sites_of_layers(self.coder, None), strict=True)
        return list(reads), list(writes)

    def attached(self, reads: list[Site]) -> Any:
        return self.coder


class _Cross(_Several):
    """A crosscoder."""

    def __init__(self, coder: Any) -> None:
        super().__init__(coder, coder.n_sites)

    @property
    def needs_targets(self) -> bool:
        return False

    def run(self, xs: list[Rows]) -> tuple[list[SparseFeatures], list[Rows]]:
        features = self.coder.encode(xs)
        return [features], self.coder.decode(features)

    def sites(self, model: Any, given: Any) -> tuple[list[Site], list[Site]]:
        places = model._sites_of_crosscoder(self.coder, given)
        return places, places

    def splices(
        self, model: Any, reads: list[Site], writes: list[Site], from_position: int, excluded: list[int]
    ) -> list[_Splice]:
        import torch

        def only(chosen: range) -> _Splice:
            def enter(outs: Any, keep: Any, mask: Any) -> contextlib.AbstractContextManager[Any]:
                values = {writes[i]: torch.as_tensor(outs[i]) for i in chosen}
                return model._placed(values, keep, mask, from_position)

            return _Splice(enter, [writes[i] for i in chosen])

        return [only(range(self.count)), *(only(range(i, i + 1)) for i in range(self.count))]


def _view(coder: Any) -> _View:
    if hasattr(coder, "layers"):
        return _CrossLayer(coder)
    return _Cross(coder) if hasattr(coder, "n_sites") else _View(coder)


# -------------------------------------------------------------------------------------------------------- activations


def _no_targets(coder: Any, op: str) -> ArgumentError:
    return ArgumentError(
        f"{op}: a {type(coder).__name__} reads one site and writes another: pass targets, what it should give"
    )


def _pairs(view: _View, activations: Any, targets: Any, size: int, op: str) -> Iterator[tuple[Rows, Rows]]:
    """Batches of rows: what the coder reads and what it should give."""

    def flat(x: Any, name: str, width: int, width_name: str) -> Rows:
        return _flat(x, width, op, name, width_name)

    if hasattr(activations, "ndim"):
        if targets is not None and not hasattr(targets, "ndim"):
            raise ArgumentError(f"{op}: expected targets as an array, as the activations, got {type(targets).__name__}")
        several = (
            (activations[i : i + size] for i in range(0, len(activations), size))
            if activations.ndim == 2
            else [activations]
        )
        wanted = None
        if targets is not None:
            if shape_of(targets)[:-1] != shape_of(activations)[:-1]:
                raise ShapeError(
                    f"{op}: expected targets of leading dimensions {shape_of(activations)[:-1]}, got {shape_of(targets)}"
                )
            wanted = (targets[i : i + size] for i in range(0, len(targets), size)) if targets.ndim == 2 else [targets]
        stream: Iterable[Any] = several if wanted is None else zip(several, wanted, strict=True)
    else:
        stream = activations if targets is None else zip(activations, targets, strict=True)
    if targets is None and view.needs_targets:
        raise _no_targets(view.coder, op)
    for item in stream:
        if targets is None:
            x = y = flat(item, "activations", view.d_in, "d_in")
        else:
            x, y = flat(item[0], "activations", view.d_in, "d_in"), flat(item[1], "targets", view.d_out, "d_out")
            if len(x) != len(y):
                raise ShapeError(f"{op}: expected targets of {len(x)} rows, got {len(y)}")
        yield x, y


def _flat(x: Any, width: int, op: str, name: str, width_name: str) -> Rows:
    check_float(x, op=op, name=name)
    check_width(x, op=op, name=name, width=width, width_name=width_name)
    x = x.detach().cpu() if is_torch(x) else x
    return as_float32(x.reshape(math.prod(shape_of(x)[:-1]), width))


# -------------------------------------------------------------------------------------------------------- sums


class _Measured:
    """Sums of one coder over batches: of all sites side by side, and of each."""

    def __init__(self, view: _View, names: list[str], op: str) -> None:
        self._view = view
        self._names = names
        self._op = op
        self._whole = Reconstruction()
        self._parts = [Reconstruction() for _ in names]
        self._sparsity: list[Sparsity] = []

    def add(self, xs: list[Rows], ys: list[Rows], prompt: npt.NDArray[np.int64] | None) -> list[Rows]:
        """One batch; gives what the coder writes, site by site."""
        if not len(xs[0]):
            return ys
        codes, outs = self._view.run(xs)
        if not self._sparsity:
            self._sparsity = [Sparsity(f.n_features) for f in codes]
        for sums, features in zip(self._sparsity, codes, strict=True):
            sums.add(features, prompt)
        found = [RowSums.of(y, out) for y, out in zip(ys, outs, strict=True)]
        self._whole.add(found[0] if len(found) == 1 else RowSums.side_by_side(found))
        for part, sums_of_rows in zip(self._parts, found, strict=bool(self._parts)):
            part.add(sums_of_rows)
        return outs

    def result(self, dense_threshold: float, losses: Sequence[_Losses] = ()) -> Evaluation:
        if not self._whole.rows:
            raise ArgumentError(f"{self._op}: expected at least one position to count, got none")
        name = repr(self._view.coder)
        lost = [one.result() for one in losses] or [{}]
        shared = len(self._sparsity) == 1
        parts = tuple(
            _evaluation(
                r, self._sparsity[0 if shared else i], dense_threshold, name, lost[i + 1] if len(lost) > 1 else {}, site
            )
            for i, (r, site) in enumerate(zip(self._parts, self._names, strict=True))
        )
        whole = self._sparsity[0] if shared else Sparsity.side_by_side(self._sparsity)
        return _evaluation(self._whole, whole, dense_threshold, name, lost[0], "", parts)


def _evaluation(
    r: Reconstruction,
    s: Sparsity,
    dense_threshold: float,
    coder: str,
    losses: dict[str, Any],
    site: str,
    parts: tuple[Evaluation, ...] = (),
) -> Evaluation:
    n, nan = r.rows, float("nan")
    explained = 1.0 - r.error / r.scatter if r.scatter > 0 else nan
    density = s.counts / s.rows
    consistent = None
    if s.has_prompts:
        consistent = np.divide(s.counts, s.prompts, out=np.full(s.n_features, nan), where=s.prompts > 0)
    return Evaluation(
        explained_variance=explained,
        explained_variance_legacy=r.legacy / n if math.isfinite(r.legacy) else nan,
        fvu=1.0 - explained,
        mse=r.error / n,
        cossim=r.cossim / n,
        l2_norm_in=r.norm_in / n,
        l2_norm_out=r.norm_out / n,
        l2_ratio=r.ratio / n,
        relative_reconstruction_bias=r.bias / r.batches,
        l0=s.active / s.rows,
        l1=s.total / s.rows,
        dead_features=int((s.counts == 0).sum()),
        dense_features=int((density > dense_threshold).sum()),
        total_tokens_eval_sparsity_variance=n,
        feature_density=density,
        consistent_activation_heuristic=consistent,
        dense_threshold=dense_threshold,
        coder=coder,
        site=site,
        parts=parts,
        **losses,
    )


def reconstruct(coder: Any, features: Any, x: Rows) -> Rows:
    """What ``coder(x)`` is, from the features that were already computed: the decoder's output and the skip term."""
    out = coder.decode(features)
    skip = getattr(coder, "W_skip", None)
    return out if skip is None else out + x @ np.asarray(skip).T


# ---------------------------------------------------------------------------------------------------------- with a model


def token_batches(model: Any, tokens: Any, size: int, op: str) -> Iterator[tuple[Any, Any]]:
    """Ids and masks ``[batch, position]`` of everything that `tokens` may be."""
    if isinstance(tokens, str):
        tokens = [tokens]
    if isinstance(tokens, (list, tuple)) and tokens:
        if all(isinstance(one, str) for one in tokens):
            for start in range(0, len(tokens), size):
                yield model._inputs(list(tokens[start : start + size]), None, "right")
            return
        if all(isinstance(one, int) for one in tokens):
            tokens = [list(tokens)]
        if all(isinstance(one, (list, tuple)) for one in tokens) and len({len(one) for one in tokens}) == 1:
            tokens = np.asarray(tokens)
    if hasattr(tokens, "ndim"):
        ids, mask = model._inputs(tokens, None, "right")
        for start in range(0, len(ids), size):
            yield ids[start : start + size], mask[start : start + size]
        return
    if not isinstance(tokens, Iterable):
        raise ArgumentError(f"{op}: expected tokens as text, token ids or batches of them, got {type(tokens).__name__}")
    for batch in tokens:
        yield model._inputs(batch, None, "right")


def _kept(activations: Any, keep: Any) -> Rows:
    return as_float32(activations[keep.to(activations.device)].cpu())


def _read(model: Any, ids: Any, mask: Any, sites: list[Site], *, logits: bool) -> tuple[Any, dict[Site, Any]]:
    """The model's logits, if wanted, and activations."""
    if logits:
        return model._read(ids, mask, "logits", False, sites)
    return None, model.capture(ids, sites, attention_mask=mask)


class Reading:
    """What a coder sees of a model: which positions count, and what stands there."""

    def __init__(
        self, model: Any, coder: Any, site: Any, from_position: int, exclude: bool | Sequence[int], op: str
    ) -> None:
        self.model = model
        self.coder = coder
        require("torch", extra="models", purpose=op)
        given = None if site is None else model.site(site)
        self.site, self.site_out = model._sites_of(coder, given, allow_other_site=False)
        self.from_position = from_position
        self.excluded = model._excluded(exclude)

    def counted(self, ids: Any, mask: Any) -> Any:
        """bool ``[batch, position]``."""
        return counted(ids, mask, self.from_position, self.excluded)

    def batch(self, ids: Any, mask: Any) -> tuple[Rows, Rows, npt.NDArray[np.int64]]:
        """Rows that the coder reads, rows that it should give, and the prompt of each row."""
        found = self.model.capture(ids, list(dict.fromkeys([self.site, self.site_out])), attention_mask=mask)
        keep = self.counted(ids, mask)
        x, y = (_kept(found[s], keep) for s in (self.site, self.site_out))
        return x, y, keep.nonzero()[:, 0].cpu().numpy()


class _Losses:
    """Sums of cross-entropy and KL divergence: the model as it is, with the coder, with zeros."""

    def __init__(self) -> None:
        self.ce = {"without_sae": 0.0, "with_sae": 0.0, "with_ablation": 0.0}
        self.kl = {"with_sae": 0.0, "with_ablation": 0.0}
        self.predictions = 0
        self.positions = 0

    def add(
        self,
        model: Any,
        splice: _Splice,
        ids: Any,
        mask: Any,
        clean: Any,
        keep: Any,
        from_position: int,
        outs: list[Rows],
    ) -> None:
        """One batch; `clean` are the logits of the model as it is, `outs` what the coder writes there."""
        import torch

        pairs = keep[:, :-1] & (mask[:, 1:] != 0)
        self.predictions += int(pairs.sum())
        self.positions += int(keep.sum())
        self._cross_entropy("without_sae", clean, ids, pairs)
        with splice.enter(outs, keep, mask):
            changed = model._forward(ids, mask, "logits", False)
        self._cross_entropy("with_sae", changed, ids, pairs)
        self._divergence("with_sae", clean, changed, keep)
        del changed
        with contextlib.ExitStack() as stack:
            for out in splice.ablated:
                stack.enter_context(model.attach(out, torch.zeros_like, from_position=from_position))
            changed = model._forward(ids, mask, "logits", False)
        self._cross_entropy("with_ablation", changed, ids, pairs)
        self._divergence("with_ablation", clean, changed, keep)

    def _cross_entropy(self, name: str, logits: Any, ids: Any, pairs: Any) -> None:
        import torch

        for row, wanted, chosen in zip(
            logits[:, :-1], ids[:, 1:], pairs, strict=True
        ):  # a sequence at a time: vocabularies are large
            loss = torch.nn.functional.cross_entropy(row[chosen].float(), wanted[chosen], reduction="none")
            self.ce[name] += float(loss.double().sum())

    def _divergence(self, name: str, clean: Any, changed: Any, keep: Any) -> None:
        import torch

        for before, after, chosen in zip(clean, changed, keep, strict=True):
            p = before[chosen].float().log_softmax(-1)
            q = after[chosen].float().log_softmax(-1)
            divergence = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
            self.kl[name] += float(divergence.double().sum())

    def result(self) -> dict[str, Any]:
        nan = float("nan")
        found: dict[str, Any] = {}
        for kind, sums, count in (("ce_loss", self.ce, self.predictions), ("kl_div", self.kl, self.positions)):
            for name, total in sums.items():
                found[f"{kind}_{name}"] = total / count if count else nan
        lost = found["ce_loss_with_ablation"] - found["ce_loss_without_sae"]
        found["ce_loss_score"] = (found["ce_loss_with_ablation"] - found["ce_loss_with_sae"]) / lost if lost else nan
        ablated = found["kl_div_with_ablation"]
        found["kl_div_score"] = (ablated - found["kl_div_with_sae"]) / ablated if ablated else nan
        found["total_tokens_eval_reconstruction"] = self.positions
        return found
