"""One pass over activations or text: how well a coder reconstructs, how sparse it is, what it costs the model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iam.core.arrays import as_float32, check_float, check_width, shape_of
from iam.core.errors import ArgumentError, ShapeError
from iam.core.lazy import is_torch, require
from iam.evaluation._accumulate import Reconstruction, Sparsity
from iam.evaluation._result import Evaluation

if TYPE_CHECKING:
    from iam.core.sites import Site

__all__ = ["evaluate", "evaluate_layers", "weight_metrics"]

Rows = npt.NDArray[np.float32]


def evaluate(
    coder: Any,
    *,
    activations: Any = None,
    targets: Any = None,
    model: Any = None,
    tokens: Any = None,
    site: Site | str | None = None,
    losses: bool = True,
    batch_size: int | None = None,
    max_batches: int | None = None,
    from_position: int = 0,
    exclude_special_tokens: bool | Sequence[int] = False,
    dense_threshold: float = 0.1,
) -> Evaluation:
    """Measure a coder on activations, or on text that a model reads.

    Args:
        coder: An SAE or transcoder.
        activations: ``[..., d_in]``, or an iterable of such arrays, each a batch. NumPy or torch, any float type.
        targets: For a transcoder: what it should give, ``[..., d_out]`` of the same leading dimensions, or an iterable of such.
        model: An :class:`iam.LanguageModel`, in place of `activations`.
        tokens: What it reads: a text, texts (padded, padding does not count), token ids ``[position]`` or ``[batch, position]``, or an
            iterable of such batches.
        site: Where an SAE is measured; by default where it was trained.
        losses: Whether to measure cross-entropy and KL divergence too, which takes two more forward passes.
        batch_size: Prompts of a forward pass (8), or rows of `activations` taken at a time (4,096).
        max_batches: Stop after so many.
        from_position: First position of each sequence that counts and that is replaced; 1 leaves the attention sink alone.
        exclude_special_tokens: Ids of tokens that are neither counted nor replaced; True: those of the model's tokenizer. With
            zero ablation all positions from `from_position` on are zero, as in SAELens.
        dense_threshold: Density above which a feature counts as dense.

    Returns:
        An :class:`Evaluation`. Computed in one pass, sparse, sums in float64.

    Raises:
        ArgumentError: neither or both of `activations` and `model`, nothing to count, a coder that reads several sites.
        ShapeError: activations of another width (``width``), targets that do not fit them.
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
    if hasattr(coder, "n_layers") or hasattr(coder, "n_sites"):
        raise ArgumentError(
            f"{op}: expected a coder that reads one site, got a {type(coder).__name__}, which reads several; for a "
            "cross-layer transcoder use iam.evaluation.evaluate_layers"
        )
    _check_sizes(op, activations, model, batch_size, max_batches, from_position)
    measured = _Measured(repr(coder), coder.d_sae, op)
    if model is None:
        for name, given in (("tokens", tokens), ("site", site)):
            if given is not None:
                raise ArgumentError(f"{op}: {name} goes with a model")
        pairs = _pairs(coder, activations, targets, batch_size or 4096, op)
        for number, (x, y) in enumerate(pairs):
            if number == max_batches:
                break
            _add(measured, coder, x, y, None)
        return measured.result(dense_threshold, None)
    if tokens is None or targets is not None:
        raise ArgumentError(f"{op}: a model needs tokens, and no targets")
    lost = _Losses() if losses else None
    batches = token_batches(model, tokens, batch_size or 8, op)
    reading = Reading(model, coder, site, from_position, exclude_special_tokens, op)
    for number, (ids, mask) in enumerate(batches):
        if number == max_batches:
            break
        x, y, prompt, logits = reading.batch(ids, mask, logits=losses)
        if len(x):
            _add(measured, coder, x, y, prompt)
        if lost is not None:
            keep = reading.counted(ids, mask)
            coders = {reading.site: coder}
            lost.add(model, coders, [reading.site_out], ids, mask, logits, keep, from_position, reading.excluded)
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


