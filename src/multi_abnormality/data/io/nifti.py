"""NIfTI files: a header that is trusted in nothing, and voxels read as a stream."""

import zlib
from collections.abc import Iterator
from contextlib import closing
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from isal import igzip, isal_zlib
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from multi_abnormality.data.io.hounsfield import Scan, to_hounsfield
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.errors import UnusableScan

HEADERS: dict[int, type[Nifti1Header]] = {  # by the header's size, its own first field
    348: Nifti1Header,
    540: Nifti2Header,
}
DEFLATE_LIMIT = 1032  # no deflate stream shrinks further: zlib's technical notes
LARGEST_OFFSET = 1 << 28  # bytes before the voxels: room for any header extension
READ_BYTES = 1 << 20
_IsalError: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub: an instance


def read_nifti(path: Path, series: Series | None = None) -> Scan:
    """Read a scan by its header; or by its series, where that is known and the header is blank.

    Raises:
        UnusableScan: not a NIfTI file, damaged, not a 3D scan, or not HU.
    """
    zipped = path.name.lower().endswith(".gz")
    with path.open("rb") as file:
        if (file.read(2) == b"\x1f\x8b") != zipped:
            raise UnusableScan(
                f"{path}: {'is not' if zipped else 'is'} gzip-compressed, which its name denies "
                "(a text file, a Git LFS pointer, or renamed?); fetch it again or rename it",
                "damaged",
            )
        file.seek(0)
        # isal unpacks six times as fast as zlib, which would be half of the time of a scan.
        with closing(igzip.IGzipFile(fileobj=file, mode="rb") if zipped else file) as stream:
            try:
                most_bytes = path.stat().st_size * (DEFLATE_LIMIT if zipped else 1)
                return _read(stream, path, series, most_bytes)
            except (EOFError, igzip.BadGzipFile, _IsalError, zlib.error) as error:
                raise UnusableScan(
                    f"{path}: is truncated or damaged ({error}); fetch it again", "damaged"
                ) from None


def _read(stream: BufferedIOBase, path: Path, series: Series | None, most_bytes: int) -> Scan:
    header = _header(stream, path)
    shape, dtype = _shape(header, path), _dtype(header, path)
    if np.prod(shape, dtype=float) * dtype.itemsize > most_bytes:
        raise UnusableScan(
            f"{path}: is truncated: its header promises {shape} voxels; fetch it again", "damaged"
        )
    if not _is_blank(header, series, path):
        release, affine, rescale = "v2", _affine(header, path), _rescale(header, path)
    elif series is not None:
        release, affine, rescale = "v1", series.affine(path), series.rescale(path)
    else:
        raise _unknown_geometry(path)
    hu, padded = to_hounsfield(
        _planes(stream, shape, dtype, path),
        shape[::-1],  # NIfTI's first axis is the fastest
        dtype.kind in "iu",
        path,
        *rescale,
    )
    return Scan(hu.T, affine, padded, release)


def _is_blank(header: Nifti1Header, series: Series | None, path: Path) -> bool:
    """Whether it says nothing: no coordinates, or voxels of 1 mm along the axes, which is what
    programs write that know of none, where the scanner's were others or the first lies at zero.
    """
    if header["sform_code"] <= 0 and header["qform_code"] <= 0:
        return True
    affine = _affine(header, path)
    if not np.array_equal(np.abs(affine[:3, :3]), np.eye(3)):
        return False
    return not affine[:3, 3].any() if series is None else series.spacing != (1.0, 1.0, 1.0)


def _unknown_geometry(path: Path) -> UnusableScan:
    return UnusableScan(
        f"{path}: its header does not say how the scan lies (sform_code and qform_code are 0, or "
        "it has just 1 mm along each axis, from zero), so left and right are unknown; convert the "
        "scan again from its source, or, for CT-RATE's first release (v1), bring its row of the "
        "metadata table to data/",
        "geometry",
    )


