"""SAELens directories: ``cfg.json`` and ``sae_weights.safetensors``.

Read: the flat config of SAELens 6 and, where their meaning is clear, configs from before 6.0; architectures ``topk``,
``jumprelu`` and ``standard``; weights stored as float16, bfloat16, float32 or float64. Written: the SAELens 6 form. Names and
shapes of tensors: ``W_enc [d_in, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_in]``, ``b_dec [d_in]``, and for jumprelu
``threshold [d_sae]`` (before 6.0 also ``log_threshold``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iam.core.config import nearest, suggestion, take_bool, take_int
from iam.core.errors import ArgumentError, FormatError, IamError
from iam.formats._atomic import write_atomically
from iam.formats._safetensors import SafetensorsFile, write_safetensors

if TYPE_CHECKING:
    from iam.vector.clt._sae import SAE, SAEConfig

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "read", "read_config", "write"]

CONFIG_NAME = "cfg.json"
WEIGHTS_NAME = "sae_weights.safetensors"

# Architectures of SAELens that IAM knows by name and does not run.
_OTHER_ARCHITECTURES = {
    "abstopk": "not run by this version",
    "gated": "not run by this version",
    "jumprelu_skip_transcoder": "a transcoder, not an SAE",
    "jumprelu_transcoder": "a transcoder, not an SAE",
    "matching_pursuit": "not run by this version",
    "skip_transcoder": "a transcoder, not an SAE",
    "temporal": "not run by this version",
    "transcoder": "a transcoder, not an SAE",
    "batchtopk": "a training form: SAELens saves it for inference as jumprelu (save_inference_model)",
    "matryoshka_batchtopk": "a training form: SAELens saves it for inference as jumprelu (save_inference_model)",
}

_REQUIRED = ("d_in", "d_sae")
_KEYS = (
    "apply_b_dec_to_input",
    "architecture",
    "d_in",
    "d_sae",
    "device",
    "dtype",
    "k",
    "metadata",
    "normalize_activations",
    "rescale_acts_by_decoder_norm",
    "reshape_activations",
)

# Configs from before 6.0 are flat: these keys mark one, and all that is not about the coder is metadata.
_LEGACY_MARKS = (
    "hook_point",
    "hook_name",
    "activation_fn",
    "activation_fn_str",
    "activation_fn_kwargs",
    "sae_lens_version",
)
_LEGACY_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "hook_point_layer": "hook_layer",
    "activation_fn_str": "activation_fn",
}


def read(path: str | Path) -> SAE:
    """The SAE in directory ``path``.

    Raises:
        FormatError: the directory or a file is missing (``file-missing``), truncated (``file-truncated``) or malformed
            (``file-header``, ``format``); a config with an unknown key (``config-key``) or value (``config-value``,
            ``k-range``), an architecture (``architecture``) or normalisation (``normalization``) that is not run; a tensor
            that is missing (``tensor-missing``), has the wrong shape (``tensor-shape``) or type (``tensor-dtype``), or
            holds NaN or infinity (``non-finite``).
    """
    from iam.vector.clt._sae import SAE

    directory = Path(path)
    cfg, rescale = _read_config(directory)
    weights = directory / WEIGHTS_NAME
    file = SafetensorsFile(weights)
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (cfg.d_in, cfg.d_sae),
        "b_enc": (cfg.d_sae,),
        "W_dec": (cfg.d_sae, cfg.d_in),
        "b_dec": (cfg.d_in,),
    }
    threshold_name = None
    if cfg.architecture == "jumprelu":
        threshold_name = "threshold" if "threshold" in file.tensors else "log_threshold"
        if threshold_name not in file.tensors:
            threshold_name = "threshold"
        shapes[threshold_name] = (cfg.d_sae,)
    optional = {"scaling_factor": (cfg.d_sae,)}
    for name, shape in shapes.items():
        if name in file.tensors and file.tensors[name].shape != shape:
            raise FormatError(
                f'{weights}: tensor "{name}": expected shape {shape} from {CONFIG_NAME} (d_in={cfg.d_in}, '
                f"d_sae={cfg.d_sae}), got {file.tensors[name].shape}",
                code="tensor-shape",
            )
    unknown = sorted(set(file.tensors) - set(shapes) - set(optional))
    if unknown:
        raise FormatError(
            f"{weights}: tensors {unknown} do not belong to architecture {cfg.architecture}; expected {sorted(shapes)}",
            code="tensor-missing",
        )
    arrays = {name: file.read(name) for name in shapes}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise FormatError(
                f'{weights}: tensor "{name}": expected finite values, got {array[at]} at {at}', code="non-finite"
            )
    if "scaling_factor" in file.tensors and not np.all(file.read("scaling_factor") == 1):
        raise FormatError(
            f'{weights}: tensor "scaling_factor" is not all ones; this version does not run finetuned scaling factors',
            code="format",
        )
    threshold = arrays.pop(threshold_name) if threshold_name else None
    if threshold is not None and threshold_name == "log_threshold":
        threshold = np.exp(threshold)
    if rescale:
        # h·‖W_dec‖ picks the features and f/‖W_dec‖ is decoded: the same as a decoder of norm 1 and a scaled encoder.
        norms = np.maximum(np.linalg.norm(arrays["W_dec"].astype(np.float64), axis=1), 1e-8).astype(np.float32)
        arrays["W_dec"] = np.ascontiguousarray(arrays["W_dec"] / norms[:, None])
        arrays["W_enc"] = np.ascontiguousarray(arrays["W_enc"] * norms)
        arrays["b_enc"] = arrays["b_enc"] * norms
    try:
        return SAE(cfg, threshold=threshold, **arrays)
    except IamError as error:
        raise FormatError(f"{weights}: {error}", code="format") from error


def read_config(path: str | Path) -> SAEConfig:
    """The config in directory ``path``, checked; the weights are not opened. Errors as in :func:`read`."""
    return _read_config(Path(path))[0]


def _read_config(directory: Path) -> tuple[SAEConfig, bool]:
    if not directory.is_dir():
        raise FormatError(
            f"{directory}: expected a directory with {CONFIG_NAME} and {WEIGHTS_NAME}, but "
            f"{'this is a file' if directory.exists() else 'there is none'}",
            code="file-missing",
        )
    file = directory / CONFIG_NAME
    if not file.is_file():
        found = sorted(p.name for p in directory.iterdir())[:8]
        raise FormatError(
            f"{directory}: expected {CONFIG_NAME} and {WEIGHTS_NAME}, found {', '.join(found) or 'nothing'}",
            code="file-missing",
        )
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{file}: expected JSON: {error}", code="format") from error
    if not isinstance(raw, dict):
        raise FormatError(f"{file}: expected a JSON object, got {type(raw).__name__}", code="format")
    return _config(raw, file)


def _config(raw: dict[str, Any], file: Path) -> tuple[SAEConfig, bool]:
    from iam.vector.clt._sae import SAEConfig

    if "metadata" not in raw and any(mark in raw for mark in _LEGACY_MARKS):
        raw = _from_legacy(raw, file)
    for key in raw:
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            hint = f'did you mean "{near}"? ' if near else ""
            raise FormatError(
                f'{file}: unknown key "{key}"; {hint}Known: {", ".join(_KEYS)}. What describes the training belongs '
                'into "metadata"',
                code="config-key",
            )
    for key in _REQUIRED:
        if key not in raw:
            raise FormatError(
                f'{file}: expected a key "{key}", got {", ".join(sorted(raw)) or "none"}', code="config-key"
            )
    architecture = raw.get("architecture", "standard")
    _check_architecture(architecture, file)
    if architecture == "topk" and "k" not in raw:
        raise FormatError(f'{file}: architecture topk needs a key "k"', code="config-key")
    for key in ("d_in", "d_sae"):
        take_int(raw[key], what=f"{file}: {key}", low=1, high=2**31 - 1, error=FormatError, code="config-value")
    rescale = raw.get("rescale_acts_by_decoder_norm", False)
    take_bool(rescale, what=f"{file}: rescale_acts_by_decoder_norm", error=FormatError, code="config-value")
    if rescale and architecture != "topk":
        raise FormatError(f"{file}: rescale_acts_by_decoder_norm is for topk, got {architecture}", code="config-value")
    dtype = raw.get("dtype", "float32")
    dtype = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
    normalize = raw.get("normalize_activations")
    try:
        cfg = SAEConfig(
            architecture=architecture,
            d_in=raw["d_in"],
            d_sae=raw["d_sae"],
            k=_whole(raw["k"]) if architecture == "topk" else None,
            apply_b_dec_to_input=raw.get("apply_b_dec_to_input", True),
            normalize_activations="none" if normalize is None else normalize,
            reshape_activations=raw.get("reshape_activations") or "none",
            dtype="float32" if dtype in ("float64", "double") else dtype,
            metadata=raw.get("metadata") or {},
        )
    except ArgumentError as error:
        raise FormatError(f"{file}: {str(error).removeprefix('SAEConfig.')}", code=error.code) from error
    return cfg, rescale


def _whole(k: Any) -> Any:
    return int(k) if isinstance(k, float) and k.is_integer() else k


def _check_architecture(architecture: Any, file: Path) -> None:
    from iam.vector.clt._sae import ARCHITECTURES

    if architecture in ARCHITECTURES:
        return
    known = ", ".join(ARCHITECTURES)
    if isinstance(architecture, str) and architecture in _OTHER_ARCHITECTURES:
        raise FormatError(
            f'{file}: architecture "{architecture}" is {_OTHER_ARCHITECTURES[architecture]}; expected one of {known}',
            code="architecture",
        )
    raise FormatError(
        f"{file}: unknown architecture {json.dumps(architecture, default=str)}; {suggestion(str(architecture), ARCHITECTURES)}",
        code="architecture",
    )


def _from_legacy(raw: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A config from before SAELens 6.0 in the form of today."""
    old = {_LEGACY_NAMES.get(key, key): value for key, value in raw.items()}
    new = {key: old.pop(key) for key in _KEYS if key in old}
    kwargs = old.pop("activation_fn_kwargs", None) or {}
    if not isinstance(kwargs, Mapping):
        raise FormatError(f"{file}: expected activation_fn_kwargs to be an object, got {kwargs!r}", code="config-value")
    activation = old.pop("activation_fn", None)
    architecture = new.setdefault("architecture", "standard")
    if activation is not None and activation not in ("relu", "topk"):
        raise FormatError(
            f"{file}: unknown activation {json.dumps(activation, default=str)}; "
            f"{suggestion(str(activation), ('relu', 'topk'))}",
            code="architecture",
        )
    if activation == "topk" and architecture == "standard":
        new["architecture"] = "topk"
    elif activation == "topk" and architecture != "topk":
        raise FormatError(
            f'{file}: architecture "{architecture}" does not go with activation "topk"', code="architecture"
        )
    if new["architecture"] == "topk":
        if "k" in kwargs:
            new["k"] = kwargs["k"]
    else:
        new.pop("k", None)
    if isinstance(new.get("normalize_activations"), bool):
        new["normalize_activations"] = "expected_average_only_in" if new["normalize_activations"] else "none"
    if old.pop("finetuning_scaling_factor", False):
        raise FormatError(f"{file}: this version does not run finetuning_scaling_factor", code="config-value")
    old.setdefault("prepend_bos", True)
    new["metadata"] = old
    return new


