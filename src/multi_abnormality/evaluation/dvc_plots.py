"""Curves as small CSV files for `dvc plots`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from multi_abnormality.evaluation.curves import (
    Curve,
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
    cells = (labels, probabilities, findings)
    for name, curve_of, x, y in (
        ("roc", roc, "false_positive_rate", "true_positive_rate"),
        ("precision_recall", precision_recall, "recall", "precision"),
    ):
        _write(folder / f"{name}.csv", _curve_frame(curve_of, *cells, x, y))
    _write(folder / "reliability.csv", _reliability_frame(*cells))


def _curve_frame(
    curve_of: Callable[[np.ndarray, np.ndarray], Curve | None],
    labels: np.ndarray,
    probabilities: np.ndarray,
    findings: Sequence[str],
    x: str,
    y: str,
) -> pd.DataFrame:
    curves: dict[str, Curve] = {}
    for column, finding in enumerate(findings):
        curve = curve_of(labels[:, column], probabilities[:, column])
        if curve is not None:
            curves[finding] = curve
    if curves:
        curves = {MEAN: mean_curve(list(curves.values())), **curves}
    frames = [
        pd.DataFrame({"finding": finding, x: curve.x, y: curve.y})
        for finding, curve in curves.items()
    ]
    return pd.concat(frames) if frames else pd.DataFrame(columns=["finding", x, y])


def _reliability_frame(
    labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> pd.DataFrame:
    bins = {MEAN: reliability_bins(labels, probabilities)} | {
        finding: reliability_bins(labels[:, column], probabilities[:, column])
        for column, finding in enumerate(findings)
    }
    return pd.concat(
        pd.DataFrame({"finding": finding, **filled._asdict()}) for finding, filled in bins.items()
    )


def _write(path: Path, frame: pd.DataFrame) -> None:
    frame.round(DECIMALS).to_csv(path, index=False, lineterminator="\n")
