"""``iam train``: train coders from YAML files."""

import time
from pathlib import Path

import click

__all__ = ["train"]


@click.command(
    short_help="Train sparse autoencoders and transcoders.",
    epilog="\b\nExamples:\n"
    "  iam train configs/sae_topk.yaml\n"
    "  iam train configs/sae_topk.yaml --dry-run       what would run, with every default\n"
    "  iam train configs/sae_topk.yaml --resume        go on after Ctrl-C\n"
    "  iam train configs/sae_topk.yaml --resume --steps 4000\n"
    "  iam train configs/smollm2_sae.yaml configs/smollm2_transcoder.yaml       both, on the same batches",
)
@click.argument("configs", metavar="CONFIG.yaml...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the folder of the run, if there is one.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps in all, instead of schedule.steps.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration as YAML and exit.")
@click.option(
    "--threads", type=click.IntRange(min=1, max=1024), help="Threads for the kernels and for torch. [default: all]"
)
@click.option("--quiet", "-q", is_flag=True, help="No progress bar, no summary.")
def train(
    configs: tuple[Path, ...], resume: bool, steps: int | None, dry_run: bool, threads: int | None, quiet: bool
) -> None:
    """Train the coder that CONFIG.yaml describes; its keys are in docs/training.md.

    Several files train several coders at once, from one pass of the model: they may differ in all
    but what makes batches (data apart from the sites, schedule.batch, seed).

    Ctrl-C saves a checkpoint; the same command with --resume goes on from it, and ends with the
    same weights as a run that was not interrupted.
    """
    from iam.training import TrainConfig
    from iam.training import train as run
    from iam.training._train import plan, with_steps

    settings = [with_steps(TrainConfig.from_yaml(config), steps) for config in configs]
    if dry_run:
        from iam.core.lazy import require

        yaml = require("yaml", extra="models", purpose="iam train --dry-run")
        plans = [plan(one) for one in settings]
        click.echo(yaml.safe_dump_all(plans, sort_keys=False, allow_unicode=True), nl=False)
        return
    if threads is not None:
        import torch

        from iam.core.lazy import native

        torch.set_num_threads(threads)
        native().set_num_threads(threads)
    last: dict[int, dict[str, float]] = {}
    began = time.monotonic()
    coders = run(
        settings,
        resume=resume,
        progress=not quiet,
        callback=lambda metrics: last.update({int(metrics["run"]): metrics}),
    )
    if quiet:
        return
    for at, (one, coder) in enumerate(zip(settings, coders, strict=True)):
        click.echo(f"{coder} in {Path(one.checkpoint.folder) / 'coder'}")
        if at in last:
            figures = last[at]
            click.echo(
                f"step {int(figures['step']):,}: loss {figures['loss']:.5g}, FVU {figures['fvu']:.4f}, L0 {figures['l0']:.1f}, "
                f"dead {figures['dead']:.1%}, {time.monotonic() - began:.0f} s"
            )
