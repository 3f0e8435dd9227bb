"""Out-of-distribution check: lung fraction and scan length must lie within the training range."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LUNG = (-950.0, -500.0)  # HU
BODY = -150.0  # HU, lower limit of fat

# Factors that widen the training range: diseased lungs fill up, and some bodies are large. An
# abdomen with the bases of the lungs still lies below it.
RANGE_MARGINS = (0.8, 1.5)


@dataclass(frozen=True)
class InputRange:
    """Ranges (low, high) of the scans that a model is valid for."""

    lung_share: tuple[float, float]  # fraction of lung in lung and body
    length: tuple[float, float]  # mm along the body

    @classmethod
    def of(cls, lung_shares: Sequence[float], lengths: Sequence[float]) -> "InputRange":
        """Return the range of the training scans, widened by RANGE_MARGINS."""
        return cls(lung_share=_with_margins(lung_shares), length=_with_margins(lengths))

    def explain_outlier(self, lung_fraction: float, length: float) -> str | None:
        """Return why a scan is outside the range, or None if it is inside."""
        if not self.lung_share[0] <= lung_fraction <= self.lung_share[1]:
            low, high = self.lung_share
            return f"lung is {lung_fraction:.0%} of it, in training scans {low:.0%} to {high:.0%}"
        if not self.length[0] <= length <= self.length[1]:
            low, high = self.length
            return f"it is {length:.0f} mm long, training scans are {low:.0f} to {high:.0f}"
        return None


def lung_share(codes: np.ndarray, hu_of_code: np.ndarray) -> float:
    """Return the fraction of lung in lung and body, 0 to 1.

    Args:
        codes: (Z, Y, X) uint8, 8-bit codes.
        hu_of_code: (256,), HU of each code.
    """
    count = np.bincount(codes.ravel(), minlength=len(hu_of_code))
    lung = count[(hu_of_code >= LUNG[0]) & (hu_of_code < LUNG[1])].sum()
    body = count[hu_of_code >= BODY].sum()
    return float(lung / max(lung + body, 1))


def length_of(shape: str, spacing: str, axes: str) -> float:
    """Return the length along the body, mm, from a scan's row of the manifest."""
    along = next(index for index, axis in enumerate(axes) if axis in "SI")
    return int(shape.split()[along]) * float(spacing.split()[along])


def _with_margins(values: Sequence[float]) -> tuple[float, float]:
    return round(RANGE_MARGINS[0] * min(values), 4), round(RANGE_MARGINS[1] * max(values), 4)
