"""dictionary_learning (saprmarks): ``ae.pt``, a state dict, and ``config.json`` in a folder ``trainer_{i}``.

What ``config.json`` names as ``trainer.dict_class`` decides; the names of the tensors must agree with it.

==========================  ==========================================================================  ============
dict_class                  tensors (``.weight`` is the **transpose** of IAM's)                         runs as
==========================  ==========================================================================  ============
AutoEncoder                 ``bias``, ``encoder.weight [f,d]``, ``encoder.bias``, ``decoder.weight [d,f]``  standard, subtracts
AutoEncoderNew              ``encoder.weight/bias``, ``decoder.weight/bias``                            standard
GatedAutoEncoder            ``decoder_bias``, ``encoder.weight``, ``r_mag``, ``gate_bias``, ``mag_bias``, ``decoder.weight``  gated, subtracts
AutoEncoderTopK             ``encoder.weight/bias``, ``decoder.weight``, ``b_dec``, ``k``, ``threshold``  topk, subtracts
BatchTopKSAE                the same                                                                    jumprelu, subtracts
MatryoshkaBatchTopKSAE      ``W_enc [d,f]``, ``b_enc``, ``W_dec [f,d]``, ``b_dec``, ``k``, ``threshold``, ``group_sizes``  jumprelu, subtracts
JumpReluAutoEncoder         ``W_enc [d,f]``, ``b_enc``, ``W_dec [f,d]``, ``b_dec``, ``threshold [f]``       jumprelu
==========================  ==========================================================================  ============

"Subtracts": ``b_dec`` is taken off the input. ``ae.pt`` is read by ``torch.load(weights_only=True)``. A BatchTopK threshold below 0 means
that it was never learned: such a file is refused, because its inference form does not exist. dictionary_learning reports the
features of gated and JumpReLU coders times the norm of their decoder rows; IAM, like SAELens, as they are decoded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from iam.core.config import suggestion, take_int
from iam.core.errors import FormatError
from iam.formats._checkpoint import CheckpointFile, write_checkpoint
from iam.formats._lazy import as_float32
from iam.formats._raw import (
    RawCoder,
    fold_b_dec,
    fold_norm_scale,
    fold_rescaling,
    read_json,
    read_sidecar,
    take,
    unfold_b_dec,
    write_json,
    write_sidecar,
)

__all__ = ["CONFIG_NAME", "FILE_NAME", "NAME", "read", "read_raw", "write", "write_raw"]

NAME = "dictionary_learning"
CONFIG_NAME = "config.json"
FILE_NAME = "ae.pt"

_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "b_dec"}
_PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
# dict_class -> architecture, whether b_dec is subtracted, names of the tensors, names that are not weights
_CLASSES: dict[str, tuple[str, bool, dict[str, str], set[str]]] = {
    "AutoEncoder": ("standard", True, {**_LINEAR, "b_dec": "bias"}, set()),
    "AutoEncoderNew": ("standard", False, {**_LINEAR, "b_dec": "decoder.bias"}, set()),
    "AutoEncoderTopK": ("topk", True, _LINEAR, {"k", "threshold"}),
    "BatchTopKSAE": ("jumprelu", True, {**_LINEAR, "threshold": "threshold"}, {"k"}),
    "GatedAutoEncoder": (
        "gated", True,
        {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias", "r_mag": "r_mag",
         "b_gate": "gate_bias", "b_mag": "mag_bias"}, set(),
    ),
    "JumpReluAutoEncoder": ("jumprelu", False, {**_PLAIN, "threshold": "threshold"}, set()),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True, {**_PLAIN, "threshold": "threshold"}, {"k", "group_sizes"}),
}  # fmt: skip


def read(path: str | Path) -> Any:
    """The SAE in a folder with ``ae.pt`` and ``config.json``.

    Raises:
        FormatError: as :func:`iam.formats.saelens.read`; a ``.pt`` file that holds more than tensors and numbers, a class and
            tensors that disagree, a threshold that was never learned (``format``).
        MissingDependencyError: torch is not installed.
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record of a coder; see :func:`read`."""
    folder = Path(path)
    cfg_file = folder / CONFIG_NAME
    trainer = read_json(cfg_file).get("trainer")
    if not isinstance(trainer, dict):
        raise FormatError(f'{cfg_file}: expected an object "trainer", got {trainer!r}', code="config-key")
    for key in ("dict_class", "activation_dim", "dict_size"):
        if key not in trainer:
            raise FormatError(f'{cfg_file}: trainer: expected a key "{key}"', code="config-key")
    name = trainer["dict_class"]
    if not isinstance(name, str) or name not in _CLASSES:
        raise FormatError(
            f"{cfg_file}: dict_class: unknown {name!r}; {suggestion(str(name), _CLASSES)}", code="architecture"
        )
    architecture, subtract, names, others = _CLASSES[name]
    d, f = (
        take_int(trainer[key], what=f"{cfg_file}: {key}", low=1, high=2**31 - 1, error=FormatError, code="config-value")
        for key in ("activation_dim", "dict_size")
    )
    file = CheckpointFile(folder / FILE_NAME)
    seen = set(file.tensors) | set(file.scalars) | set(file.texts)
    if unknown := sorted(seen - set(names.values()) - others):
        raise FormatError(
            f"{file.path}: {unknown} do not belong to {name}, which {CONFIG_NAME} names; expected {sorted(names.values())}",
            code="tensor-missing",
        )
    of = f"{CONFIG_NAME} (activation_dim={d}, dict_size={f})"
    shapes = {"W_enc": (d, f), "W_dec": (f, d), "b_dec": (d,)}
    tensors: dict[str, Any] = {}
    for ours, theirs in names.items():
        shape = shapes.get(ours, (f,))
        turned = theirs.endswith(".weight")
        if ours == "threshold" and file.tensors.get(theirs) is not None and file.tensors[theirs].shape == ():
            tensors[ours] = np.full(f, file.read(theirs), np.float32)
        else:
            tensors[ours] = take(file, theirs, shape[::-1] if turned else shape, of=of, transpose=turned)
    if architecture == "jumprelu" and (tensors["threshold"] < 0).all():
        raise FormatError(
            f"{file.path}: threshold is {tensors['threshold'][0]}, which means that it was never learned (fewer than 1,000 "
            f"steps); {name} has no inference form without it",
            code="format",
        )
    k = None
    if architecture == "topk":
        k = take_int(
            file.scalars.get("k", trainer.get("k")), what=f"{file.path}: k", low=1, high=f, error=FormatError, code="k-range"
        )  # fmt: skip
    sidecar = read_sidecar(folder, NAME)
    return RawCoder(
        source=str(file.path), kind="sae", architecture=architecture, d_in=d, d_out=d, d_sae=f, k=k,
        apply_b_dec_to_input=subtract, metadata=sidecar["metadata"] if sidecar else _metadata(cfg_file, trainer),
        tensors=tensors,
    )  # fmt: skip


def _metadata(cfg_file: Path, trainer: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"dict_class": trainer["dict_class"]}
    if isinstance(trainer.get("lm_name"), str):
        metadata["model_name"] = trainer["lm_name"]
    submodule, layer = trainer.get("submodule_name"), trainer.get("layer")
    if submodule is not None:
        metadata["submodule_name"] = submodule
    if isinstance(layer, int) and (submodule is None or str(submodule).startswith("resid_post")):
        metadata["hook_name"] = f"blocks.{layer}.hook_resid_post"
    buffer = read_json(cfg_file).get("buffer")
    if isinstance(buffer, dict) and isinstance(buffer.get("ctx_len"), int):
        metadata["context_size"] = buffer["ctx_len"]
    return metadata


def write(coder: Any, path: str | Path) -> Path:
    """Write ``ae.pt``, ``config.json`` and ``iam.json`` into folder ``path``, as the class that fits.

    JumpReLU becomes ``JumpReluAutoEncoder`` (a subtracted ``b_dec`` is folded into ``b_enc``), TopK ``AutoEncoderTopK``, gated
    ``GatedAutoEncoder``, ReLU ``AutoEncoder`` or ``AutoEncoderNew``.

    Raises:
        FormatError: an architecture or convention that this format cannot hold (``architecture``, ``normalization``).
    """
    from iam.formats._build import raw_of

    return write_raw(raw_of(coder), path)


def write_raw(raw: RawCoder, path: str | Path) -> Path:
    """Write a record; see :func:`write`."""
    folder = Path(path)
    raw = prepare(raw, folder)
    name = _class_for(raw)
    _, _, names, _ = _CLASSES[name]
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {}
    for ours, theirs in names.items():
        array = as_float32(raw.tensors[ours])
        state[theirs] = array.T if theirs.endswith(".weight") else array
    if raw.k is not None:
        state["k"], state["threshold"] = raw.k, np.float32(-1.0)
    write_checkpoint(folder / FILE_NAME, state)
    meta = raw.metadata
    trainer = {
        "dict_class": name, "activation_dim": raw.d_in, "dict_size": raw.d_sae, "k": raw.k,
        "lm_name": meta.get("model_name"), "layer": _layer(meta), "submodule_name": meta.get("submodule_name"),
    }  # fmt: skip
    write_json(folder / CONFIG_NAME, {"trainer": trainer, "buffer": {"ctx_len": meta.get("context_size")}})
    write_sidecar(folder, NAME, raw)
    return folder


def _layer(metadata: Any) -> int | None:
    parts = str(metadata.get("hook_name", "")).split(".")
    return int(parts[1]) if len(parts) > 1 and parts[1].isdecimal() else None


def _class_for(raw: RawCoder) -> str:
    if raw.architecture == "standard":
        return "AutoEncoder" if raw.apply_b_dec_to_input else "AutoEncoderNew"
    return {"topk": "AutoEncoderTopK", "gated": "GatedAutoEncoder", "jumprelu": "JumpReluAutoEncoder"}[raw.architecture]


def prepare(raw: RawCoder, path: Path) -> RawCoder:
    """The record in the form that this format has; errors as :func:`write`."""
    if raw.kind != "sae" or raw.architecture not in ("gated", "jumprelu", "standard", "topk"):
        raise FormatError(
            f"{path}: dictionary_learning holds SAEs: gated, jumprelu, standard, topk; got {raw.kind} {raw.architecture}",
            code="architecture",
        )
    raw = replace(fold_norm_scale(fold_rescaling(raw)), dtype="float32")
    if raw.architecture == "jumprelu":
        return fold_b_dec(raw)
    if raw.architecture in ("gated", "topk") and not raw.apply_b_dec_to_input:
        return unfold_b_dec(raw)
    return raw
