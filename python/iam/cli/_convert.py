"""``iam convert``: a coder from one weight format to another, read back and compared before the command says that it is done."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from iam.core.errors import FormatError, InternalError
from iam.formats import FORMATS, detect, native
from iam.formats._detect import load_raw, module, save_raw
from iam.formats._lazy import LazyTensor, as_float32
from iam.formats._raw import RawCoder

__all__ = ["Conversion", "convert", "convert_path"]

_ROWS = 4096  # rows of a lazy tensor that are compared at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What was done.

    Attributes:
        source, target: The paths.
        source_format, target_format: Keys of ``iam.formats.FORMATS``.
        coders: How many coders; more than one for a set of transcoders.
        tensors: How many tensors were compared after reading them back.
        rounding: The largest difference between a weight and what the target stores of it; 0 if all bits are the same.
        changes: What the target's conventions made of the source's, in words.
    """

    source: str
    source_format: str
    target: str
    target_format: str
    coders: int
    tensors: int
    rounding: float
    changes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"schema": "iam.conversion/1", **asdict(self)}


def convert_path(
    source: Path,
    target: Path,
    to: str,
    *,
    format: str | None = None,
    dtype: str | None = None,
    layer: int | None = None,
    kind: str | None = None,
) -> Conversion:
    """Convert a coder and verify the result by reading it back.

    Args:
        source: A folder or weight file in one of ``iam.formats.FORMATS``.
        target: The folder to write; it must not exist, or be empty.
        to: The format to write.
        format: The source's format, where it cannot be told.
        dtype: What to store, where the target has a choice; by default what the source stores.
        layer: Which layer of a set of transcoders; by default all that the target can hold.
        kind: ``sae`` or ``transcoder``, for Gemma Scope files that do not say it.

    Raises:
        FormatError: the source cannot be read, the target exists, or its format cannot hold this coder.
        InternalError: what was read back is not what was written.
    """
    from dataclasses import replace

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FormatError(f"iam convert: {target}: expected a new or empty folder", code="format")
    if format is None:
        found = detect(source)
        format, source = found.format, found.path
    raws = _read(source, format, layer, kind)
    first = raws[0]
    if dtype is not None:
        raws = [replace(raw, dtype=dtype) for raw in raws]
    if len(raws) > 1 and to != "circuit_tracer":
        raise FormatError(
            f"iam convert: {source} has transcoders of {len(raws)} layers, and {to} holds one; say which with --layer",
            code="format",
        )
    writer = module(to)
    wanted = [_as_written(raw, to, target) for raw in raws]
    if dtype is not None and wanted[0].dtype != dtype:
        raise FormatError(f"iam convert: {to} stores {wanted[0].dtype}, not {dtype}", code="config-value")
    if len(raws) > 1:
        writer.write_raw(raws, target)
        written = [load_raw(target, to, layer=i) for i in range(len(raws))]
    else:
        save_raw(raws[0], target, format=to)
        written = [load_raw(target, to)]
    rounding, count = 0.0, 0
    for want, got in zip(wanted, written, strict=True):
        rounding = max(rounding, _compare(want, got))
        count += len(got.tensors)
    return Conversion(
        source=str(source), source_format=format, target=str(target), target_format=to, coders=len(raws), tensors=count,
        rounding=rounding, changes=_changes(first, written[0]),
    )  # fmt: skip


def _read(source: Path, format: str, layer: int | None, kind: str | None) -> list[RawCoder]:
    if format == "circuit_tracer" and layer is None:
        from iam.formats import circuit_tracer

        return [load_raw(source, format, layer=each) for each in circuit_tracer.layers(source)]
    return [load_raw(source, format, layer=layer, kind=kind)]


def _as_written(raw: RawCoder, to: str, target: Path) -> RawCoder:
    """The record in the conventions of the target; refuses what it cannot hold before anything is written."""
    if to == "saelens":
        from iam.formats._raw import fold_norm_scale

        return raw if raw.norm_scale is None else fold_norm_scale(raw)
    return module(to).prepare(raw, target)


