"""Read a scan of any format as a canonically oriented volume in HU."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from multi_abnormality.data.io.geometry import (
    MAX_SHEAR,
    axis_codes,
    canonical_axes,
    spacing_and_tilt,
)
from multi_abnormality.data.io.reader_registry import format_of
from multi_abnormality.data.io.scan import Scan
from multi_abnormality.data.io.scan_sources import ScanSource, resolve_scan
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.utils.errors import InputError, UnusableScan, naming

SPACING_TOLERANCE = 0.01  # relative, between the header and the metadata table


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in HU in canonical orientation, with the geometry of its file."""

    hu: np.ndarray  # (Z, Y, X) int16 or float32, at least -1024; often a view, not contiguous
    spacing: tuple[float, float, float]  # mm, (z, y, x)
    original_shape: tuple[int, int, int]  # in the file's axis order, fastest axis first
    original_spacing: tuple[float, float, float]  # mm, in the file's axis order
    original_axes: str  # where the file's axes point to, such as "LPS"
    release: str = "v2"  # CT-RATE release that the file follows: v1 | v2
    notes: tuple[str, ...] = ()  # unusual properties that were handled
    # (4, 4) float64, mm, from voxel indices in the file's axis order to RAS+ coordinates
    affine: np.ndarray = field(kw_only=True)


def read_volume(source: Path | ScanSource, metadata: Series | None = None) -> Volume:
    """Read a scan of any known format.

    An oblique scan is read along its nearest axes, without interpolation. Slices of a tilted gantry
    are not shifted; the spacing is the distance between their planes.

    Args:
        source: path of a file, of one DICOM file of a series, or of the folder of a series; or a
            result of `find_scans`.
        metadata: row of CT-RATE's metadata table, used for NIfTI files with a blank header.

    Raises:
        InputError: the scan is missing, damaged, not a 3D CT scan in HU, or has an impossible
            geometry; UnusableScan if the voxels or the geometry are the cause.
    """
    path = source if isinstance(source, Path) else source.path
    try:
        scan = _read(source, metadata)
        with naming(path):
            return _orient(scan, metadata)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({_reason(error, path)}); check its name and permissions"
        ) from None


def _read(source: Path | ScanSource, metadata: Series | None) -> Scan:
    if isinstance(source, Path) or (source.series is None and format_of(source.path) is None):
        source = resolve_scan(source if isinstance(source, Path) else source.path)
    if source.series is not None:
        # pydicom takes 0.2 s to import.
        from multi_abnormality.data.io.dicom_series import read_series

        return read_series(source)
    path = source.path
    if path.is_file() and path.stat().st_size == 0:
        raise UnusableScan("is empty; fetch it again", "damaged", path)
    scan_format = format_of(path)
    assert scan_format is not None
    return scan_format.read(path, metadata)


def _reason(error: OSError, path: Path) -> str:
    """Describe an error, with the file's name if it is not `path`."""
    reason = error.strerror or str(error)
    other = error.filename
    return reason if other is None or Path(other) == path else f"{other}: {reason}"


def _orient(scan: Scan, metadata: Series | None) -> Volume:
    """Reorient (I, J, K) to a (Z, Y, X) view with axes to the head, the back and the left."""
    columns = scan.affine[:3, :3]
    spacing, tilt = spacing_and_tilt(columns, scan.hu.shape, scan.slice_axis)
    order, rising = canonical_axes(scan.affine)
    steps = tuple(slice(None, None, 1 if rises else -1) for rises in rising)
    shape = scan.hu.shape
    return Volume(
        hu=scan.hu.transpose(order)[steps],
        spacing=(float(spacing[order[0]]), float(spacing[order[1]]), float(spacing[order[2]])),
        original_shape=(shape[0], shape[1], shape[2]),
        original_spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        original_axes=axis_codes(columns / np.linalg.norm(columns, axis=0)),
        release=scan.release,
        notes=tuple(_notes(scan, spacing, tilt, metadata)),
        affine=scan.affine,
    )


def _notes(scan: Scan, spacing: np.ndarray, tilt: float, metadata: Series | None) -> Iterator[str]:
    yield from scan.notes
    if tilt > MAX_SHEAR:
        yield f"gantry tilt {tilt:.0f} degrees"
    if metadata and metadata.feet_first:
        yield "feet first"
    if metadata is None or scan.release == "v1":
        return
    if metadata.spacing is None:
        yield "no spacing in the metadata"
    elif not np.allclose(sorted(spacing), sorted(metadata.spacing), rtol=SPACING_TOLERANCE):
        yield "another spacing in the metadata"
