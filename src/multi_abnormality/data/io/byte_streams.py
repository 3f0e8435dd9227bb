"""Checked, bounded reading of a file's voxels, uncompressed or compressed.

No more is decompressed than the header promises, and compressed streams are read to their end,
where the checksum is: a flipped bit is an error, not another voxel.
"""

import bz2
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np
from isal import isal_zlib

from multi_abnormality.utils.errors import UnusableScan

Encoding = Literal["raw", "gzip", "zlib", "bzip2"]

_READ_BYTES = 1 << 18
_MEMBER_MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh"}  # formats that may have several members
# DEFLATE packs at most 1032 bytes into one (zlib's technical notes). bzip2 has no useful limit.
_MAX_RATIO: dict[str, float] = {"raw": 1, "gzip": 1032, "zlib": 1032}
_isal_error: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub: an instance


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


# isal decompresses DEFLATE six times as fast as zlib, which would take half of a scan's time.
_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": lambda: isal_zlib.decompressobj(wbits=31),
    "zlib": lambda: isal_zlib.decompressobj(wbits=15),
    "bzip2": lambda: bz2.BZ2Decompressor(),
}


def open_regular_file(path: Path) -> BufferedReader:
    """Open a file for reading, refusing FIFOs, which would block, and devices."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnusableScan("is not a regular file; give a file or a folder", "damaged", path)
    return path.open("rb")


class ByteStream:
    """Decompressed content of a file from its current position on.

    Args:
        encoding: compression of the content.
        size: number of stored bytes of the content; None for all that follow.
    """

    def __init__(
        self, file: BinaryIO, path: Path | str, encoding: Encoding = "raw", size: int | None = None
    ) -> None:
        self._file = file
        self._path = path
        self.encoding = encoding
        available = os.fstat(file.fileno()).st_size - file.tell()
        if size is not None and size > available:
            raise self._damaged(
                f"is truncated: {size:,} bytes of voxels expected, {available:,} found"
            )
        self._left = available if size is None else size  # stored bytes not yet read
        self._stored = self._left
        self._decompressor = None if encoding == "raw" else _DECOMPRESSORS[encoding]()
        self._pending = b""  # read, not yet decompressed

    def check_holds(self, count: int) -> None:
        """Check that the stream can hold `count` decompressed bytes, before memory is allocated.

        Uncompressed content must match exactly, except for padding: with an extra byte (converted
        line ends, an edited header) all voxels may be shifted.
        """
        if self._decompressor is not None:
            has_room = count <= self._stored * _MAX_RATIO.get(self.encoding, float("inf"))
        else:
            has_room = count <= self._left
        if not has_room:
            raise self._damaged(
                f"is truncated: its header promises {count:,} bytes of voxels, and its "
                f"{self._stored:,} bytes cannot hold them"
            )
        if self._decompressor is None and self._peek_behind(count).strip(b"\0\r\n "):
            raise self._damaged(
                f"holds more than the {count:,} bytes of voxels that its header promises, so where "
                "they begin is unknown"
            )

    def read(self, count: int) -> bytes:
        """Read exactly `count` decompressed bytes."""
        if self._decompressor is None:
            data = self._read_file(min(count, self._left))
        else:
            parts = []
            missing = count
            while missing and (part := self._decompress(missing)):
                parts.append(part)
                missing -= len(part)
            data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) < count:
            raise self._damaged("is truncated: it ends too early")
        return data

    def skip(self, count: int) -> None:
        """Read past `count` decompressed bytes."""
        while count > 0:
            count -= len(self.read(min(count, _READ_BYTES)))

    def finish(self) -> None:
        """Check that a compressed stream ends here, with its checksum.

        Trailing bytes after its end are ignored: some programs append them to a gzip file.
        """
        if self._decompressor is not None and self._decompress(1):
            raise self._damaged("holds more voxels than its header promises")

    def planes(self, shape: tuple[int, int, int], dtype: np.dtype) -> Iterator[np.ndarray]:
        """Yield shape[2] arrays of (shape[1], shape[0]) in native byte order, then finish.

        Args:
            shape: number of voxels along each axis, fastest axis first.
            dtype: as stored.
        """
        native = dtype.newbyteorder("=")
        plane_bytes = shape[0] * shape[1] * dtype.itemsize
        for _ in range(shape[2]):
            data = self.read(plane_bytes)
            yield np.frombuffer(data, dtype).reshape(shape[1], shape[0]).astype(native, copy=False)
        self.finish()

    def _peek_behind(self, count: int) -> bytes:
        """Return stored bytes that follow the next `count` ones, without moving the position."""
        position = self._file.tell()
        self._file.seek(position + count)
        behind = self._file.read(_READ_BYTES)
        self._file.seek(position)
        return behind

    def _read_file(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data

    def _decompress(self, most: int) -> bytes:
        """Return between 1 and `most` bytes, or none at the end of the stream."""
        assert self._decompressor is not None
        try:
            while not self._decompressor.eof or self._next_member():
                self._pending = self._pending or self._read_file(_READ_BYTES)
                given = self._pending
                data = self._decompressor.decompress(given, most)
                # isal and zlib return unconsumed input, bz2 keeps it.
                self._pending = getattr(self._decompressor, "unconsumed_tail", b"")
                if data:
                    return data
                if not given and not self._decompressor.eof:
                    raise self._damaged("is truncated: its compressed content ends too early")
        except (_isal_error, zlib.error, OSError, ValueError, EOFError) as error:
            raise self._damaged(f"is damaged ({error})") from None
        return b""

    def _next_member(self) -> bool:
        """Start the compressed member that follows, and return whether there is one."""
        magic = _MEMBER_MAGIC.get(self.encoding)
        if magic is None or self._decompressor is None:
            return False
        rest = self._decompressor.unused_data + self._read_file(len(magic))
        if not rest.startswith(magic):
            return False
        self._decompressor = _DECOMPRESSORS[self.encoding]()
        self._pending = rest
        return True

    def _damaged(self, what: str) -> UnusableScan:
        return UnusableScan(f"{what}; fetch it again", "damaged", self._path)
