"""MetaImage files and DICOM folders, read by SimpleITK."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from multi_abnormality.console import log
from multi_abnormality.data.io.dicom import has_magic
from multi_abnormality.data.io.hounsfield import Scan, to_hounsfield
from multi_abnormality.errors import UnusableScan

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
GAP_TOLERANCE = 0.1  # of the slice distance: scanners round positions, a lost slice doubles one
TEXT_BYTES = 1 << 14  # more than any header of a MetaImage
SERIES, MODALITY, POSITION = "0020|000e", "0008|0060", "0020|0032"

sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_metaimage(path: Path) -> Scan:
    """Read a .mha file, or a .mhd with the file that it names.

    Raises:
        UnusableScan: damaged, not a 3D scan, or not HU.
    """
    with path.open("rb") as file:
        if b"ElementS" not in file.read(TEXT_BYTES):  # ITK would take 1 mm for a missing spacing
            raise UnusableScan(
                f"{path}: gives no ElementSpacing; convert the scan again", "geometry"
            )
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        raise UnusableScan(
            f"{path}: is truncated, damaged or lacks the file with its voxels; fetch it again",
            "damaged",
        ) from None
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise UnusableScan(
            f"{path}: has shape {image.GetSize()}, not that of one 3D scan; "
            "give a single volume with every slice in it",
            "not one 3D scan",
        )
    whole = _whole_numbers(image.GetPixelIDValue(), image.GetNumberOfComponentsPerPixel(), path)
    planes = sitk.GetArrayViewFromImage(image)
    hu, padded = to_hounsfield(planes, planes.shape, whole, path)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return Scan(hu.T, _affine(direction * image.GetSpacing(), image.GetOrigin()), padded)


def _affine(lps_columns: np.ndarray, lps_origin: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ lps_columns
    affine[:3, 3] = LPS_TO_RAS @ lps_origin
    return affine


def _whole_numbers(pixel_id: int, components: int, path: Path) -> bool:
    kind = sitk.GetPixelIDValueAsString(pixel_id)
    if components != 1 or "complex" in kind:
        raise UnusableScan(
            f"{path}: holds {kind} voxels, not plain numbers; convert it to int16 HU", "not HU"
        )
    return "integer" in kind


@dataclass(frozen=True)
class _Slice:
    path: Path
    series: str
    size: tuple[int, int]
    spacing: tuple[float, float]
    direction: tuple[float, ...]  # (3, 3) by rows, LPS
    origin: tuple[float, ...]  # of the first voxel's centre, mm, LPS
    whole_numbers: bool


def read_dicom(folder: Path) -> Scan:
    """Read the series in a folder, its axes (column, row, slice).

    Slices are put in order by their position along the normal of the slice plane; file names
    and instance numbers count for nothing. Each slice has its own rescale. The shear of a
    tilted gantry is left out of account.

    Raises:
        UnusableScan: no series, several, one with slices missing or doubled, or not HU.
    """
    slices = [found for path in sorted(folder.iterdir()) if (found := _describe(path))]
    if len(slices) < 2:
        content = "a single DICOM slice" if slices else "no scan"
        raise UnusableScan(
            f"{folder}: holds {content}; give a folder with all DICOM files of one CT series, or a "
            "NIfTI or MetaImage file (.nii.gz, .nii, .mha)",
            "not one 3D scan",
        )
    _refuse_mixture(slices, folder)
    direction = np.array(slices[0].direction).reshape(3, 3)
    normal = direction[:, 2]
    slices.sort(key=lambda one: float(normal @ one.origin))
    distance = _slice_distance(slices, normal, folder)
    hu, padded = to_hounsfield(
        _pixels(slices),
        (len(slices), *slices[0].size[::-1]),
        all(one.whole_numbers for one in slices),
        folder,
    )
    affine = _affine(direction * (*slices[0].spacing, distance), slices[0].origin)
    return Scan(hu.T, affine, padded)


def _describe(path: Path) -> _Slice | None:
    """What a DICOM file's header says, or None where the file is something else."""
    if not path.is_file() or path.name.startswith(".") or path.name == "DICOMDIR":
        return None
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        if path.stat().st_size and not has_magic(path):
            log.warning("%s: is no DICOM file and was left out", path)
            return None
        raise UnusableScan(
            f"{path}: is a truncated or damaged DICOM file; fetch it again", "damaged"
        ) from None
    size = reader.GetSize()
    if len(size) > 2 and size[2] != 1:
        raise UnusableScan(
            f"{path}: is a multi-frame DICOM file; convert it to .nii.gz first", "not one 3D scan"
        )
    if not reader.HasMetaDataKey(POSITION):  # of a multi-frame file each frame has its own
        raise UnusableScan(
            f"{path}: has no position (DICOM tag 0020,0032); take it out or export it", "geometry"
        )
    modality = _tag(reader, MODALITY)
    if modality not in ("", "CT"):
        raise UnusableScan(
            f"{path}: its modality is {modality}; give a folder of CT slices", "not HU"
        )
    return _Slice(
        path=path,
        series=_tag(reader, SERIES),
        size=size[:2],
        spacing=reader.GetSpacing()[:2],
        direction=reader.GetDirection(),
        origin=reader.GetOrigin(),
        whole_numbers=_whole_numbers(
            reader.GetPixelIDValue(), reader.GetNumberOfComponents(), path
        ),
    )


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _tag(reader: sitk.ImageFileReader, key: str) -> str:
    return reader.GetMetaData(key).strip(" \0") if reader.HasMetaDataKey(key) else ""


def _refuse_mixture(slices: list[_Slice], folder: Path) -> None:
    series = Counter(one.series or "(no SeriesInstanceUID)" for one in slices)
    if len(series) > 1:
        names = ", ".join(f"{name} ({count} slices)" for name, count in sorted(series.items()))
        raise UnusableScan(
            f"{folder}: holds {len(series)} series: {names}; give each a folder of its own",
            "not one 3D scan",
        )
    first = slices[0]
    for one in slices:
        alike = one.size == first.size and np.allclose(
            (*one.spacing, *one.direction), (*first.spacing, *first.direction), atol=1e-3
        )
        if not alike:
            raise UnusableScan(
                f"{folder}: {one.path.name} differs from {first.path.name} in size, spacing or "
                "direction; keep the slices of one series only",
                "geometry",
            )


def _slice_distance(slices: list[_Slice], normal: np.ndarray, folder: Path) -> float:
    gaps = np.diff([float(normal @ one.origin) for one in slices])
    usual = float(np.median(gaps))
    for gap, below, above in zip(gaps, slices[:-1], slices[1:], strict=True):
        if abs(gap - usual) > GAP_TOLERANCE * usual or gap <= 0:
            fault = "are at the same place" if gap < 1e-3 else f"are {gap:.2f} mm apart"
            raise UnusableScan(
                f"{folder}: {below.path.name} and {above.path.name} {fault}, where {usual:.2f} mm "
                "is usual: slices are missing or doubled; export the whole series again",
                "geometry",
            )
    return float(gaps.mean())


def _pixels(slices: list[_Slice]) -> Iterator[np.ndarray]:
    for one in slices:
        try:
            image = _reader(one.path).Execute()
        except RuntimeError:
            raise UnusableScan(
                f"{one.path}: its pixels cannot be read (damaged?); fetch it again", "damaged"
            ) from None
        yield sitk.GetArrayFromImage(image).reshape(one.size[::-1])
