"""Programs as StableHLO: text, portable bytecode, and a folder with a manifest.

The ``iam`` program is the source: StableHLO is made from it for every number of rows that is asked for, and a saved
folder keeps both. What a program means there (features, NaN, precision) is written in ``docs/stablehlo.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iam.compiler import _engine
from iam.compiler._engine import FeaturesSlot, NumberSlot, Slot, TensorSlot
from iam.core.errors import ArgumentError, CompileError, FormatError, MissingDependencyError

if TYPE_CHECKING:
    from iam.compiler._jax import JaxFunction

__all__ = ["Argument", "StablehloProgram", "from_recording", "from_text"]

SCHEMA = "iam.stablehlo/1"
MANIFEST = "manifest.json"
ENTRY = "main"
"""What PJRT calls."""

OLDEST = "1.9.0"
"""The StableHLO version that artefacts are written for: older consumers refuse them, newer ones read them for five years."""

Rows = int | Sequence[int] | None
Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument or a result of a program.

    Attributes:
        name: What it is called.
        slot: Its type in the ``iam`` dialect.
        is_weight: Whether it is bound to a weight, not given at every call.
    """

    name: str
    slot: Slot
    is_weight: bool = False

    @property
    def tensors(self) -> list[tuple[str, tuple[int | None, ...]]]:
        """Element type and shape of the StableHLO tensors that stand for it; None for a size that only a call knows."""
        slot = self.slot
        if isinstance(slot, NumberSlot):
            return [(slot.dtype, ())]
        if isinstance(slot, TensorSlot):
            return [(slot.dtype, slot.shape)]
        if slot.k is None:
            return [("f32", (slot.rows, slot.n_features))]
        return [("f32", (slot.rows, slot.k)), ("i32", (slot.rows, slot.k))]

    @property
    def form(self) -> str:
        """``tensor``, ``number``, ``slots`` (features in k-form: values and indices) or ``dense`` (other features)."""
        if isinstance(self.slot, FeaturesSlot):
            return "dense" if self.slot.k is None else "slots"
        return "number" if isinstance(self.slot, NumberSlot) else "tensor"

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "form": self.form}
        if isinstance(self.slot, FeaturesSlot):
            found["n_features"] = self.slot.n_features
        found["tensors"] = [{"dtype": dtype, "shape": list(shape)} for dtype, shape in self.tensors]
        return found


def open_sizes(arguments: Sequence[Argument]) -> int:
    """How many sizes the option ``rows`` of the pass may be given: one for each argument dimension that is open."""
    count = 0
    for argument in arguments:
        slot = argument.slot
        if isinstance(slot, FeaturesSlot):
            count += slot.rows is None
        elif isinstance(slot, TensorSlot):
            count += slot.shape.count(None)
    return count


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hash_weights(weights: Mapping[str, Array]) -> str:
    """SHA-256 over names, shapes and numbers of the weights, in the order of their names."""
    made = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        made.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        made.update(array.data)
    return made.hexdigest()


