"""Difficulty of the sample scans: baselines on HU histograms and with shuffled training labels.

python benchmarks/sample_difficulty.py          # after `dvc repro`; takes as long as a run
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.catalog.catalog import SERIES
from multi_abnormality.data.catalog.ct_rate import read_ct_rate
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.training_run import RunPaths
from multi_abnormality.stages import evaluate, train
from multi_abnormality.utils import console
from multi_abnormality.utils.rng import generator

BINS = np.linspace(-1024, 1024, 65)


def histogram(path: str, series: Series | None) -> np.ndarray:
    """Return the (64,) fractions of a volume's voxels by HU."""
    hu = np.clip(read_volume(Path(path), series).hu, BINS[0], BINS[-1])
    return np.histogram(hu, BINS)[0] / hu.size


def histogram_auroc(data: Path) -> float:
    """Return the test macro AUROC of a logistic regression on the volumes' histograms."""
    volumes = read_ct_rate(data).volumes
    tasks = (joblib.delayed(histogram)(*row) for row in volumes[["path", SERIES]].to_numpy())
    done = joblib.Parallel(n_jobs=-1, return_as="generator")(tasks)
    histograms = np.array(list(console.track(done, "histograms", len(volumes))))
    labels = volumes[list(FINDINGS)].to_numpy()
    known = (volumes["split"] == "train").to_numpy()
    model = make_pipeline(
        StandardScaler(), MultiOutputClassifier(LogisticRegression(max_iter=2000))
    )
    model.fit(histograms[known], labels[known])
    chances = np.stack([chance[:, 1] for chance in model.predict_proba(histograms[~known])], axis=1)
    return float(roc_auc_score(labels[~known], chances))


def shuffle_scans(labels: pd.DataFrame) -> None:
    """Permute the labels of the train split's scans; reconstructions keep equal labels."""
    scans = labels["name"].str.rpartition("_")[0].where(labels["name"].str.startswith("train_"))
    first = labels[list(FINDINGS)].groupby(scans).first()
    order = generator(0, "shuffled labels").permutation(len(first))
    permuted = pd.DataFrame(first.to_numpy()[order], first.index, first.columns)
    known = scans.notna()
    labels.loc[known, list(FINDINGS)] = permuted.loc[scans[known]].to_numpy()


def shuffled_auroc(processed: Path, folder: Path) -> float:
    """Return the test macro AUROC of the default model with shuffled training labels."""
    copy = folder / "processed"
    shutil.copytree(processed, copy)
    labels = pd.read_csv(copy / "labels.csv")
    shuffle_scans(labels)
    labels.to_csv(copy / "labels.csv", index=False)
    params = load_params()
    paths = RunPaths(
        checkpoints=folder / "checkpoints",
        logs=folder / "logs",
        history=folder / "metrics/history.csv",
        archive=CheckpointArchive(folder / "archive", folder / "cache"),
    )
    train.run(params, copy, paths, folder / "metrics/train.json")
    scores = evaluate.run(params, paths.checkpoints, copy, folder / "metrics")
    return scores["classification"]["macro"]["auroc"]


def main() -> None:
    table = Table("macro AUROC on the test split of the sample", "measured", "target")
    default = json.loads(Path("metrics/scores.json").read_text())["auroc"]
    table.add_row("this project's default", f"{default:.3f}", "at least 0.80")
    counted = histogram_auroc(Path("data"))
    table.add_row("logistic regression on HU histograms", f"{counted:.3f}", "at most 0.75")
    with tempfile.TemporaryDirectory() as folder:
        shuffled = shuffled_auroc(Path("processed"), Path(folder))
    table.add_row("the default, training labels shuffled", f"{shuffled:.3f}", "0.40 to 0.60")
    Console(file=sys.stdout).print(table)


if __name__ == "__main__":
    console.run(main)
