"""Other files next to or in a series, and layouts of its folders."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite

import chest_files as files
from chest_files import (
    SIZE,
    SLICES,
    put_pixels,
    save_dataset,
    slice_dataset,
    stored,
    write_metaimage,
    write_nifti,
    write_series,
)
from odd_scans.case import (
    CASES,
    beside,
    equal,
    parent_of,
    refuse,
    values,
)


# Other objects in the folder of a series, or in the series.
def no_image(name: str, sop_class: str, modality: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        dataset, meta = Dataset(), FileMetaDataset()
        dataset.file_meta = meta
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID = sop_class
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = "1.2.3.77"
        dataset.Modality, dataset.SeriesInstanceUID = modality, "1.2.3.78"
        save_dataset(dataset, folder / name)

    return write


def capture(series: str) -> Callable[[Path], object]:
    """A dose screen: an RGB secondary capture."""

    def write(folder: Path) -> None:
        dataset = files.image_dataset("1.2.840.10008.5.1.4.1.1.7", "1.2.3.79")
        dataset.SeriesInstanceUID, dataset.SamplesPerPixel = series, 3
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        put_pixels(dataset, np.zeros((SIZE, SIZE, 3)), "u1")
        save_dataset(dataset, folder / "dose.dcm")

    return write


def other_plane(name: str, kind: str = "AXIAL") -> Callable[[Path], object]:
    """A coronal image under the series' UID."""

    def write(folder: Path) -> None:
        dataset = slice_dataset(3)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.80"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", kind]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        save_dataset(dataset, folder / name)

    return write


equal("dose report beside", beside(no_image("SR.dcm", "1.2.840.10008.5.1.4.1.1.88.67", "SR")))
equal("contours beside", beside(no_image("RS.dcm", "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT")))
equal("presentation state beside", beside(no_image("PR", "1.2.840.10008.5.1.4.1.1.11.1", "PR")))
for _name in ("DICOMDIR", "dicomdir", "Dicomdir"):
    equal(f"{_name} beside", beside(no_image(_name, "1.2.840.10008.1.3.10", "")))
equal("dose screen in the series", beside(capture(files.SERIES_UID)))
equal("dose screen beside", beside(capture("1.2.3.81")))
equal("empty file beside", beside(lambda folder: (folder / "zero.dcm").touch()))
equal("text file beside", beside(lambda folder: (folder / "README.txt").write_text("exported")))
equal(
    "hidden file beside",
    beside(lambda folder: shutil.copy(folder / "003.dcm", folder / "._003.dcm")),
)
equal(
    "byte-equal copy",
    beside(lambda folder: shutil.copy(folder / "003.dcm", folder / "003 (1).dcm")),
)
equal(
    "two byte-equal copies",
    beside(
        lambda folder: [shutil.copy(folder / f"{n:03d}.dcm", folder / f"c{n}") for n in (0, 23)]
    ),
)
equal("coronal image first in the series", beside(other_plane("000a.dcm")))
equal("localizer last in the series", beside(other_plane("zzz.dcm", "LOCALIZER")))


def smaller(folder: Path) -> None:
    dataset = slice_dataset(3)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.82"
    dataset.Rows = dataset.Columns = 24
    put_pixels(dataset, stored(3)[::2, ::2])
    save_dataset(dataset, folder / "a.dcm")


equal("image of another size in the series", beside(smaller))
refuse(
    "slice missing",
    "missing|apart|gap",
    lambda f: (write_series(f / "odd"), (f / "odd/010.dcm").unlink())[0],
)

# Optional tags that this reader ignores.
for _value in ("0", "-12", "1", ""):
    equal(f"SpacingBetweenSlices {_value!r}", values(SpacingBetweenSlices=_value))
equal("SliceThickness 0", values(SliceThickness="0"))


# Scans that are read by name are also found below their parent folder.
def bare(folder: Path) -> Path:
    """Files with neither preamble nor suffix."""
    (folder / "odd").mkdir()
    for index in range(SLICES):
        dataset = slice_dataset(index)
        del dataset.file_meta
        path = folder / "odd" / f"IM{index}"
        dcmwrite(path, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return folder / "odd"


equal("no preamble", bare)
equal("no preamble, below its parent", parent_of(bare))
equal("series over subfolders", lambda f: write_series(f, name=lambda k: f"{k % 3}/{k:03d}"))
equal(
    "series over nested subfolders",
    parent_of(lambda f: write_series(f / "a/b", name=lambda k: f"{k // 9}/{k:03d}.dcm")),
)
equal("suffix .DCM", lambda f: write_series(f, name=lambda k: f"{k:03d}.DCM"))
for _suffix in (".NII.GZ", ".Nii"):
    equal(
        f"suffix {_suffix}",
        lambda f, suffix=_suffix: write_nifti(f / f"plain{suffix.lower()}").rename(
            f / f"odd{suffix}"
        ),
    )
    equal(f"suffix {_suffix}, below its parent", parent_of(CASES[f"suffix {_suffix}"].odd))
equal("suffix .MHA", lambda f: write_metaimage(f / "odd.MHA".lower()).rename(f / "odd.MHA"))
equal(
    "name that is not UTF-8",
    lambda f: write_nifti(f / "plain.nii.gz").rename(f / "odd\udcff.nii.gz"),
)
