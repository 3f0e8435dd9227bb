"""Heat maps as NIfTI files in the geometry of the scan."""

import struct

import deflate
import numpy as np

COMPRESSION = 2  # of 12
UINT8, MILLIMETRES, SCANNER = 2, 2, 1  # NIfTI's codes
DESCRIPTION = b"heat map, 0 to 1"


def encode_heat_map(heat: np.ndarray, affine: np.ndarray) -> bytes:
    """Return the bytes of a .nii.gz file; equal input gives equal bytes.

    Args:
        heat: (I, J, K) uint8 in the axis order of the scan's file; 255 is a heat of 1.
        affine: (4, 4) mm, from voxel indices to RAS+ coordinates.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header = struct.pack(
        "<i10s18sihcb8h3f4h8f3fhcb4f2i80s24s2h6f12f16s4s4s",
        *(348, b"", b"", 0, 0, b"r", 0),
        *(3, *heat.shape, 1, 1, 1, 1),
        *(0, 0, 0),  # intent
        *(0, UINT8, 8, 0),
        *(1, *map(float, spacing), 0, 0, 0, 0),
        *(352, 1 / 255, 0),  # offset of the voxels, slope, intercept
        *(0, b"\0", MILLIMETRES, 1, 0, 0, 0, 0, 0),  # shown from 0 to 1
        *(DESCRIPTION, b""),
        *(0, SCANNER, 0, 0, 0, 0, 0, 0),  # no quaternion, which cannot have a tilted gantry
        *map(float, affine[:3].ravel()),
        *(b"", b"n+1\0", b"\0\0\0\0"),
    )
    return bytes(deflate.gzip_compress(header + heat.tobytes(order="F"), COMPRESSION))
