"""Coders inside a model: activations replaced by reconstructions, with or without what the coder does not explain.

The names that SAELens users know (``run_with_saes``, ``run_with_cache_with_saes``, ``add_sae``, ``reset_saes``, ``saes``)
do what they do there, on any ``transformers`` model that :class:`iam.LanguageModel` reads.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from iam.core.config import suggestion
from iam.core.errors import ArgumentError, InternalError, SiteError
from iam.core.features import SparseFeatures
from iam.core.sites import Site
from iam.models._hooks import Attachment, Hooks, Placing

if TYPE_CHECKING:
    import torch

__all__ = ["CoderCache", "CoderMethods", "CodersAttached"]

Coders: TypeAlias = "Any | Sequence[Any] | Mapping[Site | str, Any]"
Edit = Callable[[SparseFeatures], SparseFeatures]


# --------------------------------------------------------------------------------------------------------- what was seen


class CoderCache(Mapping[str, Any]):
    """Activations and features of one forward pass, by the names that SAELens gives them.

    ``cache["blocks.8.hook_resid_post.hook_sae_acts_post"]`` are :class:`iam.SparseFeatures` ``[batch, position, d_sae]``; every
    other entry is a tensor ``[batch, position, width]``. Padding holds zeros. ``cache.dense(name)`` gives features as a dense
    tensor, which at 24,576 features is some 100 kB a position.

    ``…hook_sae_acts_pre`` (pre-activations, which are dense) is computed when it is asked for.
    """

    def __init__(self, entries: dict[str, Any], lazy: dict[str, Callable[[], Any]]) -> None:
        self._entries = entries
        self._lazy = lazy

    def __getitem__(self, name: str) -> Any:
        if name not in self._entries:
            if name not in self._lazy:
                raise KeyError(f"CoderCache: no entry {name!r}; {suggestion(name, list(self))}")
            self._entries[name] = self._lazy[name]()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._entries, *self._lazy]))

    def __len__(self) -> int:
        return len(self._entries.keys() | self._lazy.keys())

    def dense(self, name: str) -> torch.Tensor:
        """The entry as a dense tensor, features included: ``[batch, position, d_sae]``.

        Raises:
            KeyError: no such entry.
        """
        value = self[name]
        return value.to_dense() if isinstance(value, SparseFeatures) else value  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"CoderCache with {len(self)} entries: {', '.join(self)}"


def _spread(value: torch.Tensor, placing: Placing) -> torch.Tensor:
    """Rows ``[rows, width]`` to ``[batch, position, width]``, zero where no row came from."""
    if placing.chosen is None:
        return value.reshape(*placing.shape, value.shape[-1])
    out = value.new_zeros(*placing.shape, value.shape[-1])
    out[placing.chosen.to(value.device)] = value
    return out


def _spread_features(f: SparseFeatures, placing: Placing) -> SparseFeatures:
    """Features of rows to features of ``[batch, position]``, none where no row came from."""
    values, indices, offsets = f.components
    n = math.prod(placing.shape)
    scale, shift = (
        None if rows is None else _spread(rows.reshape(-1, 1), placing).reshape(n, 1)
        for rows in (f.row_scale, f.row_shift)
    )
    how: dict[str, Any] = {"validate": False, "row_scale": scale, "row_shift": shift}
    if placing.chosen is None:
        return SparseFeatures(values, indices, offsets, f.n_features, placing.shape, **how)
    chosen = placing.chosen.reshape(-1).to(values.device)
    if offsets is None:
        rows = int(chosen.shape[0])
        all_values, all_indices = values.new_zeros(rows, f.k), indices.new_zeros(rows, f.k)
        all_values[chosen], all_indices[chosen] = values, indices
        return SparseFeatures(all_values, all_indices, None, f.n_features, placing.shape, **how)
    counts = offsets.new_zeros(int(chosen.shape[0]) + 1)
    counts[1:][chosen] = offsets.diff()
    return SparseFeatures(values, indices, counts.cumsum(0), f.n_features, placing.shape, **how)


# ------------------------------------------------------------------------------------------------------------ in the model


class _Recorder:
    """Collects what :class:`CoderCache` shows."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self.wanted = wanted
        self.entries: dict[str, Any] = {}
        self.lazy: dict[str, Callable[[], Any]] = {}

    def put(self, name: str, value: Any, placing: Placing) -> None:
        if self.wanted(name):
            features = isinstance(value, SparseFeatures)
            self.entries[name] = _spread_features(value, placing) if features else _spread(value.detach(), placing)


