"""SAELens directories: ``cfg.json`` and ``sae_weights.safetensors``.

Read: the flat config of SAELens 6 and, where their meaning is clear, configs from before 6.0; every architecture of its
inference side but ``temporal``; weights stored as float16, bfloat16, float32 or float64. Written: the SAELens 6 form.

Names and orientation are IAM's own (:mod:`iam.formats._raw`): ``W_enc [d_in, d_sae]``, ``b_enc [d_sae]``, ``W_dec [d_sae, d_out]``,
``b_dec [d_out]``; jumprelu ``threshold [d_sae]`` (before 6.0 also ``log_threshold``); gated ``b_gate``, ``b_mag``, ``r_mag [d_sae]``
and no ``b_enc``; skip transcoders ``W_skip [d_out, d_in]``; matching pursuit only ``W_dec`` and ``b_dec``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iam.core.config import nearest, suggestion, take_bool, take_int
from iam.core.errors import FormatError
from iam.formats._lazy import as_float32
from iam.formats._raw import RawCoder, Tensor, expected_shapes, fold_norm_scale, read_json, take, write_json
from iam.formats._safetensors import STORAGE_DTYPES, SafetensorsFile, check_storage, write_safetensors

if TYPE_CHECKING:
    from iam.vector.clt._coder import Coder
    from iam.vector.clt._config import CoderConfig

__all__ = ["CONFIG_NAME", "WEIGHTS_NAME", "read", "read_config", "read_raw", "write", "write_raw"]

CONFIG_NAME = "cfg.json"
WEIGHTS_NAME = "sae_weights.safetensors"

# SAELens's name -> kind, architecture, whether there is a W_skip.
_ARCHITECTURES: dict[str, tuple[Any, str, bool]] = {
    "abstopk": ("sae", "abstopk", False),
    "gated": ("sae", "gated", False),
    "jumprelu": ("sae", "jumprelu", False),
    "jumprelu_skip_transcoder": ("transcoder", "jumprelu", True),
    "jumprelu_transcoder": ("transcoder", "jumprelu", False),
    "matching_pursuit": ("sae", "matching_pursuit", False),
    "skip_transcoder": ("transcoder", "standard", True),
    "standard": ("sae", "standard", False),
    "topk": ("sae", "topk", False),
    "transcoder": ("transcoder", "standard", False),
}
_OTHER_ARCHITECTURES = {
    "temporal": "not run by this version",
    "batchtopk": "a training form: SAELens saves it for inference as jumprelu (save_inference_model)",
    "matryoshka_batchtopk": "a training form: SAELens saves it for inference as jumprelu (save_inference_model)",
}

_REQUIRED = ("d_in", "d_sae")
_KEYS = (
    "apply_b_dec_to_input",
    "architecture",
    "d_in",
    "d_out",
    "d_sae",
    "device",
    "dtype",
    "k",
    "max_iterations",
    "metadata",
    "normalize_activations",
    "rescale_acts_by_decoder_norm",
    "residual_threshold",
    "reshape_activations",
    "sae_lens_version",
    "stop_on_duplicate_support",
)
_PURSUIT_KEYS = ("max_iterations", "residual_threshold", "stop_on_duplicate_support")

# SAELens takes a config without a version for one from before 6.0, whose "metadata" it does not read.
_VERSION = "6.0.0"

# Configs from before 6.0 are flat: these keys mark one, and all that is not about the coder is metadata.
_LEGACY_MARKS = (
    "hook_point",
    "hook_name",
    "activation_fn",
    "activation_fn_str",
    "activation_fn_kwargs",
)
_LEGACY_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "hook_point_layer": "hook_layer",
    "activation_fn_str": "activation_fn",
}


def read(path: str | Path) -> Any:
    """The coder in directory ``path``: an :class:`iam.SAE` or an ``iam.Transcoder``.

    Raises:
        FormatError: the directory or a file is missing (``file-missing``), truncated (``file-truncated``) or malformed
            (``file-header``, ``format``); a config with an unknown key (``config-key``) or value (``config-value``,
            ``k-range``), an architecture (``architecture``) or normalisation (``normalization``) that is not run; a tensor
            that is missing (``tensor-missing``), has the wrong shape (``tensor-shape``) or type (``tensor-dtype``), or
            holds NaN or infinity (``non-finite``).
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record of the coder in directory ``path``. Errors as in :func:`read`."""
    directory = Path(path)
    cfg = _read_config(directory)
    file = SafetensorsFile(directory / WEIGHTS_NAME)
    shapes, _ = expected_shapes(_Sizes(cfg))
    if cfg["kind"] == "transcoder" and not cfg["skip"]:
        shapes.pop("W_skip")
    stored = dict(shapes)
    log_threshold = "threshold" in shapes and "threshold" not in file.tensors and "log_threshold" in file.tensors
    if log_threshold:
        stored["log_threshold"] = stored.pop("threshold")
    _check_names(file, stored, cfg)
    of = f"{CONFIG_NAME} (d_in={cfg['d_in']}, d_sae={cfg['d_sae']})"
    tensors: dict[str, Tensor] = {
        name: take(file, name, shape, of=of) for name, shape in stored.items() if not name.startswith("whitening")
    }
    if log_threshold:
        with np.errstate(over="ignore"):
            tensors["threshold"] = np.exp(as_float32(tensors.pop("log_threshold")))
        if not np.isfinite(as_float32(tensors["threshold"])).all():
            raise FormatError(
                f'{file.path}: tensor "log_threshold" is beyond the logarithms of float32', code="non-finite"
            )
    if "scaling_factor" in file.tensors and not np.all(file.read("scaling_factor") == 1):
        raise FormatError(
            f'{file.path}: tensor "scaling_factor" is not all ones; this version does not run finetuned scaling factors',
            code="format",
        )
    return _record(cfg, str(file.path), tensors)


class _Sizes:
    """What :func:`expected_shapes` looks at, before there are tensors."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self.kind, self.architecture, self.n_layers = cfg["kind"], cfg["architecture"], 1
        self.d_in, self.d_out, self.d_sae = cfg["d_in"], cfg["d_out"], cfg["d_sae"]
        self.normalize_activations = cfg["normalize_activations"]


