"""Commands, options, exit codes. What a command does is in its own module."""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from iam.cli._convert import convert
from iam.cli._eval import evaluate
from iam.cli._export import export
from iam.cli._run import run as run_mlir
from iam.cli._train import train

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell expects

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_F = TypeVar("_F", bound=Callable[..., Any])


class Interrupts:
    """Turns SIGINT into ``KeyboardInterrupt`` and remembers that it came.

    Libraries sometimes swallow the exception (an import inside ``try``, a callback from C), so the
    stages of long commands also ask :meth:`check`.
    """

    def __init__(self) -> None:
        self.requested = False

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT here; does nothing outside the main thread, where Python cannot."""
        try:
            previous = signal.signal(signal.SIGINT, self._on_signal)
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` if Ctrl-C was pressed and somebody swallowed it."""
        if self.requested:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    import iam

    click.echo(f"iam {iam.__version__}")
    ctx.exit()


def _examples(*lines: str) -> str:
    """An epilog that click prints as written (``\\b`` switches its re-wrapping off)."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(
    context_settings=_CONTEXT,
    epilog=_examples(
        "iam demo                          see what IAM does, on a real language model",
        'iam analyze --model gpt2 --sae ./my-sae --site resid_post.6 "Once upon a time"',
        "iam inspect ./my-sae              what is in a weight directory",
        "iam train configs/sae_topk.yaml   train a coder",
        "iam doctor                        is everything installed",
    )
    + "\n\n\b\nExit codes: 0 done, 1 unexpected failure, 2 usage or bad input, 130 Ctrl-C.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.option(
    "--traceback",
    "show_traceback",
    is_flag=True,
    help="On an error, print the Python traceback too.",
)
@click.pass_context
def cli(ctx: click.Context, show_traceback: bool) -> None:
    """Interpretability programs, compiled: look into a language model and steer it.

    IAM records an analysis of a model's activations as a program in the iam MLIR dialect, removes
    the work that is not needed, compiles it to native code and runs it inside the model.
    """
    ctx.ensure_object(dict)["traceback"] = show_traceback


def _report_options(command: _F) -> _F:
    """Options that ``demo`` and ``analyze`` share, in the order in which --help lists them."""
    options: list[Any] = [
        click.option(
            "--feature",
            type=click.IntRange(min=0),
            help="Feature to steer with. [default: chosen by measuring some of them]",
        ),
        click.option(
            "--strength",
            type=float,
            help="Activation that the steered feature is set to. [default: chosen from the"
            " largest activation that is known of it]",
        ),
        click.option(
            "--max-new-tokens",
            type=click.IntRange(min=1, max=1024),
            default=40,
            show_default=True,
            help="Length of each continuation.",
        ),
        click.option(
            "--top",
            type=click.IntRange(min=1, max=16),
            default=3,
            show_default=True,
            help="Features listed per token.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1, max=1024),
            help="Threads for the kernels and for torch. [default: IAM_NUM_THREADS, else all]",
        ),
        click.option(
            "--json",
            "json_path",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Also write everything to FILE (- for standard output, then without the report).",
        ),
        click.option(
            "--emit",
            type=click.Choice(["iam", "fused", "llvm"]),
            help="Print the compiled programs at this stage and exit: as traced, after the"
            " dialect's own rewrites, or lowered to the LLVM dialect.",
        ),
        click.option("--quiet", "-q", is_flag=True, help="No progress bar."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(
    short_help="See what IAM does, on a real language model.",
    epilog=_examples(
        "iam demo",
        'iam demo "The ship left the harbour at dawn, and"',
        "iam demo --feature 1234 --strength 20 --max-new-tokens 60",
        "iam demo --emit fused             what the compiler made of it",
        "iam demo --json report.json",
    ),
)
@click.argument("prompt", required=False)
@_report_options
def demo(prompt: str | None, **options: Any) -> None:
    """Show the whole of IAM on SmolLM2-135M with the SAE that ships with it.

    Reads the residual stream at a middle layer, encodes it to sparse features with a compiled
    program, shows what they are, then steers one feature while the model writes. Give PROMPT to
    use your own text.
    """
    from iam.cli._demo import demo_config

    _analyze_and_show(demo_config(prompt), options, title="demo")


@cli.command(
    short_help="Do the same with your own model and coder.",
    epilog=_examples(
        'iam analyze --model gpt2 --sae ./sae --site resid_pre.8 "The Eiffel Tower is in"',
        'iam analyze --model ./my-model --sae ./sae "My prompt"     the site is read from the SAE',
        "iam analyze --model model.gguf --sae ./sae - < prompt.txt  the prompt is read from a pipe",
    ),
)
@click.option(
    "--model",
    required=True,
    metavar="PATH_OR_ID",
    help="A Hugging Face folder, a .gguf file, or a hub id.",
)
@click.option(
    "--sae",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder with cfg.json and sae_weights.safetensors (SAELens format).",
)
@click.option(
    "--site",
    metavar="SITE",
    help="Where the coder reads, as resid_post.15 or blocks.15.hook_resid_post. [default: what the SAE says]",
)
@click.argument("prompt")
@_report_options
def analyze(model: str, sae: Path, site: str | None, prompt: str, **options: Any) -> None:
    """Do what the demo does, with your model and your SAE, on PROMPT."""
    if prompt == "-":
        prompt = sys.stdin.read().strip()
    source = {"model": model, "sae": sae, "site": site, "prompt": prompt}
    _analyze_and_show(source, options, title="analyze")


def _analyze_and_show(source: dict[str, Any], options: dict[str, Any], *, title: str) -> None:
    """Run an analysis and print it, write it as JSON, or only print the programs (--emit)."""
    from iam.cli import _analyze, _render
    from iam.formats._atomic import write_atomically

    json_path: Path | None = options.pop("json_path")
    emit: str | None = options.pop("emit")
    quiet: bool = options.pop("quiet")
    config = _analyze.AnalyzeConfig(command=title, **source, **options)
    if emit is not None:
        click.echo(_analyze.emit_programs(config, emit), nl=False)
        return
    to_stdout = json_path is not None and str(json_path) == "-"
    if json_path is not None and not to_stdout:
        _require_writable(json_path)
    with _render.progress(quiet=quiet) as progress:
        report = _analyze.analyze(config, progress=progress, check=INTERRUPTS.check)
    if to_stdout:
        click.echo(_to_json(report.to_dict()))
        return
    _render.print_report(report)
    if json_path is not None:
        write_atomically(json_path, (_to_json(report.to_dict()) + "\n").encode())
        _render.note(f"Everything above, with versions, seeds, programs and hashes: {json_path}")


@cli.command(
    short_help="Tell what is in a weight directory.",
    epilog=_examples(
        "iam inspect ./my-sae",
        "iam inspect ./my-sae/sae_weights.safetensors",
        "iam inspect ./my-model --json",
        "iam inspect model.gguf",
    ),
)
@click.argument("path", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--all", "show_all", is_flag=True, help="List every tensor, however many.")
def inspect(path: Path, as_json: bool, show_all: bool) -> None:
    """Tell what is in a weight directory: format, architecture, shapes, sizes, norms.

    DIR is the folder of a coder or of a model, or one .safetensors or .gguf file. Nothing is
    unpickled and no model is built.
    """
    from iam.cli import _inspect, _render

    result = _inspect.inspect_path(path)
    if as_json:
        click.echo(_to_json(result.to_dict()))
    else:
        _render.print_inspection(result, show_all=show_all)


@cli.command(short_help="Check the installation.", epilog=_examples("iam doctor", "iam doctor --json"))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the installation: versions, CPU level, threads, what is missing and how to get it.

    Exits with 0 if everything that IAM needs works, and with 1 if something does not.
    """
    from iam.cli import _doctor, _render

    result = _doctor.examine()
    if as_json:
        click.echo(_to_json(result.to_dict()))
    else:
        _render.print_doctor(result)
    ctx.exit(EXIT_OK if result.healthy else EXIT_UNEXPECTED)


