"""`multi-abnormality find-lr`: learning rate range test."""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from multi_abnormality.utils import console

if TYPE_CHECKING:
    from multi_abnormality.tools.find_lr_run import Step


def find_lr(
    lowest: Annotated[float, typer.Option("--from", help="Lowest rate.")] = 1e-6,
    highest: Annotated[float, typer.Option("--to", help="Highest rate.")] = 1.0,
    steps: Annotated[int, typer.Option(min=50, help="Optimizer steps.")] = 200,
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("learning_rates.csv"),
) -> None:
    """Run a learning rate range test.

    Trains a new model at increasing learning rates, and suggests one.
    """
    if not 0 < lowest < highest:
        raise typer.BadParameter("must be more than 0 and less than --to", param_hint="--from")
    from multi_abnormality.config.schema import load_params
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
    from multi_abnormality.tools.find_lr_run import range_test, suggest
    from multi_abnormality.utils.atomic_io import atomic_write

    params = load_params()
    processed = ProcessedDataset(Path("processed"), params.data.fold)
    found = range_test(params, processed, lowest, highest, steps)
    lines = [f"{step.rate:.6g},{step.loss:.6g},{step.relative:.6g}" for step in found]
    atomic_write("\n".join(["learning_rate,loss,relative_loss", *lines, ""]).encode(), out)
    _print_table(found)
    console.log.info(
        "the loss fell fastest at %.1e (train.learning_rate is %.1e)",
        suggest(found), params.train.learning_rate,
    )  # fmt: skip


def _print_table(found: Sequence["Step"]) -> None:
    """Print the means of about 20 groups of steps."""
    from rich.console import Console
    from rich.table import Table

    table = Table("learning rate", "loss", "relative loss")
    size = max(len(found) // 20, 1)
    for first in range(0, len(found), size):
        group = found[first : first + size]
        losses = fmean(step.loss for step in group), fmean(step.relative for step in group)
        table.add_row(f"{group[0].rate:.1e}", *(f"{loss:.4f}" for loss in losses))
    Console(file=sys.stdout).print(table)
