"""Numbers behind the report's charts and sliders, as plain JSON values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.data.catalog.label_checks import labeled_cells
from multi_abnormality.evaluation.curves import reliability_bins, thin_indices
from multi_abnormality.evaluation.interval_bands import (
    Band,
    Weights,
    curve_bands,
    reliability_intervals,
)

STEPS = 100  # positions of a threshold slider between 0 and 1
SENSITIVITIES = (0.95, 0.9)  # for which the highest threshold is given
DIGITS = 4  # decimals of what is drawn
CURVE_POINTS = 200  # at most, of a curve

DIAGONAL = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]


def finding_data(
    labels: np.ndarray,
    probabilities: np.ndarray,
    uncalibrated: np.ndarray | None,
    threshold: float,
    weights: Weights,
) -> dict[str, Any]:
    """Return the curves of one finding and its counts at many thresholds.

    Args:
        labels: (N,), 0, 1 or NaN for a missing one, which is left out.
        probabilities: (N,), calibrated.
        uncalibrated: (N,), before calibration; None if it is not known.
        threshold: the finding's own.
        weights: resamples of the N scans.
    """
    y_true, probs = labeled_cells(labels, probabilities)
    positives, negatives = int((y_true == 1).sum()), int((y_true == 0).sum())
    data: dict[str, Any] = {"positives": positives, "negatives": negatives, "own": threshold}
    at = data["at_sensitivity"] = {
        f"{sensitivity:g}": highest_threshold(y_true, probs, sensitivity)
        for sensitivity in (SENSITIVITIES if positives else ())
    }
    others = [each["threshold"] for each in at.values()]
    data["thresholds"] = _counts(y_true, probs, [threshold, *others])
    roc_band, precision_band = curve_bands(labels, probabilities, weights)
    cut, tp, fp = _points(y_true, probs)
    sensitivity = tp / max(positives, 1)
    if positives and negatives:
        data["roc"] = {
            "curve": _curve(fp / negatives, sensitivity, cut),
            "band": _band(roc_band),
            "reference": DIAGONAL,
        }
    if positives:
        full = int(np.argmax(tp == positives)) + 1  # further points only lose precision
        precision = tp / np.maximum(tp + fp, 1)
        share = positives / (positives + negatives)
        data["precision_recall"] = {
            "curve": _curve(sensitivity[1:full], precision[1:full], cut[1:full]),
            "band": _band(precision_band),
            "reference": [{"x": x, "y": _round(share)} for x in (0, 1)],
        }
    data["calibration"] = {
        "bins": [
            *_bins(labels, probabilities, "after", weights),
            *([] if uncalibrated is None else _bins(labels, uncalibrated, "before")),
        ],
        "reference": DIAGONAL,
    }
    return data


def pooled_calibration(
    labels: np.ndarray, probabilities: np.ndarray, uncalibrated: np.ndarray | None
) -> dict[str, Any]:
    """Return the reliability curve of all label cells (N, F) together."""
    before = [] if uncalibrated is None else _bins(labels, uncalibrated, "before")
    return {
        "bins": [*_bins(labels, probabilities, "after"), *before],
        "reference": DIAGONAL,
    }


def history_data(history: pd.DataFrame, planned_epochs: int) -> dict[str, Any] | None:
    """Return the charts of a training, or None without an epoch.

    Args:
        history: one row per epoch, as in `metrics/history.csv`.
        planned_epochs: epochs that were configured; a shorter history means early stopping.
    """
    if history.empty:
        return None
    best = None
    if not history["val_auroc"].isna().all():
        best = history.loc[history["val_auroc"].idxmax()]
    marks = [] if best is None else [{"epoch": float(best["epoch"]), "name": "best"}]
    stopped = len(history) < planned_epochs
    if stopped or best is None:  # without validation, the last epoch's weights are scored
        name = "early stopping" if stopped else "last"
        marks.append({"epoch": float(history["epoch"].iloc[-1]), "name": name})

    def chart(columns: Mapping[str, str]) -> dict[str, Any] | None:
        rows = [
            {"series": name, "epoch": float(epoch), "y": float(f"{value:.6g}")}
            for name, column in columns.items()
            if column in history
            for epoch, value in zip(history["epoch"], history[column], strict=True)
            if math.isfinite(value)
        ]
        return {"history": rows, "marks": marks} if rows else None

    return {
        "charts": {
            name: data
            for name, columns in (
                ("losses", {"training": "train_loss", "validation": "val_loss"}),
                ("auroc", {"validation": "val_auroc"}),
                ("rate", {"learning rate": "learning_rate"}),
            )
            if (data := chart(columns))
        },
        "best_epoch": None if best is None else float(best["epoch"]),
        "best_auroc": None if best is None else float(best["val_auroc"]),
        "epochs": len(history),
        "stopped": stopped,
    }


def highest_threshold(
    labels: np.ndarray, probabilities: np.ndarray, sensitivity: float
) -> dict[str, float]:
    """Return the highest threshold with at least a sensitivity, and the sensitivity it has.

    Args:
        labels: (N,), 0 or 1, with a positive.
        probabilities: (N,).
    """
    ranked = np.sort(probabilities[labels == 1])[::-1]
    needed = math.ceil(sensitivity * len(ranked) - 1e-9)
    threshold = float(ranked[needed - 1])
    return {"threshold": threshold, "sensitivity": float((ranked >= threshold).mean())}


def _points(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return falling thresholds, and the true and false positives from each on."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    is_last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]  # of equal ones
    ends = np.flatnonzero(is_last)
    tp = np.cumsum(labels[order] == 1)[ends]
    fp = np.cumsum(labels[order] == 0)[ends]
    return tuple(
        np.concatenate([first, each])
        for first, each in (([1.0], ranked[ends]), ([0], tp), ([0], fp))
    )


def _counts(
    labels: np.ndarray, probabilities: np.ndarray, others: Sequence[float]
) -> dict[str, list[float]]:
    """Return true and false positives at each position of the slider, which has `others` too."""
    cuts = sorted({*(step / STEPS for step in range(STEPS + 1)), *others})
    ranked = [np.sort(probabilities[labels == value]) for value in (1, 0)]
    tp, fp = ((len(each) - np.searchsorted(each, cuts)).tolist() for each in ranked)
    return {"cut": cuts, "tp": tp, "fp": fp}


def _curve(x: np.ndarray, y: np.ndarray, cuts: np.ndarray) -> list[dict[str, float]]:
    kept = thin_indices(x, y, CURVE_POINTS)
    return [
        {"x": _round(a), "y": _round(b), "threshold": _round(cut), "order": number}
        for number, (a, b, cut) in enumerate(zip(x[kept], y[kept], cuts[kept], strict=True))
    ]


def _band(band: Band | None) -> list[dict[str, float]]:
    if band is None:
        return []
    return [
        {name: _round(value) for name, value in zip(Band._fields, row, strict=True)}
        for row in zip(*band, strict=True)
    ]


def _bins(
    labels: np.ndarray, probabilities: np.ndarray, series: str, weights: Weights | None = None
) -> list[dict[str, Any]]:
    bins = reliability_bins(labels, probabilities)
    spans: Sequence[tuple[float, float] | None] = [None] * len(bins.scans)
    if weights is not None:
        spans = reliability_intervals(labels, probabilities, weights)
    return [
        {
            "series": series,
            "x": _round(x),
            "y": _round(y),
            "scans": int(scans),
            **({"low": _round(span[0]), "high": _round(span[1])} if span else {}),
        }
        for x, y, scans, span in zip(*bins, spans, strict=True)
    ]


def _round(value: float) -> float:
    return round(float(value), DIGITS)
