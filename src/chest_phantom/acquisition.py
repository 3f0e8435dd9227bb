"""Acquisition of a volume: CT-RATE's two releases, scanners and data faults.

The sample has every kind of fault that is known in the real set, often enough that a few hundred
scans contain each.
"""

from dataclasses import dataclass

import numpy as np

from chest_phantom.cohort import Scan
from chest_phantom.random_streams import Stream

V1_TURN = (8, 5)  # (n, k): patients whose number is k modulo n are of the first release
FEET_FIRST_TURN = (40, 7)
SPACING_LOST = 0.12  # fraction of second reconstructions whose spacing is NaN in the metadata
NO_CHEST = 0.08  # fraction of second reconstructions that show only the abdomen
BELLY = -230.0  # mm: offset of such a volume along z


@dataclass(frozen=True)
class Scanner:
    """A fictitious manufacturer, with its own names for kernels."""

    manufacturer: str
    model: str
    kernels: dict[str, str]  # manufacturer's name of each of the protocol's kernels
    intercept: int  # from raw values to HU; raw 0 is the value outside the circular field of view
    pads: bool  # whether that value is below all tissue


SCANNERS = (
    Scanner("Phantom Alpha", "A 64", {"smooth": "B", "medium": "YA", "sharp": "L"}, -1024, False),
    Scanner(
        "Phantom Beta",
        "Force B",
        {"smooth": "['Br36', '3']", "medium": "['Br40', '3']", "sharp": "['Bl57', '3']"},
        -8192,
        True,
    ),
    Scanner(
        "Phantom Gamma", "G 16", {"smooth": "FC08", "medium": "FC18", "sharp": "FC52"}, 0, False
    ),
)
SCANNER_THRESHOLDS = (0.62, 0.92)  # scans below the first are Alpha's, below the second Beta's


@dataclass(frozen=True)
class Acquisition:
    """Properties of a volume that are independent of the patient."""

    scanner: Scanner
    release: str  # v1: raw values under a blank header | v2: HU under a correct one
    feet_first: bool
    spacing_lost: bool
    chest: bool


def plan_acquisition(scan: Scan, reconstruction: int) -> Acquisition:
    stream = Stream(*scan.key, "delivery")
    draw = stream.uniform(0, 1)
    again = Stream(*scan.key, f"delivery {reconstruction}")
    second = reconstruction > 1
    release = "v1" if _is_turn(scan, V1_TURN) else "v2"
    return Acquisition(
        scanner=SCANNERS[sum(draw >= threshold for threshold in SCANNER_THRESHOLDS)],
        release=release,
        feet_first=_is_turn(scan, FEET_FIRST_TURN),
        # A volume of the first release would be unreadable without its spacing.
        spacing_lost=second and release == "v2" and again.chance(SPACING_LOST),
        chest=not (second and again.chance(NO_CHEST)),
    )


def _is_turn(scan: Scan, turn: tuple[int, int]) -> bool:
    every, which = turn
    return scan.patient % every == which


def volume_path(scan: Scan, reconstruction: int) -> str:
    """Return the path relative to the sample's folder, in the layout of the release."""
    release = plan_acquisition(scan, reconstruction).release
    patient = f"{scan.split}_{scan.patient}"
    folder = f"{scan.split}{'' if release == 'v1' else '_fixed'}/{patient}/{patient}_{scan.visit}"
    return f"dataset/{folder}/{scan.volume_name(reconstruction)}"


def archive(hu: np.ndarray, acquisition: Acquisition) -> np.ndarray:
    """Convert (Z, Y, X) int16 HU to the values that the release stores, int16."""
    scanner = acquisition.scanner
    if scanner.pads:
        hu = np.where(_outside_view(hu.shape[1:]), scanner.intercept, hu).astype(np.int16)
    return hu - np.int16(scanner.intercept) if acquisition.release == "v1" else hu


def _outside_view(shape: tuple[int, int]) -> np.ndarray:
    """Return (Y, X) bool, the pixels outside the inscribed circle of a slice."""
    y, x = (2 * np.arange(count) - (count - 1) for count in shape)
    return y[:, None] ** 2 + x[None, :] ** 2 > min(shape) ** 2
