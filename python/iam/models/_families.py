"""Where the sites of each architecture family are: one table, one entry per family.

A site is found at a module's input or output inside a block. What differs between families is the norm:

============ ================================================= ==================================================
family       block                                             consequences
============ ================================================= ==================================================
llama        x + attn(norm(x)), then x + mlp(norm(x)); RMS     ``attn_out`` and ``mlp_out`` are the modules' outputs;
             norm before each part                             ``mlp_in`` is after the norm and its gain
gpt2         the same with LayerNorm (gain and bias)           ``mlp_in`` includes gain and bias
gpt-neox     attention and MLP both read x (parallel, as in    no ``resid_mid`` when parallel; ``mlp_in`` is after the
             Pythia), or one after the other                   MLP's own LayerNorm, gain and bias included
gemma-2/3    norm before *and* after each part; gain is 1 + w  ``attn_out`` and ``mlp_out`` are after the second norm:
                                                               what is really added to the residual stream
============ ================================================= ==================================================

``resid_pre``, ``resid_mid`` and ``resid_post`` are the residual stream itself, before any norm, in every family. ``hook_z`` is
the input of attention's output projection, heads side by side: ``[batch, position, heads · head_width]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from iam.core.errors import SiteError
from iam.core.sites import SITE_KINDS

__all__ = ["FAMILIES", "Family", "SitePoint", "family_of"]


@dataclass(frozen=True, slots=True)
class SitePoint:
    """One kind of site inside a block.

    Args:
        module: Path of the module from the block; ``""`` is the block itself.
        end: Whether the activation is the module's first input or its (first) output.
        norm: Position relative to the norms, in words.
        in_place: The edited value must be written into the tensor, because the block also carries that same tensor past the
            module: handing the module another input would edit one branch and leave the residual stream as it was.
    """

    module: str
    end: Literal["input", "output"]
    norm: str
    in_place: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The blocks of an architecture family and the sites in them."""

    name: str
    model_types: tuple[str, ...]
    """``config.model_type`` values of transformers."""
    body: str
    """Path of the module that maps token ids to hidden states, from the causal LM."""
    blocks: str
    """Path of the list of blocks, from the body."""
    points: Mapping[str, SitePoint]
    missing: Callable[[Any], Mapping[str, str]] = field(default=lambda config: {})
    """Kinds that this configuration does not have, with the reason."""


_RESIDUAL = "residual stream, before any norm"


def _points(
    *,
    attention: str,
    projection: str,
    attn_out: str,
    mid: str,
    mlp: str = "mlp",
    mlp_out: str = "mlp",
    norm: str,
    out_norm: str = "no norm between the module and the residual stream",
) -> dict[str, SitePoint]:
    points = {
        "resid_pre": SitePoint("", "input", _RESIDUAL),
        "hook_z": SitePoint(f"{attention}.{projection}", "input", "inside attention, before its output projection"),
        "attn_out": SitePoint(attn_out, "output", out_norm),
        "resid_mid": SitePoint(mid, "input", _RESIDUAL, in_place=True),
        "mlp_in": SitePoint(mlp, "input", norm),
        "mlp_out": SitePoint(mlp_out, "output", out_norm),
        "resid_post": SitePoint("", "output", _RESIDUAL),
    }
    assert tuple(points) == SITE_KINDS
    return points


def _neox_missing(config: Any) -> Mapping[str, str]:
    if getattr(config, "use_parallel_residual", True):
        return {
            "resid_mid": "attention and MLP run in parallel (use_parallel_residual), so there is no stream between them"
        }
    return {}


_GEMMA = _points(
    attention="self_attn",
    projection="o_proj",
    attn_out="post_attention_layernorm",
    mid="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
    norm="after RMSNorm, its gain (1 + w) included",
    out_norm="after the second RMSNorm, its gain (1 + w) included",
)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",
        model_types=("llama", "mistral", "qwen2", "qwen3", "gemma"),
        body="model",
        blocks="layers",
        points=_points(
            attention="self_attn",
            projection="o_proj",
            attn_out="self_attn",
            mid="post_attention_layernorm",
            norm="after RMSNorm, its gain included",
        ),
    ),
    Family(
        name="gpt2",
        model_types=("gpt2",),
        body="transformer",
        blocks="h",
        points=_points(
            attention="attn",
            projection="c_proj",
            attn_out="attn",
            mid="ln_2",
            norm="after LayerNorm, its gain and bias included",
        ),
    ),
    Family(
        name="gpt-neox",
        model_types=("gpt_neox",),
        body="gpt_neox",
        blocks="layers",
        points=_points(
            attention="attention",
            projection="dense",
            attn_out="post_attention_dropout",
            mid="post_attention_layernorm",
            mlp_out="post_mlp_dropout",
            norm="after LayerNorm, its gain and bias included",
        ),
        missing=_neox_missing,
    ),
    Family(name="gemma-2/3", model_types=("gemma2", "gemma3_text"), body="model", blocks="layers", points=_GEMMA),
    Family(
        name="gemma-3 multimodal", model_types=("gemma3",), body="model.language_model", blocks="layers", points=_GEMMA
    ),
)
"""All supported families."""


def family_of(config: Any) -> Family:
    """The family of a model's configuration.

    Raises:
        SiteError: an architecture that the table does not have (code ``architecture``).
    """
    model_type = getattr(config, "model_type", None)
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted(kind for family in FAMILIES for kind in family.model_types))
    raise SiteError(
        f"LanguageModel: the sites of architecture {model_type!r} are not known; known: {known}. To add one, give it an entry "
        "in iam.models.FAMILIES",
        code="architecture",
    )
