"""The progress bars of training runs, on standard error; silent where that is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["Bar", "bar"]

_EVERY = 0.1


class Bar:
    """What a run reports to; this one shows nothing."""

    def harvested(self, done: int, total: int) -> None:
        """Rows stored, of so many."""

    def stepped(self, run: int, metrics: dict[str, float]) -> None:
        """A step of a run was made."""


class _RichBar(Bar):
    def __init__(self, progress: Any, runs: Sequence[tuple[str, int]]) -> None:
        self._progress, self._runs = progress, runs
        self._store: Any = None
        self._tasks: dict[int, Any] = {}
        self._last: dict[int, float] = {}
        self._since: dict[int, tuple[float, float]] = {}

    def harvested(self, done: int, total: int) -> None:
        if self._store is None:
            self._store = self._progress.add_task("activations", total=total, figures="")
        self._progress.update(self._store, completed=min(done, total), figures=f"{done:,} rows")

    def stepped(self, run: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        name, steps = self._runs[run]
        if run not in self._tasks:
            self._tasks[run] = self._progress.add_task(name, total=steps, figures="")
            self._since[run] = (now, metrics["step"])
        step = int(metrics["step"])
        if now - self._last.get(run, 0.0) < _EVERY and step != steps:
            return
        self._last[run] = now
        began, first = self._since[run]
        passed = now - began
        rate = metrics["rows"] * (step - first) / passed if passed > 0 else 0.0
        figures = (
            f"loss {metrics['loss']:.4g}  FVU {metrics['fvu']:.4f}  L0 {metrics['l0']:.1f}  dead {metrics['dead']:.1%}  "
            f"{rate:,.0f} rows/s"
        )
        self._progress.update(self._tasks[run], completed=step, figures=figures)


@contextmanager
def bar(runs: Sequence[tuple[str, int]], *, show: bool) -> Iterator[Bar]:
    """A bar for each run: its name and its number of steps."""
    if not show or not sys.stderr.isatty():
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _RichBar(progress, runs)
