"""Curves as small CSV files for `dvc plots`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from multi_abnormality.evaluation.curves import (
    Bins,
    mean_curve,
    precision_recall,
    reliability_bins,
    roc,
)

MEAN = "All findings"  # mean of the curves; for reliability, all label cells together
DECIMALS = 5


def write_plots(
    folder: Path, labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> None:
    """Write roc.csv, precision_recall.csv and reliability.csv, one row per point.

    A finding whose curve is undefined (no positives, or no negatives) has no rows.

    Args:
        folder: directory of the files.
        labels: (N, F), 0 or 1.
        probabilities: (N, F).
        findings: F names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = [
        (finding, labels[:, column], probabilities[:, column])
        for column, finding in enumerate(findings)
    ]
    for name, curve_of, axes in (
        ("roc", roc, ("false_positive_rate", "true_positive_rate")),
        ("precision_recall", precision_recall, ("recall", "precision")),
    ):
        curves = {finding: curve_of(*columns) for finding, *columns in cells}
        defined = {finding: curve for finding, curve in curves.items() if curve is not None}
        mean = {MEAN: mean_curve(list(defined.values()))} if defined else {}
        _write(folder / f"{name}.csv", mean | defined, axes)
    bins = {finding: reliability_bins(*columns) for finding, *columns in cells}
    every = {MEAN: reliability_bins(labels, probabilities)}
    _write(folder / "reliability.csv", every | bins, Bins._fields)


def _write(path: Path, curves: Mapping[str, tuple[np.ndarray, ...]], axes: Sequence[str]) -> None:
    """Write a row for each point of each curve."""
    frames = [
        pd.DataFrame({"finding": finding, **dict(zip(axes, curve, strict=True))})
        for finding, curve in curves.items()
    ]
    table = pd.concat(frames) if frames else pd.DataFrame(columns=["finding", *axes])
    table.round(DECIMALS).to_csv(path, index=False, lineterminator="\n")
