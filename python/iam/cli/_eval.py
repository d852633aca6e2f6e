"""``iam eval``: how good a coder is, and what its features do, on text or on stored activations."""

import contextlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["evaluate"]


@click.command(
    name="eval",
    short_help="Measure a coder.",
    epilog="\b\nExamples:\n"
    "  iam eval ./my-sae --model gpt2 --text corpus.txt\n"
    "  iam eval ./my-sae --model smollm2 --text corpus.jsonl --json metrics.json --picture density.svg\n"
    "  iam eval ./my-sae --model smollm2 --text corpus.txt --contexts --neuronpedia out --sae-set my-set\n"
    "  iam eval ./my-sae --activations rows.npy        without a model",
)
@click.argument("coder", metavar="CODER", type=click.Path(path_type=Path))
@click.option("--format", "format_", metavar="NAME", help="The coder's format, where it cannot be told.")
@click.option("--model", metavar="PATH_OR_ID", help="A Hugging Face folder, a .gguf file, a hub id, or smollm2.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Text that the model reads: a .txt file, or .jsonl with a text in each line (key text); - is standard"
    " input. May be given several times.",
)
@click.option("--activations", type=click.Path(path_type=Path), help="Instead of a model: a .npy file [rows, d_in].")
@click.option("--targets", type=click.Path(path_type=Path), help="With --activations, for a transcoder: [rows, d_out].")
@click.option("--site", metavar="SITE", help="Where an SAE is measured. [default: what the SAE says]")
@click.option(
    "--context", type=click.IntRange(min=2), default=256, show_default=True, help="Tokens that the model reads at once."
)
@click.option(
    "--max-contexts", type=click.IntRange(min=1), default=64, show_default=True, help="Stop after so many contexts."
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Contexts of a forward pass. [default: 4]")
@click.option(
    "--from-position",
    type=click.IntRange(min=0),
    help="First position of a context that counts. [default: what the coder was trained on, else 0]",
)
@click.option(
    "--bos/--no-bos",
    default=None,
    help="Whether each context begins with the beginning-of-text token. [default: prepend_bos of the coder's metadata,"
    " else no]",
)
@click.option(
    "--count-special-tokens",
    is_flag=True,
    help="Count and replace at special tokens, too, which are left out otherwise, as in SAELens.",
)
@click.option(
    "--no-losses", is_flag=True, help="Leave out cross-entropy and KL divergence, which take most of the time."
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write everything to FILE (- for standard output, then without the report).",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg",
    help="Draw the histogram of feature densities.",
)
@click.option(
    "--contexts",
    is_flag=True,
    help="Collect each feature's strongest contexts and write contexts.json.gz beside the weights, where iam analyze"
    " reads it.",
)
@click.option(
    "--neuronpedia",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write Neuronpedia's batch files.",
)
@click.option("--sae-set", metavar="NAME", help="Name of the set of coders for --neuronpedia.")
@click.option(
    "--threads", type=click.IntRange(min=1, max=1024), help="Threads for the kernels and torch. [default: all]"
)
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def evaluate(
    coder: Path,
    format_: str | None,
    model: str | None,
    texts: Sequence[Path],
    activations: Path | None,
    targets: Path | None,
    site: str | None,
    context: int,
    max_contexts: int,
    batch_size: int | None,
    from_position: int | None,
    bos: bool | None,
    count_special_tokens: bool,
    no_losses: bool,
    json_path: Path | None,
    picture: Path | None,
    contexts: bool,
    neuronpedia: Path | None,
    sae_set: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Measure CODER: explained variance, sparsity, dead features, what it costs the model.

    Names and formulas of the metrics are those of SAELens's run_evals; docs/evaluation.md has them.
    """
    from iam import formats

    _check_options(model, texts, activations, targets, contexts, neuronpedia, sae_set, picture)
    _set_threads(threads)
    loaded = formats.load(coder, format_)
    if (contexts or neuronpedia is not None) and (hasattr(loaded, "n_layers") or hasattr(loaded, "n_sites")):
        raise click.UsageError(f"--contexts and --neuronpedia need a coder of one site, got a {type(loaded).__name__}")
    if activations is not None:
        result = _on_activations(loaded, activations, targets, batch_size)
        where = activations.name
        statistics = None
    else:
        import iam

        lm = iam.LanguageModel(str(model))
        ids = _contexts(lm, texts, context, max_contexts, _first_token(lm, loaded, bos))
        first = _first_position(loaded) if from_position is None else from_position
        size = batch_size or 4
        batches = [ids[i : i + size] for i in range(0, len(ids), size)]
        how: dict[str, Any] = {
            "model": lm,
            "from_position": first,
            "exclude_special_tokens": not count_special_tokens,
        }
        result = _on_text(loaded, _progress("measuring", batches, quiet), site, not no_losses, how)
        where = f"{len(ids):,} contexts of {context} tokens"
        where += f", the first {first} of each left out" * (first > 0)
        where += ", special tokens left out" * (not count_special_tokens)
        statistics = None
        if contexts or neuronpedia is not None:
            from iam.evaluation import feature_statistics

            source = f"{len(ids):,} contexts of {context} tokens from {', '.join(path.name for path in texts)}"
            shown = _progress("contexts", batches, quiet)
            logits = 10 if neuronpedia is not None else 0
            statistics = feature_statistics(loaded, tokens=shown, site=site, source=source, logits=logits, **how)
    _report(result, json_path, picture)
    if not quiet:
        _say_how_much(result, where)
    if statistics is not None and contexts:
        folder = coder if coder.is_dir() else coder.parent
        click.echo(f"wrote {statistics.save_contexts(folder)}", err=True)
    if statistics is not None and neuronpedia is not None:
        written = statistics.save_neuronpedia(neuronpedia, sae_set=str(sae_set))
        click.echo(f"wrote {len(written)} files in {neuronpedia}", err=True)


def _check_options(
    model: str | None,
    texts: Sequence[Path],
    activations: Path | None,
    targets: Path | None,
    contexts: bool,
    neuronpedia: Path | None,
    sae_set: str | None,
    picture: Path | None,
) -> None:
    if (model is None) == (activations is None):
        raise click.UsageError("give --model and --text, or --activations")
    if (model is not None) != bool(texts):
        raise click.UsageError("--model and --text go together")
    if targets is not None and activations is None:
        raise click.UsageError("--targets goes with --activations")
    if activations is not None and (contexts or neuronpedia is not None):
        raise click.UsageError("--contexts and --neuronpedia need --model and --text")
    if (neuronpedia is None) != (sae_set is None):
        raise click.UsageError("--neuronpedia and --sae-set go together")
    if picture is not None and picture.suffix.lower() != ".svg":
        raise click.BadParameter(f"expected a name that ends in .svg, got {picture.name}", param_hint="--picture")


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    from iam.core.lazy import native

    native().set_num_threads(threads)
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(threads)


def _first_position(coder: Any) -> int:
    """``seqpos_slice`` of the coder's metadata: SAELens's name for the positions that it was trained on."""
    span = coder.cfg.metadata.get("seqpos_slice")
    return int(span[0] or 0) if isinstance(span, (list, tuple)) and span else 0


def _first_token(lm: Any, coder: Any, bos: bool | None) -> list[int]:
    """The token that each context begins with, or none."""
    from iam.core.errors import ArgumentError

    if not (bool(coder.cfg.metadata.get("prepend_bos")) if bos is None else bos):
        return []
    token = getattr(lm.tokenizer, "bos_token_id", None)
    if token is None:
        raise ArgumentError(
            f"iam eval: expected a tokenizer with a beginning-of-text token, got one without for {lm.name}; pass --no-bos"
        )
    return [int(token)]


def _on_activations(coder: Any, activations: Path, targets: Path | None, batch_size: int | None) -> Any:
    from iam.evaluation import evaluate as measure

    given = [None if path is None else _rows(path) for path in (activations, targets)]
    return measure(coder, activations=given[0], targets=given[1], batch_size=batch_size)


def _rows(path: Path) -> Any:
    """An array of a ``.npy`` file, read as it is used."""
    import numpy as np

    from iam.core.errors import FormatError

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FormatError(f"iam eval: expected a .npy file of floats, got {path}: {error}") from error


def _on_text(coder: Any, batches: Iterable[Any], site: str | None, losses: bool, how: dict[str, Any]) -> Any:
    from iam.evaluation import evaluate as measure

    return measure(coder, tokens=batches, site=site, losses=losses, **how)


def _contexts(lm: Any, texts: Sequence[Path], context: int, limit: int, first: list[int]) -> Any:
    """Token ids ``[contexts, context]``: documents one after the other, no context over a document's end."""
    import numpy as np

    from iam.core.errors import ArgumentError

    found: list[list[int]] = []
    for document in itertools.chain.from_iterable(map(_documents, texts)):
        if not document.strip():
            continue
        ids = lm.tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        step = context - len(first)
        for start in range(0, len(ids) - step + 1, step):
            found.append(first + ids[start : start + step])
            if len(found) == limit:
                return np.asarray(found)
    if not found:
        raise ArgumentError(
            f"iam eval: expected a document of at least {context} tokens, got none; try a smaller --context"
        )
    return np.asarray(found)


def _documents(path: Path) -> Iterator[str]:
    from iam.core.errors import FormatError

    if str(path) == "-":
        yield str(sys.stdin.read())
        return
    try:
        with path.open(encoding="utf-8") as lines:
            if path.suffix != ".jsonl":
                yield lines.read()
                return
            for number, line in enumerate(lines, 1):
                try:
                    yield str(json.loads(line)["text"])
                except (ValueError, KeyError, TypeError) as error:
                    raise FormatError(
                        f'iam eval: expected an object with the key "text" in {path}, line {number}, got {line[:60]!r}'
                    ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"iam eval: expected a text file in UTF-8, got {path}: {error}") from error


def _progress(name: str, batches: Sequence[Any], quiet: bool) -> Iterator[Any]:
    from iam.cli import _render
    from iam.cli._app import INTERRUPTS

    with _render.progress(quiet=quiet) as progress, progress.stage(name, len(batches)) as stage:
        for batch in batches:
            INTERRUPTS.check()
            yield batch
            stage.advance()


FEW = 50
"""Below so many activations of an average feature, "dead" says more about the text than about the coder."""


def _say_how_much(result: Any, where: str) -> None:
    """On standard error: what the figures are means over, and whether that is enough to call a feature dead."""
    from iam.cli import _render

    positions = result.total_tokens_eval_sparsity_variance
    _render.note(f"{positions:,} positions: {where}.")
    average = result.l0 * positions / len(result.feature_density)
    if average < FEW and result.dead_features:
        _render.note(
            f"dead_features: active at none of these positions. An average feature is active at {average:.1f} of them, so many of "
            "these are only rare; more text tells (--max-contexts)."
        )


def _report(result: Any, json_path: Path | None, picture: Path | None) -> None:
    """Print the result, or write it."""
    if json_path is not None and str(json_path) == "-":
        click.echo(result.to_json())
    else:
        click.echo(repr(result))
        if json_path is not None:
            result.to_json(json_path)
    if picture is not None:
        result.save_picture(picture)
