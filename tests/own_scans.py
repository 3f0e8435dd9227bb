"""A custom dataset as a hospital's archive might export it, in three file formats."""

import csv
import gzip
import locale
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from chest_phantom.acquisition import plan_acquisition
from chest_phantom.cohort import plan_cohort
from chest_phantom.nifti_writer import encode_nifti
from chest_phantom.rasterize import draw_scan
from chest_phantom.scanner import store
from multi_abnormality.config.findings import FINDINGS

# The hospital's names for the phantoms' findings.
OWN_FINDINGS = {
    "Effusion": "Pleural effusion",
    "Emphysema": "Emphysema",
    "Device/line": "Medical material",
}
HEADER = ("CT scan", "Subject", "Part", *OWN_FINDINGS, "Years", "Remark")


def write_own_scans(root: Path, patients: int = 36, size: int = 64) -> None:
    """Write phantoms to root/scans and a table of them to root/labels.csv."""
    rows = []
    for number, scan in enumerate(plan_cohort(patients, seed=0)):
        hu, protocol = draw_scan(scan, 1, size, 24)
        name = f"{scan.patient % 3}/chest {number:03d}"
        path = root / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = number % 3
        if kind == 0:
            name = f"{name}.nii.gz"
            content = bytearray(gzip.decompress(encode_nifti(*store(hu, protocol))))
            content[148:228] = bytes(80)  # the description that marks phantoms
            (root / "scans" / name).write_bytes(gzip.compress(content, 1, mtime=0))
        elif kind == 1:
            write_dicom(path, hu, range(len(hu)), protocol.spacing)
        else:
            image = sitk.GetImageFromArray(hu)
            image.SetSpacing(protocol.spacing[::-1])
            sitk.WriteImage(image, f"{path}.mha", useCompression=True)
        labels = [scan.labels[FINDINGS.index(finding)] for finding in OWN_FINDINGS.values()]
        person = f"{scan.split} {scan.patient}"
        maker = plan_acquisition(scan, 1).scanner.manufacturer
        split = "train" if scan.split == "train" else "test"
        rows.append([name, person, split, *labels, 30 + number % 50, f"by {maker}"])
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])


def write_dicom(
    folder: Path,
    hu: np.ndarray,
    slices: range,
    spacing: tuple[float, float, float] = (4.0, 3.0, 2.0),
    series: str = "1.2.3",
) -> None:
    """Write (Z, Y, X) HU as slices that are named so that names sort the wrong way."""
    folder.mkdir(exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in slices:
        image = sitk.GetImageFromArray(hu[index])
        image.SetSpacing(spacing[:0:-1])
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2",
            "0020|000e": series,
            "0008|0018": f"{series}.{index}",
            "0020|0032": f"0\\0\\{spacing[0] * index:g}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}-{99 - index}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves the process in the C locale
