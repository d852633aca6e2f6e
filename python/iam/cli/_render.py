"""What the commands print. Standard output carries results; progress and notes go to standard error.

Nothing depends on colour: bars, marks and columns say the same without it. Widths follow the terminal, between 60 and
120 columns.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from iam.cli import _analyze
from iam.cli._doctor import Examination
from iam.cli._inspect import Inspection, TensorRow
from iam.cli._report import Example, FeatureInfo, Report, Steering, TokenProbability

_BAR = 12
_MANY_TENSORS = 24


def _console(*, stderr: bool = False) -> Console:
    columns = shutil.get_terminal_size((100, 24)).columns
    return Console(stderr=stderr, width=max(60, min(columns, 120)), highlight=False, soft_wrap=False)


class _RichStage:
    def __init__(self, progress: RichProgress, task: TaskID, *, counted: bool) -> None:
        self._progress, self._task, self._counted = progress, task, counted

    def advance(self) -> None:
        if self._counted:
            self._progress.advance(self._task)


class _RichStages:
    """Stages as lines of one progress display, the running one with a bar."""

    def __init__(self, progress: RichProgress) -> None:
        self._progress = progress

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[_analyze.Stage]:
        task = self._progress.add_task(name, total=total)
        try:
            yield _RichStage(self._progress, task, counted=total is not None)
        finally:
            self._progress.remove_task(task)


class _Silent:
    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[_analyze.Stage]:
        yield self

    def advance(self) -> None:
        pass


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[_analyze.Progress]:
    """A progress display on standard error; silent with ``quiet`` or when standard error is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield _Silent()
        return
    display = RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_console(stderr=True),
        transient=True,
    )
    with display:
        yield _RichStages(display)


def note(text: str) -> None:
    """One line for the user that is not part of the result."""
    _console(stderr=True).print(Text(text, style="dim"))


