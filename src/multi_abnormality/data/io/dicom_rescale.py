"""Rescale of a DICOM series from stored values to HU: linear or a table, equal for all slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from multi_abnormality.data.io.dicom_headers import DicomSlice, tag_name

_TYPES = ("", "HU", "US", "HOUNSFIELD")  # RescaleType; US is unspecified
_LUT_DESCRIPTOR, _LUT_TYPE, _LUT_DATA = 0x00283002, 0x00283004, 0x00283006


@dataclass(frozen=True, eq=False)
class Rescale:
    """HU = slope * value + intercept or, with a table, table[value - first]."""

    slope: float = 1.0  # HU per stored unit
    intercept: float = 0.0  # HU at the stored value 0
    # HU of the stored values from `first` on; values outside are clamped.
    table: np.ndarray | None = None
    first: int = 0  # stored value of the table's first entry

    def stored(self, hu: int) -> int:
        """Return a stored value that is rescaled to this HU or less."""
        return int(np.floor((hu - self.intercept) / self.slope)) if self.slope > 0 else 0

    def look_up(self, plane: np.ndarray) -> np.ndarray:
        """Apply the table, if there is one, to a plane."""
        if self.table is None:
            return plane
        return self.table[np.clip(plane.astype(np.int64) - self.first, 0, len(self.table) - 1)]

    def is_like(self, other: "Rescale") -> bool:
        """Return whether two rescales map all values to the same HU."""
        if self.table is None or other.table is None:
            own, others = (self.slope, self.intercept), (other.slope, other.intercept)
            return self.table is other.table and all(
                abs(a - b) <= 1e-5 * abs(b) for a, b in zip(own, others, strict=True)
            )
        return self.first == other.first and np.array_equal(self.table, other.table)


def rescale_of(slices: Sequence[DicomSlice]) -> Rescale:
    """Return the rescale of all slices; if none has one, values are assumed to be HU.

    Raises:
        UnusableScan: slices lack a rescale or disagree, or the unit is not HU.
    """
    keywords = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
    if not any(one.text(keyword) for one in slices for keyword in keywords):
        return Rescale()
    first = _rescale(slices[0])
    for one in slices[1:]:
        rescale = _rescale(one)
        if not rescale.is_like(first):
            one.refuse(
                f"its rescale (slope {rescale.slope:g}, intercept {rescale.intercept:g}) is not "
                f"that of {slices[0].name} (slope {first.slope:g}, intercept {first.intercept:g})",
                "not HU",
            )
    return first


def _rescale(one: DicomSlice) -> Rescale:
    table = _table(one)
    if table is not None and not one.text("RescaleSlope") and not one.text("RescaleIntercept"):
        return table
    (slope,) = one.numbers("RescaleSlope", 1, "not HU")
    (intercept,) = one.numbers("RescaleIntercept", 1, "not HU")
    if (unit := one.text("RescaleType").upper()) not in _TYPES and not unit.startswith("HU"):
        one.refuse(f"its {tag_name('RescaleType')} is {unit}, not HU", "not HU")
    if table is not None and table.table is not None:
        values = slope * (table.first + np.arange(len(table.table))) + intercept
        if not np.allclose(values, table.table, atol=1):
            one.refuse(
                f"has a {tag_name('ModalityLUTSequence')} that contradicts its rescale", "not HU"
            )
    return Rescale(slope, intercept)


def _table(one: DicomSlice) -> Rescale | None:
    if not one.text("ModalityLUTSequence"):
        return None
    name = tag_name("ModalityLUTSequence")
    order = "<" if one.header.encoding[1] else ">"
    try:
        item = one.header.tags["ModalityLUTSequence"].value[0]
        count, start, bits = np.frombuffer(_raw(item, _LUT_DESCRIPTOR), f"{order}u2").tolist()
        table = np.frombuffer(_raw(item, _LUT_DATA), f"{order}u{1 if bits <= 8 else 2}")
        unit = str(item.get(_LUT_TYPE).value) if _LUT_TYPE in item else ""
    except Exception as error:  # pydicom raises exceptions of all kinds for damaged sequences
        one.refuse(f"its {name} is damaged ({error})", "damaged")
    count = count or 1 << 16
    if not count <= len(table) <= count + 1 or unit not in _TYPES:
        one.refuse(f"has a {name} of {len(table)} values of type {unit!r}, not of HU", "not HU")
    if one.whole("PixelRepresentation") and start >= 1 << 15:
        start -= 1 << 16
    values = table[:count].astype(np.int32)
    # No HU is above 32767, so larger values are negative numbers.
    return Rescale(table=np.where(values >= 1 << 15, values - (1 << 16), values), first=start)


def _raw(item: Dataset, tag: int) -> bytes:
    value = item.get_item(tag).value
    if not isinstance(value, bytes):
        raise ValueError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has no bytes")
    return value