def _record(cfg: Mapping[str, Any], source: str, tensors: dict[str, Tensor]) -> RawCoder:
    return RawCoder(source=source, tensors=tensors, **{name: value for name, value in cfg.items() if name != "skip"})


def _check_names(file: SafetensorsFile, stored: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
    for name in stored:
        if name not in file.tensors and not name.startswith("whitening"):
            file.read(name)  # says that it is missing
    unknown = sorted(set(file.tensors) - set(stored) - {"scaling_factor"})
    if cfg["kind"] == "sae" and cfg["architecture"] == "matching_pursuit" and unknown == ["W_enc"]:
        return  # some versions write the tied encoder too
    if unknown:
        raise FormatError(
            f"{file.path}: tensors {unknown} do not belong to architecture {cfg['architecture']}; expected {sorted(stored)}",
            code="tensor-missing",
        )


def read_config(path: str | Path) -> CoderConfig:
    """The config in directory ``path``, checked; the weights are not opened. Errors as in :func:`read`."""
    from iam.formats._build import config_of

    cfg = _read_config(Path(path))
    return config_of({name: value for name, value in cfg.items() if name != "skip"}, str(Path(path) / CONFIG_NAME))


def _read_config(directory: Path) -> dict[str, Any]:
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
    return _config(read_json(file), file)


def _config(raw: dict[str, Any], file: Path) -> dict[str, Any]:
    """The fields of a record that the config fixes, and ``skip``."""
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
    name = raw.get("architecture", "standard")
    _check_architecture(name, file)
    kind, architecture, skip = _ARCHITECTURES[name]
    with_k = architecture in ("abstopk", "topk")
    if with_k and "k" not in raw:
        raise FormatError(f'{file}: architecture {name} needs a key "k"', code="config-key")
    if kind == "transcoder" and "d_out" not in raw:
        raise FormatError(f'{file}: architecture {name} needs a key "d_out"', code="config-key")
    sizes: dict[str, int] = {}
    for key in ("d_in", "d_sae", "d_out"):
        value = raw.get(key) if key != "d_out" or kind == "transcoder" else sizes["d_in"]
        sizes[key] = take_int(
            value, what=f"{file}: {key}", low=1, high=2**31 - 1, error=FormatError, code="config-value"
        )
    k = None
    if with_k:
        k = take_int(raw["k"], what=f"{file}: k", low=1, high=sizes["d_sae"], error=FormatError, code="k-range")
    flags = {"rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": kind == "sae"}
    for key, default in flags.items():
        flags[key] = take_bool(raw.get(key, default), what=f"{file}: {key}", error=FormatError, code="config-value")
    if flags["rescale_acts_by_decoder_norm"] and not with_k:
        raise FormatError(f"{file}: rescale_acts_by_decoder_norm is for topk, got {name}", code="config-value")
    if flags["apply_b_dec_to_input"] and kind == "transcoder":
        raise FormatError(f"{file}: apply_b_dec_to_input is for SAEs, got {name}", code="config-value")
    metadata = raw.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise FormatError(f"{file}: metadata: expected an object, got {type(metadata).__name__}", code="config-value")
    pursuit = {key: raw[key] for key in _PURSUIT_KEYS if key in raw} if architecture == "matching_pursuit" else {}
    return {
        "kind": kind, "architecture": architecture, "skip": skip, **sizes, "k": k, **flags,
        "normalize_activations": _choice(raw, "normalize_activations", file, "normalization"),
        "reshape_activations": _choice(raw, "reshape_activations", file, "config-value"),
        "dtype": _dtype(raw, file),
        "metadata": dict(metadata or {}),
        **pursuit,
    }  # fmt: skip


def _choice(raw: Mapping[str, Any], key: str, file: Path, code: Any) -> str:
    from iam.formats._raw import NORMALIZATIONS

    value = raw.get(key)
    options = NORMALIZATIONS if key == "normalize_activations" else ("hook_z", "none")
    if value is None:
        return "none"
    if not isinstance(value, str) or value not in options:
        raise FormatError(f"{file}: {key}: unknown value {value!r}; {suggestion(str(value), options)}", code=code)
    return value


def _dtype(raw: Mapping[str, Any], file: Path) -> str:
    dtype = raw.get("dtype", "float32")
    dtype = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
    if dtype in ("float64", "double"):
        return "float32"
    if not isinstance(dtype, str) or dtype not in STORAGE_DTYPES:
        raise FormatError(
            f"{file}: dtype: unknown value {dtype!r}; {suggestion(str(dtype), STORAGE_DTYPES)}", code="config-value"
        )
    return dtype


def _check_architecture(architecture: Any, file: Path) -> None:
    if isinstance(architecture, str) and architecture in _ARCHITECTURES:
        return
    known = ", ".join(_ARCHITECTURES)
    if isinstance(architecture, str) and architecture in _OTHER_ARCHITECTURES:
        raise FormatError(
            f'{file}: architecture "{architecture}" is {_OTHER_ARCHITECTURES[architecture]}; expected one of {known}',
            code="architecture",
        )
    raise FormatError(
        f"{file}: unknown architecture {json.dumps(architecture, default=str)}; {suggestion(str(architecture), _ARCHITECTURES)}",
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
    if "hook_z" in str(old.get("hook_name", "")):
        new.setdefault("reshape_activations", "hook_z")
    new["metadata"] = old
    return new


def write(sae: Coder, path: str | Path, cfg: CoderConfig | None = None) -> tuple[Path, Path]:
    """Write a coder into directory ``path``, made if missing; returns the paths of weights and config.

    Args:
        sae: What to write: an SAE or a transcoder.
        path: The directory.
        cfg: Written instead of ``sae.cfg``: its ``dtype`` is what the weights are stored as.

    Raises:
        FormatError: a coder that SAELens has no architecture for (``architecture``), metadata that are not JSON or a weight
            that the storage type cannot hold (``config-value``).
    """
    from iam.formats._build import raw_of

    raw = raw_of(sae)
    if cfg is not None:
        raw = replace(raw, dtype=cfg.dtype, metadata=dict(cfg.metadata))
    return write_raw(raw, path)


def write_raw(raw: RawCoder, path: str | Path) -> tuple[Path, Path]:
    """Write a record; see :func:`write`. A known input scale is folded into the weights."""
    if raw.norm_scale is not None:
        raw = fold_norm_scale(raw)
    directory = Path(path)
    check_storage(directory, raw.dtype)
    skip = "W_skip" in raw.tensors
    names = {value: name for name, value in _ARCHITECTURES.items()}
    name = names.get((raw.kind, raw.architecture, skip))
    if name is None:
        what = f"{raw.kind} of architecture {raw.architecture}" + (" with a skip connection" if skip else "")
        raise FormatError(f"{directory}: SAELens has no architecture for a {what}", code="architecture")
    record: dict[str, Any] = {
        "architecture": name,
        "d_in": raw.d_in,
        "d_sae": raw.d_sae,
        "dtype": raw.dtype,
        "device": "cpu",
        "apply_b_dec_to_input": raw.apply_b_dec_to_input,
        "normalize_activations": raw.normalize_activations,
        "reshape_activations": raw.reshape_activations,
        "sae_lens_version": _VERSION,
        "metadata": dict(raw.metadata),
    }
    if raw.kind == "transcoder":
        record["d_out"] = raw.d_out
    if raw.k is not None:
        record["k"] = raw.k
        record["rescale_acts_by_decoder_norm"] = raw.rescale_acts_by_decoder_norm
    if raw.architecture == "matching_pursuit":
        record.update({key: getattr(raw, key) for key in _PURSUIT_KEYS})
    try:
        json.dumps(record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{directory / CONFIG_NAME}: metadata is not JSON: {error}", code="config-value") from error
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / WEIGHTS_NAME, dict(raw.tensors), dtype=raw.dtype)
    write_json(directory / CONFIG_NAME, record)
    return directory / WEIGHTS_NAME, directory / CONFIG_NAME