def visible(token: str) -> str:
    """A token's text on one line: line breaks and tabs as escapes, quotes where space would be lost."""
    return token.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def bar(fraction: float, width: int = _BAR) -> str:
    """A bar of ``width`` cells, filled for ``fraction`` of them in eighths, blank beyond."""
    eighths = round(max(0.0, min(1.0, fraction)) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")).ljust(width)


# ------------------------------------------------------------------------------------------------ demo and analyze


def print_report(report: Report) -> None:
    """The report of ``iam demo`` and ``iam analyze``."""
    console = _console()
    for block in (
        _heading(report),
        *_quality(report),
        *_token_table(report, console.width),
        *_examples(report, console.width),
        *_steering(report, console.width),
        *_times(report),
    ):
        console.print(block)


def _section(title: str, *body: RenderableType) -> list[RenderableType]:
    return [Text(""), Rule(Text(title, style="bold"), align="left", style="dim"), *body]


def _pairs() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _heading(report: Report) -> RenderableType:
    model, coder = report.model, report.coder
    sparsity = f"k = {coder['k']}" if coder["k"] is not None else coder["architecture"]
    table = _pairs()
    table.add_row("model", f"{model['name']} ({model['layers']} layers, width {model['d_model']})")
    table.add_row("site", f"{report.site}: {_site_in_words(report.site)}")
    table.add_row("coder", f"{coder['name']} ({coder['architecture']}, {coder['features']:,} features, {sparsity})")
    table.add_row("text", Text(report.prompt))
    title = Text.assemble((f"iam {report.command}", "bold"), (f"  {report.versions['iam']}", "dim"))
    return Group(title, Text(""), table)


def _site_in_words(site: str) -> str:
    kind, layer = site.rsplit(".", 1)
    words = {
        "resid_pre": "residual stream before block",
        "resid_mid": "residual stream inside block",
        "resid_post": "residual stream after block",
        "attn_out": "output of attention in block",
        "mlp_in": "input of the MLP in block",
        "mlp_out": "output of the MLP in block",
        "hook_z": "attention heads' outputs in block",
    }
    return f"{words.get(kind, kind)} {layer}"


def _quality(report: Report) -> list[RenderableType]:
    quality = report.quality
    table = _pairs()
    if quality.explained_variance is None:
        table.add_row("variance explained", "not defined for fewer than two different positions")
    else:
        share = quality.explained_variance
        table.add_row("variance explained", Text.assemble(f"{share:6.3f}  ", (bar(share, 24), "green")))
    table.add_row("cosine", f"{quality.cosine:6.3f}")
    table.add_row("active features", f"{quality.l0:6.1f}  of {report.coder['features']:,} (L0, mean per position)")
    table.add_row("positions", f"{quality.positions_counted:6d}  of {quality.positions}")
    table.add_row("", Text(quality.not_counted, style="dim"))
    return _section("How well the coder describes this text", table)


def _name(info: FeatureInfo) -> str:
    return f"#{info.feature} {visible(info.label)}".strip()


def _token_table(report: Report, width: int) -> list[RenderableType]:
    most = max((len(token.features) for token in report.tokens), default=0)
    shown = max(1, min(most, 4 if width >= 110 else 3))
    cell = min(26, (width - 20) // shown - 2)  # the position and the token take 20 columns
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("", justify="right", style="dim", no_wrap=True, width=3)
    table.add_column("token", no_wrap=True, width=11, overflow="ellipsis")
    for _ in range(shown):
        table.add_column(f"{'feature':<{cell - 6}}{'act.':>6}", no_wrap=True, width=cell)
    for token in report.tokens:
        lines = [token.features[start : start + shown] for start in range(0, len(token.features), shown)] or [[]]
        for number, line in enumerate(lines):
            cells = [_active(report.features[item.feature], item.activation, cell) for item in line]
            if not token.counted:
                cells = [Text("not counted", style="dim")]
            head = (str(token.position), Text(visible(token.token))) if number == 0 else ("", Text(""))
            table.add_row(*head, *cells)
    return _section("Strongest features of each token", table)


def _active(info: FeatureInfo, activation: float, width: int) -> Text:
    """A feature's name, shortened to fit, and its activation at the right edge."""
    name = Text(_name(info), style="cyan")
    name.truncate(width - 6, overflow="ellipsis", pad=True)
    return Text.assemble(name, f"{activation:6.1f}")


def _examples(report: Report, width: int) -> list[RenderableType]:
    best: dict[int, float] = {}
    for token in report.tokens:
        for active in token.features:
            best[active.feature] = max(best.get(active.feature, 0.0), active.activation)

    def strength(feature: int) -> float:
        known = report.features[feature].max_activation
        return best[feature] / known if known else best[feature]

    known = [feature for feature in best if report.features[feature].examples]
    listed = sorted(known, key=lambda feature: (-strength(feature), feature))[:6]
    if not listed:
        reason = "The coder ships no examples (contexts.json.gz), so its features have numbers only."
        return _section("What the features are about", Text(reason, style="dim"))
    title = "What the strongest features are about"
    if report.context_source:
        title += f" (examples from {report.context_source})"
    body = [_feature_examples(report.features[feature], width, lines=2) for feature in listed]
    return _section(title, *body)


def _feature_examples(info: FeatureInfo, width: int, lines: int) -> RenderableType:
    facts = []
    if info.density is not None:
        facts.append(f"active at {info.density:.2%} of positions")
    if info.max_activation is not None:
        facts.append(f"largest activation {info.max_activation:.1f}")
    head = Text.assemble((_name(info), "bold cyan"), ("  " + ", ".join(facts) if facts else "", "dim"))
    rows = [_context_line(example, width - 4) for example in info.examples[:lines]]
    return Group(head, *(Padding(row, (0, 0, 0, 4)) for row in rows))


def _context_line(example: Example, width: int) -> Text:
    """The example on one line, its token in the middle between marks that survive without colour."""
    token = visible(example.token)
    lead = len(token) - len(token.lstrip(" "))
    before = " ".join((example.text_before + token[:lead] + "|").split())[:-1]
    after = " ".join(("|" + example.text_after).split())[1:]
    token = token.strip() or token
    room = max(8, width - len(token) - 4)
    left = min(len(before), max(room // 2, room - len(after)))
    right = room - left
    if left < len(before):
        before = "…" + before[len(before) - left + 1 :]
    if right < len(after):
        after = after[: max(0, right - 1)] + "…"
    return Text.assemble(
        (before, "dim"), ("«" + token + "»", "bold"), (after, "dim"), no_wrap=True, overflow="ellipsis"
    )


def _steering(report: Report, width: int) -> list[RenderableType]:
    steering = report.steering
    info = report.features[steering.feature]
    intro = Text.assemble(
        "feature ",
        (_name(info), "bold cyan"),
        f" set to {steering.strength:.1f} at every position{'' if report.tokens[0].counted else ' but the first'}",
        (f"\n{steering.chosen}", "dim"),
    )
    blocks: list[RenderableType] = [intro]
    if info.examples:
        blocks += [Text(""), _feature_examples(info, width, lines=3)]
    tail = visible(report.prompt[-40:])
    blocks += [
        Text(""),
        Text.assemble("Next token after ", (f"…{tail}", "italic"), f"   KL {steering.kl:.2f} nats"),
        _next_tokens(steering),
        _side_by_side(steering),
    ]
    return _section("Steering", *blocks)


def _next_tokens(steering: Steering) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=True)
    for title in ("without", "steered"):
        table.add_column(title, no_wrap=True, ratio=1, overflow="ellipsis")
        table.add_column("", justify="right", no_wrap=True, width=5)
        table.add_column("", no_wrap=True, width=_BAR)
    rows = zip(steering.top_before, steering.top_after, strict=True)
    for before, after in rows:
        table.add_row(*_probability(before, before.before, "blue"), *_probability(after, after.after, "magenta"))
    return table


def _probability(token: TokenProbability, value: float, colour: str) -> tuple[RenderableType, ...]:
    return Text(f"'{visible(token.token)}'"), Text(f"{value:.3f}"), Text(bar(value), style=colour)


def _side_by_side(steering: Steering) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=True, show_edge=True)
    table.add_column("it goes on, without steering", ratio=1, header_style="bold blue", overflow="fold")
    table.add_column("it goes on, steered", ratio=1, header_style="bold magenta", overflow="fold")
    table.add_row(Text(_paragraph(steering.continuation_before)), Text(_paragraph(steering.continuation_after)))
    return table


def _paragraph(text: str) -> str:
    """Continuations keep their line breaks, but not runs of empty lines."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return "\n".join(line for number, line in enumerate(lines) if line or (number and lines[number - 1]))


def _times(report: Report) -> list[RenderableType]:
    total = sum(stage.ms for stage in report.stages)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for stage in report.stages:
        table.add_row(stage.name, _duration(stage.ms), Text(bar(stage.ms / total, 24), style="yellow"))
    table.add_row("all of it", _duration(total), "")
    return _section("Time", table)


def _duration(ms: float) -> str:
    return f"{ms / 1e3:.1f} s " if ms >= 1e3 else f"{ms:.1f} ms"


# ------------------------------------------------------------------------------------------------------- inspect


def print_inspection(inspection: Inspection, *, show_all: bool) -> None:
    """The result of ``iam inspect``."""
    console = _console()
    facts = _pairs()
    facts.add_row("path", Text(inspection.path))
    facts.add_row("what", f"{inspection.kind}, {inspection.format}")
    for name, value in inspection.facts.items():
        facts.add_row(Text(name), Text(_value(value)))
    facts.add_row("tensors", f"{len(inspection.tensors):,}")
    facts.add_row("elements", f"{inspection.parameters:,}")
    facts.add_row("size", size(inspection.total_bytes))
    console.print(facts)
    rows, folded = inspection.tensors, 0
    if not show_all and len(rows) > _MANY_TENSORS:
        rows, folded = rows[:_MANY_TENSORS], len(rows) - _MANY_TENSORS
    if rows:
        console.print(_tensor_table(rows))
    if folded:
        console.print(Text(f"... and {folded} more (--all lists them)", style="dim"))
    for line in inspection.notes:
        console.print(Text(f"note: {line}", style="dim"))


def _tensor_table(rows: list[TensorRow]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for title in ("dtype", "shape", "size", "norm", "mean |x|", "max |x|"):
        table.add_column(title, justify="right" if title != "dtype" else "left", no_wrap=True)
    normed = any(row.norm is not None for row in rows)
    for row in rows:
        numbers = [_number(value) if normed else "" for value in (row.norm, row.mean_abs, row.max_abs)]
        shape = " x ".join(map(str, row.shape)) or "scalar"
        table.add_row(Text(row.name), row.dtype, shape, size(row.bytes), *numbers)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _value(value: Any) -> str:
    if value is None:
        return "not said"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def size(count: int) -> str:
    """A number of bytes for a person."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"


# -------------------------------------------------------------------------------------------------------- doctor


def print_doctor(examination: Examination) -> None:
    """The result of ``iam doctor``."""
    console = _console()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    group = None
    for check in examination.checks:
        if check.group != group:
            if group is not None:
                table.add_row("", "", "")
            table.add_row("", Text(check.group, style="bold not dim"), "")
            group = check.group
        mark = ("ok", "green") if check.ok else ("BAD", "bold red") if check.required else ("--", "yellow")
        table.add_row(Text(*mark), check.name, Text(check.found))
        if check.remedy is not None:
            table.add_row("", "", Text(f"-> {check.remedy}", style="bold"))
    console.print(table)
    console.print(Text(""))
    bad = [check.name for check in examination.checks if check.required and not check.ok]
    missing = [check.name for check in examination.checks if not check.required and not check.ok]
    if bad:
        console.print(Text(f"Not usable: {', '.join(bad)}. The lines with -> say what to do.", style="bold red"))
    elif missing:
        console.print(Text(f"Usable. Optional parts that are missing: {', '.join(missing)}."))
    else:
        console.print(Text("Everything works.", style="bold green"))
