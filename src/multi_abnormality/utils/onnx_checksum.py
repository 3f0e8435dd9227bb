"""A checksum at the end of an ONNX file, of everything before it.

The format is a Protocol Buffers message, and a message that is appended to another extends it. So
the checksum is one more entry of the file's metadata to every program that reads ONNX.
"""

import hashlib
import mmap
from pathlib import Path

INFO_KEY = "multi_abnormality"  # metadata key of the model's description
KEY = b"multi_abnormality_sha256"
DIGITS = 64
# ModelProto's field 14, metadata_props, is a message: its field 1 the key, 2 the value. Each
# comes as its tag, its length and its bytes.
_ENTRY = b"\x0a%c%b\x12%c" % (len(KEY), KEY, DIGITS)
_START = b"\x72%c%b" % (len(_ENTRY) + DIGITS, _ENTRY)


def seal(content: bytes | memoryview) -> bytes:
    """Return the bytes to append to a model's content."""
    return _START + hashlib.sha256(content).hexdigest().encode()


def is_whole(path: Path) -> bool | None:
    """Whether the checksum of a file matches its content; None if it has no checksum.

    Raises:
        OSError: the file can't be read.
        ValueError: the file is empty.
    """
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
        view[: -len(_START) - DIGITS] as body,
    ):
        end = bytes(view[len(body) :])
        return end == seal(body) if end.startswith(_START) else None
