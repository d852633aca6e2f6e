"""What an evaluation found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iam.core.errors import ArgumentError
from iam.formats._atomic import write_atomically

__all__ = ["GROUPS", "DensityHistogram", "Evaluation"]

SCHEMA = "iam.evaluation/1"

GROUPS: Mapping[str, tuple[str, ...]] = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    ),
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "fvu", "mse", "cossim"),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1", "dead_features", "dense_features"),
    "token_stats": ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"),
}
"""The metrics in the groups of SAELens's ``run_evals``; ``fvu`` and the two counts of features are ours."""


COLUMNS = ("explained_variance", "mse", "cossim", "l2_ratio", "l0", "dead_features", "ce_loss_score", "kl_div_score")
"""What the table of the parts shows."""


@dataclass(frozen=True, slots=True, eq=False)
class DensityHistogram:
    """How many features are active how often.

    Attributes:
        edges: ``log10`` of the density, ascending, ``[bins + 1]``; the first bin takes everything rarer, too.
        counts: Features in each bin, ``[bins]``.
        never: Features that were never active, in no bin.
    """

    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    never: int

    @classmethod
    def of(cls, density: npt.NDArray[np.float64], *, low: float = -6.0, width: float = 0.25) -> DensityHistogram:
        """The histogram of densities in 0..1.

        >>> h = DensityHistogram.of(np.array([0.0, 1e-9, 0.011, 1.0]))
        >>> h.never, int(h.counts[0]), int(h.counts[-1]), int(h.counts.sum())
        (1, 1, 1, 3)
        """
        edges = np.linspace(low, 0.0, round(-low / width) + 1)
        seen = np.clip(np.log10(density[density > 0]), low, 0.0)
        return cls(edges, np.histogram(seen, edges)[0].astype(np.int64), int((density == 0).sum()))

    def to_dict(self) -> dict[str, Any]:
        return {
            "log10_density_edges": [round(float(e), 4) for e in self.edges],
            "counts": [int(c) for c in self.counts],
            "never": self.never,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """Metrics of one coder. Names and formulas as in SAELens 6.54.12; ``x`` are activations, ``x̂`` reconstructions, ``f`` features.

    Attributes:
        explained_variance: ``1 − E‖x − x̂‖² / E‖x − E x‖²``; NaN if ``x`` does not vary.
        explained_variance_legacy: The mean over positions of ``1 − ‖x − x̂‖² / ‖x − mean of the batch‖²``; depends on the batches.
        fvu: Fraction of variance unexplained, ``1 − explained_variance``.
        mse: ``E‖x − x̂‖²``, summed over the width, in squared units of ``x``.
        cossim: Mean cosine of ``x`` and ``x̂``; 0 where one of them is 0.
        l2_norm_in, l2_norm_out: Mean ``‖x‖`` and ``‖x̂‖`` in units of ``x``.
        l2_ratio: Mean ``‖x̂‖ / ‖x‖``; the denominator is 1 where ``‖x‖ < 1e-4``.
        relative_reconstruction_bias: ``E‖x̂‖² / E x·x̂`` of a batch, mean over batches; below 1: shrinkage (Rajamanoharan et al.
            2024, arXiv:2404.16014, eq. 10).
        l0: Mean number of active features (``f ≠ 0``) per position.
        l1: Mean ``Σ|f|`` per position.
        dead_features: Features that were active at no position.
        dense_features: Features that were active at more than `dense_threshold` of the positions.
        ce_loss_without_sae, ce_loss_with_sae, ce_loss_with_ablation: Next-token loss in nats: the model as it is, with the coder's
            output, with zeros in its place. None without a model.
        ce_loss_score: ``(ablation − with_sae) / (ablation − without_sae)``: 1 if nothing is lost.
        kl_div_with_sae, kl_div_with_ablation: ``KL(model as it is ‖ changed model)`` in nats.
        kl_div_score: ``(ablation − with_sae) / ablation``.
        total_tokens_eval_reconstruction: Positions that the losses are means over.
        total_tokens_eval_sparsity_variance: Positions that everything else is a mean over.
        feature_density: ``[d_sae]`` share of positions at which a feature is active.
        consistent_activation_heuristic: ``[d_sae]`` active positions per prompt with any (NaN: in none); None without prompts.
        dense_threshold: See dense_features.
        coder: What was evaluated, in words.
        site: Of a part: the site that is written, or its number.
        parts: Of a coder that writes several sites: each of them alone. The metrics above then take the sites side by side as one
            activation and, of a cross-layer transcoder, the features of all layers one after the other.
    """

    explained_variance: float
    explained_variance_legacy: float
    fvu: float
    mse: float
    cossim: float
    l2_norm_in: float
    l2_norm_out: float
    l2_ratio: float
    relative_reconstruction_bias: float
    l0: float
    l1: float
    dead_features: int
    dense_features: int
    total_tokens_eval_sparsity_variance: int
    feature_density: npt.NDArray[np.float64]
    consistent_activation_heuristic: npt.NDArray[np.float64] | None = None
    ce_loss_without_sae: float | None = None
    ce_loss_with_sae: float | None = None
    ce_loss_with_ablation: float | None = None
    ce_loss_score: float | None = None
    kl_div_with_sae: float | None = None
    kl_div_with_ablation: float | None = None
    kl_div_score: float | None = None
    total_tokens_eval_reconstruction: int | None = None
    dense_threshold: float = 0.1
    coder: str = ""
    site: str = ""
    parts: tuple[Evaluation, ...] = ()

    @property
    def density_histogram(self) -> DensityHistogram:
        """Of ``feature_density``, in bins of a quarter of a decade."""
        return DensityHistogram.of(self.feature_density)

    @property
    def metrics(self) -> dict[str, dict[str, float | int]]:
        """The numbers in SAELens's groups: ``metrics["sparsity"]["l0"]``; without those that were not computed."""
        found = {
            group: {name: getattr(self, name) for name in names if getattr(self, name) is not None}
            for group, names in GROUPS.items()
        }
        return {group: values for group, values in found.items() if values}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN and infinity become None."""
        metrics = {
            group: {name: _finite(value) for name, value in values.items()} for group, values in self.metrics.items()
        }
        features: dict[str, Any] = {"feature_density": [float(f"{d:.6g}") for d in self.feature_density]}
        if self.consistent_activation_heuristic is not None:
            features["consistent_activation_heuristic"] = [_finite(v) for v in self.consistent_activation_heuristic]
        found = {
            "schema": SCHEMA,
            "coder": self.coder,
            "metrics": metrics,
            "dense_threshold": self.dense_threshold,
            "density_histogram": self.density_histogram.to_dict(),
            "feature_metrics": features,
        }
        if self.site:
            found["site"] = self.site
        if self.parts:
            found["parts"] = [part.to_dict() for part in self.parts]
        return found

    def to_json(self, path: str | Path | None = None) -> str:
        """JSON text, also written to `path` if given (complete or not at all).

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        if path is not None:
            write_atomically(path, (text + "\n").encode())
        return text

    def save_picture(self, path: str | Path) -> Path:
        """The histogram of feature densities as an SVG file.

        Raises:
            ArgumentError: another ending than ``.svg``.
            OSError: the file cannot be written.
        """
        from iam.evaluation._picture import density_svg

        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise ArgumentError(f"Evaluation.save_picture: expected a file that ends in .svg, got {path.name}")
        title = f"{self.coder or 'coder'}: {self.total_tokens_eval_sparsity_variance:,} positions"
        svg = density_svg(self.density_histogram, title=title, dense_threshold=self.dense_threshold)
        write_atomically(path, svg.encode())
        return path

    def __repr__(self) -> str:
        lines = [f"Evaluation of {self.coder or 'a coder'}"]
        for group, values in self.metrics.items():
            lines.append(f"  {group.replace('_', ' ')}")
            lines += [f"    {name:<36}{_show(value)}" for name, value in values.items()]
        return "\n".join([*lines, *self._table()])

    def _table(self) -> list[str]:
        """The parts, a line for each."""
        if not self.parts:
            return []
        names = [name for name in COLUMNS if getattr(self.parts[0], name) is not None]
        width = max(len("site"), *(len(part.site) for part in self.parts))
        head = "".join(f"{name:>{_column(name)}}" for name in names)
        rows = [
            f"    {part.site:<{width}}"
            + "".join(f"{_show(getattr(part, name)).strip():>{_column(name)}}" for name in names)
            for part in self.parts
        ]
        return ["  site by site", f"    {'site':<{width}}{head}", *rows]


def _column(name: str) -> int:
    return max(10, len(name) + 2)


def _finite(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None


def _show(value: float) -> str:
    return f"{value:>12,}" if isinstance(value, int) else f"{value:>12.4f}"
