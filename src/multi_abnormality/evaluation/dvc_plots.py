"""Curves as small CSV files for `dvc plots`, drawn by .dvc/plots/by_finding.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from multi_abnormality.data.catalog.label_checks import labeled_cells
from multi_abnormality.evaluation.calibration import calibration_scores
from multi_abnormality.evaluation.curves import (
    Bins,
    Curve,
    mean_curve,
    precision_recall,
    reliability_bins,
    roc,
)
from multi_abnormality.evaluation.metric_registry import auroc, average_precision

MEAN = "All findings"  # mean of the curves; for reliability, all label cells together
DECIMALS = 5


class Panel(NamedTuple):
    """What one panel shows besides its name.

    The reference line, of chance or of ideal calibration, goes from `reference[0]` at x = 0 to
    `reference[1]` at x = 1.
    """

    curve: Curve | Bins
    score: float
    reference: tuple[float, float]


def write_plots(
    folder: Path, labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> None:
    """Write roc.csv, precision_recall.csv and reliability.csv, one row per point.

    A finding whose curve is undefined (no positives, or no negatives) has no rows. Each row also
    has the title of the finding's score, and the ends of the reference line.

    Args:
        folder: directory of the files.
        labels: (N, F), 0, 1 or NaN for a missing one.
        probabilities: (N, F).
        findings: F names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rocs: dict[str, Panel] = {}
    precisions: dict[str, Panel] = {}
    bins: dict[str, Panel] = {}
    errors = calibration_scores(labels, probabilities, findings)
    for column, finding in enumerate(findings):
        cells = labeled_cells(labels[:, column], probabilities[:, column])
        if (curve := roc(*cells)) is not None:
            rocs[finding] = Panel(curve, auroc(*cells) or 0.0, (0, 1))
        if (curve := precision_recall(*cells)) is not None:
            share = float(cells[0].mean())
            precisions[finding] = Panel(curve, average_precision(*cells) or 0.0, (share, share))
        if (error := errors["per_pathology"][finding]["ece"]) is not None:
            bins[finding] = Panel(reliability_bins(*cells), error, (0, 1))
    every = {}
    if bins:
        every[MEAN] = Panel(reliability_bins(labels, probabilities), errors["macro"]["ece"], (0, 1))
    _write(
        folder / "roc.csv", _with_mean(rocs), ("false_positive_rate", "true_positive_rate"), "AUROC"
    )
    _write(folder / "precision_recall.csv", _with_mean(precisions), ("recall", "precision"), "AP")
    _write(folder / "reliability.csv", every | bins, Bins._fields, "ECE")


def _with_mean(panels: Mapping[str, Panel]) -> dict[str, Panel]:
    """Add the mean over the findings, first; none without any."""
    if not panels:
        return {}
    curves, scores, references = zip(*panels.values(), strict=True)
    low, high = np.mean(references, axis=0)
    return {MEAN: Panel(mean_curve(list(curves)), float(np.mean(scores)), (low, high)), **panels}


def _write(path: Path, panels: Mapping[str, Panel], axes: Sequence[str], score: str) -> None:
    """Write a row for each point of each panel.

    DVC writes the names into a script element of its page, which `<` could end.
    """
    frames = [
        pd.DataFrame(
            {
                "finding": finding.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"),
                **dict(zip(axes, panel.curve, strict=True)),
                "score": f"{'macro ' if finding == MEAN else ''}{score} {panel.score:.3f}",
                "reference_from": panel.reference[0],
                "reference_to": panel.reference[1],
            }
        )
        for finding, panel in panels.items()
    ]
    columns = ["finding", *axes, "score", "reference_from", "reference_to"]
    table = pd.concat(frames) if frames else pd.DataFrame(columns=columns)
    table.round(DECIMALS).to_csv(path, index=False, lineterminator="\n")
