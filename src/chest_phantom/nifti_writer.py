"""Writer of NIfTI-1 files whose bytes depend only on their content."""

import struct

import deflate
import numpy as np

COMPRESSION = 2  # of 12: higher levels gain little on noise
MILLIMETRES = 2


def encode_nifti(volume: np.ndarray, affine: np.ndarray | None) -> bytes:
    """Return the bytes of a .nii.gz file.

    Args:
        volume: int16, first axis first.
        affine: (4, 4) to RAS+, mm; None writes a blank header without spacing and orientation.
    """
    known = affine is not None
    if affine is None:
        affine = np.eye(4)
    steps = [max(abs(float(value)) for value in affine[:3, column]) for column in range(3)]
    header = struct.pack(
        "<i10s18sihcb8h3f4h8f3fhcb4f2i80s24s2h6f12f16s4s4s",
        *(348, b"", b"", 0, 0, b"r", 0),
        *(3, *volume.shape, 1, 1, 1, 1),
        *(0, 0, 0),  # intent
        *(0, 4, 16, 0),  # int16 of 16 bits
        *(1, *steps, 0, 0, 0, 0),
        *(352, 1, 0),  # offset of the voxels, slope, intercept
        *(0, b"\0", MILLIMETRES, 0, 0, 0, 0, 0, 0),
        *(b"chest CT phantom", b""),
        *(0, int(known), 0, 0, 0, 0, 0, 0),  # no quaternion; an affine to scanner coordinates
        *(float(value) for value in affine[:3].ravel()),
        *(b"", b"n+1\0", b"\0\0\0\0"),
    )
    voxels = np.asarray(volume, dtype="<i2").tobytes(order="F")
    return bytes(deflate.gzip_compress(header + voxels, COMPRESSION))
