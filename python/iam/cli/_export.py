"""``iam export``: a program of the dialect, or a coder's own functions, for another compiler."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from iam.core.errors import ArgumentError, FormatError

if TYPE_CHECKING:
    from iam.compiler._stablehlo import StablehloProgram

__all__ = ["export"]

WHAT = ("encode", "decode", "reconstruct")


def program_of(source: Path, *, entry: str | None = None, what: str | None = None) -> "StablehloProgram":
    """The program in ``source``: a file in the ``iam`` dialect (text or bytecode), or a function of a coder.

    Args:
        source: A ``.mlir`` or ``.mlirbc`` file, or a coder in any format that IAM reads.
        entry: The function of the file; by default the only public one.
        what: The function of the coder, one of ``WHAT``; by default ``encode``.

    Raises:
        ArgumentError: ``entry`` for a coder, or ``what`` for a file.
        FormatError: nothing that can be read.
        CompileError: the program is not valid.
    """
    if source.suffix in (".mlir", ".mlirbc"):
        if what is not None:
            raise ArgumentError(f"iam export: --what is for coders; choose a function of {source} with --entry")
        from iam.compiler._stablehlo import from_text

        try:
            data = source.read_bytes()
        except OSError as error:
            raise FormatError(f"iam export: {source}: {error.strerror}", code="file-missing") from None
        is_bytecode = data.startswith(b"ML\xefR")
        return from_text(data if is_bytecode else data.decode(errors="replace"), entry=entry, filename=str(source))
    if entry is not None:
        raise ArgumentError("iam export: --entry is for programs (.mlir); choose a function of a coder with --what")
    from iam import formats

    return coder_program(formats.load(source), what or "encode")


def coder_program(coder: Any, what: str) -> "StablehloProgram":
    """A function of a coder as a program: ``x -> features``, ``features -> y`` or ``x -> y``."""
    from iam.compiler import jit

    x = np.zeros((1, coder.cfg.d_in), np.float32)
    if what == "decode":
        return jit(lambda features: coder.decode(features), name="decode").stablehlo(coder.encode(x))
    if what == "encode":
        return jit(lambda x: coder.encode(x), name="encode").stablehlo(x)
    return jit(lambda x: coder.decode(coder.encode(x)), name="reconstruct").stablehlo(x)


@click.command(
    short_help="Write a program for another compiler.",
    epilog="\b\nExamples:\n"
    "  iam export ./my-sae --to stablehlo --out ./encode\n"
    "  iam export ./my-sae --what reconstruct --rows 1 --to stablehlo --out ./reconstruct\n"
    "  iam export steer.mlir --to stablehlo --out ./steer",
)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(["stablehlo"]), help="What to write.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--what", type=click.Choice(WHAT), help="Which function of a coder. [default: encode]")
@click.option("--entry", help="Which function of a program. [default: the public one]")
@click.option(
    "--rows",
    multiple=True,
    type=click.IntRange(min=0),
    help="Fix the number of rows; once for all, or once for each open size. [default: left open]",
)
@click.option("--no-weights", is_flag=True, help="Write the hash of the weights only.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
def export(
    source: Path,
    to: str,
    out: Path,
    what: str | None,
    entry: str | None,
    rows: tuple[int, ...],
    no_weights: bool,
    as_json: bool,
) -> None:
    """Write the program in SRC (a coder, or a file in the iam dialect) to a new folder.

    The folder has the module (portable StableHLO bytecode where jaxlib is installed, else text), the iam program it was made
    from, the weights, and a manifest: arguments, results, versions, sites, and the hash of everything. Weights are arguments of
    the module, in the order of the manifest.
    """
    program = program_of(source, entry=entry, what=what)
    program.save(out, rows=list(rows) or None, with_weights=not no_weights)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    if as_json:
        click.echo(json.dumps(manifest, indent=2, ensure_ascii=False))
        return
    click.echo(f"{source} -> {out}: @{manifest['entry']} ({manifest['format']})")
    for kind in ("arguments", "results"):
        for item in manifest[kind]:
            shapes = ", ".join(f"{t['dtype']}[{_shape(t['shape'])}]" for t in item["tensors"])
            click.echo(f"  {kind[:-1]} {item['name']}: {shapes}{' (weight)' if item.get('weight') else ''}")


def _shape(shape: list[int | None]) -> str:
    return ", ".join("?" if n is None else str(n) for n in shape)
