"""Effect of pretrained weights: EfficientNet-Lite0 with ImageNet's and with random ones.

python benchmarks/pretrained.py     # after `dvc repro`; six trainings by default
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lite0_weights import BACKBONE, save_lite0
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.utils import console

TARGET = 0.10  # smallest gain of val macro AUROC
PRETRAINED, RANDOM = "ImageNet", "random"


def val_auroc(params: Params, folder: Path) -> float:
    """Train, and return the macro AUROC of the validation patients after the last epoch."""
    paths = RunPaths(
        checkpoints=folder / "checkpoints",
        logs=folder / "logs",
        history=folder / "history.csv",
        archive=CheckpointArchive(folder / "archive", folder / "cache"),
    )
    history = TrainingRun(params, ProcessedDataset(Path("processed")), paths).run()
    auroc = history.epochs[-1].val_auroc
    assert auroc is not None  # every epoch is validated
    return auroc


def measure(
    seeds: list[int], kinds: list[str], epochs: int, learning_rate: float
) -> dict[str, list[float]]:
    """Return the val macro AUROC of each seed, by the kind of the initial weights."""
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    default = load_params()
    train = default.train.model_copy(
        update={"epochs": epochs, "schedule_epochs": epochs, "learning_rate": learning_rate}
    )
    for seed in seeds:
        for kind, scores in found.items():
            with tempfile.TemporaryDirectory() as folder:
                weights = save_lite0(Path(folder) / "lite0.pth")
                chosen = {
                    "backbone": BACKBONE,
                    "adjacent_slices": 1,  # three windows for three channels
                    "pretrained": str(weights) if kind == PRETRAINED else False,
                }
                model = default.model.model_copy(update=chosen)
                update = {"seed": seed, "train": train, "model": model}
                scores.append(val_auroc(default.model_copy(update=update), Path(folder)))
            console.log.info("seed %d, %s weights: val macro AUROC %.4f", seed, kind, scores[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", nargs="+", choices=[PRETRAINED, RANDOM],
                        default=[PRETRAINED, RANDOM])  # fmt: skip
    parser.add_argument("--epochs", type=int, default=3, help="of each training")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    given = parser.parse_args()
    found = measure(given.seeds, given.weights, given.epochs, given.learning_rate)
    table = Table("initial weights", "val macro AUROC by seed", "mean")
    for kind, scores in found.items():
        shown = ", ".join(f"{score:.3f}" for score in scores)
        table.add_row(kind, shown, f"{statistics.mean(scores):.3f}")
    output = Console(file=sys.stdout, width=120)
    output.print(table)
    if len(found) == 2:
        pairs = zip(found[PRETRAINED], found[RANDOM], strict=True)
        gain = statistics.mean(mine - other for mine, other in pairs)
        output.print(f"gain {gain:+.3f}, target at least +{TARGET}")


if __name__ == "__main__":
    console.run(main)
