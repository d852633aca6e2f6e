"""From trained weights to a coder: the scale of the rows folded in, training forms turned into what runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from iam.training._config import CoderSettings

if TYPE_CHECKING:
    from iam.vector.clt import SAE, Transcoder

__all__ = ["export", "folded", "save"]


def folded(
    settings: CoderSettings, weights: dict[str, torch.Tensor], *, scale_in: float, scale_out: float, threshold: float
) -> dict[str, torch.Tensor]:
    """Weights by the names of a coder, for rows as the model makes them.

    Training saw ``s x`` and ``t y``. From ``t y = f((s x) E + b) D + c`` with a positively homogeneous f follows
    ``y = f(x (s/t) E + b/t) D + c/t``: decoder rows keep their norms, codes are in units of y. Where `b_dec` is subtracted from
    the input, s = t, and ``(s x - c) E = t (x - c/t) E``.

    Where features were chosen by ``h n``, norms of decoder rows go into the encoder, which leaves rows of norm 1.
    """
    w = {name: value.double() for name, value in weights.items()}
    if settings.rescale_acts_by_decoder_norm:
        norms = w["decoder"].norm(dim=1).clamp_min(1e-8)
        w["decoder"] = w["decoder"] / norms[:, None]
        w["encoder"] = w["encoder"] * norms[:, None]
        w["b_enc"] = w["b_enc"] * norms
    ratio = scale_in / scale_out
    found = {"W_enc": w["encoder"].T * ratio, "W_dec": w["decoder"], "b_dec": w["b_dec"] / scale_out}
    for name in ("b_enc", "b_gate", "b_mag", "threshold"):
        if name in w:
            found[name] = w[name] / scale_out
    if "r_mag" in w:
        found["r_mag"] = w["r_mag"]
    if "W_skip" in w:
        found["W_skip"] = w["W_skip"] * ratio
    if settings.architecture in ("batchtopk", "matryoshka"):
        found["threshold"] = torch.full((settings.d_sae,), max(threshold, 0.0) / scale_out, dtype=torch.float64)
    return {name: value.float().contiguous() for name, value in found.items()}


def export(
    settings: CoderSettings,
    weights: dict[str, torch.Tensor],
    *,
    apply_b_dec: bool,
    transcoder: bool,
    metadata: dict[str, Any],
) -> SAE | Transcoder:
    """The coder with these weights, which :func:`folded` made."""
    from iam.vector.clt import SAE, CoderConfig, Transcoder

    architecture = "jumprelu" if settings.architecture in ("batchtopk", "matryoshka") else settings.architecture
    if architecture != settings.architecture:
        metadata = {**metadata, "training_architecture": settings.architecture}
    cfg = CoderConfig(
        architecture=architecture,  # type: ignore[arg-type]  # checked by CoderSettings
        d_in=weights["W_enc"].shape[0],
        d_out=weights["W_dec"].shape[1],
        d_sae=settings.d_sae,
        k=settings.k if architecture == "topk" else None,
        apply_b_dec_to_input=apply_b_dec,
        reshape_activations="hook_z" if str(metadata.get("hook_name")).endswith("attn.hook_z") else "none",
        dtype=settings.dtype,
        metadata=metadata,
    )
    arrays: dict[str, Any] = {name: value.numpy() for name, value in weights.items()}
    return (Transcoder if transcoder else SAE)(cfg, **arrays)


def save(coder: SAE | Transcoder, folder: Path) -> None:
    """Write the coder as SAELens does; a TopK transcoder, which SAELens does not have, as sparsify does."""
    from iam.formats import saelens
    from iam.vector.clt import SAE

    if isinstance(coder, SAE):
        coder.save_model(folder)
    elif coder.cfg.architecture == "topk":
        from iam.formats import sparsify

        sparsify.write(coder, folder)
    else:
        saelens.write(coder, folder)  # type: ignore[arg-type]  # takes transcoders too
