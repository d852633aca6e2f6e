"""From trained weights to a coder: the scales of the rows folded in, training forms turned into what runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from iam.training._config import CoderSettings

if TYPE_CHECKING:
    from iam.vector.clt import SAE, CoderConfig, Crosscoder, CrossLayerTranscoder, Transcoder

__all__ = ["export", "export_cross_layer", "export_crosscoder", "folded", "save"]

Scale = float | torch.Tensor


def folded(
    settings: CoderSettings,
    weights: dict[str, torch.Tensor],
    *,
    scale_in: Scale,
    scale_out: Scale,
    threshold: float,
) -> dict[str, torch.Tensor]:
    """Weights by the names of a coder, for rows as the model makes them.

    Training saw ``s x`` and ``t y``, where s and t are numbers, or vectors of one for each column where several sites are side
    by side. From ``t y = f((s x) E + b) D + c`` with a positively homogeneous f follows
    ``y = f(x (s/u) E + b/u) D (u/t) + c/t`` for any number u, the unit of the codes: that of the first column of y, so that decoder
    rows keep their norms at the first site (at all, if there is one). Where `b_dec` is subtracted from the input, s = t, and
    ``(s x - c) E = (x - c/t) s E``.

    `b_dec` and `W_skip` may be narrower than the decoder: they are of the first site that it writes to.

    Where features were chosen by ``h n``, norms of decoder rows go into the encoder, which leaves rows of norm 1.
    """
    w = {name: value.double() for name, value in weights.items()}
    if settings.rescale_acts_by_decoder_norm:
        norms = w["decoder"].norm(dim=1).clamp_min(1e-8)
        w["decoder"] = w["decoder"] / norms[:, None]
        w["encoder"] = w["encoder"] * norms[:, None]
        w["b_enc"] = w["b_enc"] * norms
    s = torch.as_tensor(scale_in, dtype=torch.float64).expand(w["encoder"].shape[1])
    t = torch.as_tensor(scale_out, dtype=torch.float64).expand(w["decoder"].shape[1])
    u = t[0]
    found = {
        "W_enc": (w["encoder"] * (s / u)).T,
        "W_dec": w["decoder"] * (u / t),
        "b_dec": w["b_dec"] / t[: len(w["b_dec"])],
    }
    for name in ("b_enc", "b_gate", "b_mag", "threshold"):
        if name in w:
            found[name] = w[name] / u
    if "r_mag" in w:
        found["r_mag"] = w["r_mag"]
    if "W_skip" in w:
        found["W_skip"] = w["W_skip"] * s / t[: len(w["W_skip"]), None]
    if settings.architecture in ("batchtopk", "matryoshka"):
        found["threshold"] = torch.full((settings.d_sae,), max(threshold, 0.0), dtype=torch.float64) / u
    return {name: value.float().contiguous() for name, value in found.items()}


def _config(settings: CoderSettings, metadata: dict[str, Any], **conventions: Any) -> CoderConfig:
    from iam.vector.clt import CoderConfig

    architecture = "jumprelu" if settings.architecture in ("batchtopk", "matryoshka") else settings.architecture
    if architecture != settings.architecture:
        metadata = {**metadata, "training_architecture": settings.architecture}
    return CoderConfig(
        architecture=architecture,  # type: ignore[arg-type]  # checked by CoderSettings
        d_sae=settings.d_sae,
        k=settings.k if architecture == "topk" else None,
        dtype=settings.dtype,
        metadata=metadata,
        **conventions,
    )


def _arrays(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in weights.items()}


def export(
    settings: CoderSettings,
    weights: dict[str, torch.Tensor],
    *,
    apply_b_dec: bool,
    transcoder: bool,
    metadata: dict[str, Any],
) -> SAE | Transcoder:
    """The coder with these weights, which :func:`folded` made."""
    from iam.vector.clt import SAE, Transcoder

    cfg = _config(
        settings,
        metadata,
        d_in=weights["W_enc"].shape[0],
        d_out=weights["W_dec"].shape[1],
        apply_b_dec_to_input=apply_b_dec,
        reshape_activations="hook_z" if str(metadata.get("hook_name")).endswith("attn.hook_z") else "none",
    )
    return (Transcoder if transcoder else SAE)(cfg, **_arrays(weights))


def export_crosscoder(
    settings: CoderSettings,
    weights: dict[str, torch.Tensor],
    *,
    sites: int,
    apply_b_dec: bool,
    metadata: dict[str, Any],
) -> Crosscoder:
    """The crosscoder with these weights, those of an SAE of its sites side by side."""
    from iam.vector.clt import Crosscoder

    width = weights["W_enc"].shape[0] // sites
    arrays = _arrays(weights)
    arrays["W_enc"] = arrays["W_enc"].reshape(sites, width, settings.d_sae)
    arrays["W_dec"] = arrays["W_dec"].reshape(settings.d_sae, sites, width)
    arrays["b_dec"] = arrays["b_dec"].reshape(sites, width)
    return Crosscoder(_config(settings, metadata, d_in=width, apply_b_dec_to_input=apply_b_dec), **arrays)


def export_cross_layer(
    settings: CoderSettings,
    layers: Sequence[dict[str, torch.Tensor]],
    *,
    metadata: dict[str, Any],
) -> CrossLayerTranscoder:
    """The cross-layer transcoder with these weights of its layers, the decoder of each as `[features, sites written * d_out]`."""
    from iam.vector.clt import CrossLayerTranscoder

    arrays = [_arrays(one) for one in layers]
    width = len(arrays[0]["b_dec"])
    lists = {name: [one[name] for one in arrays] for name in arrays[0]}
    lists["W_dec"] = [one.reshape(settings.d_sae, -1, width) for one in lists["W_dec"]]
    return CrossLayerTranscoder(_config(settings, metadata, d_in=len(arrays[0]["W_enc"]), d_out=width), **lists)


def save(coder: Any, folder: Path) -> None:
    """Write the coder in a format that other tools read, where there is one: an SAE and a transcoder in SAELens's, a cross-layer
    transcoder in circuit-tracer's. What these cannot say (TopK and gated transcoders, a skip across layers, layers that do not begin
    with the first, crosscoders) is written in IAM's own."""
    from iam.vector.clt import SAE, CrossLayerTranscoder, Transcoder

    told_by_a_threshold = coder.cfg.architecture in ("jumprelu", "standard")
    if isinstance(coder, SAE):
        coder.save_model(folder)
    elif isinstance(coder, Transcoder) and told_by_a_threshold:
        from iam.formats import saelens

        saelens.write(coder, folder)  # type: ignore[arg-type]  # takes transcoders too
    elif (
        isinstance(coder, CrossLayerTranscoder)
        and told_by_a_threshold
        and coder.W_skip is None
        and _from_layer_0(coder)
    ):
        from iam.formats import circuit_tracer_clt

        circuit_tracer_clt.write(coder, folder)
    else:
        from iam.formats import native

        native.write(coder, folder)


def _from_layer_0(coder: CrossLayerTranscoder) -> bool:
    """Whether the layers are the first ones of the model, as circuit-tracer takes them to be, at the same place in each."""
    for sites in (coder.sites, coder.sites_out):
        known = [site for site in sites if site is not None]
        if [site.layer for site in known] != list(range(len(known))) or len({site.kind for site in known}) > 1:
            return False
    return True
