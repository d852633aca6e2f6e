#!/usr/bin/env python3
"""Execute notebooks and write them back with their outputs.

    python notebooks/run.py                                    all of this folder, in place
    python notebooks/run.py 01_pythia_clt_training --out tried.ipynb
    IAM_NOTEBOOK_BUDGET=small python notebooks/run.py --check  execute only

Needs ``pip install ".[models,notebook]"``. What a run leaves in the file is what a reader sees and nothing else: no times of
execution, no name or path of the machine. A cell that fails ends the run with its traceback, and no file is written.
"""

import argparse
import re
import sys
import time
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
LARGEST = 600_000  # bytes of a committed notebook: pictures are for reading, not for printing


def execute(notebook: nbformat.NotebookNode, folder: Path, timeout: int) -> None:
    """Run every cell in a fresh kernel that starts in `folder`."""
    config = Config({"KernelManager": {"transport_encryption": "auto"}})  # else the kernel warns about its own sockets
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=where, config=config).execute()


def times(notebook: nbformat.NotebookNode) -> list[str]:
    """A line for each cell that was executed."""
    lines = []
    for number, cell in enumerate(notebook.cells):
        when = cell.metadata.get("execution", {})
        if "iopub.execute_input" in when and "shell.execute_reply" in when:
            start, end = (
                datetime.fromisoformat(when[k].replace("Z", "+00:00"))
                for k in ("iopub.execute_input", "shell.execute_reply")
            )
            lines.append(
                f"  cell {number:2d} {(end - start).total_seconds():7.1f} s  {cell.source.splitlines()[0][:80]}"
            )
    return lines


def clean(notebook: nbformat.NotebookNode) -> None:
    """Leave out what differs from machine to machine and says nothing about the results."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})


def paths_in(text: str) -> list[str]:
    """Lines of `text` that hold an absolute path of this machine."""
    places = {str(Path.home()), str(HERE.parent), sys.prefix, sys.base_prefix}
    pattern = "|".join(re.escape(place) + r"\b" for place in places if len(place) > 1)
    return [line.strip()[:200] for line in text.splitlines() if re.search(pattern, line)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks of this folder, without ending (default: all)")
    parser.add_argument("--out", type=Path, help="where to write, for one notebook (default: in place)")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--times", action="store_true", help="print the seconds that each cell took")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for a cell (default 1800)")
    args = parser.parse_args()
    names = args.names or sorted(path.stem for path in HERE.glob("*.ipynb"))
    if args.out is not None and len(names) != 1:
        parser.error("--out goes with one notebook")
    for name in names:
        path = HERE / f"{name.removesuffix('.ipynb')}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        started = time.monotonic()
        try:
            execute(notebook, HERE, args.timeout)
        except CellExecutionError as error:
            sys.exit(f"{path.name}: " + re.sub(r"\x1b\[[0-9;]*m", "", str(error)))  # without colours
        if args.times:
            print(*times(notebook), sep="\n")
        clean(notebook)
        text = nbformat.writes(notebook) + "\n"
        print(f"{path.name}: {len(text) / 1000:,.0f} kB, {time.monotonic() - started:.0f} s")
        if found := paths_in(text):
            sys.exit(
                f"{path.name}: nothing was written; expected no path of this machine in the outputs, got:\n"
                + "\n".join(found)
            )
        if len(text) > LARGEST:
            sys.exit(
                f"{path.name}: expected at most {LARGEST / 1000:.0f} kB, got more; draw smaller pictures; nothing was written"
            )
        if not args.check:
            target = args.out or path
            partial = target.with_name(target.name + ".tmp")
            partial.write_text(text, encoding="utf-8")
            partial.replace(target)


if __name__ == "__main__":
    main()