for _command in (convert, evaluate, export, run_mlir, train):
    cli.add_command(_command)


def _to_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def _require_writable(path: Path) -> None:
    """Find out before minutes of work, not after, that a report cannot be written."""
    folder = path.parent
    if not folder.is_dir():
        raise click.BadParameter(f"no such folder: {folder}", param_hint="--json")
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f"cannot write into {folder}", param_hint="--json")


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; every way out of it is here. See ``iam.cli.main``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character gets a "?"
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    state: dict[str, Any] = {}
    INTERRUPTS.requested = False
    with INTERRUPTS.installed():
        try:
            result = cli.main(arguments, prog_name="iam", standalone_mode=False, obj=state)
            return result if isinstance(result, int) else EXIT_OK
        except click.exceptions.Exit as stop:
            return stop.exit_code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except BrokenPipeError:  # `iam demo --emit llvm | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_UNEXPECTED
        except (KeyboardInterrupt, click.Abort):
            return _interrupted()
        except Exception as error:  # noqa: BLE001 - the last stop: whatever it is, the user gets a message
            if INTERRUPTS.requested:  # Ctrl-C that a library turned into an error of its own
                return _interrupted()
            return _failure(error, show_traceback=bool(state.get("traceback")))


def _interrupted() -> int:
    with contextlib.suppress(ValueError):  # a second Ctrl-C must not spoil the clean end
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    click.echo("iam: interrupted", err=True)
    return EXIT_INTERRUPTED


def _failure(error: Exception, *, show_traceback: bool) -> int:
    """Explain ``error`` on standard error and return the exit code for it."""
    from iam.core import errors

    if show_traceback:
        traceback.print_exception(error, file=sys.stderr)
    our_fault = isinstance(error, (errors.InternalError, errors.OutOfMemoryError))
    if isinstance(error, errors.IamError) and not our_fault:
        click.echo(f"Error: {error}", err=True)
        return EXIT_USAGE
    click.echo(f"Unexpected error: {type(error).__name__}: {error}", err=True)
    if not show_traceback:
        click.echo("Run it as `iam --traceback ...` to see where, and please report it.", err=True)
    return EXIT_UNEXPECTED
