"""Which findings a scan has: drawn together as they go together in CT-RATE."""

import math
from statistics import NormalDist

from multi_abnormality.findings import FINDINGS
from multi_abnormality.sample.streams import Stream

# Phi correlations of the 18 findings, official order, below the diagonal: measured over the
# 24,128 scans of CT-RATE's train split (one row a scan).
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

# Share of CT-RATE's train scans with each finding, official order.
REAL_PREVALENCES: tuple[float, ...] = (
    *(0.12, 0.28, 0.11, 0.07, 0.25, 0.14, 0.25, 0.19, 0.26),
    *(0.46, 0.37, 0.27, 0.12, 0.07, 0.10, 0.17, 0.10, 0.08),
)

# A few hundred scans must hold enough of every finding to learn and to score it.
PREVALENCES: tuple[float, ...] = tuple(round(0.25 + 0.4 * real, 3) for real in REAL_PREVALENCES)

# Found to stay, once there; the other findings may come and go between two scans.
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
    """Lower factor of a positive definite matrix, in plain floats (no LAPACK: its bits differ)."""
    lower: list[list[float]] = []
    for i, row in enumerate(matrix):
        lower.append([0.0] * len(matrix))
        for j in range(i + 1):
            rest = row[j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = math.sqrt(rest) if i == j else rest / lower[j][j]
    return lower


def _latent_factor() -> list[list[float]]:
    """Cholesky factor of the latent normals' correlations.

    sin(pi/2 phi) is exact where both findings have prevalence one half, and close elsewhere
    between 0.25 and 0.45.
    """
    size = len(FINDINGS)
    matrix = [[1.0] * size for _ in range(size)]
    for i, row in enumerate(CORRELATIONS):
        for j, phi in enumerate(row):
            matrix[i][j] = matrix[j][i] = round(math.sin(math.pi / 2 * phi), 9)
    return _cholesky(matrix)


_FACTOR = _latent_factor()
_CUTS = [round(NormalDist().inv_cdf(1 - prevalence), 6) for prevalence in PREVALENCES]


def draw_labels(streams: list[Stream]) -> list[tuple[int, ...]]:
    """Labels (official order, 0 or 1) of a patient's scans, in time order; a stream a scan."""
    latent: list[float] = []
    visits: list[tuple[int, ...]] = []
    for stream in streams:
        fresh = [stream.bell() for _ in FINDINGS]
        drawn = [sum(weight * x for weight, x in zip(row, fresh, strict=True)) for row in _FACTOR]
        if latent:
            new = math.sqrt(1 - SCAN_MEMORY * SCAN_MEMORY)
            drawn = [SCAN_MEMORY * a + new * b for a, b in zip(latent, drawn, strict=True)]
        latent = drawn
        labels = [int(value > cut) for value, cut in zip(latent, _CUTS, strict=True)]
        if visits:
            labels = [
                max(now, before) if name in LASTING else now
                for name, now, before in zip(FINDINGS, labels, visits[-1], strict=True)
            ]
        visits.append(tuple(labels))
    return visits
