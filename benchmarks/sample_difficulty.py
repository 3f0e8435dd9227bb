"""What a score on the sample scans says: beside a model that only counts HU, and one that only
had shuffled labels to learn from.

    python benchmarks/sample_difficulty.py          # after `dvc repro`; takes as long as a training
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multi_abnormality import console
from multi_abnormality.data.ct_rate import read_ct_rate
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.metadata_table import SERIES
from multi_abnormality.data.randomness import generator
from multi_abnormality.findings import FINDINGS
from multi_abnormality.params import load_params
from multi_abnormality.stages import evaluate, train
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.fit import Places

BINS = np.linspace(-1024, 1024, 65)


def histogram(path: str, series: Series | None) -> np.ndarray:
    """(64,) shares of a volume's voxels by HU."""
    hu = np.clip(read_volume(Path(path), series).hu, BINS[0], BINS[-1])
    return np.histogram(hu, BINS)[0] / hu.size


def histogram_auroc(data: Path) -> float:
    """Macro AUROC on the valid split of a logistic regression on each volume's histogram."""
    volumes = read_ct_rate(data).volumes
    tasks = (joblib.delayed(histogram)(*row) for row in volumes[["path", SERIES]].to_numpy())
    done = joblib.Parallel(n_jobs=-1, return_as="generator")(tasks)
    shares = np.array(list(console.track(done, "histograms", len(volumes))))
    labels = volumes[list(FINDINGS)].to_numpy()
    known = (volumes["split"] == "train").to_numpy()
    model = make_pipeline(
        StandardScaler(), MultiOutputClassifier(LogisticRegression(max_iter=2000))
    )
    model.fit(shares[known], labels[known])
    chances = np.stack([chance[:, 1] for chance in model.predict_proba(shares[~known])], axis=1)
    return float(roc_auc_score(labels[~known], chances))


def shuffle_scans(labels: pd.DataFrame) -> None:
    """Deal the labels of the train split's scans out anew; reconstructions stay alike."""
    scans = labels["name"].str.rpartition("_")[0].where(labels["name"].str.startswith("train_"))
    first = labels[list(FINDINGS)].groupby(scans).first()
    order = generator(0, "shuffled labels").permutation(len(first))
    dealt = pd.DataFrame(first.to_numpy()[order], first.index, first.columns)
    known = scans.notna()
    labels.loc[known, list(FINDINGS)] = dealt.loc[scans[known]].to_numpy()


def shuffled_auroc(processed: Path, folder: Path) -> float:
    """Macro AUROC on the valid split of the default model, its training labels shuffled."""
    copy = folder / "processed"
    shutil.copytree(processed, copy)
    labels = pd.read_csv(copy / "labels.csv")
    shuffle_scans(labels)
    labels.to_csv(copy / "labels.csv", index=False)
    params = load_params()
    places = Places(
        checkpoints=folder / "checkpoints",
        logs=folder / "logs",
        history=folder / "metrics/history.csv",
        aside=Aside(folder / "aside", folder / "cache"),
    )
    train.run(params, copy, places, folder / "metrics/train.json")
    scores = evaluate.run(params, places.checkpoints, copy, folder / "metrics")
    return scores["classification"]["macro"]["auroc"]


def main() -> None:
    table = Table("macro AUROC on the valid split of the sample", "measured", "wanted")
    default = json.loads(Path("metrics/scores.json").read_text())["auroc"]
    table.add_row("this project's default", f"{default:.3f}", "at least 0.80")
    counted = histogram_auroc(Path("data"))
    table.add_row("logistic regression on HU histograms", f"{counted:.3f}", "at most 0.75")
    with tempfile.TemporaryDirectory() as folder:
        shuffled = shuffled_auroc(Path("processed"), Path(folder))
    table.add_row("the default, training labels shuffled", f"{shuffled:.3f}", "0.40 to 0.60")
    console.Console(file=sys.stdout).print(table)


if __name__ == "__main__":
    console.run(main)