_ULP = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def _compare(want: RawCoder, got: RawCoder) -> float:
    """The largest difference; more than the storage type's rounding is a bug."""
    for name in ("kind", "architecture", "d_in", "d_out", "d_sae", "n_layers", "k", "apply_b_dec_to_input",
                 "normalize_activations", "rescale_acts_by_decoder_norm"):  # fmt: skip
        if getattr(want, name) != getattr(got, name):
            raise InternalError(
                f"iam convert: wrote {name}={getattr(want, name)!r} and read back {getattr(got, name)!r} from {got.source}"
            )
    if set(want.tensors) != set(got.tensors):
        raise InternalError(f"iam convert: wrote {sorted(want.tensors)} and read back {sorted(got.tensors)}")
    largest = 0.0
    for name, tensor in want.tensors.items():
        by_feature = name.split(".")[0] in ("W_dec", "W_enc")
        for left, right in _pieces(name, tensor, got.tensors[name]):
            difference = np.abs(left.astype(np.float64) - right)
            if got.dtype == "int8":  # half a step of the row, which only rows of features have
                allowed = native.error_bound(left) if by_feature else np.zeros(())
            else:  # half a unit in the last place, and what lies below the smallest normal number of float16
                allowed = _ULP[got.dtype] * np.abs(left) + (2.0**-25 if got.dtype == "float16" else 0.0)
            if (difference > allowed).any():
                raise InternalError(
                    f'iam convert: tensor "{name}" differs by up to {difference.max()} from what was written to {got.source}'
                )
            largest = max(largest, float(difference.max(initial=0.0)))
    return largest


def _pieces(name: str, want: Any, got: Any) -> Any:
    """Both tensors in pieces, encoders with their features first."""
    if name.split(".")[0] == "W_enc":
        want, got = (t.T if len(t.shape) == 2 else np.moveaxis(as_float32(t), -1, 0) for t in (want, got))
    if isinstance(want, LazyTensor) or isinstance(got, LazyTensor):
        for start in range(0, want.shape[0], _ROWS):
            part = slice(start, start + _ROWS)
            yield tuple(t.rows(part) if isinstance(t, LazyTensor) else t[part] for t in (want, got))
    else:
        yield as_float32(want), as_float32(got)


def _changes(before: RawCoder, after: RawCoder) -> list[str]:
    changes = []
    if before.architecture != after.architecture:
        changes.append(f"{before.architecture} is stored as {after.architecture}: the same function")
    if before.apply_b_dec_to_input and not after.apply_b_dec_to_input:
        changes.append("the subtracted b_dec is folded into the encoder's bias: the same function")
    if after.apply_b_dec_to_input and not before.apply_b_dec_to_input:
        changes.append("the encoder subtracts b_dec there; its bias gives it back: the same function")
    if before.norm_scale is not None and after.norm_scale is None:
        changes.append(f"the input scale {before.norm_scale:.6g} is folded into the weights: the same function")
    if before.rescale_acts_by_decoder_norm and not after.rescale_acts_by_decoder_norm:
        changes.append(
            "decoder rows have norm 1 now, and features are scaled by what they had: the same reconstructions"
        )
    if before.dtype != after.dtype:
        changes.append(f"{before.dtype} is stored as {after.dtype}")
    return changes


@click.command(
    short_help="Convert a coder to another weight format.",
    epilog="\b\nExamples:\n"
    "  iam convert ./layers.5.mlp ./out --to saelens       from sparsify, say\n"
    "  iam convert params.npz ./out --to saelens --kind sae\n"
    "  iam convert ./transcoders ./out --to gemma_scope_2 --layer 3",
)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(sorted(name for name, entry in FORMATS.items() if entry.written)),
    help="The format to write.",
)
@click.option("--from", "source_format", type=click.Choice(sorted(FORMATS)), help="What SRC is. [default: found out]")
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32", "int8"]), help="What to store. [default: as SRC]"
)
@click.option("--layer", type=click.IntRange(min=0), help="Which layer of a set of transcoders. [default: all]")
@click.option("--kind", type=click.Choice(["sae", "transcoder"]), help="For Gemma Scope files that do not say it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def convert(
    source: Path,
    target: Path,
    to: str,
    source_format: str | None,
    dtype: str | None,
    layer: int | None,
    kind: str | None,
    as_json: bool,
) -> None:
    """Read the coder in SRC, write it into the new folder DST, read that back and compare.

    What the target format expresses differently is written so that the coder computes the same function; the report says what
    that was. A coder that the format cannot hold is refused before anything is written.
    """
    import json

    done = convert_path(source, target, to, format=source_format, dtype=dtype, layer=layer, kind=kind)
    if as_json:
        click.echo(json.dumps(done.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    many = f"{done.coders} coders" if done.coders > 1 else "1 coder"
    click.echo(
        f"{done.source} ({done.source_format}) -> {done.target} ({done.target_format}): {many}, {done.tensors} tensors"
    )
    click.echo(
        "read back: "
        + (
            "every bit the same"
            if done.rounding == 0
            else f"largest rounding {done.rounding:.3g} ({dtype or 'stored type'})"
        )
    )
    for line in done.changes:
        click.echo(f"note: {line}")
