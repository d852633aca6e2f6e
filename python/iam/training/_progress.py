"""The progress bar of a training run, on standard error; silent where that is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Bar", "bar"]

_EVERY = 0.1


class Bar:
    """What a run reports to; this one shows nothing."""

    def harvested(self, done: int, total: int) -> None:
        """Rows stored, of so many."""

    def stepped(self, metrics: dict[str, float]) -> None:
        """A step was made."""


class _RichBar(Bar):
    def __init__(self, progress: Any, steps: int) -> None:
        self._progress, self._steps = progress, steps
        self._store: Any = None
        self._train: Any = None
        self._last = 0.0
        self._since: tuple[float, float] | None = None

    def harvested(self, done: int, total: int) -> None:
        if self._store is None:
            self._store = self._progress.add_task("activations", total=total, figures="")
        self._progress.update(self._store, completed=min(done, total), figures=f"{done:,} rows")

    def stepped(self, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        if self._train is None:
            self._train = self._progress.add_task("train", total=self._steps, figures="")
            self._since = (now, metrics["step"])
        step = int(metrics["step"])
        if now - self._last < _EVERY and step != self._steps:
            return
        self._last = now
        assert self._since is not None
        passed = now - self._since[0]
        rate = metrics["rows"] * (step - self._since[1]) / passed if passed > 0 else 0.0
        figures = (
            f"loss {metrics['loss']:.4g}  FVU {metrics['fvu']:.4f}  L0 {metrics['l0']:.1f}  dead {metrics['dead']:.1%}  "
            f"{rate:,.0f} rows/s"
        )
        self._progress.update(self._train, completed=step, figures=figures)


@contextmanager
def bar(steps: int, *, show: bool) -> Iterator[Bar]:
    """A bar for a run of `steps` steps."""
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
        yield _RichBar(progress, steps)
