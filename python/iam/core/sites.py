"""Sites: named places in a transformer where activations are read and edited.

A site is a layer and a kind. The kinds, in the order in which a block of the forward pass reaches them:

========== ===================================================================== =====================================
kind       value, ``[batch, position, width]``                                   name in SAELens / TransformerLens
========== ===================================================================== =====================================
resid_pre  residual stream that enters the block                                 ``blocks.L.hook_resid_pre``
hook_z     heads' outputs before the output projection, heads flattened         ``blocks.L.attn.hook_z``
attn_out   what attention adds to the residual stream                            ``blocks.L.hook_attn_out``
resid_mid  residual stream between attention and MLP                             ``blocks.L.hook_resid_mid``
mlp_in     what the MLP module reads: after the norm, its gain included          ``blocks.L.mlp.hook_in``
mlp_out    what the MLP adds to the residual stream                              ``blocks.L.hook_mlp_out``
resid_post residual stream that leaves the block                                 ``blocks.L.hook_resid_post``
========== ===================================================================== =====================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import ClassVar, Literal, get_args

from iam.core.config import suggestion
from iam.core.errors import SiteError

__all__ = ["SITE_KINDS", "Site", "SiteKind"]

SiteKind = Literal["resid_pre", "hook_z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post"]

SITE_KINDS: tuple[str, ...] = get_args(SiteKind)
"""All kinds, in the order of the forward pass."""

_TAILS = {
    "resid_pre": "hook_resid_pre",
    "hook_z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp_in": "mlp.hook_in",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
_KINDS_BY_TAIL = {tail: kind for kind, tail in _TAILS.items()}

# Names whose value differs from every kind above: reading them as the nearest kind would be a silent mistake.
_AMBIGUOUS = {
    "hook_mlp_in": "it is the residual stream before the norm; use resid_mid to read it, mlp_in is after the norm",
    "ln2.hook_normalized": "whether it includes the norm's gain depends on the model; mlp_in includes it",
    "ln1.hook_normalized": "the input of attention is not a site of IAM",
    "hook_attn_in": "the input of attention is not a site of IAM",
}

_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")
_SHORT = re.compile(r"([A-Za-z_]+)\.(\d+)")


@total_ordering
@dataclass(frozen=True, slots=True)
class Site:
    """A place in a transformer: ``Site(15, "resid_post")``. Sites sort in the order of the forward pass.

    Args:
        layer: Index of the block, from 0.
        kind: One of :data:`SITE_KINDS`.

    Raises:
        SiteError: a negative layer or an unknown kind (code ``site``).

    >>> site = Site.parse("blocks.15.hook_resid_post")
    >>> site
    Site(layer=15, kind='resid_post')
    >>> str(site), site.hook_name
    ('resid_post.15', 'blocks.15.hook_resid_post')
    >>> sorted([Site(1, "resid_pre"), Site(0, "mlp_out"), Site(0, "attn_out")])[0]
    Site(layer=0, kind='attn_out')
    """

    layer: int
    kind: SiteKind

    KINDS: ClassVar[tuple[str, ...]] = SITE_KINDS

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not hasattr(self.layer, "__index__") or self.layer < 0:
            raise SiteError(f"Site: expected layer to be an integer >= 0, got {self.layer!r}")
        object.__setattr__(self, "layer", int(self.layer))
        if self.kind not in SITE_KINDS:
            raise SiteError(f'Site: unknown kind "{self.kind}"; {suggestion(str(self.kind), SITE_KINDS)}')

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        """Read ``resid_post.15`` or the SAELens name ``blocks.15.hook_resid_post``; a Site is returned as it is.

        Raises:
            SiteError: neither form, an unknown kind, or a hook whose value is no kind of site (code ``site``).
        """
        if isinstance(text, Site):
            return text
        if not isinstance(text, str):
            raise SiteError(f'Site.parse: expected text like "resid_post.15", got {text!r}')
        text = text.strip()
        if hook := _HOOK.fullmatch(text):
            layer, tail = int(hook[1]), hook[2]
            if tail in _AMBIGUOUS:
                raise SiteError(f'Site.parse: "{text}" is no site of IAM: {_AMBIGUOUS[tail]}')
            if tail not in _KINDS_BY_TAIL:
                raise SiteError(f'Site.parse: unknown hook "{tail}" in "{text}"; {suggestion(tail, _KINDS_BY_TAIL)}')
            return cls(layer, _KINDS_BY_TAIL[tail])  # type: ignore[arg-type]
        if short := _SHORT.fullmatch(text):
            kind, layer = short[1], int(short[2])
            if kind not in SITE_KINDS:
                raise SiteError(f'Site.parse: unknown kind "{kind}" in "{text}"; {suggestion(kind, SITE_KINDS)}')
            return cls(layer, kind)  # type: ignore[arg-type]
        raise SiteError(
            f'Site.parse: expected "KIND.LAYER" like "resid_post.15" or a hook name like "blocks.15.hook_resid_post", '
            f'got "{text}"; kinds: {", ".join(SITE_KINDS)}'
        )

    @property
    def hook_name(self) -> str:
        """The name that SAELens and TransformerLens give this place."""
        return f"blocks.{self.layer}.{_TAILS[self.kind]}"

    @property
    def order(self) -> tuple[int, int]:
        """Position in the forward pass, for comparing sites."""
        return (self.layer, SITE_KINDS.index(self.kind))

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Site):
            return NotImplemented
        return self.order < other.order

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"
