"""How a volume comes out of the archive: CT-RATE's two releases, its scanners and its faults.

Every kind of trouble that the real set is known for is in the sample too, as often as a few
hundred scans need to show it.
"""

from dataclasses import dataclass

import numpy as np

from multi_abnormality.sample.cohort import Scan
from multi_abnormality.sample.streams import Stream

V1_TURN = (8, 5)  # of every 8 patients, the fifth comes from the first release
FEET_FIRST_TURN = (40, 7)
SPACING_LOST = 0.12  # share of second reconstructions whose row of the metadata says NaN
NO_CHEST = 0.08  # share of second reconstructions that show the belly alone
BELLY = -230.0  # mm: how much lower such a volume lies


@dataclass(frozen=True)
class Scanner:
    """A made-up manufacturer, with its own names for kernels."""

    manufacturer: str
    model: str
    kernels: dict[str, str]  # by the protocol's
    intercept: int  # from raw values to HU; raw 0 is what it writes outside its round view
    pads: bool  # whether that is below all tissue


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
SHARES = (0.62, 0.92)  # scans below the first are Alpha's, below the second Beta's


@dataclass(frozen=True)
class Delivery:
    """What is peculiar to one volume, and is no matter of the patient."""

    scanner: Scanner
    release: str  # v1: raw values under a blank header | v2: HU under a right one
    feet_first: bool
    spacing_lost: bool
    chest: bool


def plan_delivery(scan: Scan, reconstruction: int) -> Delivery:
    stream = Stream(*scan.key, "delivery")
    draw = stream.uniform(0, 1)
    again = Stream(*scan.key, f"delivery {reconstruction}")
    second = reconstruction > 1
    release = "v1" if _is_turn(scan, V1_TURN) else "v2"
    return Delivery(
        scanner=SCANNERS[sum(draw >= share for share in SHARES)],
        release=release,
        feet_first=_is_turn(scan, FEET_FIRST_TURN),
        # Of the first release such a volume would be lost, as it is to everyone.
        spacing_lost=second and release == "v2" and again.chance(SPACING_LOST),
        chest=not (second and again.chance(NO_CHEST)),
    )


def _is_turn(scan: Scan, turn: tuple[int, int]) -> bool:
    every, which = turn
    return scan.patient % every == which


def volume_path(scan: Scan, reconstruction: int) -> str:
    """Relative to the sample's folder, in the layout of the release."""
    release = plan_delivery(scan, reconstruction).release
    patient = f"{scan.split}_{scan.patient}"
    folder = f"{scan.split}{'' if release == 'v1' else '_fixed'}/{patient}/{patient}_{scan.visit}"
    return f"dataset/{folder}/{scan.volume_name(reconstruction)}"


def archive(hu: np.ndarray, delivery: Delivery) -> np.ndarray:
    """(Z, Y, X) int16 HU as the release stores them, int16."""
    scanner = delivery.scanner
    if scanner.pads:
        hu = np.where(_outside_view(hu.shape[1:]), scanner.intercept, hu).astype(np.int16)
    return hu - np.int16(scanner.intercept) if delivery.release == "v1" else hu


def _outside_view(shape: tuple[int, int]) -> np.ndarray:
    """(Y, X) bool: beyond the circle that fits into a slice."""
    y, x = (2 * np.arange(count) - (count - 1) for count in shape)
    return y[:, None] ** 2 + x[None, :] ** 2 > min(shape) ** 2
