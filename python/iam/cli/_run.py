"""``iam run``: a program in the ``iam`` dialect, written by hand or printed by ``fn.mlir()``, on arrays from files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from iam.compiler._engine import CompiledModule, Slot

__all__ = ["bind", "run", "run_program"]


@dataclass(frozen=True, slots=True)
class _Given:
    """One ``--inputs``: a file or a number, for a named argument or for the next one."""

    name: str | None
    text: str

    @classmethod
    def parse(cls, text: str) -> _Given:
        name, equals, value = text.partition("=")
        if equals and re.fullmatch(r"%?[A-Za-z_][\w$.-]*", name) and not Path(text).exists():
            return cls(name.removeprefix("%"), value)
        return cls(None, text)


# Signatures.


def _type_of(slot: Slot) -> str:
    from iam.compiler._engine import FeaturesSlot, NumberSlot

    if isinstance(slot, NumberSlot):
        return slot.dtype
    if isinstance(slot, FeaturesSlot):
        form = "" if slot.k is None else f", k = {slot.k}"
        return f"features<{_size(slot.rows)}x{slot.n_features}xf32{form}>"
    return "tensor<" + "".join(_size(n) + "x" for n in slot.shape) + slot.dtype + ">"


def _size(number: int | None) -> str:
    return "?" if number is None else str(number)


def _argument_names(source: bytes, entry: str, count: int) -> list[str]:
    """What the text calls the arguments of ``@entry``; ``arg0``... where it does not say."""
    fallback = [f"arg{i}" for i in range(count)]
    text = re.sub(r"//[^\n]*", "", source.decode("utf-8", "replace"))
    found = re.search(rf'func\.func\s+(?:\w+\s+)?@(?:{re.escape(entry)}|"{re.escape(entry)}")\s*\(', text)
    if found is None:
        return fallback
    names, depth, start = [], 0, found.end()
    for at in range(found.end(), len(text)):
        character = text[at]
        if character in "([{<":
            depth += 1
        elif character in ")]}>" and text[at - 1 : at + 1] != "->":
            depth -= 1
        if depth < 0 or (character == "," and depth == 0):
            name = re.match(r"\s*%([\w$.-]+)\s*:", text[start:at])
            names.append(name[1] if name else "")
            start = at + 1
        if depth < 0:
            break
    return names if len(names) == count and all(names) else fallback


def _signature(program: CompiledModule, names: Sequence[str]) -> str:
    lines = [f"@{program.name}"]
    width = max(map(len, names), default=0)
    lines += [f"  argument  {name:{width}}  {_type_of(slot)}" for name, slot in zip(names, program.inputs, strict=True)]
    lines += [f"  result {i}  {' ' * width}  {_type_of(slot)}" for i, slot in enumerate(program.results)]
    return "\n".join(lines)


# Arguments.


def bind(
    program: CompiledModule, names: Sequence[str], inputs: Sequence[str], weights: Sequence[Path]
) -> tuple[list[Any], list[str]]:
    """The arguments of a call, and where each came from.

    Args:
        inputs: ``NAME=VALUE`` or ``VALUE``, which goes to the first argument that nothing else is given for. A value is a
            ``.npy`` file, an ``.npz`` file of features, or a number.
        weights: Safetensors files. A tensor is an argument of its name, or of one that ends in ``_`` and its name.

    Raises:
        ArgumentError: an argument that nothing is given for, something given for no argument, or twice.
        FormatError: a file that is not what the argument takes.
    """
    from iam.core.config import suggestion
    from iam.core.errors import ArgumentError

    given = [_Given.parse(text) for text in inputs]
    chosen: dict[str, Any] = {}
    for one in given:
        if one.name is not None:
            if one.name not in names:
                raise ArgumentError(
                    f'iam run: @{program.name} has no argument "{one.name}"; {suggestion(one.name, names)}'
                )
            if one.name in chosen:
                raise ArgumentError(f'iam run: argument "{one.name}" is given twice')
            chosen[one.name] = one.text
    tensors = _tensors(weights, [name for name in names if name not in chosen])
    open_names = [name for name in names if name not in chosen and name not in tensors]
    for one in given:
        if one.name is None:
            if not open_names:
                raise ArgumentError(f"iam run: nothing is left for {one.text}: every argument has a value")
            chosen[open_names.pop(0)] = one.text
    if open_names:
        raise ArgumentError(
            f"iam run: nothing is given for {', '.join(open_names)}. Give --inputs NAME=FILE.npy, a number for a number, or "
            f"--weights for tensors of these names.\n{_signature(program, names)}"
        )
    values, sources = [], []
    for name, slot in zip(names, program.inputs, strict=True):
        if name in chosen:
            values.append(_read(chosen[name], slot, f'iam run: argument "{name}"'))
            sources.append(chosen[name])
        else:
            path, file, tensor = tensors[name]
            values.append(file.read(tensor))
            sources.append(f"{path}: {tensor}")
    return values, sources


def _tensors(paths: Sequence[Path], names: Sequence[str]) -> Mapping[str, tuple[Path, Any, str]]:
    """Argument -> the file and the tensor in it that belongs to it."""
    from iam.core.errors import ArgumentError
    from iam.formats._safetensors import SafetensorsFile

    found: dict[str, tuple[Path, Any, str]] = {}
    for path in paths:
        file = SafetensorsFile(path)
        used = False
        for name in names:
            fitting = [tensor for tensor in file.tensors if name == tensor or name.endswith("_" + tensor)]
            if fitting:
                used = True
                if name in found:
                    raise ArgumentError(f'iam run: argument "{name}" is in {found[name][0]} and in {path}')
                found[name] = (path, file, max(fitting, key=len))
        if not used:
            raise ArgumentError(
                f"iam run: no tensor of {path} has the name of an argument; it has {', '.join(list(file.tensors)[:8])}; "
                f"arguments are {', '.join(names)}"
            )
    return found


def _read(text: str, slot: Slot, what: str) -> Any:
    from iam.compiler._engine import FeaturesSlot, NumberSlot
    from iam.core.errors import ArgumentError, FormatError

    if isinstance(slot, NumberSlot):
        try:
            return float(text) if slot.dtype.startswith("f") else int(text)
        except ValueError:
            raise ArgumentError(f"{what} is a number ({slot.dtype}), got {text!r}") from None
    path = Path(text)
    if not path.is_file():
        raise FormatError(f"{what} is {_type_of(slot)}: expected a file, and there is no {path}", code="file-missing")
    return (
        _read_features(path, slot, what) if isinstance(slot, FeaturesSlot) else _read_array(path, what, _type_of(slot))
    )


def _load(path: Path, what: str, wanted: str) -> Any:
    import zipfile

    import numpy as np

    from iam.core.errors import FormatError

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{what}: expected {wanted}, got {path}: {error}") from error


def _read_array(path: Path, what: str, type: str) -> Any:
    import numpy as np

    from iam.core.errors import FormatError

    found = _load(path, what, f"a .npy file for {type}")
    if not isinstance(found, np.ndarray):
        raise FormatError(f"{what} is {type}: expected a .npy file, got the archive {path}")
    return found


def _read_features(path: Path, slot: Any, what: str) -> Any:
    import zipfile

    import numpy as np

    from iam.core.errors import FormatError
    from iam.core.features import SparseFeatures

    needed = ["values", "indices", *(["offsets"] if slot.k is None else [])]
    found = _load(path, what, "an .npz file of features")
    if isinstance(found, np.ndarray):
        raise FormatError(
            f"{what} is {_type_of(slot)}: expected an .npz file with {', '.join(needed)}, got the array {path}"
        )
    with found as archive:
        missing = [name for name in needed if name not in archive]
        if missing:
            raise FormatError(f"{what}: {path} has no {', '.join(missing)}; it has {', '.join(archive.files)}")
        try:
            values, indices = archive["values"], archive["indices"].astype(np.int32, casting="same_kind")
            offsets = archive["offsets"].astype(np.int64, casting="same_kind") if slot.k is None else None
            told = int(archive["n_features"]) if "n_features" in archive else slot.n_features
        except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise FormatError(f"{what}: {path}: {error}") from error
    return SparseFeatures(values, indices, offsets, told)


# Results.


def _write(result: Any, folder: Path, number: int) -> tuple[Path, str]:
    import io

    import numpy as np

    from iam.core.features import SparseFeatures
    from iam.formats._atomic import write_atomically

    buffer = io.BytesIO()
    if isinstance(result, SparseFeatures):
        values, indices, offsets = result.components
        arrays = {"values": values, "indices": indices, "n_features": np.int64(result.n_features)}
        if offsets is not None:
            arrays["offsets"] = offsets
        np.savez(buffer, **arrays)
        path, about = folder / f"result{number}.npz", f"features {result.shape}, {values.size} slots"
    else:
        np.save(buffer, result, allow_pickle=False)
        path, about = folder / f"result{number}.npy", f"{result.dtype} {result.shape}"
    write_atomically(path, buffer.getvalue())
    return path, about


def run_program(
    file: Path, *, entry: str | None, inputs: Sequence[str], weights: Sequence[Path], out: Path | None
) -> list[tuple[Path, str]]:
    """Compile, bind, run and write; prints the signature first. The files that were written.

    Raises:
        FormatError, ArgumentError, CompileError, ShapeError, DtypeError: see :func:`bind` and
            :func:`iam.compiler.compile_module`.
    """
    from iam.compiler import compile_module
    from iam.core.errors import ArgumentError, FormatError

    try:
        source = file.read_bytes()
    except OSError as error:
        raise FormatError(f"iam run: {file} cannot be read: {error.strerror}", code="file-missing") from error
    is_bytecode = source.startswith(b"ML\xefR")
    try:
        text: str | bytes = source if is_bytecode else source.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"iam run: {file} is neither MLIR text in UTF-8 nor bytecode: {error}") from error
    program = compile_module(text, entry=entry, filename=str(file))
    names = _argument_names(b"" if is_bytecode else source, program.name, len(program.inputs))
    click.echo(_signature(program, names))
    if out is None:
        return []
    values, sources = bind(program, names, inputs, weights)
    for name, where in zip(names, sources, strict=True):
        click.echo(f"{name} = {where}")
    found = program(*values)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"iam run: {out} cannot be made: {error.strerror}") from error
    results = found if isinstance(found, tuple) else (found,)
    return [_write(result, out, i) for i, result in enumerate(results)]


@click.command(
    short_help="Run a program written in MLIR.",
    epilog="\b\nExamples:\n"
    "  iam run program.mlir                                  what does it take\n"
    "  iam run program.mlir --inputs x.npy --out results\n"
    "  iam run steer.mlir -i h=h.npy -i s=4.0 -w sae_weights.safetensors --out results\n"
    "  iam run codes.mlir -i f=results/result0.npz --out decoded",
)
@click.argument("file", metavar="FILE.mlir", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--inputs",
    "-i",
    multiple=True,
    metavar="[NAME=]VALUE",
    help="An argument: a .npy file, an .npz file of features (values, indices, offsets), or a number. Without NAME, for the"
    " next argument. Once for each.",
)
@click.option(
    "--weights",
    "-w",
    multiple=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A safetensors file; its tensors are the arguments of these names (W_enc is %W_enc, or %sae_W_enc).",
)
@click.option("--entry", metavar="NAME", help="The function to run. [default: the only public one]")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Folder for result0.npy, result1.npz, ... Without it, only the signature is printed.",
)  # fmt: skip
def run(file: Path, inputs: tuple[str, ...], weights: tuple[Path, ...], entry: str | None, out: Path | None) -> None:
    """Compile and run a function of a module in the iam dialect.

    FILE.mlir is text or bytecode: written by hand, or printed by `fn.mlir()` of a function under iam.jit. Prints the
    signature; results are written as .npy, features as .npz with values, indices and (without k slots) offsets.
    """
    from iam.core.errors import ArgumentError

    if out is None and (inputs or weights):
        raise ArgumentError("iam run: --inputs without --out: say where the results go with --out DIR")
    for path, about in run_program(file, entry=entry, inputs=inputs, weights=weights, out=out):
        click.echo(f"{path}: {about}")