def evaluate_layers(
    coder: Any,
    *,
    activations: Sequence[Any] | None = None,
    targets: Sequence[Any] | None = None,
    model: Any = None,
    tokens: Any = None,
    losses: bool = True,
    batch_size: int | None = None,
    max_batches: int | None = None,
    from_position: int = 0,
    exclude_special_tokens: bool | Sequence[int] = False,
    dense_threshold: float = 0.1,
) -> list[Evaluation]:
    """Measure a cross-layer transcoder: one :class:`Evaluation` for each layer that it writes.

    Args:
        coder: An :class:`iam.CrossLayerTranscoder`.
        activations: What it reads: L arrays ``[..., d_in]`` of the same leading dimensions.
        targets: What it should write: L arrays ``[..., d_out]``.
        model: An :class:`iam.LanguageModel`, in place of these; the coder's metadata name its sites.
        tokens: As in :func:`evaluate`.
        losses: Cross-entropy and KL divergence with all layers replaced at once, and with zeros at all of them. They are the
            same in every layer's result.
        batch_size, max_batches, from_position, exclude_special_tokens, dense_threshold: As in :func:`evaluate`.

    Returns:
        Layer by layer: how well its output is reconstructed from this and all earlier layers' features (of activations of the
        unchanged model), and how its own features are active.

    Raises:
        ArgumentError: another kind of coder; neither or both of `activations` and `model`; nothing to count.
        ShapeError, SiteError, NonFiniteError: as :func:`evaluate`.
    """
    op = "iam.evaluation.evaluate_layers"
    if not hasattr(coder, "layers"):
        raise ArgumentError(f"{op}: expected an iam.CrossLayerTranscoder, got {type(coder).__name__}")
    _check_sizes(op, activations, model, batch_size, max_batches, from_position)
    count = coder.n_layers
    measured = [_Measured(f"{coder!r}, layer {t}", coder.d_sae, op) for t in range(count)]

    def add(xs: list[Rows], ys: list[Rows], prompt: npt.NDArray[np.int64] | None) -> None:
        codes = coder.encode(xs)
        for t, y in enumerate(coder.decode(codes)):
            skip = 0 if coder.W_skip is None else xs[t] @ coder.W_skip[t].T
            measured[t].put(codes[t], ys[t], y + skip, prompt)

    if model is None:
        given = list(activations or []), list(targets or [])
        if any(len(each) != count for each in given):
            raise ShapeError(
                f"{op}: expected {count} activations and as many targets, got {len(given[0])} and {len(given[1])}"
            )
        flat = [
            [_flat(a, width, op, name, side) for a in each]
            for each, width, name, side in zip(
                given, (coder.d_in, coder.d_out), ("activations", "targets"), ("d_in", "d_out"), strict=True
            )
        ]
        if len({len(a) for each in flat for a in each}) != 1:
            raise ShapeError(
                f"{op}: expected activations and targets of the same rows, got {[len(a) for a in flat[0] + flat[1]]}"
            )
        size = batch_size or 4096
        for number, start in enumerate(range(0, len(flat[0][0]), size)):
            if number == max_batches:
                break
            xs, ys = ([a[start : start + size] for a in each] for each in flat)
            add(xs, ys, None)
        return [one.result(dense_threshold, None) for one in measured]
    if tokens is None or targets is not None:
        raise ArgumentError(f"{op}: a model needs tokens, and no targets")
    places = model._sites_of_layers(coder, None)
    lost = _Losses() if losses else None
    excluded = model._excluded(exclude_special_tokens)
    for number, (ids, mask) in enumerate(token_batches(model, tokens, batch_size or 8, op)):
        if number == max_batches:
            break
        sites = list(dict.fromkeys(site for pair in places for site in pair))
        clean, found = model._read(ids, mask, "logits" if losses else None, False, sites)
        keep = counted(ids, mask, from_position, excluded)
        if bool(keep.any()):
            xs, ys = ([_kept(found[pair[side]], keep) for pair in places] for side in (0, 1))
            add(xs, ys, keep.nonzero()[:, 0].cpu().numpy())
        if lost is not None:
            outs = [out for _, out in places]
            lost.add(model, coder, outs, ids, mask, clean, keep, from_position, excluded)
    return [one.result(dense_threshold, lost) for one in measured]


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


# -------------------------------------------------------------------------------------------------------- activations


