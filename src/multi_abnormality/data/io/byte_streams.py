"""Checked, bounded reading of a file's voxels, stored plainly or compressed.

Never more is unpacked than the header promises, and the end of a compressed stream must be reached,
where its checksum is: a flipped bit is an error, not another voxel.
"""

import bz2
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np
from isal import isal_zlib

from multi_abnormality.errors import UnusableScan

Encoding = Literal["raw", "gzip", "zlib", "bzip2"]

_READ_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
# DEFLATE packs at most 1032 bytes into one (zlib's technical notes). bzip2 has no useful limit.
_MAX_RATIO: dict[str, float] = {"raw": 1, "gzip": 1032, "zlib": 1032}
_isal_error: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub: an instance


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


# isal decompresses DEFLATE six times as fast as zlib, which would be half of the time of a scan.
_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": lambda: isal_zlib.decompressobj(wbits=31),
    "zlib": lambda: isal_zlib.decompressobj(wbits=15),
    "bzip2": bz2.BZ2Decompressor,
}


def open_regular_file(path: Path) -> BinaryIO:
    """Open a file for reading. A FIFO, which would block, or a device is an error.

    Raises:
        UnusableScan: not a regular file.
        OSError: missing, or not readable.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnusableScan(f"{path}: is not a regular file; give a file or a folder", "damaged")
    return path.open("rb")


class ByteStream:
    """The content of a file from its current position on, decompressed.

    Args:
        file: open for reading, at the first byte of the content.
        path: of the file; errors name it.
        encoding: how the content is compressed.
        size: bytes of the file that belong to the content; None: all that follow.
    """

    def __init__(
        self, file: BinaryIO, path: Path, encoding: Encoding = "raw", size: int | None = None
    ) -> None:
        self._file = file
        self._path = path
        self._encoding = encoding
        there = os.fstat(file.fileno()).st_size - file.tell()
        if size is not None and size > there:
            raise self._damaged(f"is truncated: {size:,} bytes of voxels expected, {there:,} found")
        self._left = there if size is None else size  # stored bytes not yet read
        self._stored = self._left
        self._decompressor = None if encoding == "raw" else _DECOMPRESSORS[encoding]()
        self._pending = b""  # read, not yet decompressed

    def check_can_hold(self, count: int) -> None:
        """Refuse a size that the stored bytes cannot decompress to, before memory is taken.

        Raises:
            UnusableScan: they cannot.
        """
        if count > self._stored * _MAX_RATIO.get(self._encoding, float("inf")):
            raise self._damaged(
                f"is truncated: its header promises {count:,} bytes of voxels, and its "
                f"{self._stored:,} bytes cannot hold them"
            )

    def read(self, count: int) -> bytes:
        """Exactly `count` decompressed bytes.

        Raises:
            UnusableScan: the content ends before, or is damaged.
        """
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
            raise self._damaged("is truncated: its voxels end too early")
        return data

    def finish(self) -> None:
        """Check that a compressed stream ends here, with its checksum.

        What follows is not part of it: some programs append bytes to a gzip file.

        Raises:
            UnusableScan: it goes on, is truncated, or the checksum does not hold.
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
        for _ in range(shape[2]):
            data = self.read(shape[0] * shape[1] * dtype.itemsize)
            yield np.frombuffer(data, dtype).reshape(shape[1], shape[0]).astype(native, copy=False)
        self.finish()

    def _read_file(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data

    def _decompress(self, most: int) -> bytes:
        """Between 1 and `most` bytes, or none at the end of the stream."""
        assert self._decompressor is not None
        try:
            while not self._decompressor.eof:
                self._pending = self._pending or self._read_file(_READ_BYTES)
                given = self._pending
                data = self._decompressor.decompress(given, most)
                # isal and zlib hand back what they did not take, bz2 keeps it.
                self._pending = getattr(self._decompressor, "unconsumed_tail", b"")
                if data:
                    return data
                if self._decompressor.eof:
                    break
                if not given:
                    raise self._damaged("is truncated: its compressed voxels end too early")
        except (_isal_error, zlib.error, OSError, ValueError, EOFError) as error:
            raise self._damaged(f"is damaged ({error})") from None
        if self._encoding == "gzip":
            rest = self._decompressor.unused_data + (self._read_file(2) if self._left else b"")
            if rest.startswith(_GZIP_MAGIC):  # a gzip file may have several members
                self._decompressor = _DECOMPRESSORS["gzip"]()
                self._pending = rest
                return self._decompress(most)
        return b""

    def _damaged(self, what: str) -> UnusableScan:
        return UnusableScan(f"{self._path}: {what}; fetch it again", "damaged")
