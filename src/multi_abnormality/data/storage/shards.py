"""Shards: ZIP files of zstd-compressed volumes; for CT-RATE, one per ten patients.

The bytes of a shard depend only on the volumes in it. A member's comment holds the volume's
provenance, so a shard is self-describing.
"""

import hashlib
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import zstandard

from multi_abnormality.data.catalog.volume_id import CT_RATE_SPLITS, VolumeName, natural_sort_key

PATIENTS_PER_SHARD = 10
OTHERS = "scans"  # folder of volumes whose names are not CT-RATE's
FOLDERS = (*CT_RATE_SPLITS.values(), OTHERS)
# After delta encoding, higher levels gain little: on four chests, 112x224x224 and 32x96x96, level 9
# was at most 12 % smaller than level 1 and eight times as slow.
COMPRESSION_LEVEL = 1
# Raised by zipfile and zstd for damaged files.
UNREADABLE = (
    OSError, EOFError, KeyError, OverflowError, RuntimeError, ValueError, struct.error,
    zipfile.BadZipFile, zstandard.ZstdError,
)  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """Source of a stored volume, and its hash. Numbers are in the source file's axis order."""

    source_sha256: str
    source_shape: str  # such as "512 512 133"
    source_spacing: str  # mm
    source_axes: str  # such as "LPS"
    source_release: str  # CT-RATE release that the source follows: v1 | v2
    source_series: str  # row of the metadata table
    source_notes: str  # unusual properties that were handled, such as "padding; feet first"
    voxels_sha256: str


@dataclass(frozen=True)
class ShardEntry:
    """A compressed volume in a shard."""

    origin: Provenance
    content: bytes


def shard_path(name: str) -> str:
    """Return the shard of a volume: "train/train_00001-00010.zip", or "scans/7f.zip" for others.

    It depends on the name alone, so neither the processing order nor the split changes it.
    """
    if not VolumeName.is_name(name):
        return f"{OTHERS}/{hashlib.sha256(name.encode()).hexdigest()[:2]}.zip"
    volume = VolumeName.parse(name)
    first = (volume.patient - 1) // PATIENTS_PER_SHARD * PATIENTS_PER_SHARD + 1
    last = first + PATIENTS_PER_SHARD - 1
    return f"{volume.prefix}/{volume.prefix}_{first:05d}-{last:05d}.zip"


def encode(codes: np.ndarray) -> bytes:
    """Compress (Z, Y, X) uint8.

    Each slice is stored as the difference to the slice below, modulo 256. Delta encoding along z
    is cheap to undo, as sums of whole slices, and reduces the size of a chest by a fifth.
    """
    differences = np.diff(codes, axis=0, prepend=np.zeros_like(codes[:1]))
    return zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress(differences.data)


def decode(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decompress a volume into a new array.

    Raises:
        ValueError, zstandard.ZstdError: the content is not a volume of this shape.
    """
    expected = math.prod(shape)
    claimed = zstandard.frame_content_size(content)  # -1: unknown
    if claimed not in (-1, expected):
        raise ValueError(f"unpacks to {claimed:,} bytes, not {expected:,}")
    # Bounds the memory of a frame of unknown size.
    unpacked = zstandard.ZstdDecompressor().decompress(
        content, max_output_size=expected, allow_extra_data=False
    )
    differences = np.frombuffer(unpacked, np.uint8).reshape(shape)
    codes = np.empty(shape, np.uint8)
    codes[0] = differences[0]
    for z in range(1, len(codes)):  # np.add.accumulate takes four times as long along this axis
        np.add(codes[z - 1], differences[z], out=codes[z])
    return codes


def pack(members: Mapping[str, ShardEntry]) -> bytes:
    """Return the bytes of a shard."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members, key=natural_sort_key):
            info = zipfile.ZipInfo(f"{name}.zst", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, also where this runs on Windows
            info.external_attr = 0o644 << 16
            info.comment = json.dumps(asdict(members[name].origin), sort_keys=True).encode()
            archive.writestr(info, members[name].content)
    return buffer.getvalue()


def read_member(shard: Path, name: str) -> bytes:
    """Read one compressed volume and verify its checksum. Raises one of UNREADABLE."""
    if not shard.is_file():  # a FIFO would block
        raise zipfile.BadZipFile(f"{shard} is not a regular file")
    stat = shard.stat()
    entry = _entry_offsets(shard, stat.st_mtime_ns, stat.st_size)[f"{name}.zst"]
    if entry.start + entry.size > stat.st_size:  # before memory is allocated
        raise zipfile.BadZipFile(f"{name} ends beyond the end of the file")
    with shard.open("rb") as file:
        file.seek(entry.start)
        content = file.read(entry.size)
    if zlib.crc32(content) != entry.checksum:
        raise zipfile.BadZipFile(f"{name} in {shard} does not have its checksum")
    return content


class _EntryOffset(NamedTuple):
    start: int
    size: int  # bytes
    checksum: int  # CRC-32


@lru_cache(maxsize=8192)
def _entry_offsets(shard: Path, modified: int, size: int) -> dict[str, _EntryOffset]:  # noqa: ARG001  cache key
    """Return the offsets of all members. Uncached, this is half of the time of a small read."""
    with zipfile.ZipFile(shard) as archive, shard.open("rb") as file:
        return {info.filename: _entry_offset(info, file) for info in archive.infolist()}


def _entry_offset(info: zipfile.ZipInfo, file: BinaryIO) -> _EntryOffset:
    """Skip the local header; its last two fields are the lengths of the name and extra fields."""
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return _EntryOffset(info.header_offset + 30 + name + extra, info.compress_size, info.CRC)


def read_shard(shard: Path) -> tuple[dict[str, ShardEntry], bool]:
    """Return the readable volumes, with verified checksums, and whether none is damaged."""
    if not shard.is_file():  # a FIFO would block
        return {}, False
    members = {}
    is_complete = True
    try:
        with zipfile.ZipFile(shard) as archive:
            for info in archive.infolist():
                try:
                    if info.compress_type != zipfile.ZIP_STORED:  # could unpack to any size
                        raise zipfile.BadZipFile(f"{info.filename} is compressed")
                    origin = Provenance(**json.loads(info.comment))
                    members[info.filename.removesuffix(".zst")] = ShardEntry(
                        origin, archive.read(info)
                    )
                except (*UNREADABLE, TypeError):
                    is_complete = False
    except UNREADABLE:
        is_complete = False
    return members, is_complete