@dataclass(frozen=True, eq=False)
class StablehloProgram:
    """A program that can be written as StableHLO; made by ``JitFunction.stablehlo``, ``CompiledModule.stablehlo``.

    Attributes:
        name: Of the function.
        source: The program in the ``iam`` dialect.
        arguments: Its arguments, weights among them, in their order.
        results: Its results.
        weights: The numbers of the arguments that are weights.
        sites: Where in a model each coder of the program belongs.
    """

    name: str
    source: str
    arguments: tuple[Argument, ...]
    results: tuple[Argument, ...]
    weights: Mapping[str, Array] = field(default_factory=dict)
    sites: Mapping[str, str] = field(default_factory=dict)
    assemble: Callable[[Sequence[Any]], Any] | None = field(default=None, repr=False)
    """Makes what a call returns of its results; by default one, or a tuple."""
    prefix: tuple[int | None, ...] | None = field(default=None, repr=False)
    """For each result the argument whose leading dimensions it has; None where arguments have exactly one."""

    def __str__(self) -> str:
        return self.text()

    def text(self, rows: Rows = None) -> str:
        """The StableHLO module as text, in the generic form.

        Args:
            rows: Sizes for the ``?`` of the arguments, in their order, or one for all; None leaves them open.

        Raises:
            CompileError: an op has no StableHLO form; names the line it came from.
        """
        option = _rows_option(rows, open_sizes(self.arguments))
        with _engine.LOCK, _engine.context():
            module = _engine.parse(self.source)
            functions = {op.name.value: op for op in module.body.operations if op.operation.name == "func.func"}
            for name, function in functions.items():
                if name != self.name:
                    function.attributes["sym_visibility"] = _engine.ir().StringAttr.get("private")
            _engine.run_pipelines(module, ["iam-fuse"])
            functions[self.name].attributes["sym_name"] = _engine.ir().StringAttr.get(ENTRY)
            _engine.run_pipelines(module, [f"iam-to-stablehlo{option}", "cse"])
            return _engine.print_module(module)

    def bytecode(self, rows: Rows = None, *, version: str = OLDEST) -> bytes:
        """The module as a portable artefact (VHLO bytecode), which later StableHLO releases read. Needs jaxlib.

        Raises:
            MissingDependencyError: jaxlib is not installed.
        """
        from iam.compiler._jax import serialize

        return serialize(self.text(rows), version)

    def to_jax(self) -> JaxFunction:
        """A JAX function that runs the module through PJRT, on any device JAX has; see :class:`JaxFunction`.

        Raises:
            MissingDependencyError: JAX is not installed.
        """
        from iam.compiler._jax import JaxFunction

        return JaxFunction(self)

    def manifest(self) -> dict[str, Any]:
        """What :meth:`save` writes beside the module, without the hashes of the files."""
        import iam

        return {
            "schema": SCHEMA,
            "name": self.name,
            "entry": ENTRY,
            "versions": {"iam": iam.__version__, "stablehlo": OLDEST},
            "arguments": [a.to_json() | {"weight": a.is_weight} for a in self.arguments],
            "results": [a.to_json() for a in self.results],
            "weights": {
                "sha256": hash_weights(self.weights),
                "arrays": {
                    name: {"shape": list(array.shape), "sha256": _digest(np.ascontiguousarray(array).tobytes())}
                    for name, array in sorted(self.weights.items())
                },
            },
            "sites": dict(sorted(self.sites.items())),
        }

    def save(self, folder: str | Path, *, rows: Rows = None, with_weights: bool = True) -> Path:
        """Write the program to a new folder.

        ``manifest.json`` says what is there: ``program.stablehlo`` (bytecode, where jaxlib is installed) or
        ``program.stablehlo.mlir`` (text), ``program.mlir`` (the ``iam`` program) and ``weights.safetensors``.

        Args:
            folder: A new or empty folder; it appears complete or not at all.
            rows: As for :meth:`text`.
            with_weights: Whether the weights are written; their hash is in any case.

        Raises:
            FormatError: the folder exists and is not empty.
            CompileError: an op has no StableHLO form.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FormatError(f"StablehloProgram.save: {folder}: expected a new or empty folder")
        files: dict[str, bytes] = {"program.mlir": self.source.encode()}
        manifest = self.manifest()
        try:
            files["program.stablehlo"] = self.bytecode(rows)
            kind = "portable-artifact"
            from iam.compiler._jax import versions

            manifest["versions"] |= versions()
        except MissingDependencyError:
            files["program.stablehlo.mlir"] = self.text(rows).encode()
            kind = "text"
        if with_weights and self.weights:
            from safetensors.numpy import save

            files["weights.safetensors"] = save({n: np.ascontiguousarray(w) for n, w in self.weights.items()})
        manifest |= {
            "format": kind,
            "rows": None if rows is None else _as_list(rows),
            "files": {name: {"sha256": _digest(data), "bytes": len(data)} for name, data in files.items()},
        }
        files[MANIFEST] = json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n"
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, data in files.items():
                (made / name).write_bytes(data)
            made.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return folder

    @staticmethod
    def load(folder: str | Path, *, weights: Mapping[str, Any] | None = None) -> StablehloProgram:
        """Read what :meth:`save` wrote.

        Args:
            folder: The folder.
            weights: The weights, where they were not saved.

        Raises:
            FormatError: something is missing, was changed since it was written, or is of a newer schema.
        """
        folder = Path(folder)
        manifest, files = _read(folder)
        source = files["program.mlir"].decode()
        program = from_text(source, entry=manifest["name"], names=[a["name"] for a in manifest["arguments"]])
        wanted = [a["name"] for a in manifest["arguments"] if a["weight"]]
        if weights is None and "weights.safetensors" in files:
            from safetensors.numpy import load

            weights = load(files["weights.safetensors"])
        found = {name: np.asarray(array, np.float32) for name, array in (weights or {}).items() if name in wanted}
        if missing := [name for name in wanted if name not in found]:
            raise FormatError(
                f"{folder}: the weights {', '.join(missing)} were not saved with the program; give them with weights=",
                code="tensor-missing",
            )
        if hash_weights(found) != manifest["weights"]["sha256"]:
            raise FormatError(f"{folder}: these are not the weights that the program was saved with (other SHA-256)")
        arguments = tuple(Argument(a.name, a.slot, a.name in wanted) for a in program.arguments)
        results = tuple(Argument(b["name"], a.slot) for a, b in zip(program.results, manifest["results"], strict=True))
        return StablehloProgram(program.name, source, arguments, results, found, manifest["sites"])


def _as_list(rows: Rows) -> list[int]:
    return [] if rows is None else [int(rows)] if isinstance(rows, (int, np.integer)) else [int(n) for n in rows]


def _rows_option(rows: Rows, count: int) -> str:
    sizes = _as_list(rows)
    if len(sizes) > 1 and len(sizes) != count:
        raise ArgumentError(
            f"StablehloProgram: expected rows to be one number or {count}, one for each open size, got {sizes}"
        )
    if any(n < 0 or n > 2**31 - 1 for n in sizes):
        raise ArgumentError(f"StablehloProgram: expected rows in 0..2147483647, got {sizes}")
    return f"{{rows={','.join(map(str, sizes))}}}" if sizes else ""


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the files that it lists, checked against it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{folder}: there is no {MANIFEST}; expected a saved program", code="file-missing") from None
    except (ValueError, OSError) as error:
        raise FormatError(f"{folder / MANIFEST}: not readable as JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise FormatError(f'{folder / MANIFEST}: expected schema "{SCHEMA}", got {found!r}')
    try:
        names = {name: (str(about["sha256"]), int(about["bytes"])) for name, about in manifest["files"].items()}
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{folder / MANIFEST}: malformed: {type(error).__name__} {error}") from None
    files = {}
    for name, (sha256, size) in names.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise FormatError(f"{folder}: {name} of the manifest is not there", code="file-missing")
        if path.stat().st_size != size:
            raise FormatError(f"{path}: expected {size} bytes, got {path.stat().st_size}", code="file-truncated")
        files[name] = path.read_bytes()
        if _digest(files[name]) != sha256:
            raise FormatError(f"{path}: it was changed since it was written (other SHA-256 than in the manifest)")
    if "program.mlir" not in files:
        raise FormatError(f"{folder / MANIFEST}: program.mlir is not listed", code="file-missing")
    return manifest, files


def _check(manifest: dict[str, Any]) -> None:
    """Raise KeyError or TypeError where something that :meth:`StablehloProgram.load` reads is missing."""
    for about in (*manifest["arguments"], *manifest["results"], manifest):
        if not isinstance(about["name"], str):
            raise TypeError(f"a name is {about['name']!r}")
    for about in manifest["arguments"]:
        if not isinstance(about["weight"], bool):
            raise TypeError(f"weight of {about['name']} is {about['weight']!r}")
    if not isinstance(manifest["weights"]["sha256"], str) or not isinstance(manifest["sites"], dict):
        raise TypeError("weights or sites")


def from_text(
    program: Any, *, entry: str | None = None, filename: str = "-", names: Sequence[str] | None = None
) -> StablehloProgram:
    """A function of a module in the ``iam`` dialect, given as text, bytecode or ``iam.mlir.ir.Module``.

    Args:
        program: The module.
        entry: The function; by default the only public one.
        filename: Where the text came from, for messages.
        names: What its arguments are called; by default ``arg0``, ``arg1``, ...

    Raises:
        CompileError: it does not parse or verify, has no such function, or the function takes something else than
            tensors, numbers and features.
    """
    with _engine.LOCK, _engine.context():
        module, function = _engine.entry_of(program, entry, filename, "stablehlo")
        name = function.name.value
        inputs = [_engine._slot(t, f"argument {i} of @{name}") for i, t in enumerate(function.type.inputs)]
        results = [_engine._slot(t, f"result {i} of @{name}") for i, t in enumerate(function.type.results)]
        source = _engine.print_module(module, locations=True)
    given = list(names) if names is not None else [f"arg{i}" for i in range(len(inputs))]
    if len(given) != len(inputs):
        raise CompileError(f"stablehlo: @{name} has {len(inputs)} arguments, {len(given)} names were given")
    return StablehloProgram(
        name,
        source,
        tuple(Argument(n, slot) for n, slot in zip(given, inputs, strict=True)),
        tuple(Argument(f"result{i}", slot) for i, slot in enumerate(results)),
    )


def from_recording(recording: Any) -> StablehloProgram:
    """A recorded function with its weights; arguments keep their order, memory is nobody's to give away."""
    from iam.compiler._builder import build_module
    from iam.compiler._recording import _fill
    from iam.compiler._trace import FromArgument

    arguments, weights, sites = [], {}, {}
    at: dict[int, int] = {}  # leaf of a call -> argument
    for i, (value, slot, fetch) in enumerate(
        zip(recording.program.inputs, recording.inputs, recording._fetches, strict=True)
    ):
        is_weight = not isinstance(value.source, FromArgument)
        arguments.append(Argument(value.name, slot, is_weight))
        if not is_weight:
            at[value.source.leaf] = i
            continue
        found: list[Any] = []
        fetch([], found)
        weights[value.name] = found[0]
        for leaf_or_coder, attribute, array in recording._weights:
            if array is value.source.array:
                coder = recording._coders[leaf_or_coder]() if type(leaf_or_coder) is int else leaf_or_coder
                if getattr(coder, "site", None) is not None:
                    sites[value.name.removesuffix(f"_{attribute}")] = str(coder.site)
    text = recording.text
    if recording.program.donated:
        with _engine.LOCK, _engine.context():
            module, _ = build_module(dataclasses.replace(recording.program, donated={}))
            text = _engine.print_module(module, locations=True)
    return StablehloProgram(
        recording.name,
        text,
        tuple(arguments),
        tuple(Argument(f"result{i}", slot) for i, slot in enumerate(recording.results)),
        weights,
        sites,
        functools.partial(_fill, recording._tree),
        tuple(None if leaf is None else at[leaf] for leaf in recording._prefix_leaf),
    )
