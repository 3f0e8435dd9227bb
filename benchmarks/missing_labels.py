"""Effect of missing labels: complete ones, some missing at random, and those taken as negatives.

python benchmarks/missing_labels.py     # after `dvc repro`; nine trainings by default
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.utils import console
from multi_abnormality.utils.rng import generator
from short_runs import TrainedRun

TARGET = 0.03  # largest fall of macro AUROC by missing labels
COMPLETE, MISSING, NEGATIVE = "complete", "missing", "taken as negatives"


def remove_labels(processed: ProcessedDataset, share: float, seed: int) -> None:
    """Remove a share of the train split's labels, scan by scan; the test split's stay."""
    train = processed.volumes("train")
    scans = train["scan_id"].unique()
    rng = generator(seed, "missing labels")
    drawn = rng.random((len(scans), len(processed.findings))) < share
    row_of = {scan: row for row, scan in enumerate(scans)}
    removed = drawn[[row_of[scan] for scan in train["scan_id"]]]
    labels, findings = processed.labels, list(processed.findings)
    labels[findings] = labels[findings].astype(float)
    rows = labels["name"].isin(train["name"])
    labels.loc[rows, findings] = labels.loc[rows, findings].mask(removed)


def trained_auroc(params: Params, processed: ProcessedDataset) -> float:
    """Train, and return the test macro AUROC of the best epoch."""
    with tempfile.TemporaryDirectory() as folder:
        return TrainedRun(params, processed, Path(folder)).test_auroc()


def measure(share: float, seeds: list[int], epochs: int | None) -> dict[str, list[float]]:
    """Return the test macro AUROC of each seed, by what becomes of the missing labels."""
    found: dict[str, list[float]] = {COMPLETE: [], MISSING: [], NEGATIVE: []}
    default = load_params()
    for seed in seeds:
        train = default.train.model_copy(update={"epochs": epochs or default.train.epochs})
        params = default.model_copy(update={"seed": seed, "train": train})
        for kind, scores in found.items():
            processed = ProcessedDataset(Path("processed"))
            if kind != COMPLETE:
                remove_labels(processed, share, seed)
            if kind == NEGATIVE:
                processed.labels = processed.labels.fillna(0)
            scores.append(trained_auroc(params, processed))
            console.log.info("seed %d, labels %s: macro AUROC %.4f", seed, kind, scores[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--share", type=float, default=0.3, help="of the training labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of each training; train.epochs if not given")
    given = parser.parse_args()
    found = measure(given.share, given.seeds, given.epochs)
    means = {kind: statistics.mean(scores) for kind, scores in found.items()}
    title = f"{given.share:.0%} of the training labels"
    table = Table(title, "macro AUROC by seed", "mean", "difference", "target")
    targets = {MISSING: f"at least -{TARGET}", NEGATIVE: "below that of missing"}
    for kind, scores in found.items():
        shown = ", ".join(f"{score:.3f}" for score in scores)
        difference = "" if kind == COMPLETE else f"{means[kind] - means[COMPLETE]:+.3f}"
        table.add_row(kind, shown, f"{means[kind]:.3f}", difference, targets.get(kind, ""))
    Console(file=sys.stdout, width=120).print(table)


if __name__ == "__main__":
    console.run(main)
