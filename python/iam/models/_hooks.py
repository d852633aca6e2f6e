"""Reading and editing activations in place, with torch hooks: what runs at a site while a model runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iam.core.errors import ArgumentError, DtypeError, ShapeError
from iam.core.sites import Site
from iam.models._families import SitePoint

if TYPE_CHECKING:
    import torch

__all__ = ["Attachment", "Hooks", "Placing", "StopForward"]

Program = Callable[["torch.Tensor"], "torch.Tensor"]


class StopForward(Exception):
    """Raised inside a hook when everything asked for has been read; caught by whoever started the forward pass."""


@dataclass(eq=False, slots=True)
class Attachment:
    """A program at a site. Only positions of a sequence from `from_position` on reach it; padding never does."""

    site: Site
    program: Program
    from_position: int
    reads_only: bool = False
    """Whether the activation stays as it is, whatever the program returns."""


@dataclass(frozen=True, slots=True)
class Placing:
    """Where in the batch the rows are that a program is given."""

    chosen: Any
    """bool `[batch, T]`, True at the rows; None when every position is one."""
    ids: Any
    """Token ids `[batch, T]`; None when the model is run on embeddings."""
    shape: tuple[int, int]
    """`(batch, T)`."""


@dataclass(slots=True)
class _Forward:
    """What hooks must know about the forward pass that is running: `T` new positions on top of `past` cached ones."""

    real: Any = None
    """bool `[batch, T]`, False at padding; None when there is no padding in the new positions."""
    positions: Any = None
    """`[batch, T]` position in its sequence, not counting padding; None when there is no padding at all."""
    past: int = 0
    first: int = 0
    """Smallest position among the new ones."""
    ids: Any = None
    """Token ids `[batch, T]`, or None."""


@dataclass(slots=True)
class _Point:
    """The hook of one site, there as long as somebody needs it."""

    attachments: list[Attachment] = field(default_factory=list)
    read: Callable[[Site, Any], None] | None = None
    handle: Any = None


class Hooks:
    """The hooks of one model. One torch hook per site in use runs its programs in order of attachment, then the reader.

    Args:
        torch: The torch module.
        body: The module that maps ids to hidden states: its call says where padding is.
        locate: Module and :class:`SitePoint` of a site.
    """

    def __init__(self, torch: Any, body: Any, locate: Callable[[Site], tuple[Any, SitePoint]]) -> None:
        self._torch = torch
        self._body = body
        self._locate = locate
        self._points: dict[Site, _Point] = {}
        self._body_handle: Any = None
        self._forward = _Forward()
        names = list(inspect.signature(body.forward).parameters)
        self._arguments = {
            name: names.index(name) if name in names else None
            for name in ("attention_mask", "past_key_values", "input_ids")
        }
        self.placing: Placing | None = None  # of the program that is running

    # ------------------------------------------------------------------------------------------------ who is listening

    def attach(self, attachment: Attachment) -> None:
        self._point(attachment.site).attachments.append(attachment)
        if self._body_handle is None:
            self._body_handle = self._body.register_forward_pre_hook(self._begin, with_kwargs=True)

    def detach(self, attachment: Attachment) -> None:
        self._points[attachment.site].attachments.remove(attachment)
        self._tidy()

    def read(self, sites: list[Site], reader: Callable[[Site, Any], None]) -> None:
        for site in sites:
            self._point(site).read = reader

    def stop_reading(self) -> None:
        for point in self._points.values():
            point.read = None
        self._tidy()

    @property
    def editing(self) -> bool:
        """Whether any program is attached."""
        return self._body_handle is not None

    @property
    def reading(self) -> bool:
        return any(point.read is not None for point in self._points.values())

    def _point(self, site: Site) -> _Point:
        point = self._points.get(site)
        if point is None:
            point = _Point()
            module, where = self._locate(site)
            point.handle = self._install(site, module, where)
            self._points[site] = point  # only a point that has its hook
        return point

    def _tidy(self) -> None:
        for site, point in list(self._points.items()):
            if not point.attachments and point.read is None:
                point.handle.remove()
                del self._points[site]
        if self._body_handle is not None and not any(point.attachments for point in self._points.values()):
            self._body_handle.remove()
            self._body_handle = None
            self._forward = _Forward()

    # ------------------------------------------------------------------------------------------------ inside a forward

    def _install(self, site: Site, module: Any, where: SitePoint) -> Any:
        if where.end == "output":

            def after(_module: Any, _args: Any, output: Any) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                value = self._visit(site, hidden)
                if value is hidden:
                    return None
                return (value, *output[1:]) if isinstance(output, tuple) else value

            return module.register_forward_hook(after)

        def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            value = self._visit(site, hidden)
            if value is hidden:
                return None
            if where.in_place:
                hidden.copy_(value)
                return None
            if args:
                return (value, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": value}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def _visit(self, site: Site, hidden: Any) -> Any:
        """The edited activation of `site`; `hidden` itself when no program is attached there."""
        point = self._points[site]
        value = hidden
        for attachment in point.attachments:
            value = self._apply(attachment, value)
        if point.read is not None:
            point.read(site, value)
        return value

    def _begin(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the body: where are padding and cached positions in this forward pass?"""
        mask = self._argument("attention_mask", args, kwargs)
        cache = self._argument("past_key_values", args, kwargs)
        past = int(cache.get_seq_length()) if cache is not None else 0
        forward = _Forward(past=past, first=past, ids=self._argument("input_ids", args, kwargs))
        if mask is not None:
            if not hasattr(mask, "dim") or mask.dim() != 2:
                got = f"shape {tuple(mask.shape)}" if hasattr(mask, "shape") else type(mask).__name__
                raise ArgumentError(
                    "LanguageModel.attach: while a program is attached, the model needs an attention_mask of shape "
                    f"[batch, positions] to know which rows are padding, got {got}"
                )
            if not bool((mask != 0).all()):
                new = slice(past, None)
                everywhere = mask != 0
                positions = everywhere.long().cumsum(-1) - 1
                forward.positions = positions[:, new]
                real = everywhere[:, new]
                forward.real = None if bool(real.all()) else real
                present = forward.positions[real]
                forward.first = int(present.min()) if present.numel() else 0
        self._forward = forward

    def _argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in kwargs:
            return kwargs[name]
        index = self._arguments[name]
        return args[index] if index is not None and index < len(args) else None

    def _apply(self, attachment: Attachment, hidden: Any) -> Any:
        torch = self._torch
        forward = self._forward
        chosen = forward.real
        if attachment.from_position > forward.first:
            if forward.positions is not None:
                late = forward.positions >= attachment.from_position
                chosen = late if chosen is None else chosen & late
            else:
                batch, new = hidden.shape[:2]
                late = torch.arange(forward.past, forward.past + new, device=hidden.device) >= attachment.from_position
                chosen = late.expand(batch, new)
        if chosen is not None and chosen.device != hidden.device:  # a model spread over devices
            chosen = chosen.to(hidden.device)
        width = hidden.shape[-1]
        rows = hidden.reshape(-1, width) if chosen is None else hidden[chosen]
        if rows.shape[0] == 0:
            return hidden
        self.placing = Placing(chosen, forward.ids, (int(hidden.shape[0]), int(hidden.shape[1])))
        result = attachment.program(rows if rows.dtype == torch.float32 else rows.float())
        if attachment.reads_only:
            return hidden
        if not isinstance(result, torch.Tensor):
            raise DtypeError(
                f"LanguageModel.attach: the program at {attachment.site} must return a torch tensor of shape "
                f"{tuple(rows.shape)}, got {type(result).__name__}"
            )
        if result.shape != rows.shape:
            raise ShapeError(
                f"LanguageModel.attach: the program at {attachment.site} must return the shape that it gets, [rows, width] = "
                f"{tuple(rows.shape)}, got {tuple(result.shape)}"
            )
        if result.dtype != hidden.dtype or result.device != hidden.device:
            result = result.to(dtype=hidden.dtype, device=hidden.device)
        if chosen is None:
            return result.view(hidden.shape) if result.is_contiguous() else result.reshape(hidden.shape)
        edited = hidden.clone()
        edited[chosen] = result
        return edited
