"""Detection of DICOM files by their first bytes, since names and suffixes vary."""

import struct

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
MAGIC_BYTES = PREAMBLE_BYTES + len(MAGIC)

_LONG_VR = (b"OB", b"UN", b"SQ")  # their length comes later


def has_preamble(head: bytes) -> bool:
    """Return whether bytes are a preamble followed by the magic number."""
    return head[PREAMBLE_BYTES:MAGIC_BYTES] == MAGIC


def begins_like_dicom(head: bytes, size: int) -> bool:
    """Return whether a file has a preamble, or begins as a data set does.

    Old files have no preamble; their first element is of group 0002 or 0008, little endian.
    """
    if has_preamble(head):
        return True
    if len(head) < 12:
        return False
    group, element, vr, length = struct.unpack("<HH2sH", head[:8])
    if group not in (2, 8) or element > 0x2FFF:
        return False
    if vr.isalpha() and vr.isupper():
        return vr in _LONG_VR or length < size
    return bool(struct.unpack("<L", head[4:8])[0] < min(size, 1 << 16))
