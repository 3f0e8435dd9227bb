"""`multi-abnormality find-lr`: learning rate range test."""

import argparse
import sys
from pathlib import Path

from multi_abnormality.utils import console


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="multi-abnormality find-lr",
        description="Train a new model at increasing learning rates, and suggest one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        parents=[console.options()],
    )
    parser.add_argument("--from", type=float, default=1e-6, dest="lowest", help="lowest rate")
    parser.add_argument("--to", type=float, default=1.0, dest="highest", help="highest rate")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps, at least 50")
    parser.add_argument("--out", type=Path, default=Path("learning_rates.csv"), help="CSV file")
    given = parser.parse_args()
    if given.steps < 50 or not 0 < given.lowest < given.highest:
        parser.error("--steps must be at least 50, and 0 < --from < --to")
    return given


def main() -> None:
    given = _arguments()
    # Imported late, so that --help and argument errors are fast.
    from rich.console import Console
    from rich.table import Table

    from multi_abnormality.config.schema import load_params
    from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
    from multi_abnormality.tools.find_lr.range_test import range_test, suggest
    from multi_abnormality.utils.atomic_io import atomic_write

    params, processed = load_params(), ProcessedDataset(Path("processed"))
    found = range_test(params, processed, given.lowest, given.highest, given.steps)
    lines = [f"{step.rate:.6g},{step.loss:.6g},{step.relative:.6g}" for step in found]
    atomic_write("\n".join(["learning_rate,loss,relative_loss", *lines, ""]).encode(), given.out)
    table = Table("learning rate", "loss", "relative loss")
    size = max(len(found) // 20, 1)
    for first in range(0, len(found), size):
        steps = found[first : first + size]
        table.add_row(f"{steps[0].rate:.1e}", *(
            f"{sum(values) / len(values):.4f}"
            for values in zip(*((step.loss, step.relative) for step in steps), strict=True)
        ))  # fmt: skip
    Console(file=sys.stdout).print(table)
    console.log.info(
        "wrote all steps to %s; the relative loss is 1 for probabilities of 0.5", given.out
    )
    console.log.info(
        "the loss fell fastest at %.1e (train.learning_rate is %.1e)",
        suggest(found), params.train.learning_rate,
    )  # fmt: skip


if __name__ == "__main__":
    console.run(main)
