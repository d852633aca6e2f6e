"""From a record to a coder and back: the one place where formats meet the object model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from iam.core.errors import FormatError, IamError
from iam.formats._lazy import LazyTensor, as_float32
from iam.formats._raw import RawCoder

__all__ = ["build", "config_of", "raw_of"]

_CLASSES = {
    "sae": "SAE",
    "transcoder": "Transcoder",
    "cross_layer": "CrossLayerTranscoder",
    "crosscoder": "Crosscoder",
}


def _config_class(values: Mapping[str, Any]) -> Any:
    """``SAEConfig`` for what it takes, ``CoderConfig`` for the rest."""
    from iam.vector import clt

    normalized = values["normalize_activations"] != "none"
    unknown_scale = values["normalize_activations"] == "expected_average_only_in" and values.get("norm_scale") is None
    return clt.SAEConfig if values["kind"] == "sae" and (not normalized or unknown_scale) else clt.CoderConfig


def config_of(values: Mapping[str, Any], source: str) -> Any:
    """The config object for the fields of a record.

    Raises:
        FormatError: a value that the object model does not run; the code says which.
    """
    cls = _config_class(values)
    known = {field.name for field in dataclasses.fields(cls)}
    given = {name: value for name, value in values.items() if name in known}
    try:
        return cls(**given)
    except IamError as error:
        text = str(error).split(".", 1)[-1] if str(error).startswith(cls.__name__ + ".") else str(error)
        raise FormatError(f"{source}: {text}", code=error.code) from error


def build(raw: RawCoder) -> Any:
    """The coder that a record describes.

    Raises:
        FormatError: an architecture or normalisation that this version does not run, or weights that the coder refuses.
    """
    from iam.vector import clt

    cls = getattr(clt, _CLASSES[raw.kind])
    values = {field.name: getattr(raw, field.name) for field in dataclasses.fields(raw)}
    cfg = config_of(values, raw.source)
    tensors: dict[str, Any]
    if raw.kind == "cross_layer":
        bases = sorted({name.split(".")[0] for name in raw.tensors})
        tensors = {
            base: [_weight(raw.tensors[f"{base}.{i}"], lazy=base in ("W_dec", "W_enc")) for i in range(raw.n_layers)]
            for base in bases
            if all(f"{base}.{i}" in raw.tensors for i in range(raw.n_layers))
        }
    else:
        tensors = {name: _weight(tensor, lazy=False) for name, tensor in raw.tensors.items()}
    try:
        return cls(cfg, **tensors)
    except IamError as error:
        raise FormatError(f"{raw.source}: {error}", code="format") from error


def _weight(tensor: Any, *, lazy: bool) -> Any:
    return tensor if lazy and isinstance(tensor, LazyTensor) else as_float32(tensor)


def raw_of(coder: Any) -> RawCoder:
    """The record of a coder; its weights are not copied."""
    cfg = coder.cfg
    name = next((base.__name__ for base in type(coder).__mro__ if base.__name__ in _CLASSES.values()), "")
    kind: Any = {value: key for key, value in _CLASSES.items()}.get(name)
    if kind is None:
        raise FormatError(f"iam.formats: no format is known for a {type(coder).__name__}", code="architecture")
    fields = {field.name for field in dataclasses.fields(RawCoder)} - {"kind", "source", "tensors", "metadata"}
    values = {name: getattr(cfg, name) for name in fields if hasattr(cfg, name)}
    values["d_out"] = coder.d_out if hasattr(coder, "d_out") else coder.d_in
    values["n_layers"] = getattr(coder, "n_layers", getattr(coder, "n_sites", 1))
    tensors = {
        name: part if hasattr(part, "rows") else np.asarray(part)
        for name, part in coder.parameters().items()
        if part is not None
    }
    return RawCoder(source=type(coder).__name__, kind=kind, metadata=dict(cfg.metadata), tensors=tensors, **values)