def _pre_activations(coder: Any, x: torch.Tensor) -> torch.Tensor:
    """``(x − b_dec)·W_enc + b_enc``, dense, as SAELens's ``hook_sae_acts_pre``."""
    from iam import ops

    shift = coder.b_dec if coder.cfg.apply_b_dec_to_input else None
    return ops.encode(x, coder.W_enc, coder.b_enc, shift)  # type: ignore[no-any-return]


def _has_pre_activations(coder: Any) -> bool:
    cfg = getattr(coder, "cfg", None)
    plain = getattr(cfg, "architecture", None) in ("standard", "topk", "jumprelu")
    return (
        plain
        and getattr(cfg, "normalize_activations", "none") == "none"
        and not getattr(cfg, "rescale_acts_by_decoder_norm", False)
    )


def _skip(coder: Any, x: torch.Tensor) -> torch.Tensor | None:
    """What a coder adds to its decoder's output from its input directly, ``x @ W_skip.T``; None if nothing."""
    weight = getattr(coder, "W_skip", None)
    if weight is None:
        return None
    import torch

    return x @ torch.as_tensor(weight).to(x.device, x.dtype).T


def _checked(edited: Any, codes: SparseFeatures, expected: str) -> SparseFeatures:
    """What an edit returned, if it has the shape of what it was given."""
    if not isinstance(edited, SparseFeatures) or edited.shape != codes.shape:
        got = f"shape {edited.shape}" if hasattr(edited, "shape") else type(edited).__name__
        raise ArgumentError(f"{expected} to return SparseFeatures of shape {codes.shape}, got {got}")
    return edited


@dataclass(eq=False, slots=True)
class _Inserted:
    """One coder in the model: what runs at its input and output sites."""

    coder: Any
    site: Site
    site_out: Site
    hooks: Hooks
    error_term: bool
    excluded: list[int]
    edit: Edit | None
    recorder: _Recorder | None = None
    captured: Any = None

    def capture(self, x: torch.Tensor) -> torch.Tensor:
        """At the input site of a transcoder: keep what it will read."""
        self.captured = x.clone()  # a later edit may write into it
        return x

    def replace(self, original: torch.Tensor) -> torch.Tensor:
        """At the output site: ``[rows, d_out]`` by the coder's output."""
        import torch

        x: Any = original
        if self.site != self.site_out:
            x, self.captured = self.captured, None
            if x is None:
                raise InternalError(f"with_coders: {self.site_out} ran before {self.site}")
        simple = self.edit is None and self.recorder is None
        if simple and self.error_term and not (torch.is_grad_enabled() and x.requires_grad):
            return original  # SAE(x) + (original − SAE(x))
        self._record("hook_sae_input", x)
        if simple:
            clean = output = self.coder(x)
        else:
            codes = self.coder.encode(x)
            edited = codes if self.edit is None else self._edited(codes)
            decoded = self.coder.decode(edited)
            self._record("hook_sae_acts_post", edited)
            self._record("hook_sae_recons", decoded)
            output = self._with_skip(decoded, x)
            clean = output if edited is codes else self._with_skip(self.coder.decode(codes), x)
        return self._finish(original, output, clean)

    def _finish(self, original: torch.Tensor, output: Any, clean: Any) -> torch.Tensor:
        """The coder's output with the error term, if there is to be one, and without the positions that are left alone."""
        import torch

        if self.error_term:
            error = (original - clean).detach()
            # original − clean + output, in an order that gives `original` to the last bit when nothing was edited, with the
            # gradient of the output alone
            output = original.detach() + (output - clean.detach())
        keep = self._bypassed(original)
        if keep is not None:
            output = torch.where(keep, original, output)
            if self.error_term:
                error = torch.where(keep, torch.zeros_like(error), error)
        if self.error_term:
            self._record("hook_sae_error", error)
        self._record("hook_sae_output", output)
        return output  # type: ignore[no-any-return]

    def _edited(self, codes: SparseFeatures) -> SparseFeatures:
        assert self.edit is not None
        return _checked(self.edit(codes), codes, f"LanguageModel.with_coders: expected the edit at {self.site_out}")

    def _with_skip(self, decoded: Any, x: torch.Tensor) -> Any:
        skip = _skip(self.coder, x)
        return decoded if skip is None else decoded + skip

    def _placing(self) -> Placing:
        assert self.hooks.placing is not None
        return self.hooks.placing

    def _bypassed(self, rows: torch.Tensor) -> Any:
        """bool ``[rows, 1]``: rows of tokens that the coder leaves alone; None when there are none of these."""
        if not self.excluded:
            return None
        import torch

        placing = self._placing()
        if placing.ids is None:
            raise ArgumentError(
                "LanguageModel.with_coders: exclude_special_tokens needs token ids, but the model was run on embeddings"
            )
        ids = placing.ids.to(rows.device)
        ids = ids.reshape(-1) if placing.chosen is None else ids[placing.chosen.to(rows.device)]
        return torch.isin(ids, torch.tensor(self.excluded, device=rows.device))[:, None]

    def _record(self, tail: str, value: Any) -> None:
        if self.recorder is None:
            return
        placing = self._placing()
        self.recorder.put(f"{self.site_out.hook_name}.{tail}", value, placing)
        if tail == "hook_sae_input" and _has_pre_activations(self.coder):
            name = f"{self.site_out.hook_name}.hook_sae_acts_pre"
            if self.recorder.wanted(name):
                x, coder = value.detach(), self.coder
                self.recorder.lazy[name] = lambda: _spread(_pre_activations(coder, x), placing)

    def attachments(self, from_position: int) -> list[Attachment]:
        found = [Attachment(self.site_out, self.replace, from_position)]
        if self.site != self.site_out:
            found.insert(0, Attachment(self.site, self.capture, from_position, reads_only=True))
        return found


