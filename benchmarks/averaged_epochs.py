"""Effect of averaging the weights of the best epochs (`train.average_best`) on the test split.

python benchmarks/averaged_epochs.py     # after `dvc repro`; three trainings by default
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cross_validation import PROCESSED
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.checkpoint_io import LAST, load_complete
from multi_abnormality.training.weight_average import mean_state
from multi_abnormality.utils import console
from short_runs import TrainedRun

CHOSEN = "chosen on val"


def measure(seed: int, best: int, epochs: int | None) -> dict[str, float]:
    """Train; return the test macro AUROC by the number of averaged epochs, and of the choice."""
    default = load_params()
    changes = {"average_best": best, "epochs": epochs or default.train.epochs}
    train = default.train.model_copy(update=changes)
    params = default.model_copy(update={"seed": seed, "train": train})
    with tempfile.TemporaryDirectory() as folder:
        run = TrainedRun(params, ProcessedDataset(PROCESSED), Path(folder))
        kept = load_complete(Path(folder) / "checkpoints" / LAST)["best_epochs"]
    states = [kept[epoch.epoch] for epoch in run.history.ranked(best)]
    candidates = {str(count): mean_state(states[:count]) for count in range(1, len(states) + 1)}
    candidates[CHOSEN] = run.best["state_dict"]
    return {
        name: run.test_auroc(run.best | {"state_dict": state}) for name, state in candidates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--best", type=int, default=3, help="largest number of averaged epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of each training; train.epochs if not given")
    given = parser.parse_args()
    found = [measure(seed, given.best, given.epochs) for seed in given.seeds]
    table = Table("averaged epochs", "test macro AUROC by seed", "mean", "gain over one epoch")
    for name in found[0]:
        scores = [each[name] for each in found]
        gain = statistics.mean(each[name] - each["1"] for each in found)
        shown = ", ".join(f"{score:.4f}" for score in scores)
        table.add_row(name, shown, f"{statistics.mean(scores):.4f}", f"{gain:+.4f}")
    Console(file=sys.stdout, width=120).print(table)


if __name__ == "__main__":
    console.run(main)
