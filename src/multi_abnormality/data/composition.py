"""What tells a chest from what is none, and a model which scans are like those it knows."""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

LUNG = (-950.0, -500.0)  # HU
BODY = -150.0  # HU, from fat on

# A scan beyond these factors of what training saw is told. Sick lungs fill up, and some bodies are
# large, so the range of training is widened; a belly with the lungs' bases lies below it.
WIDENED = (0.8, 1.5)


class Familiar(BaseModel):
    """From and to: the scans that a model may be asked about."""

    lung_share: tuple[float, float]  # of lung and body
    length: tuple[float, float]  # mm along the body

    @classmethod
    def of(cls, lung_shares: Sequence[float], lengths: Sequence[float]) -> "Familiar":
        """Those like the scans that it was trained on."""
        return cls(lung_share=_widened(lung_shares), length=_widened(lengths))

    def doubt(self, share: float, length: float) -> str | None:
        """Why a scan is not among them."""
        if not self.lung_share[0] <= share <= self.lung_share[1]:
            low, high = self.lung_share
            return f"lung is {share:.0%} of it, and {low:.0%} to {high:.0%} of what the model knows"
        if not self.length[0] <= length <= self.length[1]:
            low, high = self.length
            return f"it is {length:.0f} mm long, and what the model knows {low:.0f} to {high:.0f}"
        return None


def lung_share(codes: np.ndarray, hu_of_code: np.ndarray) -> float:
    """Share of lung among lung and body, 0 to 1, of a volume of 8-bit codes.

    Args:
        codes: (Z, Y, X) uint8.
        hu_of_code: (256,), the HU of each code.
    """
    count = np.bincount(codes.ravel(), minlength=len(hu_of_code))
    lung = count[(hu_of_code >= LUNG[0]) & (hu_of_code < LUNG[1])].sum()
    body = count[hu_of_code >= BODY].sum()
    return float(lung / max(lung + body, 1))


def length_of(shape: str, spacing: str, axes: str) -> float:
    """Millimetres along the body, of a scan as the manifest describes its file."""
    along = next(place for place, axis in enumerate(axes) if axis in "SI")
    return int(shape.split()[along]) * float(spacing.split()[along])


def _widened(values: Sequence[float]) -> tuple[float, float]:
    return round(WIDENED[0] * min(values), 4), round(WIDENED[1] * max(values), 4)
