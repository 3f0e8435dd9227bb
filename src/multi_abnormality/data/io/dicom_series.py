"""DICOM series: selects the files that are slices of one volume, and reads the volume."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.data.io.dicom_frames import UNCOMPRESSED
from multi_abnormality.data.io.dicom_geometry import (
    SAME_POSITION,
    Plane,
    fit_affine,
    plane_of,
    thickness_of,
    thicknesses,
)
from multi_abnormality.data.io.dicom_headers import DicomHeader, DicomSlice, slices_of, tag_name
from multi_abnormality.data.io.dicom_image_type import ORIGINAL, Derivation, derivation_of
from multi_abnormality.data.io.dicom_pixels import pixel_format, same_pixels, stored_planes
from multi_abnormality.data.io.dicom_rescale import Rescale, rescale_of
from multi_abnormality.data.io.hu_checks import HU_MIN
from multi_abnormality.data.io.hu_conversion import to_hounsfield
from multi_abnormality.data.io.scan import Scan, check_shape
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import UnusableScan, first_few, naming

if TYPE_CHECKING:
    from multi_abnormality.data.io.scan_sources import ScanSource

MIN_SLICES = 3
# Slices of another geometry that are left out; more count as a second series.
MAX_OTHERS = 3
MAX_OTHERS_FRACTION = 0.1
MAX_CHANGES = 2  # changes of the slice thickness, such as at both ends

_CT_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "2.1", "2.2"))
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_DIRECTORY = "1.2.840.10008.1.3.10"
_VOLUME_MODALITIES = ("CT", "MR", "PT", "NM", "")  # files of other modalities are not slices


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """Slices and metadata of a series."""

    uid: str  # SeriesInstanceUID, or ""
    number: int | None
    description: str
    kernel: str
    modality: str  # Modality, such as "CT"
    body_part: str
    # Slices of the volume, sorted by position; all slices found if there is a problem.
    slices: tuple[DicomSlice, ...]
    left_out: tuple[str, ...] = ()  # files that are not part of the volume, each with a description
    spacing: tuple[float, float, float] | None = None  # mm, (z, y, x); None: there is a problem
    problem: UnusableScan | None = None  # error if the series is not a usable CT volume
    affine: np.ndarray | None = None  # (4, 4) mm, from (column, row, slice) to RAS+
    rescale: Rescale | None = None  # rescale from stored values to HU
    # How the images were computed, if they are not a scanner's slices.
    derivation: Derivation = ORIGINAL


def describe_no_slice(header: DicomHeader) -> str | None:
    """Describe a file that cannot be a slice of a volume; None if it may be one."""
    if header.sop_class == _DIRECTORY:
        return "Media Storage Directory, no image"
    has_image = header.pixels_at is not None or bool(header.text("Rows"))
    if not has_image and header.sop_class not in _CT_CLASSES:
        return "truncated DICOM file" if not header.sop_class else f"{header.kind}, no image"
    modality = header.text("Modality")
    if modality not in _VOLUME_MODALITIES:
        return f"{header.kind}, modality {modality}"
    is_capture = header.sop_class.startswith(_SECONDARY_CAPTURE)
    keywords = ("ImagePositionPatient", "PerFrameFunctionalGroupsSequence")
    if is_capture and not any(map(header.text, keywords)):
        return f"{header.kind}, without a position"
    return None


def build_series(
    headers: Sequence[DicomHeader],
    path: Path,
    left_out: Sequence[str] = (),
    fault: UnusableScan | None = None,
) -> DicomSeries:
    """Build a series from files with the same UID. Errors are stored as its problem, not raised."""
    first = headers[0]
    number = first.label("SeriesNumber")
    series = DicomSeries(
        uid=first.text("SeriesInstanceUID"),
        number=int(number) if number.lstrip("-").isdecimal() else None,
        description=first.label("SeriesDescription"),
        kernel=first.label("ConvolutionKernel"),
        modality=first.text("Modality"),
        body_part=first.label("BodyPartExamined"),
        slices=tuple(DicomSlice(header, 0, (header.tags,)) for header in headers),
        left_out=tuple(left_out),
        derivation=derivation_of(
            (header.text("ImageType") for header in headers), first.label("SeriesDescription")
        ),
    )
    try:
        if fault is not None:
            raise fault
        with naming(path):
            return _assemble(series, headers)
    except (UnusableScan, OSError) as error:
        return replace(
            series, problem=UnusableScan(str(error), getattr(error, "reason", "damaged"))
        )


def read_series(source: "ScanSource") -> Scan:
    """Read the volume of a series, with axes (column, row, slice).

    Raises:
        UnusableScan: the series has a problem, a slice is damaged, or values are not HU.
        OSError: a file cannot be read.
    """
    series = source.series
    assert series is not None
    if series.left_out:
        log.warning("%s: left out %s", source.path, first_few(series.left_out))
    if series.problem is not None:
        raise series.problem
    if series.derivation.is_projection:
        log.warning(
            "%s: is a %s: its voxels show values from other positions; use the original slices",
            source.path, series.derivation.name,
        )  # fmt: skip
    assert series.affine is not None
    assert series.rescale is not None
    form = pixel_format(series.slices[0])
    rescale, padded = series.rescale, []

    def planes() -> Iterator[np.ndarray]:
        for stored, mask in stored_planes(series.slices, source.path):
            plane = rescale.look_up(stored)
            if mask is not None:
                padded.append(mask)
                plane = np.where(mask, rescale.stored(HU_MIN), plane)
            yield plane

    shape = (len(series.slices), form.rows, form.columns)
    with naming(source.path):
        hu, notes = to_hounsfield(planes(), shape, True, rescale.slope, rescale.intercept)
    if padded and "padding" not in notes:
        notes = (*notes, "padding")
    return Scan(hu.T, series.affine, notes, slice_axis=2)


def _assemble(series: DicomSeries, headers: Sequence[DicomHeader]) -> DicomSeries:
    left_out = list(series.left_out)
    slices = _scanned(_of_ct(headers, left_out), left_out)
    planes = {one: plane_of(one) for one in slices}
    slices = _of_one_geometry(slices, planes, left_out)
    _refuse_two_sources(slices)
    normal = planes[slices[0]].normal
    heights = {one: float(normal @ planes[one].position) for one in slices}
    slices.sort(key=lambda one: (heights[one], len(one.name)))  # "7 (1)" is 7's copy
    slices = _without_copies(slices, heights, left_out)
    if len(slices) < MIN_SLICES:
        raise UnusableScan(
            f"has only {len(slices)} slice{'s' * (len(slices) > 1)} of one CT volume; "
            "give a folder with all DICOM files of the series",
            "not one 3D scan",
        )
    _refuse_interleaved(slices)
    ordered = [planes[one] for one in slices]
    affine = fit_affine(slices, ordered)
    rows, columns = ordered[0].size
    check_shape((columns, rows, len(slices)))
    pixel_format(slices[0])
    distance = abs(float(affine[:3, 2] @ np.cross(affine[:3, 0], affine[:3, 1])))
    in_plane = ordered[0].spacing
    return replace(
        series,
        slices=tuple(slices),
        left_out=tuple(left_out),
        spacing=(distance / (in_plane[0] * in_plane[1]), *in_plane),
        affine=affine,
        rescale=rescale_of(slices),
    )


def _of_ct(headers: Sequence[DicomHeader], left_out: list[str]) -> Iterator[DicomHeader]:
    """Yield the CT images of a series; images of other modalities are left out."""
    is_ct = {header: _modality(header) == "CT" for header in headers}
    if not any(is_ct.values()):
        kinds = sorted({f"{header.kind}, modality {_modality(header)}" for header in headers})
        raise UnusableScan(
            f"its series is not CT ({first_few(kinds)}); give a series of CT slices",
            "not HU",
        )
    for header in headers:
        if is_ct[header]:
            yield header
        else:
            left_out.append(f"{header.file.name}: {header.kind}, modality {_modality(header)}")


def _modality(header: DicomHeader) -> str:
    modality = header.text("Modality")
    is_known = header.kind != f"SOP class {header.sop_class or 'missing'}"
    if modality or (is_known and header.sop_class not in _CT_CLASSES):
        return modality or "unknown"
    return "CT"


def _scanned(headers: Iterator[DicomHeader], left_out: list[str]) -> list[DicomSlice]:
    """Return all slices except localizers."""
    slices = []
    for header in headers:
        for one in slices_of(header):
            if "LOCALIZER" in (one.text("ImageType") + one.text("FrameType")).upper():
                left_out.append(f"{one.name}: localizer")
            else:
                slices.append(one)
    if not slices:
        raise UnusableScan(
            "its series is a localizer; give a series of CT slices", "not one 3D scan"
        )
    for one in slices:
        if one.header.pixels_at is None:
            raise one.header.without_pixels
    return slices


def _of_one_geometry(
    slices: list[DicomSlice], planes: dict[DicomSlice, Plane], left_out: list[str]
) -> list[DicomSlice]:
    """Return the slices with the most common geometry; a few others are left out."""
    groups: list[list[DicomSlice]] = []
    for one in slices:
        for group in groups:
            if planes[one].is_like(planes[group[0]]):
                group.append(one)
                break
        else:
            groups.append([one])
    groups.sort(key=len, reverse=True)
    others = [one for group in groups[1:] for one in group]
    if (
        len(others) > max(MAX_OTHERS, MAX_OTHERS_FRACTION * len(slices))
        or len(others) > len(slices) / 3
    ):
        raise UnusableScan(
            f"{first_few([one.name for one in groups[1]], 3)} differ from "
            f"{groups[0][0].name} in size, spacing or orientation: the series has {len(groups)} "
            "geometries; keep the slices of one",
            "geometry",
        )
    left_out += [f"{one.name}: slice of another size, spacing or orientation" for one in others]
    return groups[0]


def _refuse_two_sources(slices: Sequence[DicomSlice]) -> None:
    """Refuse slices of different patients, or whose positions have different origins."""
    for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
        # Trailing ^ are empty components of a name.
        values = [
            " ".join(one.header.label(keyword).rstrip("^ ").upper().split()) for one in slices
        ]
        why = ": two patients under one SeriesInstanceUID"
        _refuse_others(slices, keyword, values, why, "not one 3D scan")
    keyword = "FrameOfReferenceUID"
    values = [one.header.text(keyword) for one in slices]
    why = ", so their positions cannot be compared: two acquisitions under one SeriesInstanceUID"
    _refuse_others(slices, keyword, values, why, "geometry")


def _refuse_others(
    slices: Sequence[DicomSlice], keyword: str, values: Sequence[str], why: str, reason: str
) -> None:
    """Refuse a slice whose value of a tag is not that of the first; "" counts as unknown."""
    known = [(value, one) for value, one in zip(values, slices, strict=True) if value]
    for value, one in known[1:]:
        if value != known[0][0]:
            one.refuse(f"its {tag_name(keyword)} is not that of {known[0][1].name}{why}", reason)


def _without_copies(
    slices: Sequence[DicomSlice], heights: dict[DicomSlice, float], left_out: list[str]
) -> list[DicomSlice]:
    """Remove copies of the same image from slices sorted by height."""
    kept: list[DicomSlice] = []
    for one in slices:
        if not kept or heights[one] - heights[kept[-1]] > SAME_POSITION:
            kept.append(one)
        elif _is_copy(one, kept[-1]):
            left_out.append(f"{one.name}: copy of {kept[-1].name}")
        else:
            one.refuse(
                f"and {kept[-1].name} are different images at one position"
                f"{_acquisitions(kept[-1], one)}: two acquisitions under one series",
                "geometry",
            )
    return kept


def _is_copy(one: DicomSlice, other: DicomSlice) -> bool:
    uid = one.text("SOPInstanceUID")
    syntaxes = {one.header.syntax, other.header.syntax}
    is_transcoded = len(syntaxes) > 1 and not syntaxes <= set(UNCOMPRESSED)
    if is_transcoded and uid and uid == other.text("SOPInstanceUID"):
        return True
    return same_pixels(one, other)


def _acquisitions(one: DicomSlice, other: DicomSlice) -> str:
    for keyword in ("AcquisitionNumber", "AcquisitionTime", "InstanceNumber"):
        values = one.text(keyword), other.text(keyword)
        if values[0] != values[1]:
            return f" ({tag_name(keyword)} {values[0]} and {values[1]})"
    return ""


def _refuse_interleaved(slices: Sequence[DicomSlice]) -> None:
    """Refuse interleaved acquisitions or reconstructions, even if evenly spaced."""
    if pair := _alternating(slices, thickness_of, MAX_CHANGES):
        below, above = pair
        raise UnusableScan(
            f"slices of different thickness lie between each other, such as {below.name} "
            f"and {above.name}{thicknesses(slices)}: two reconstructions under one series; export "
            "each as a series",
            "geometry",
        )
    instances = Counter(one.text("InstanceNumber") for one in slices)
    if pair := _alternating(slices, lambda one: one.text("AcquisitionNumber")):
        below, above = pair
    # Each number is repeated; a single number may be a program's default.
    elif len(instances) > 1 and min(instances.values()) > 1:
        number = slices[0].text("InstanceNumber")
        below, above = [one for one in slices if one.text("InstanceNumber") == number][:2]
    else:
        return
    raise UnusableScan(
        f"slices of different acquisitions lie between each other, such as {below.name} "
        f"and {above.name}{_acquisitions(below, above)}; export each acquisition as a series",
        "geometry",
    )


def _alternating(
    slices: Sequence[DicomSlice], value_of: Callable[[DicomSlice], str], max_returns: int = 0
) -> tuple[DicomSlice, DicomSlice] | None:
    """Return neighbours of different values, if values recur after others too often."""
    named = [one for one in slices if value_of(one)]
    runs = [value for value, _ in groupby(map(value_of, named))]
    if len(runs) <= len(set(runs)) + max_returns:
        return None
    return next((a, b) for a, b in pairwise(named) if value_of(a) != value_of(b))
