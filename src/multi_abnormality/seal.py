"""A checksum that an ONNX file carries at its end, of all that stands before.

The format is a Protocol Buffers message, and one that is appended to another adds to it: the seal
is one more entry of the file's metadata, which every program that reads ONNX takes for such.
"""

import hashlib
import mmap
from pathlib import Path

INFO_KEY = "multi_abnormality"  # under which a model file carries what its user must know
KEY = b"multi_abnormality_sha256"
DIGITS = 64
# ModelProto's field 14, metadata_props, is a message: its field 1 the key, 2 the value. Each
# comes as its tag, its length and its bytes.
_ENTRY = b"\x0a%c%b\x12%c" % (len(KEY), KEY, DIGITS)
_START = b"\x72%c%b" % (len(_ENTRY) + DIGITS, _ENTRY)


def seal(content: bytes) -> bytes:
    """What is to be appended to a model's content."""
    return _seal(memoryview(content))


def is_whole(path: Path) -> bool | None:
    """Whether a file is, to the bit, what was sealed; None: it has no seal at its end.

    Raises:
        OSError: it can't be read, or ValueError: it is empty.
    """
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
        view[: -len(_START) - DIGITS] as body,
    ):
        end = bytes(view[len(body) :])
        return end == _seal(body) if end.startswith(_START) else None


def _seal(body: memoryview) -> bytes:
    return _START + hashlib.sha256(body).hexdigest().encode()
