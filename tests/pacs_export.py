"""A hospital's export of DICOM files, small and quick to write."""

import csv
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicom_files import Edit, chest, write_other, write_series
from multi_abnormality.tools.index.index_run import index_export

SPACING = (15.0, 9.0, 9.0)  # mm: 12 slices are 180 mm long
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
SALT = b"0123456789abcdef0123456789abcdef"
# As in the tags of a patient: none of it may leave the export.
NAME, BIRTH = "Mustermann^Erika^^Dr", "19640812"
SECRETS = ("mustermann", "erika", "hosp-4711", "19640812", "1964-08-12", "12.08.1964")


def patient(study: str, number: str = "HOSP-4711", **tags: Any) -> Edit:
    """Return an edit of slices that sets study and patient."""

    def edit(data: Dataset, _index: int) -> None:
        data.StudyInstanceUID, data.StudyDate = study, "20240131"
        data.PatientID, data.PatientName, data.PatientBirthDate = number, NAME, BIRTH
        data.PatientSex, data.Manufacturer, data.ManufacturerModelName = "F", "SIEMENS", "Force"
        data.SliceThickness, data.ConvolutionKernel = "15", "Br40"
        for keyword, value in tags.items():
            setattr(data, keyword, value)

    return edit


class Export:
    """Folder of DICOM files, and the tables that `index` writes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data/export"
        self.folder.mkdir(parents=True)
        self.out = folder / "data/labels.csv"
        self.series_table = folder / "data/labels.series.csv"

    def add(
        self,
        name: str,
        study: str = "1.9",
        series: str | None = None,
        number: str = "HOSP-4711",
        slices: int = 12,
        **tags: Any,
    ) -> Path:
        """Write a series to a folder, as files without suffix."""
        hu = chest(slices, 16) + np.int16(zlib.crc32(name.encode()) % 99)  # no two scans are equal
        edit = patient(study, number, **tags)
        uid = series or f"1.5.{sum(name.encode())}"
        return write_series(self.folder / name, hu, edit, "IM{:04d}".format, SPACING, uid)

    def add_other(self, name: str, sop_class: str = DOSE_REPORT, modality: str = "SR") -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_other(self.folder / name, sop_class, modality)

    def index(self, **changes: Any) -> dict[str, Any]:
        options = {"root": None, "salt": SALT, "findings": ["Erguss", "Emphysem"], "dates": "day",
                   "workers": None} | changes  # fmt: skip
        return index_export(self.folder, self.out, **options)

    def rows(self, path: Path | None = None) -> list[dict[str, str]]:
        with (path or self.out).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def reasons(self) -> dict[str, str]:
        """Return the reason for each series, by its path."""
        return {row["scan"]: row["reason"] for row in self.rows(self.series_table)}