def write(sae: SAE, path: str | Path, cfg: SAEConfig | None = None) -> tuple[Path, Path]:
    """Write ``sae`` into directory ``path``, made if missing; returns the paths of weights and config.

    Args:
        sae: What to write.
        path: The directory.
        cfg: Written instead of ``sae.cfg``: its ``dtype`` is what the weights are stored as.
    """
    cfg = sae.cfg if cfg is None else cfg
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_enc": sae.b_enc, "b_dec": sae.b_dec}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    record: dict[str, Any] = {
        "architecture": cfg.architecture,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": cfg.dtype,
        "device": "cpu",
        "apply_b_dec_to_input": cfg.apply_b_dec_to_input,
        "normalize_activations": cfg.normalize_activations,
        "reshape_activations": cfg.reshape_activations,
        "metadata": dict(cfg.metadata),
    }
    if cfg.k is not None:
        record["k"] = cfg.k
        record["rescale_acts_by_decoder_norm"] = False
    try:
        text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise FormatError(f"{directory / CONFIG_NAME}: metadata is not JSON: {error}", code="config-value") from error
    write_safetensors(directory / WEIGHTS_NAME, tensors, dtype=cfg.dtype)
    write_atomically(directory / CONFIG_NAME, text.encode("utf-8"))
    return directory / WEIGHTS_NAME, directory / CONFIG_NAME
