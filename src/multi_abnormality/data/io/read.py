"""A scan's file or folder to a volume in HU, canonically oriented, with its spacing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multi_abnormality.data.io.hounsfield import Scan
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.errors import InputError, UnusableScan

SPACING_LIMITS = (0.05, 50.0)  # mm: what a clinical CT scan can have, generously
SMALLEST_EXTENT = 10.0  # mm along each axis; less is no scan of a chest
SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd")
SPACING_TOLERANCE = 0.01  # relative: what a header's spacing may differ from the metadata table's


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan, and how its file had it."""

    hu: np.ndarray  # (Z, Y, X) int16 or float32, at least -1024; often a view, not contiguous
    spacing: tuple[float, float, float]  # mm, (z, y, x)
    original_shape: tuple[int, int, int]  # in the file's axis order, its fastest axis first
    original_spacing: tuple[float, float, float]  # mm, in the file's axis order
    original_axes: str  # where each of the file's axes points to, such as "LPS"
    release: str = "v2"  # of CT-RATE, that the file is as in: v1 | v2
    notes: tuple[str, ...] = ()  # what was out of the ordinary, and handled


def read_volume(path: Path, series: Series | None = None) -> Volume:
    """Read a NIfTI or MetaImage file, or the DICOM series in a folder.

    An oblique scan is taken along its nearest axes, without interpolation.

    Args:
        path: of the file or folder.
        series: what CT-RATE's metadata table knows of it; None: nothing. A NIfTI file with a blank
            header is read by it.

    Raises:
        InputError: missing, damaged, not one 3D CT scan in HU, or with an impossible geometry;
            UnusableScan where the voxels or the geometry are at fault.
    """
    try:
        scan = _read(path, series)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check its name and rights"
        ) from None
    return _orient(scan, series, path)


def scan_name(path: Path) -> str:
    """The file's name without its suffix, or the folder's."""
    name = path.resolve().name if path.is_dir() else path.name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _read(path: Path, series: Series | None) -> Scan:
    """SimpleITK takes 0.4 s to import: only where needed."""
    if path.is_dir():
        from multi_abnormality.data.io.itk import read_dicom

        return read_dicom(path)
    if path.stat().st_size == 0:
        raise UnusableScan(f"{path}: is empty; fetch it again", "damaged")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        from multi_abnormality.data.io.nifti import read_nifti

        return read_nifti(path, series)
    if path.name.lower().endswith((".mha", ".mhd")):
        from multi_abnormality.data.io.itk import read_metaimage

        return read_metaimage(path)
    raise InputError(
        f"{path}: is none of {', '.join(SUFFIXES)}; for DICOM name the folder of the series"
    )


def _orient(scan: Scan, series: Series | None, path: Path) -> Volume:
    """Turn (I, J, K) into a (Z, Y, X) view that rises to the head, the back and the left."""
    hu, columns = scan.hu, scan.affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    low, high = SPACING_LIMITS
    if not np.all((spacing >= low) & (spacing <= high)):  # also where it is NaN
        raise UnusableScan(
            f"{path}: its spacing is {spacing.tolist()} mm, outside {low:g} to {high:g}; "
            "set the true one in its header or convert the scan again",
            "geometry",
        )
    if min(spacing * hu.shape) < SMALLEST_EXTENT:
        raise UnusableScan(
            f"{path}: covers only {(spacing * hu.shape).round(1).tolist()} mm; give the whole scan",
            "geometry",
        )
    if abs(np.linalg.det(columns / spacing)) < 0.1:
        raise UnusableScan(
            f"{path}: its affine is singular, two of its axes run alike; convert the scan again",
            "geometry",
        )
    world_of, sign_of = _nearest_axes(columns / spacing)
    order = [int(np.flatnonzero(world_of == world)[0]) for world in (2, 1, 0)]
    rising = sign_of[order] * (1, -1, -1) > 0  # of z, y, x to superior, posterior, left
    steps = tuple(slice(None, None, 1 if rises else -1) for rises in rising)
    names = (("L", "P", "I"), ("R", "A", "S"))
    return Volume(
        hu=hu.transpose(order)[steps],
        spacing=tuple(spacing[order].tolist()),
        original_shape=hu.shape,
        original_spacing=tuple(spacing.tolist()),
        original_axes="".join(
            names[int(sign > 0)][world] for world, sign in zip(world_of, sign_of, strict=True)
        ),
        release=scan.release,
        notes=tuple(_notes(scan, spacing, series)),
    )


def _notes(scan: Scan, spacing: np.ndarray, series: Series | None) -> Iterator[str]:
    if scan.padded:
        yield "padding"
    if series and series.feet_first:
        yield "feet first"
    if series is None or scan.release == "v1":
        return
    if series.spacing is None:
        yield "no spacing in the metadata"
    elif not np.allclose(sorted(spacing), sorted(series.spacing), rtol=SPACING_TOLERANCE):
        yield "another spacing in the metadata"


def _nearest_axes(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each column, a file axis: the world axis it is nearest to, and its sign along it.

    The strongest component decides first, so that no world axis is given twice.
    """
    world_of, sign_of = np.full(3, -1), np.zeros(3)
    strength = np.abs(directions)
    for _ in range(3):
        world, axis = np.unravel_index(strength.argmax(), strength.shape)
        world_of[axis], sign_of[axis] = world, np.sign(directions[world, axis])
        strength[world, :] = strength[:, axis] = -1
    return world_of, sign_of
