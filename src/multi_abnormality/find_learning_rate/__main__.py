"""`python -m multi_abnormality.find_learning_rate`: the loss while the learning rate rises."""

import argparse
import sys
from pathlib import Path

from multi_abnormality import console


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.find_learning_rate",
        description="Train a fresh model at rising learning rates, and suggest one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        parents=[console.options()],
    )
    parser.add_argument("--from", type=float, default=1e-6, dest="lowest", help="first rate")
    parser.add_argument("--to", type=float, default=1.0, dest="highest", help="last rate")
    parser.add_argument("--steps", type=int, default=200, help="of the optimizer, 50 or more")
    parser.add_argument("--out", type=Path, default=Path("learning_rates.csv"), help="CSV file")
    given = parser.parse_args()
    if given.steps < 50 or not 0 < given.lowest < given.highest:
        parser.error("--steps must be at least 50, and 0 < --from < --to")
    return given


def main() -> None:
    given = _arguments()
    # Imported late, as in all programs: nobody waits seconds for --help or a mistyped option.
    from rich.console import Console
    from rich.table import Table

    from multi_abnormality.data.store import ProcessedSet
    from multi_abnormality.files import write_durably
    from multi_abnormality.find_learning_rate.range_test import range_test, suggest
    from multi_abnormality.params import load_params

    params, processed = load_params(), ProcessedSet(Path("processed"))
    found = range_test(params, processed, given.lowest, given.highest, given.steps)
    lines = [f"{step.rate:.6g},{step.loss:.6g},{step.relative:.6g}" for step in found]
    write_durably("\n".join(["learning_rate,loss,relative_loss", *lines, ""]).encode(), given.out)
    table = Table("learning rate", "loss", "relative loss")
    size = max(len(found) // 20, 1)
    for first in range(0, len(found), size):
        steps = found[first : first + size]
        table.add_row(f"{steps[0].rate:.1e}", *(
            f"{sum(values) / len(values):.4f}"
            for values in zip(*((step.loss, step.relative) for step in steps), strict=True)
        ))  # fmt: skip
    Console(file=sys.stdout).print(table)
    console.log.info("%s has every step; a relative loss is 1 for probabilities of 0.5", given.out)
    console.log.info(
        "the loss fell fastest at %.1e (train.learning_rate is %.1e)",
        suggest(found), params.train.learning_rate,
    )  # fmt: skip


if __name__ == "__main__":
    console.run(main)