def _rescale(header: Nifti1Header, path: Path) -> tuple[float, float]:
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise UnusableScan(
            f"{path}: has no valid rescale ({error}); convert the scan again", "not HU"
        ) from None
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def _header(stream: BufferedIOBase, path: Path) -> Nifti1Header:
    """Parse the header and leave the stream at the first voxel.

    Unchecked, since nibabel's check silently turns a spacing of 0 into 1 mm.
    """
    block = stream.read(348)
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")} & set(HEADERS)
    if len(block) < 348 or not sizes:
        raise UnusableScan(f"{path}: is not a NIfTI file; fetch it again", "damaged")
    size = sizes.pop()
    block += stream.read(size - 348)
    if len(block) < size:
        raise UnusableScan(f"{path}: is truncated in its header; fetch it again", "damaged")
    header = HEADERS[size](block, check=False)
    if not header["magic"].item().startswith(b"n+"):
        raise UnusableScan(
            f"{path}: has its voxels in another file; convert both to .nii.gz", "damaged"
        )
    offset = header["vox_offset"].item()
    if not size <= offset <= LARGEST_OFFSET:
        raise UnusableScan(
            f"{path}: has no valid start of the voxels ({offset:g}); fetch it again", "damaged"
        )
    stream.read(int(offset) - size)
    return header


def _shape(header: Nifti1Header, path: Path) -> tuple[int, int, int]:
    count = min(max(int(header["dim"][0]), 0), 7)
    shape = tuple(int(length) for length in header["dim"][1 : 1 + count])
    if len(shape) < 3 or min(shape[:3]) < 2 or any(length != 1 for length in shape[3:]):
        raise UnusableScan(
            f"{path}: has shape {shape}, not that of one 3D scan; "
            "give a single volume with every slice in it",
            "not one 3D scan",
        )
    return shape[0], shape[1], shape[2]


def _dtype(header: Nifti1Header, path: Path) -> np.dtype:
    try:
        dtype: np.dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise UnusableScan(
            f"{path}: has an unknown data type; convert it to int16", "not HU"
        ) from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnusableScan(
            f"{path}: holds {header.get_value_label('datatype')} voxels, not plain numbers; "
            "convert it to int16 HU",
            "not HU",
        )
    return dtype


def _affine(header: Nifti1Header, path: Path) -> np.ndarray:
    spacing = header["pixdim"][1:4]
    if not (np.isfinite(spacing).all() and spacing.all()):
        raise UnusableScan(
            f"{path}: its header gives the spacing {spacing.tolist()} mm; "
            "set the true one (pixdim) or convert the scan again",
            "geometry",
        )
    if header["pixdim"][0] == 0:  # the NIfTI standard: a qfac of 0 means 1
        header["pixdim"][0] = 1
    try:
        with np.errstate(invalid="ignore"):  # a NaN in it is refused with the spacing
            affine: np.ndarray = header.get_best_affine()
    except (HeaderDataError, ValueError) as error:
        raise UnusableScan(
            f"{path}: has no valid affine ({error}); convert the scan again", "geometry"
        ) from None
    return affine


def _planes(
    stream: BufferedIOBase, shape: tuple[int, int, int], dtype: np.dtype, path: Path
) -> Iterator[np.ndarray]:
    """Yield arrays of shape (shape[1], shape[0]), then read on so that the checksum is tested."""
    plane_bytes = shape[0] * shape[1] * dtype.itemsize
    for index in range(shape[2]):
        data = stream.read(plane_bytes)
        if len(data) < plane_bytes:
            raise UnusableScan(
                f"{path}: is truncated: it ends in plane {index} of {shape[2]}; fetch it again",
                "damaged",
            )
        plane = np.frombuffer(data, dtype).reshape(shape[1], shape[0])
        yield plane.astype(dtype.newbyteorder("="), copy=False)
    while stream.read(READ_BYTES):
        pass
