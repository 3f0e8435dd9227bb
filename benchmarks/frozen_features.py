"""Training on the stored features of a frozen encoder, compared with encoding in each epoch.

python benchmarks/frozen_features.py     # after `dvc repro`; two trainings

The encoder is EfficientNet-Lite0 with ImageNet's weights.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lite0_weights import BACKBONE, save_lite0
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.runtime.training_loop import TrainingLoop
from multi_abnormality.training.val_metrics import auroc_by_finding, macro_auroc
from multi_abnormality.utils import console
from short_runs import TrainedRun

TARGET, LARGEST = 20, 1e-3  # times as many volumes a second; difference of scores
NEVER, CACHED = "never", "required"


class Timed:
    """Measures the seconds of epochs: steps, validation and saves, without encoding before them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        fit = TrainingLoop.fit

        def timed(loop: TrainingLoop, *args: object) -> None:
            started = time.perf_counter()
            fit(loop, *args)
            self.seconds = time.perf_counter() - started

        TrainingLoop.fit = timed


def settings(choice: str, epochs: int, slices: int | None, weights: Path) -> Params:
    default = load_params()
    model = {
        "backbone": BACKBONE,
        "pretrained": str(weights),
        "adjacent_slices": 1,  # three windows for three channels
        "finetune": "frozen",
    }
    train = {
        "epochs": epochs,
        "schedule_epochs": epochs,
        "augmentation": "none",
        "cache_features": choice,
        "slices_per_volume": slices or default.preprocess.shape[0],
        "early_stopping_patience": epochs,
    }
    update = {
        "model": default.model.model_copy(update=model),
        "train": default.train.model_copy(update=train),
    }
    return default.model_copy(update=update)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=3, help="of each training")
    parser.add_argument("--slices", type=int, help="per volume in a step; all by default")
    given = parser.parse_args()
    processed, timed = ProcessedDataset(Path("processed")), Timed()
    table = Table("features", "volumes/s", "test macro AUROC")
    rates, aurocs, probabilities = [], [], []
    for choice in (NEVER, CACHED):
        with tempfile.TemporaryDirectory() as folder:
            weights = save_lite0(Path(folder) / "lite0.pth")
            params = settings(choice, given.epochs, given.slices, weights)
            run = TrainedRun(params, processed, Path(folder) / "run" / "1")
            scans = run.predict(run.test_names)
        volumes = len(processed.volumes("train")) * given.epochs
        rates.append(volumes / timed.seconds)
        logits, labels = torch.from_numpy(scans.logits), torch.from_numpy(scans.labels)
        aurocs.append(macro_auroc(auroc_by_finding(logits, labels, processed.findings)))
        probabilities.append(torch.sigmoid(logits).numpy())
        table.add_row(choice, f"{rates[-1]:.1f}", f"{aurocs[-1]:.5f}")
    output = Console(file=sys.stdout, width=120)
    output.print(table)
    difference = np.abs(probabilities[0] - probabilities[1]).max()
    output.print(
        f"{rates[1] / rates[0]:.1f} times as many volumes a second, target at least {TARGET}\n"
        f"largest difference of a test probability {difference:.1e}, of the macro AUROC "
        f"{abs(aurocs[0] - aurocs[1]):.1e}, target at most {LARGEST}"
    )


if __name__ == "__main__":
    console.run(main)
