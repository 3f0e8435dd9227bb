"""Body in a slice, by connected components. Does not import SciPy, which `predict` can lack."""

import numpy as np

BODY_HU = -500.0  # between lung and soft tissue


def body(hu: np.ndarray) -> np.ndarray:
    """Return which pixels of a slice (Y, X) in HU belong to the body, lungs included: (Y, X).

    The body is the largest region above BODY_HU, with its holes.
    """
    tissue = hu > BODY_HU
    labels = _regions(tissue)
    counts = np.bincount(labels[tissue], minlength=1)
    if not counts.any():
        return np.zeros(hu.shape, bool)
    around = np.pad(labels != counts.argmax(), 1, constant_values=True)
    regions = _regions(around)
    is_outside = around & (regions == regions[0, 0])
    inside: np.ndarray = ~is_outside[1:-1, 1:-1]
    return inside


def heat_outside(heat: np.ndarray, hu: np.ndarray) -> float:
    """Return the fraction of a heat map (Y, X) outside of the body, 0 if the map is empty."""
    total = float(heat.sum())
    return float(heat[~body(hu)].sum()) / total if total else 0.0


def _regions(mask: np.ndarray) -> np.ndarray:
    """Label the regions of pixels (Y, X) that touch by an edge, each by its highest index.

    Labels are spread along whole runs of a row, then of a column, until none changes.
    """
    labels = np.where(mask, np.arange(mask.size).reshape(mask.shape), -1)
    while True:
        spread = _spread_along_rows(_spread_along_rows(labels, mask).T, mask.T).T
        if np.array_equal(spread, labels):
            return spread
        labels = spread


def _spread_along_rows(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give each run of equal mask values in a row the highest of its labels."""
    begins = np.ones(mask.shape, bool)
    begins[:, 1:] = mask[:, 1:] != mask[:, :-1]
    starts = np.flatnonzero(begins)
    highest = np.maximum.reduceat(labels.ravel(), starts)
    return np.repeat(highest, np.diff([*starts, labels.size])).reshape(labels.shape)
