"""``iam train``: train a coder from a YAML file."""

import time
from pathlib import Path

import click

__all__ = ["train"]


@click.command(
    short_help="Train a sparse autoencoder or a transcoder.",
    epilog="\b\nExamples:\n"
    "  iam train configs/sae_topk.yaml\n"
    "  iam train configs/sae_topk.yaml --dry-run       what would run, with every default\n"
    "  iam train configs/sae_topk.yaml --resume        go on after Ctrl-C\n"
    "  iam train configs/sae_topk.yaml --resume --steps 4000",
)
@click.argument("config", metavar="CONFIG.yaml", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the folder of the run, if there is one.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps in all, instead of schedule.steps.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration as YAML and exit.")
@click.option(
    "--threads", type=click.IntRange(min=1, max=1024), help="Threads for the kernels and for torch. [default: all]"
)
@click.option("--quiet", "-q", is_flag=True, help="No progress bar, no summary.")
def train(config: Path, resume: bool, steps: int | None, dry_run: bool, threads: int | None, quiet: bool) -> None:
    """Train the coder that CONFIG.yaml describes; its keys are in docs/training.md.

    Ctrl-C saves a checkpoint; the same command with --resume goes on from it, and ends with the
    same weights as a run that was not interrupted.
    """
    from iam.training import TrainConfig
    from iam.training import train as run
    from iam.training._train import plan, with_steps

    settings = with_steps(TrainConfig.from_yaml(config), steps)
    if dry_run:
        from iam.core.lazy import require

        yaml = require("yaml", extra="models", purpose="iam train --dry-run")
        click.echo(yaml.safe_dump(plan(settings), sort_keys=False, allow_unicode=True), nl=False)
        return
    if threads is not None:
        import torch

        from iam.core.lazy import native

        torch.set_num_threads(threads)
        native().set_num_threads(threads)
    last: dict[str, float] = {}
    began = time.monotonic()
    coder = run(settings, resume=resume, progress=not quiet, callback=last.update)
    if quiet:
        return
    click.echo(f"{coder} in {Path(settings.checkpoint.folder) / 'coder'}")
    if last:
        click.echo(
            f"step {int(last['step']):,}: loss {last['loss']:.5g}, FVU {last['fvu']:.4f}, L0 {last['l0']:.1f}, "
            f"dead {last['dead']:.1%}, {time.monotonic() - began:.0f} s"
        )
