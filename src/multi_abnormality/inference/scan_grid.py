"""A scan's own slices: positions, slice numbers, and arrays in the axis order of its file."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from multi_abnormality.data.io.geometry import canonical_axes

if TYPE_CHECKING:
    from multi_abnormality.data.io.dicom_series import DicomSeries
    from multi_abnormality.data.io.read import Volume

AXES = "ijk"  # of a file, fastest first
LPS = np.array([-1.0, -1.0, 1.0])  # from RAS+ coordinates


@dataclass(frozen=True)
class SlicePosition:
    """A slice across the body, as other programs name it.

    Attributes:
        number: of the slice in the scan, from 1 at the feet.
        instance_number: InstanceNumber of a DICOM image, or the number of its frame in a file of
            several; None for other formats, and where slices lie across the series' images.
        file_axis: axis of the file, i, j or k, that the slices lie along.
        file_index: index along that axis, from 0.
        z: mm towards the head, of the slice's first voxel in the file, as the third number of
            ImagePositionPatient.
    """

    number: int
    instance_number: int | None
    file_axis: str
    file_index: int
    z: float

    @property
    def name(self) -> str:
        """The number in the series or the index in the file, in words."""
        if self.instance_number is not None:
            return f"image {self.instance_number} of the series"
        return f"{self.file_axis} = {self.file_index} in the file"


class ScanGrid:
    """Relation of canonical (Z, Y, X) indices of a volume to its file and to the patient.

    Args:
        volume: volume as `read_volume` returns it.
        series: DICOM series that it was read from, or None.
    """

    def __init__(self, volume: "Volume", series: "DicomSeries | None" = None) -> None:
        self.shape = volume.hu.shape
        self.affine = volume.affine
        self.series = series
        self.order, self.rising = canonical_axes(volume.affine)

    def file_index(self, z: float, y: float, x: float) -> tuple[int, int, int]:
        """Return the index (i, j, k) in the file of a canonical voxel."""
        index = [0, 0, 0]
        canonical = zip((z, y, x), self.shape, self.order, self.rising, strict=True)
        for position, count, axis, rises in canonical:
            index[axis] = round(position if rises else count - 1 - position)
        return index[0], index[1], index[2]

    def position(self, index: tuple[int, int, int]) -> list[float]:
        """Return the coordinates of a voxel (i, j, k): mm to the left, the back and the head."""
        return [round(float(mm), 2) for mm in (self.affine @ [*index, 1])[:3] * LPS]

    def slice(self, z: int) -> SlicePosition:
        """Return the position of a canonical slice."""
        axis = self.order[0]
        along = self.file_index(z, 0, 0)[axis]
        first = [0, 0, 0]
        first[axis] = along
        return SlicePosition(
            number=z + 1,
            instance_number=self.instance_number(along) if axis == 2 else None,
            file_axis=AXES[axis],
            file_index=along,
            z=self.position((first[0], first[1], first[2]))[2],
        )

    def instance_number(self, k: int) -> int | None:
        """Return InstanceNumber of the series' k-th image by position, or its frame; else None."""
        if self.series is None:
            return None
        image = self.series.slices[k]
        if len(image.groups) > 1:
            return image.frame + 1
        text = image.text("InstanceNumber")
        return int(text) if text.lstrip("+-").isdecimal() else None

    def to_file(self, canonical: np.ndarray) -> np.ndarray:
        """Return a view of a (Z, Y, X) array in the file's axis order (I, J, K)."""
        steps = tuple(slice(None, None, 1 if rises else -1) for rises in self.rising)
        inverse = [self.order.index(axis) for axis in range(3)]
        return canonical[steps].transpose(inverse)
