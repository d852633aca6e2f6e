"""Single ``.pt`` files of tensors, as several releases publish them; read, not written.

Which release a file is from is told by the names of its tensors. ``.weight`` is the transpose of IAM's, as is ``W_enc [f, d]`` of Qwen Scope.

=============  =============================================================================  ==============================
layout         tensors                                                                        runs as
=============  =============================================================================  ==============================
Qwen Scope     ``W_enc [f, d]``, ``W_dec [d, f]``, ``b_enc``, ``b_dec``                       topk; k from ``L0_k`` in the path
hook_z         ``W_enc [d, f]``, ``W_dec [f, d]``, ``b_enc``, ``b_dec``; ``NAME_cfg.json``    standard, subtracts, of heads
Goodfire       ``encoder_linear.weight/bias``, ``decoder_linear.weight/bias``                 standard
plain          ``encoder.weight/bias``, ``decoder.weight/bias`` (qresearch's of DeepSeek-R1)  standard
OpenAI         ``encoder.weight``, ``latent_bias``, ``decoder.weight``, ``pre_bias``;         standard, or topk of inputs
               ``activation``, ``activation_state_dict``                                      with layer norm; subtracts
=============  =============================================================================  ==============================

"Subtracts": ``b_dec`` is taken off the input. OpenAI's TopK coders normalise their input, and nothing in their file says so but the
activation; tied ones and those whose TopK keeps negative values are refused. Files are read by ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from iam.core.config import take_int
from iam.core.errors import FormatError
from iam.formats._checkpoint import CheckpointFile
from iam.formats._raw import RawCoder, read_json, take
from iam.formats.gemma_scope_2 import storage

__all__ = ["NAME", "read", "read_raw"]

NAME = "state_dict"
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
# layout -> our name: theirs
_LAYOUTS: dict[str, dict[str, str]] = {
    "Goodfire": {"W_enc": "encoder_linear.weight", "b_enc": "encoder_linear.bias", "W_dec": "decoder_linear.weight",
                 "b_dec": "decoder_linear.bias"},
    "OpenAI": {"W_enc": "encoder.weight", "b_enc": "latent_bias", "W_dec": "decoder.weight", "b_dec": "pre_bias"},
    "plain": {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"},
    "W": _PLAIN,
}  # fmt: skip
_OPENAI_STATISTICS = {"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"}


def read(path: str | Path) -> Any:
    """The SAE in a ``.pt`` file.

    Raises:
        FormatError: as :func:`iam.formats.dictionary_learning.read`; tensors of no known layout, or a layout that does not say what
            its release knows (``format``).
        MissingDependencyError: torch is not installed.
    """
    from iam.formats._build import build

    return build(read_raw(path))


def read_raw(path: str | Path) -> RawCoder:
    """The record of an SAE; see :func:`read`."""
    file = CheckpointFile(path)
    layout = next((name for name, names in _LAYOUTS.items() if set(names.values()) <= set(file.tensors)), None)
    if layout is None:
        seen = ", ".join(f"{name} {info.shape}" for name, info in sorted(file.tensors.items())) or "no tensors"
        raise FormatError(
            f"{path}: expected the tensors of one of {', '.join(sorted(_LAYOUTS))} (iam.formats.state_dict lists them), got {seen}",
            code="format",
        )
    names = _LAYOUTS[layout]
    f, d = _size(file, names["b_enc"]), _size(file, names["b_dec"])
    turned = layout != "W" or file.tensors["W_enc"].shape == (f, d)
    if layout == "W":
        if f == d:
            raise FormatError(
                f"{path}: as many features as dimensions ({d}): which of Qwen Scope and hook_z files this is cannot be told",
                code="format",
            )
        layout = "Qwen Scope" if turned else "hook_z"
    more, others = _conventions(layout, file, f, d)
    if unknown := sorted((set(file.tensors) | set(file.scalars) | set(file.texts)) - set(names.values()) - others):
        raise FormatError(f"{path}: {unknown} do not belong to a {layout} file", code="tensor-missing")
    of = f"{names['b_enc']} ({f} features) and {names['b_dec']} (width {d})"
    shapes = {"W_enc": (d, f), "b_enc": (f,), "W_dec": (f, d), "b_dec": (d,)}
    tensors = {
        ours: take(
            file,
            theirs,
            shapes[ours][::-1] if turned else shapes[ours],
            of=of,
            transpose=turned and len(shapes[ours]) > 1,
        )
        for ours, theirs in names.items()
    }
    return RawCoder(
        source=str(file.path), kind="sae", d_in=d, d_out=d, d_sae=f, dtype=storage(file), tensors=tensors, **more
    )


def _size(file: CheckpointFile, name: str) -> int:
    shape = file.tensors[name].shape
    if len(shape) != 1:
        raise FormatError(f'{file.path}: expected a vector "{name}", got shape {shape}', code="tensor-shape")
    return int(shape[0])


def _conventions(layout: str, file: CheckpointFile, f: int, d: int) -> tuple[dict[str, Any], set[str]]:
    """What the layout means, and names in the file that are not weights."""
    if layout == "OpenAI":
        return _openai(file, f)
    metadata: dict[str, Any] = {"prepend_bos": True}
    if layout == "hook_z":
        return _hook_z(file, f, d, metadata), set()
    if match := re.search(r"(?:layer|l)(\d+)(?:\.sae)?\.pth?$", file.path.name):
        metadata["hook_name"] = f"blocks.{int(match[1])}.hook_resid_post"
    if layout != "Qwen Scope":
        return {"architecture": "standard", "metadata": metadata}, set()
    text = str(file.path.absolute())
    width = re.search(r"L0_(\d+)", text)
    if width is None:
        raise FormatError(
            f"{file.path}: a Qwen Scope file does not say how many features are active; keep the name of its repository "
            "(SAE-Res-MODEL-W32K-L0_50) in the path, or load it with from_pretrained",
            code="format",
        )
    k = take_int(int(width[1]), what=f"{file.path}: k", low=1, high=f, error=FormatError, code="k-range")
    return {"architecture": "topk", "k": k, "metadata": metadata}, set()


def _hook_z(file: CheckpointFile, f: int, d: int, metadata: dict[str, Any]) -> dict[str, Any]:
    cfg_file = file.path.with_name(f"{file.path.stem}_cfg.json")
    cfg = read_json(cfg_file)
    if (cfg.get("act_size"), cfg.get("dict_size")) != (d, f):
        raise FormatError(
            f"{cfg_file}: act_size and dict_size are {cfg.get('act_size')} and {cfg.get('dict_size')}, the file's width and "
            f"features {d} and {f}",
            code="format",
        )
    if isinstance(cfg.get("act_name"), str):
        metadata["hook_name"] = cfg["act_name"]
    return {
        "architecture": "standard", "apply_b_dec_to_input": True, "reshape_activations": "hook_z", "metadata": metadata,
    }  # fmt: skip


def _openai(file: CheckpointFile, f: int) -> tuple[dict[str, Any], set[str]]:
    activation = file.texts.get("activation", "ReLU")
    others = {"activation"} | _OPENAI_STATISTICS
    common: dict[str, Any] = {"apply_b_dec_to_input": True, "metadata": {}}
    if activation == "ReLU":
        return {"architecture": "standard", **common}, others
    after = file.texts.get("activation_state_dict.postact_fn", "ReLU")
    if activation != "TopK" or after != "ReLU":
        raise FormatError(
            f"{file.path}: expected activation ReLU, or TopK with postact_fn ReLU, got {activation} with {after}",
            code="architecture",
        )
    k = file.scalars.get("activation_state_dict.k")
    k = take_int(k, what=f"{file.path}: activation_state_dict.k", low=1, high=f, error=FormatError, code="k-range")
    others |= {"activation_state_dict.k", "activation_state_dict.postact_fn"}
    return {"architecture": "topk", "k": k, "normalize_activations": "layer_norm", **common}, others
