"""Sampling of a scan's findings with CT-RATE's correlations."""

import math
from statistics import NormalDist

from chest_phantom.finding_names import FINDINGS
from chest_phantom.random_streams import Stream

# Phi correlations of the 18 findings in official order, below the diagonal, over the 24,128 scans
# of CT-RATE's train split.
CORRELATIONS: tuple[tuple[float, ...], ...] = (
    (),
    (0.16,),
    (0.18, 0.33),
    (0.14, 0.13, 0.18),
    (0.18, 0.74, 0.32, 0.12),
    (0.04, 0.21, 0.09, 0.04, 0.20),
    (0.10, 0.23, 0.19, 0.11, 0.20, 0.08),
    (0.05, 0.28, 0.04, 0.04, 0.24, 0.11, 0.09),
    (0.15, 0.23, 0.16, 0.15, 0.22, 0.11, 0.09, 0.15),
    (0.02, 0.10, -0.04, -0.00, 0.08, 0.07, 0.06, 0.16, 0.05),
    (0.04, 0.10, 0.09, 0.05, 0.09, 0.04, 0.15, -0.05, 0.02, -0.12),
    (0.02, 0.14, 0.03, 0.01, 0.12, 0.10, 0.06, 0.18, -0.02, 0.16, -0.01),
    (0.26, 0.21, 0.28, 0.31, 0.21, 0.01, 0.20, 0.07, 0.28, -0.04, 0.10, -0.03),
    (0.06, 0.18, 0.24, 0.06, 0.17, 0.08, 0.09, -0.06, 0.09, 0.04, -0.02, 0.07, 0.07),
    (0.08, 0.18, 0.10, 0.10, 0.16, 0.09, 0.14, 0.14, 0.08, 0.09, 0.05, 0.11, 0.12, 0.10),
    (0.10, 0.09, 0.11, 0.11, 0.08, 0.03, 0.16, -0.01, 0.04, -0.12, 0.33, -0.05, 0.21, -0.03, 0.06),
    (
        *(0.02, 0.10, -0.03, 0.01, 0.07, 0.06, 0.08, 0.15, 0.04, 0.08, 0.01, 0.13, -0.03, -0.02),
        *(0.30, 0.01),
    ),
    (
        *(0.11, 0.15, 0.19, 0.12, 0.15, 0.04, 0.16, 0.02, 0.05, -0.04, 0.20, -0.03, 0.26, 0.06),
        *(0.10, 0.12, 0.03),
    ),
)

# Prevalence of each finding in CT-RATE's train scans, official order.
REAL_PREVALENCES: tuple[float, ...] = (
    *(0.12, 0.28, 0.11, 0.07, 0.25, 0.14, 0.25, 0.19, 0.26),
    *(0.46, 0.37, 0.27, 0.12, 0.07, 0.10, 0.17, 0.10, 0.08),
)

# Increased, so that a few hundred scans have enough positives of every finding to train and score.
PREVALENCES: tuple[float, ...] = tuple(round(0.25 + 0.4 * real, 3) for real in REAL_PREVALENCES)

# Findings that persist once present; others may come and go between two scans.
LASTING: frozenset[str] = frozenset(
    {
        "Medical material",
        "Arterial wall calcification",
        "Coronary artery wall calcification",
        "Hiatal hernia",
        "Emphysema",
        "Pulmonary fibrotic sequela",
        "Bronchiectasis",
    }
)
SCAN_MEMORY = 0.85  # correlation of a finding's latent value between a patient's two scans


def _cholesky(matrix: list[list[float]]) -> list[list[float]]:
    """Return the lower Cholesky factor, in plain floats: LAPACK's bits differ between platforms."""
    lower: list[list[float]] = []
    for i, row in enumerate(matrix):
        lower.append([0.0] * len(matrix))
        for j in range(i + 1):
            rest = row[j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    return lower


def _latent_factor() -> list[list[float]]:
    """Return the Cholesky factor of the latent normals' correlations.

    sin(pi/2 phi) is exact if both findings have prevalence 0.5, and close from 0.25 to 0.45.
    """
    size = len(FINDINGS)
    matrix = [[1.0] * size for _ in range(size)]
    for i, row in enumerate(CORRELATIONS):
        for j, phi in enumerate(row):
            matrix[i][j] = matrix[j][i] = round(math.sin(math.pi / 2 * phi), 9)
    return _cholesky(matrix)


_FACTOR = _latent_factor()
_THRESHOLDS = [round(NormalDist().inv_cdf(1 - prevalence), 6) for prevalence in PREVALENCES]


def draw_labels(streams: list[Stream]) -> list[tuple[int, ...]]:
    """Sample the labels (official order, 0 or 1) of a patient's scans in time order.

    Args:
        streams: one stream per scan.
    """
    latent: list[float] = []
    visits: list[tuple[int, ...]] = []
    for stream in streams:
        fresh = [stream.bell() for _ in FINDINGS]
        drawn = [sum(weight * x for weight, x in zip(row, fresh, strict=True)) for row in _FACTOR]
        if latent:
            new = math.sqrt(1 - SCAN_MEMORY * SCAN_MEMORY)
            drawn = [SCAN_MEMORY * a + new * b for a, b in zip(latent, drawn, strict=True)]
        latent = drawn
        labels = [
            int(value > threshold) for value, threshold in zip(latent, _THRESHOLDS, strict=True)
        ]
        if visits:
            labels = [
                max(now, before) if name in LASTING else now
                for name, now, before in zip(FINDINGS, labels, visits[-1], strict=True)
            ]
        visits.append(tuple(labels))
    return visits