def _pairs(coder: Any, activations: Any, targets: Any, size: int, op: str) -> Iterator[tuple[Rows, Rows]]:
    """Batches of rows: what the coder reads and what it should give."""
    d_in, d_out = coder.d_in, getattr(coder, "d_out", coder.d_in)

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
    if targets is None and (d_in != d_out or _elsewhere(coder)):
        raise ArgumentError(
            f"{op}: a {type(coder).__name__} reads one site and writes another: pass targets, what it should give"
        )
    for item in stream:
        if targets is None:
            x = y = flat(item, "activations", d_in, "d_in")
        else:
            x, y = flat(item[0], "activations", d_in, "d_in"), flat(item[1], "targets", d_out, "d_out")
            if len(x) != len(y):
                raise ShapeError(f"{op}: expected targets of {len(x)} rows, got {len(y)}")
        yield x, y


def _flat(x: Any, width: int, op: str, name: str, width_name: str) -> Rows:
    check_float(x, op=op, name=name)
    check_width(x, op=op, name=name, width=width, width_name=width_name)
    x = x.detach().cpu() if is_torch(x) else x
    return as_float32(x.reshape(math.prod(shape_of(x)[:-1]), width))


def _elsewhere(coder: Any) -> bool:
    out = getattr(coder, "site_out", None)
    return out is not None and out != getattr(coder, "site", None)


class _Measured:
    """Sums of one coder over batches."""

    def __init__(self, name: str, n_features: int, op: str) -> None:
        self._name = name
        self._op = op
        self._reconstruction = Reconstruction()
        self._sparsity = Sparsity(n_features)

    def put(self, features: Any, y: Rows, y_hat: Rows, prompt: npt.NDArray[np.int64] | None) -> None:
        self._sparsity.add(features, prompt)
        self._reconstruction.add(y, y_hat)

    def result(self, dense_threshold: float, losses: _Losses | None) -> Evaluation:
        r, s = self._reconstruction, self._sparsity
        if not r.rows:
            raise ArgumentError(f"{self._op}: expected at least one position to count, got none")
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
            coder=self._name,
            **({} if losses is None else losses.result()),
        )


def _add(measured: _Measured, coder: Any, x: Rows, y: Rows, prompt: npt.NDArray[np.int64] | None) -> None:
    features = coder.encode(x)
    measured.put(features, y, reconstruct(coder, features, x), prompt)


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


def counted(ids: Any, mask: Any, from_position: int, excluded: list[int]) -> Any:
    """bool ``[batch, position]``: tokens from `from_position` of their sequence on that are not among `excluded`."""
    import torch

    keep = (mask != 0) & (mask.cumsum(-1) > from_position)
    if excluded:
        keep &= ~torch.isin(ids, torch.tensor(excluded, device=ids.device))
    return keep


def _kept(activations: Any, keep: Any) -> Rows:
    return as_float32(activations[keep.to(activations.device)].cpu())


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

    def batch(self, ids: Any, mask: Any, *, logits: bool) -> tuple[Rows, Rows, npt.NDArray[np.int64], Any]:
        """Rows that the coder reads, rows that it should give, the prompt of each row, and the model's logits if wanted."""
        sites = list(dict.fromkeys([self.site, self.site_out]))
        made = None
        if logits:
            made, found = self.model._read(ids, mask, "logits", False, sites)
        else:
            found = self.model.capture(ids, sites, attention_mask=mask)
        keep = self.counted(ids, mask)
        x, y = (_kept(found[s], keep) for s in (self.site, self.site_out))
        return x, y, keep.nonzero()[:, 0].cpu().numpy(), made


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
        coders: Any,
        outs: list[Site],
        ids: Any,
        mask: Any,
        clean: Any,
        keep: Any,
        from_position: int,
        excluded: list[int],
    ) -> None:
        """One batch; `clean` are the logits of the model as it is, `outs` the sites that the coders write."""
        import torch

        pairs = keep[:, :-1] & (mask[:, 1:] != 0)
        self.predictions += int(pairs.sum())
        self.positions += int(keep.sum())
        self._cross_entropy("without_sae", clean, ids, pairs)
        with model.with_coders(coders, exclude_special_tokens=excluded, from_position=from_position):
            changed = model._forward(ids, mask, "logits", False)
        self._cross_entropy("with_sae", changed, ids, pairs)
        self._divergence("with_sae", clean, changed, keep)
        del changed
        with contextlib.ExitStack() as stack:
            for out in outs:
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
