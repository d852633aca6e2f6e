"""Which site of a model each value of a program belongs to, and what must not be mixed.

A coder reads the site it was trained at. The site of an argument is known from the key it is given under (what
``LanguageModel.capture`` returns), from ``iam.jit(sites=...)``, or from the first coder that encodes it; the site of what a
coder decodes is that coder's. Where a site is not known, nothing is checked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from iam.core.errors import SiteError
from iam.core.sites import Site

if TYPE_CHECKING:
    from iam.compiler._trace import Node, Trace, Traced, Value

__all__ = ["Places", "at_its_site"]

_STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""The residual stream and what is added to it: sums and differences of these have a meaning."""

_POSITION = {
    "mlp_in": "after the norm, its gain included",
    "hook_z": "inside attention, before its output projection",
    **dict.fromkeys(_STREAM, "in the residual stream, before any norm"),
}

_KEEPS = ("iam.clt.edit", "iam.clt.delta", "iam.policy.", "arith.negf")
"""Ops whose result belongs where their first operand does."""

_COMBINES = ("arith.addf", "arith.subf", "arith.mulf", "arith.divf", "iam.clt.residual", "iam.clt.sub")


class _Place(NamedTuple):
    site: Site
    why: str


class Places:
    """The sites of one recording.

    Args:
        allow_other: Check nothing.
    """

    def __init__(self, trace: Trace, *, allow_other: bool) -> None:
        self._trace = trace
        self._allow_other = allow_other
        self._of: dict[Value, _Place] = {}

    def put(self, value: Value, site: Site, why: str) -> None:
        """``value`` belongs to ``site``; ``why`` completes "which is known from"."""
        self._of[value] = _Place(site, why)

    def site_of(self, value: Value) -> Site | None:
        """Where ``value`` belongs, if it is known."""
        found = self._of.get(value)
        return None if found is None else found.site

    def refuse(self, message: str, hint: str) -> None:
        """Two sites that must not meet; unless everything is allowed."""
        if not self._allow_other:
            raise SiteError(
                f"iam.jit({self._trace.name}): {message} ({self._trace.where()}). {hint}, or pass "
                f"allow_other_sites=True to iam.jit if you mean it{self._trace.excerpt()}"
            )

    def read(self, coder: Any, value: Value, op: str) -> None:
        """A coder is about to encode ``value``, or decode features that belong to it."""
        trained = getattr(coder, "site", None)
        if not isinstance(trained, Site):
            return
        found = self._of.get(value)
        if found is None:
            self._learn(value, trained)
        elif found.site != trained:
            what = "an activation of" if op == "encode" else "features of a coder of"
            self.refuse(
                f"{op}: this coder was trained at {trained} and is given {what} {found.site}, which is known from {found.why}",
                f"Use a coder of {found.site}",
            )

    def _learn(self, value: Value, site: Site) -> None:
        from iam.compiler._trace import Input

        if isinstance(value, Input):
            lines = self._trace.frames()
            self.put(value, site, f"the coder that encodes it at {lines[0]}" if lines else "the coder that encodes it")

    def made(self, coder: Any, op: str, value: Value) -> None:
        """``value`` is what ``coder`` encoded or decoded."""
        site = getattr(coder, "site" if op == "encode" else "site_out", None)
        if isinstance(site, Site):
            verb = "encoded" if op == "encode" else "decoded"
            lines = self._trace.frames()
            self.put(value, site, f"the coder that {verb} it" + (f" at {lines[0]}" if lines else ""))

    def node(self, node: Node) -> None:
        """A new op: where its result belongs, and whether its operands may meet."""
        if node.op.startswith(_KEEPS) and node.operands and node.operands[0] in self._of:
            self._of[node] = self._of[node.operands[0]]
        elif node.op in _COMBINES:
            places = [self._of[v] for v in node.operands if v is not None and v in self._of]
            if len(places) == 2 and places[0].site != places[1].site:
                self._meet(node, *places)
            elif places:
                self._of[node] = places[0]

    def _meet(self, node: Node, left: _Place, right: _Place) -> None:
        if node.op == "iam.clt.sub":
            self.refuse(
                f"features of coders of {left.site} and {right.site} are subtracted: their dictionaries are not the same",
                "Subtract what they decode to",
            )
        elif not (left.site.kind in _STREAM and right.site.kind in _STREAM):
            ways = [f"{place.site} ({_POSITION[place.site.kind]}; known from {place.why})" for place in (left, right)]
            self.refuse(
                f"activations of {ways[0]} and {ways[1]} are combined", "Take both from one place relative to the norm"
            )


def at_its_site(method: Callable[..., Traced]) -> Callable[..., Traced]:
    """Around ``Trace.encode`` and ``Trace.decode``: a coder reads where it was trained."""
    op = method.__name__

    @functools.wraps(method)
    def checked(trace: Trace, coder: Any, value: Any, *args: Any, **kwargs: Any) -> Traced:
        found = getattr(value, "_value", None)
        if found is not None:
            trace.places.read(coder, found, op)
        result = method(trace, coder, value, *args, **kwargs)
        trace.places.made(coder, op, result._value)
        return result

    return checked