@dataclass(eq=False, slots=True)
class _Written:
    """What the layers of a cross-layer transcoder that have run wrote to each layer: with edits and without."""

    edited: list[Any]
    clean: list[Any]


@dataclass(eq=False, slots=True)
class _InsertedLayer(_Inserted):
    """One layer of a cross-layer transcoder: reads its site, writes there what this and earlier layers give."""

    whole: Any = None
    layer: int = 0
    written: _Written = None  # type: ignore[assignment]  # shared by the layers

    def capture(self, x: torch.Tensor) -> torch.Tensor:
        """Encode this layer, and add what it writes to this layer and to all later ones."""
        if self.layer == 0:
            self.written.edited = [0.0] * self.whole.n_layers
            self.written.clean = list(self.written.edited)
        self.captured = x.clone()
        codes = self.coder.encode(x)
        edited = codes if self.edit is None else self._edited(codes)
        self._record("hook_sae_input", x)
        self._record("hook_sae_acts_post", edited)
        parts = self.whole._write(edited, self.whole.W_dec[self.layer])
        clean = parts if edited is codes else self.whole._write(codes, self.whole.W_dec[self.layer])
        for target in range(self.layer, self.whole.n_layers):
            at = (slice(None), target - self.layer)
            self.written.edited[target] = self.written.edited[target] + parts[at]
            self.written.clean[target] = self.written.clean[target] + clean[at]
        return x

    def replace(self, original: torch.Tensor) -> torch.Tensor:
        import torch

        x, self.captured = self.captured, None
        if x is None:
            raise InternalError(f"with_coders: {self.site_out} ran before {self.site}")
        bias = torch.as_tensor(self.whole.b_dec[self.layer]).to(original.device)
        decoded, clean = (part[self.layer] + bias for part in (self.written.edited, self.written.clean))
        self.written.edited[self.layer] = self.written.clean[self.layer] = None  # no longer needed
        self._record("hook_sae_recons", decoded)
        if self.whole.W_skip is not None:
            skip = x @ torch.as_tensor(self.whole.W_skip[self.layer]).to(x.device).T
            decoded, clean = decoded + skip, clean + skip
        return self._finish(original, decoded, clean)


class CodersAttached(contextlib.AbstractContextManager[Any]):
    """Coders in a model for the time of a ``with`` block; made by :meth:`iam.LanguageModel.with_coders`."""

    def __init__(self, model: Any, inserted: list[_Inserted], from_position: int) -> None:
        self._model = model
        self._inserted = inserted
        self._attachments = [a for one in inserted for a in one.attachments(from_position)]
        self._active: list[Attachment] = []
        self._entered = False

    def __enter__(self) -> Any:
        if self._entered:
            raise ArgumentError("LanguageModel.with_coders: these coders are in use; call with_coders again instead")
        self._entered = True
        hooks: Hooks = self._model._hooks
        try:
            for attachment in self._attachments:
                hooks.attach(attachment)
                self._active.append(attachment)
        except BaseException:
            self._leave()
            raise
        return self._model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        for attachment in reversed(self._active):
            self._model._hooks.detach(attachment)
        self._active.clear()
        for one in self._inserted:
            one.captured = None
        self._entered = False


@dataclass(frozen=True, slots=True)
class _Added:
    """A coder that :meth:`CoderMethods.add_sae` attached, with what it was given."""

    coder: Any
    attached: CodersAttached
    error_term: bool
    exclude: bool | list[int]


# ---------------------------------------------------------------------------------------------------------------- methods


