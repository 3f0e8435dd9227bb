"""Unusual scans of hospitals and public data sets, with the expected result of reading each.

A case is the chest of chest_files.py, stored unusually. Cases with an equal result have a valid
twin: the plain DICOM series, unless they name another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset

import chest_files as files
from chest_files import (
    SIZE,
    SPACING,
    affine,
    chest,
    write_metaimage,
    write_series,
)  # fmt: skip

Write = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    """An oddly stored scan.

    Attributes:
        odd: writes it into an empty folder, and returns the path to read.
        reason: pattern that the message has where it must be refused.
        twin: writes the well-formed scan with the same voxels; None: the plain DICOM series.
        either: whether it may be refused for the reason, or be read as its twin.
        notes: pattern that a note of the volume has.
    """

    odd: Write
    reason: str = ""
    twin: Write | None = None
    either: bool = False
    notes: str = ""


CASES: dict[str, Case] = {}
CORNER_TO_CORNER = [(SIZE - 1) * step for step in SPACING[:0:-1]]
ROW, COLUMN = np.mgrid[:SIZE, :SIZE]
OUTSIDE = np.hypot(ROW - 23.5, COLUMN - 23.5) > 23.5  # of a round field of view


def refuse(name: str, reason: str, odd: Write) -> None:
    CASES[name] = Case(odd, reason)


def equal(name: str, odd: Write, twin: Write | None = None, notes: str = "") -> None:
    CASES[name] = Case(odd, twin=twin, notes=notes)


def either(name: str, reason: str, odd: Write, twin: Write | None = None) -> None:
    CASES[name] = Case(odd, reason, twin, either=True)


def dicom(edit: files.Edit) -> Write:
    """A series with an edit of every slice."""
    return lambda folder: write_series(folder, edit)


def values(**tags: object) -> Write:
    def edit(dataset: Dataset, _: int) -> None:
        for name, value in tags.items():
            setattr(dataset, name, value)

    return dicom(edit)


def without(*tags: str, where: Sequence[int] = range(files.SLICES)) -> Write:
    def edit(dataset: Dataset, index: int) -> None:
        for tag in tags if index in where else ():
            del dataset[tag]

    return dicom(edit)


def beside(write: Callable[[Path], object]) -> Write:
    """A series with something else in its folder."""

    def odd(folder: Path) -> Path:
        write(write_series(folder))
        return folder

    return odd


def nifti(
    sform: np.ndarray | None = None, qform: np.ndarray | None = None, suffix: str = ".nii",
    hu: np.ndarray | None = None, **fields: object,
) -> Write:  # fmt: skip
    """A NIfTI file with these affines, and header fields that are set last."""

    def odd(folder: Path) -> Path:
        image = nib.Nifti1Image((chest() if hu is None else hu).T, affine())
        image.set_qform(qform, int(qform is not None))
        image.set_sform(sform, int(sform is not None))
        for name, value in fields.items():
            image.header[name] = value
        image.to_filename(folder / f"odd{suffix}")
        return folder / f"odd{suffix}"

    return odd


def metaimage_of(path: Path, hu: np.ndarray) -> Path:
    write_metaimage(path)
    path.write_bytes(files.metaimage_header().encode() + hu.astype("<i2").tobytes())
    return path


def parent_of(write: Write) -> Write:
    def odd(folder: Path) -> Path:
        write(folder)
        return folder

    return odd
