"""Effect of class weights and of oversampling on a finding that is rare among the training scans.

python benchmarks/class_imbalance.py    # after `dvc repro`; nine short trainings by default

The finding's training patients are removed at random until its prevalence is the given one; a
patient's scans are all kept or all removed, and no label is changed. The test split stays as it is,
since a handful of positives could not tell the settings apart.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import expit

from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.evaluation.metric_registry import score_finding
from multi_abnormality.utils import console
from multi_abnormality.utils.rng import generator
from short_runs import TrainedRun

SLICES = 5  # of a volume in a training step: fewer than the default, to be faster
SETTINGS: dict[str, dict[str, float]] = {
    "uniform": {},
    "weights": {"max_pos_weight": 10.0},
    "oversampling": {"oversample_threshold": 0.2},
}


@dataclass(frozen=True)
class Result:
    """Scores of a run on the test split, and the finding's mean probability.

    Attributes:
        auroc: AUROC of the rare finding.
        average_precision: average precision of the rare finding.
        others: macro AUROC of the other findings.
        probability: mean probability of the finding on the validation scans, before calibration.
    """

    auroc: float
    average_precision: float
    others: float
    probability: float


def thin_out(processed: ProcessedDataset, finding: str, prevalence: float, seed: int) -> float:
    """Remove patients with a finding from the train split; return its prevalence after that.

    Patients are removed in random order, until the next one would make it too rare.
    """
    scans = processed.volumes("train").drop_duplicates("scan_id")
    positives = scans.groupby("patient_id", sort=False)[finding].sum()
    counts = scans["patient_id"].value_counts()
    with_finding = positives.index[positives > 0].to_numpy()
    positive, total = int(positives.sum()), len(scans)
    removed = []
    for patient in generator(seed, "thinned out").permutation(with_finding):
        left = positive - positives[patient], total - counts[patient]
        if left[0] < prevalence * left[1]:
            continue
        positive, total = left
        removed.append(patient)
    gone = processed.manifest["patient_id"].isin(removed)
    processed.manifest.loc[gone, "split"] = "removed"
    console.log.info("%s: %d of %d training scans", finding, positive, total)
    return positive / total


def run_setting(params: Params, processed: ProcessedDataset, finding: str) -> Result:
    """Train, and score the best epoch."""
    with tempfile.TemporaryDirectory() as folder:
        run = TrainedRun(params, processed, Path(folder))
        test, validation = run.predict(run.test_names), run.predict(run.val_names)
    column = processed.findings.index(finding)
    chances = expit(test.logits)
    aurocs, precisions = (
        [score_finding(name, test.labels[:, i], chances[:, i]) for i in range(len(test.labels.T))]
        for name in ("auroc", "average_precision")
    )
    return Result(
        auroc=aurocs[column],
        average_precision=precisions[column],
        others=float(np.mean([score for i, score in enumerate(aurocs) if i != column])),
        probability=float(expit(validation.logits[:, column]).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--finding", default="Emphysema")
    parser.add_argument("--prevalence", type=float, default=0.02, help="among the training scans")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6, help="of each training")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    given = parser.parse_args()
    default = load_params()
    found: dict[str, list[Result]] = {name: [] for name in given.settings}
    for seed in given.seeds:
        for name, results in found.items():
            processed = ProcessedDataset(Path("processed"))
            thin_out(processed, given.finding, given.prevalence, seed)
            short = {
                "epochs": given.epochs,
                "schedule_epochs": given.epochs,
                "slices_per_volume": SLICES,
            }
            train = default.train.model_copy(update=short | SETTINGS[name])
            params = default.model_copy(update={"seed": seed, "train": train})
            results.append(run_setting(params, processed, given.finding))
            console.log.info("seed %d, %s: %s", seed, name, results[-1])
    table = Table(
        f"{given.finding}, {given.prevalence:.0%} of the training scans", "AUROC by seed", "AUROC",
        "average precision", "macro AUROC of the others", "mean probability on val",
    )  # fmt: skip
    for name, results in found.items():
        seeds = ", ".join(f"{result.auroc:.3f}" for result in results)
        means = [
            statistics.mean(getattr(result, key) for result in results)
            for key in ("auroc", "average_precision", "others", "probability")
        ]
        changes = " ".join(f"{key}: {value:g}" for key, value in SETTINGS[name].items())
        table.add_row(f"{name} {changes}", seeds, *(f"{mean:.3f}" for mean in means))
    Console(file=sys.stdout, width=150).print(table)


if __name__ == "__main__":
    console.run(main)