class CoderMethods:
    """The methods of :class:`iam.LanguageModel` that put coders into it."""

    _hooks: Hooks
    _added: dict[str, _Added] | None = None

    def with_coders(
        self,
        coders: Coders,
        *,
        error_term: bool = False,
        edit: Edit | Mapping[Site | str, Edit] | None = None,
        exclude_special_tokens: bool | Sequence[int] = False,
        from_position: int = 0,
        allow_other_site: bool = False,
    ) -> CodersAttached:
        """Replace activations by what coders make of them, inside a ``with`` block. Gives the model.

        Args:
            coders: A coder, several, or a mapping from sites to coders. Without a mapping, each sits where it was trained. An SAE
                replaces the activation it reads; a transcoder reads at ``site`` and replaces the activation at ``site_out``; a
                cross-layer transcoder does so at every layer. Skip terms are included.
            error_term: Add what the coder does not explain, ``original − SAE(x)``, computed once and held constant: without an
                edit the model then computes what it does without coders, to the last bit. Gradients flow through the
                coder alone.
            edit: From the coder's :class:`iam.SparseFeatures` ``[rows, d_sae]`` to those that are decoded, for all coders or by
                the site that is replaced: ``lambda f: f.ablate(7)``. With the error term, only the difference reaches the model.
            exclude_special_tokens: Token ids at whose positions the original activation stays; True for the special tokens of
                the tokenizer.
            from_position: First position of each sequence that the coders see; earlier ones stay as they are.
            allow_other_site: Put a coder at the site of the mapping although it was trained at another one.

        Raises:
            SiteError: a coder without a known site, one whose site the model does not have, of another width (``width``), or
                trained at another site than the mapping says; a transcoder that writes before it reads.
            ArgumentError: no coder, two coders that write to one site, an edit for a site without a coder.

        Several coders and layers work in one forward pass, in prefill, KV-cached decoding and padded batches (padding never
        reaches a coder). Two blocks may be nested: the inner coder sees what the outer one left.

        >>> with model.with_coders([sae], error_term=True, edit=lambda f: f.ablate(7)):  # doctest: +SKIP
        ...     model.generate("Once upon a time")
        """
        return self._insert(
            coders,
            error_term=error_term,
            edit=edit,
            exclude=exclude_special_tokens,
            from_position=from_position,
            allow_other_site=allow_other_site,
        )

    def _insert(
        self,
        coders: Coders,
        *,
        error_term: bool,
        edit: Edit | Mapping[Site | str, Edit] | None,
        exclude: bool | Sequence[int],
        from_position: int,
        allow_other_site: bool = False,
        recorder: _Recorder | None = None,
    ) -> CodersAttached:
        if isinstance(from_position, bool) or not isinstance(from_position, int) or from_position < 0:
            raise ArgumentError(
                f"LanguageModel.with_coders: expected from_position to be an integer >= 0, got {from_position!r}"
            )
        if isinstance(coders, Mapping):
            pairs = [(self.site(site), coder) for site, coder in coders.items()]  # type: ignore[attr-defined]
        else:
            listed = list(coders) if isinstance(coders, (list, tuple)) else [coders]
            pairs = [(None, coder) for coder in listed]
        if not pairs:
            raise ArgumentError("LanguageModel.with_coders: expected at least one coder, got none")
        excluded = self._excluded(exclude)
        inserted: list[_Inserted] = []
        common: dict[str, Any] = {
            "hooks": self._hooks,
            "error_term": error_term,
            "excluded": excluded,
            "edit": None,
            "recorder": recorder,
        }
        for site, coder in pairs:
            if hasattr(coder, "layers"):
                written = _Written([], [])
                more: list[_Inserted] = [
                    _InsertedLayer(coder.layers[i], *places, whole=coder, layer=i, written=written, **common)
                    for i, places in enumerate(self._sites_of_layers(coder, site))
                ]
            else:
                more = [_Inserted(coder, *self._sites_of(coder, site, allow_other_site=allow_other_site), **common)]
            for new in more:
                if any(one.site_out == new.site_out for one in inserted):
                    raise ArgumentError(
                        f"LanguageModel.with_coders: expected one coder for each site, got two that write to {new.site_out}; "
                        "nest two with blocks if one is to read what the other wrote"
                    )
                inserted.append(new)
        self._give_edits(inserted, edit)
        return CodersAttached(self, inserted, from_position)

    def _give_edits(self, inserted: list[_Inserted], edit: Edit | Mapping[Site | str, Edit] | None) -> None:
        if not isinstance(edit, Mapping):
            for one in inserted:
                one.edit = edit
            return
        by_site = {one.site_out: one for one in inserted}
        for name, fn in edit.items():
            site = self.site(name)  # type: ignore[attr-defined]
            if site not in by_site:
                raise ArgumentError(
                    f"LanguageModel.with_coders: expected edits at the sites that coders write to "
                    f"({', '.join(map(str, sorted(by_site)))}), got one at {site}"
                )
            by_site[site].edit = fn

    def _sites_of(self, coder: Any, given: Site | None, *, allow_other_site: bool) -> tuple[Site, Site]:
        """Where a coder reads and writes, after checking that it fits there."""
        what = type(coder).__name__
        if not callable(coder) or not hasattr(coder, "encode") or not hasattr(coder, "decode"):
            raise ArgumentError(f"LanguageModel.with_coders: expected coders (iam.SAE...), got {what}")
        for several in ("n_layers", "n_sites"):
            if hasattr(coder, several):
                raise ArgumentError(
                    f"LanguageModel.with_coders: expected a coder that reads one site, or a cross-layer transcoder, got a {what}"
                    + (
                        ", which reads every site before it writes the first: no single forward pass can do both; "
                        "run_with_crosscoder takes two"
                        if several == "n_sites"
                        else ""
                    )
                )
        trained = getattr(coder, "site", None)
        if given is not None and isinstance(trained, Site) and trained != given and not allow_other_site:
            raise SiteError(
                f"LanguageModel.with_coders: the {what} was trained at {trained}, not at {given}; put it at {trained}, or pass "
                "allow_other_site=True if you mean it"
            )
        site = given or trained
        if site is None:
            name = getattr(getattr(coder, "cfg", None), "metadata", {}).get("hook_name")
            raise SiteError(
                f"LanguageModel.with_coders: expected a {what} that says where it was trained, got hook_name {name!r}; name the "
                'site: with_coders({"resid_post.8": coder})'
            )
        out = getattr(coder, "site_out", None)
        if not isinstance(out, Site) or out == trained:
            metadata = getattr(getattr(coder, "cfg", None), "metadata", {})
            name_out = metadata.get("hook_name_out")
            if name_out is None or name_out == metadata.get("hook_name"):
                name_out = site
            out = Site.parse(name_out)  # a name that is no site of IAM is an error; never the input site instead
        return self._fitting(coder, self.site(site), self.site(out))  # type: ignore[attr-defined]

    def _sites_of_layers(self, coder: Any, given: Site | None) -> list[tuple[Site, Site]]:
        """Where each layer of a cross-layer transcoder reads and writes."""
        what = type(coder).__name__
        if given is not None or None in (*coder.sites, *coder.sites_out):
            raise SiteError(
                f"LanguageModel.with_coders: expected a {what} whose metadata name its sites (hook_names, hook_names_out), got "
                + (f"one for {given}" if given is not None else f"{coder.sites} and {coder.sites_out}")
            )
        pairs = zip(coder.sites, coder.sites_out, strict=True)
        places = [self._fitting(coder, self.site(i), self.site(o)) for i, o in pairs]  # type: ignore[attr-defined]
        for (first, _), (second, _) in itertools.pairwise(places):
            if second <= first:
                raise SiteError(
                    f"LanguageModel.with_coders: expected a {what} that reads its sites in the order of the forward pass, got "
                    f"{second} after {first}"
                )
        if any(i == o for i, o in places):
            raise SiteError(f"LanguageModel.with_coders: expected a {what} that writes to other sites than it reads")
        return places

    def _fitting(self, coder: Any, site: Site, out: Site) -> tuple[Site, Site]:
        what = type(coder).__name__
        if out < site:
            raise SiteError(
                f"LanguageModel.with_coders: expected a {what} that writes after it reads, got {out} after {site}"
            )
        for place, name, verb in ((site, "d_in", "reads"), (out, "d_out", "writes")):
            size, width = getattr(coder, name, getattr(coder, "d_in", None)), self.width(place)  # type: ignore[attr-defined]
            if size != width:
                raise SiteError(
                    f"LanguageModel.with_coders: the {what} {verb} activations of width {size}, but {place} of "
                    f"{self.name} has width {width}; use a coder that was trained on this model and site",  # type: ignore[attr-defined]
                    code="width",
                )
        return site, out

    def _excluded(self, exclude: bool | Sequence[int]) -> list[int]:
        if exclude is False:
            return []
        if exclude is True:
            tokenizer = getattr(self, "tokenizer", None)
            if tokenizer is None:
                raise ArgumentError(
                    "LanguageModel.with_coders: exclude_special_tokens=True needs a tokenizer; pass the token ids instead"
                )
            return sorted({int(i) for i in tokenizer.all_special_ids})
        return [int(i) for i in exclude]

    # Crosscoders.

    def run_with_crosscoder(
        self,
        prompt: Any,
        crosscoder: Any,
        *,
        sites: Sequence[Site | str] | None = None,
        replace: Sequence[Site | str] | None = None,
        error_term: bool = False,
        edit: Edit | None = None,
        exclude_special_tokens: bool | Sequence[int] = False,
        from_position: int = 0,
        attention_mask: Any = None,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
    ) -> tuple[Any, SparseFeatures]:
        """Two forward passes: one that reads all sites of a crosscoder, one with its reconstructions at these sites.

        Features are those of the model as it is. The second pass puts what they decode to at every site in `replace`,
        whatever stands there by then. So of sites of which a later one holds all that earlier ones pass on, as those of the
        residual stream do, only the last replacement reaches the logits: name one site in `replace` to see what it does.

        Args:
            prompt: Text, texts (padded on the right) or token ids.
            crosscoder: An :class:`iam.Crosscoder` over sites of this model.
            sites: Where it reads, in its order; by default ``hook_names`` of its metadata.
            replace: The sites that are replaced; by default all.
            error_term: Add what the crosscoder does not explain, ``original − reconstruction`` of the first pass: without an
                edit, the logits are those of the model as it is, to the last bit.
            edit: From features ``[rows, d_sae]`` to those that are decoded.
            exclude_special_tokens, from_position: As in :meth:`with_coders`.
            attention_mask: For token ids: 1 at tokens, 0 at padding.
            return_type, loss_per_token: As in :meth:`run_with_saes`.

        Returns:
            What `return_type` says, and the features ``[batch, position, d_sae]``, after the edit; none at padding and at
            positions that are left out.

        Raises:
            SiteError: no sites, another number of them, a site that the model does not have or of another width.
            ArgumentError: no crosscoder; `replace` names another site; no position is left to read.
        """
        places = self._sites_of_crosscoder(crosscoder, sites)
        replaced = places if replace is None else [self.site(site) for site in replace]  # type: ignore[attr-defined]
        if not replaced or not set(replaced) <= set(places):
            raise ArgumentError(
                "LanguageModel.run_with_crosscoder: expected replace to name some of "
                f"{', '.join(map(str, places))}, got {', '.join(map(str, replaced)) or 'none'}"
            )
        ids, mask = self._inputs(prompt, attention_mask, "right")  # type: ignore[attr-defined]
        keep = counted(ids, mask, from_position, self._excluded(exclude_special_tokens))
        if not bool(keep.any()):
            raise ArgumentError("LanguageModel.run_with_crosscoder: expected at least one position to read, got none")
        seen = self.capture(ids, places, attention_mask=mask)  # type: ignore[attr-defined]
        xs = [seen[site][keep.to(seen[site].device)].float() for site in places]
        clean = features = crosscoder.encode(xs)
        if edit is not None:
            features = _checked(edit(clean), clean, "LanguageModel.run_with_crosscoder: expected the edit")
        outs = crosscoder.decode(features)
        if error_term:
            without = crosscoder.decode(clean)
            outs = [x + (out - same) for x, out, same in zip(xs, outs, without, strict=True)]
        values = {site: out for site, out in zip(places, outs, strict=True) if site in replaced}
        with self._placed(values, keep, mask, from_position):
            result = self._forward(ids, mask, return_type, loss_per_token)
        placing = Placing(keep, ids, (int(ids.shape[0]), int(ids.shape[1])))
        return result, _spread_features(features, placing)

    def _placed(
        self, values: Mapping[Site, torch.Tensor], keep: torch.Tensor, mask: torch.Tensor, from_position: int
    ) -> contextlib.ExitStack:
        """A block in which rows that are known already, ``[rows, width]``, stand at the positions `keep` ``[batch, position]``."""
        inside = keep[(mask != 0) & (mask.cumsum(-1) > from_position)]  # of the rows that a program is given

        def program(rows: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
            out = rows.clone()
            out[inside.to(rows.device)] = known.to(rows.device)
            return out

        with contextlib.ExitStack() as stack:
            for site, known in values.items():
                attached = self.attach(site, functools.partial(program, known=known), from_position=from_position)  # type: ignore[attr-defined]
                stack.enter_context(attached)
            return stack.pop_all()

    def _sites_of_crosscoder(self, coder: Any, given: Sequence[Site | str] | None) -> list[Site]:
        """The sites of a crosscoder, after checking that it fits there."""
        what = type(coder).__name__
        if not hasattr(coder, "n_sites"):
            raise ArgumentError(f"LanguageModel.run_with_crosscoder: expected an iam.Crosscoder, got {what}")
        names = coder.cfg.metadata.get("hook_names") if given is None else given
        listed = list(names) if isinstance(names, (list, tuple)) else []
        if len(listed) != coder.n_sites or len(set(map(str, listed))) != len(listed):
            raise SiteError(
                f"LanguageModel.run_with_crosscoder: expected {coder.n_sites} different sites, from `sites` or the metadata "
                f"hook_names of the {what}, got {names!r}"
            )
        return [self._fitting(coder, self.site(name), self.site(name))[0] for name in listed]  # type: ignore[attr-defined]

    # As SAELens has them.

    def saes(
        self,
        saes: Coders = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: bool | list[int] = False,
    ) -> contextlib.AbstractContextManager[Any]:
        """SAELens's context manager: :meth:`add_sae` for each, and at the end the coders that were there before.

        Args:
            saes: A coder or several.
            reset_saes_end: False leaves them in the model.
            use_error_term: As `error_term` of :meth:`with_coders`.
            exclude_special_tokens: As in :meth:`with_coders`.

        Raises:
            SiteError, ArgumentError: as :meth:`with_coders`.
        """

        @contextlib.contextmanager
        def manage() -> Iterator[Any]:
            before = dict(self.__dict__.get("_added") or {})
            try:
                for coder in saes if isinstance(saes, (list, tuple)) else [saes]:
                    self.add_sae(coder, use_error_term, exclude_special_tokens)
                yield self
            finally:
                if reset_saes_end:
                    self.reset_saes()
                    for one in before.values():
                        self.add_sae(one.coder, one.error_term, one.exclude)

        return manage()

    @property
    def acts_to_saes(self) -> dict[str, Any]:
        """The coders that :meth:`add_sae` attached, by the hook name that they read (``blocks.8.hook_resid_post``)."""
        return {name: one.coder for name, one in (self._added or {}).items()}

    def add_sae(
        self, sae: Any, use_error_term: bool | None = None, exclude_special_tokens: bool | list[int] = False
    ) -> None:
        """Put a coder into the model until :meth:`reset_saes`; it takes the place of one that reads the same site.

        Raises:
            SiteError: as :meth:`with_coders` (SAELens logs a warning and goes on without).
            ArgumentError: another coder writes to the same site.
        """
        layered = hasattr(sae, "layers")
        places = self._sites_of_layers(sae, None) if layered else [self._sites_of(sae, None, allow_other_site=False)]
        key, outs = places[0][0].hook_name, {out for _, out in places}
        added = dict(self._added or {})
        for name, one in added.items():
            taken = outs & {i.site_out for i in one.attached._inserted}
            if name != key and taken:
                raise ArgumentError(
                    f"LanguageModel.add_sae: the coder that reads {name} writes to {min(taken)} already; "
                    f"reset_saes([{name!r}]) first"
                )
        attached = self._insert(
            sae, error_term=bool(use_error_term), edit=None, exclude=exclude_special_tokens, from_position=0
        )
        if key in added:
            self.reset_saes([key])
            added.pop(key)
        attached.__enter__()
        self._added = {
            **added,
            key: _Added(sae, attached, bool(use_error_term), exclude_special_tokens),
        }

    def reset_saes(self, act_names: str | list[str] | None = None) -> None:
        """Take coders that :meth:`add_sae` attached out again: those that read the named hooks, or all.

        Raises:
            ArgumentError: no coder reads there.
        """
        added = dict(self._added or {})
        names = list(added) if act_names is None else [act_names] if isinstance(act_names, str) else list(act_names)
        for name in names:
            key = name if name in added else Site.parse(name).hook_name
            if key not in added:
                raise ArgumentError(
                    f"LanguageModel.reset_saes: no coder reads {name!r}; attached are: {', '.join(added) or 'none'}"
                )
            added.pop(key).attached.__exit__(None, None, None)
        self._added = added

    def run_with_saes(
        self,
        prompt: Any,
        *,
        saes: Coders = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: bool | list[int] = False,
        attention_mask: Any = None,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
    ) -> Any:
        """One forward pass with coders in the model, as SAELens's ``run_with_saes``.

        Args:
            prompt: Text, texts (padded on the right) or token ids. No token is put in front that the tokenizer does not put there.
            saes: A coder or several.
            reset_saes_end: False leaves them in the model.
            use_error_term: As `error_term` of :meth:`with_coders`.
            exclude_special_tokens: As in :meth:`with_coders`.
            attention_mask: For token ids: 1 at tokens, 0 at padding.
            return_type: ``logits`` ``[batch, position, vocabulary]``, ``loss`` (mean cross-entropy of the next token in nats,
                padding left out), ``both`` or None.
            loss_per_token: The loss of each position ``[batch, position − 1]`` instead of the mean, 0 at padding.

        Raises:
            SiteError, ArgumentError: as :meth:`with_coders`.
        """
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self._forward(prompt, attention_mask, return_type, loss_per_token)

    def run_with_cache_with_saes(
        self,
        prompt: Any,
        *,
        saes: Coders = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        exclude_special_tokens: bool | list[int] = False,
        names_filter: str | Sequence[str] | Callable[[str], bool] | None = None,
        remove_batch_dim: bool = False,
        attention_mask: Any = None,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
    ) -> tuple[Any, CoderCache]:
        """As :meth:`run_with_saes`, and everything that was seen on the way.

        Args:
            names_filter: Names to keep, or a function that tells; by default all.
            remove_batch_dim: For a batch of one: entries ``[position, …]``.

        Returns:
            What `return_type` says, and a :class:`CoderCache`: the model's sites under their hook names; where a coder sits, in the
            place of that name, ``….hook_sae_input``, ``hook_sae_acts_pre``, ``hook_sae_acts_post``, ``hook_sae_recons`` (the
            decoder's output), ``hook_sae_error`` (with the error term) and ``hook_sae_output`` (what the model goes on with). Of
            a transcoder they stand under the name of the site that it writes to.

        Raises:
            SiteError, ArgumentError: as :meth:`with_coders`; `remove_batch_dim` for a batch of several.
        """
        wanted = _filter(names_filter)
        recorder = _Recorder(wanted)
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            inserted = [one for added in (self._added or {}).values() for one in added.attached._inserted]
            replaced = {one.site_out for one in inserted}
            sites = [s for s in self.sites() if s not in replaced and wanted(s.hook_name)]  # type: ignore[attr-defined]
            for one in inserted:
                one.recorder = recorder
            try:
                result, found = self._read(prompt, attention_mask, return_type, loss_per_token, sites)
            finally:
                for one in inserted:
                    one.recorder = None
        entries = {site.hook_name: value for site, value in found.items()} | recorder.entries
        lazy = recorder.lazy
        if remove_batch_dim:
            batch = {int(value.shape[0]) for value in entries.values()}
            if batch - {1}:
                raise ArgumentError(
                    f"run_with_cache_with_saes: remove_batch_dim needs a batch of one, got {max(batch)}"
                )
            entries = {name: value[0] for name, value in entries.items()}
            lazy = {name: _first_of(make) for name, make in lazy.items()}
        return result, CoderCache(entries, lazy)

    def _read(
        self, prompt: Any, mask: Any, return_type: str | None, loss_per_token: bool, sites: list[Site]
    ) -> tuple[Any, dict[Site, torch.Tensor]]:
        if self._hooks.reading:
            raise ArgumentError(
                "run_with_cache_with_saes: a capture of this model is running; call it after it returns"
            )
        ids, mask = self._inputs(prompt, mask, "right")  # type: ignore[attr-defined]
        padding = None if bool(mask.all()) else (mask == 0)[..., None]
        found: dict[Site, torch.Tensor] = {}

        def reader(site: Site, value: torch.Tensor) -> None:
            value = value.detach().clone()
            found[site] = value if padding is None else value.masked_fill(padding.to(value.device), 0)

        try:
            self._hooks.read(sites, reader)
            result = self._forward(ids, mask, return_type, loss_per_token)
        finally:
            self._hooks.stop_reading()
        return result, {site: found[site] for site in sites}

    def _forward(self, prompt: Any, mask: Any, return_type: str | None, loss_per_token: bool) -> Any:
        if return_type not in ("logits", "loss", "both", None):
            raise ArgumentError(f'expected return_type "logits", "loss", "both" or None, got {return_type!r}')
        ids, mask = self._inputs(prompt, mask, "right")  # type: ignore[attr-defined]
        with self._inference():  # type: ignore[attr-defined]
            logits = self.model(**self._arguments(ids, mask)).logits  # type: ignore[attr-defined]
        if return_type is None:
            return None
        if return_type == "logits":
            return logits
        loss = next_token_loss(logits, ids, mask)
        if not loss_per_token:
            pairs = (mask[:, 1:] * mask[:, :-1]).sum()
            loss = loss.sum() / pairs
        return loss if return_type == "loss" else (logits, loss)


def counted(ids: torch.Tensor, mask: torch.Tensor, from_position: int, excluded: list[int]) -> torch.Tensor:
    """bool ``[batch, position]``: tokens from `from_position` of their sequence on that are not among `excluded`."""
    import torch

    keep = (mask != 0) & (mask.cumsum(-1) > from_position)
    if excluded:
        keep &= ~torch.isin(ids, torch.tensor(excluded, device=ids.device))
    return keep


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cross-entropy ``[batch, position − 1]`` of each token after the first, in nats; 0 where it or its predecessor is padding."""
    import torch

    losses = torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    return losses * (mask[:, 1:] * mask[:, :-1])


def _first_of(make: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: make()[0]


def _filter(names: str | Sequence[str] | Callable[[str], bool] | None) -> Callable[[str], bool]:
    if names is None:
        return lambda _: True
    if callable(names):
        return names
    kept = {names} if isinstance(names, str) else set(names)
    return lambda name: name in kept
