"""How volumes lie in files: ZIPs of zstd-compressed volumes, of CT-RATE one for ten patients.

The bytes of a shard depend on nothing but the volumes in it. A member's comment says what the
volume was made of, so a shard describes itself.
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

from multi_abnormality.data.names import SPLITS, VolumeName, natural

PATIENTS_PER_SHARD = 10
OTHERS = "scans"  # folder of volumes whose names are not CT-RATE's
FOLDERS = (*SPLITS, OTHERS)
# With differences taken first, higher levels gain little: measured on four chests, 112x224x224
# and 32x96x96, level 9 was at most 12 % smaller than level 1 and eight times as slow.
COMPRESSION_LEVEL = 1
# What zipfile and zstd raise over damaged files.
UNREADABLE = (
    OSError, EOFError, KeyError, OverflowError, RuntimeError, ValueError, struct.error,
    zipfile.BadZipFile, zstandard.ZstdError,
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """What a stored volume was made of, and its hash. Numbers in the source file's axis order."""

    source_sha256: str
    source_shape: str  # such as "512 512 133"
    source_spacing: str  # mm
    source_axes: str  # such as "LPS"
    source_release: str  # of CT-RATE, that it is as in: v1 | v2
    source_series: str  # what the metadata table said of it
    source_notes: str  # what was out of the ordinary, and handled, such as "padding; feet first"
    voxels_sha256: str


@dataclass(frozen=True)
class Member:
    """A compressed volume as it lies in a shard."""

    origin: Origin
    content: bytes


def shard_path(name: str) -> str:
    """Such as "train/train_00001-00010.zip", or "scans/7f.zip" where the name tells no patient.

    A rule of the name alone, so that neither the order of work nor another split changes it.
    """
    if not VolumeName.is_name(name):
        return f"{OTHERS}/{hashlib.sha256(name.encode()).hexdigest()[:2]}.zip"
    volume = VolumeName.parse(name)
    first = (volume.patient - 1) // PATIENTS_PER_SHARD * PATIENTS_PER_SHARD + 1
    last = first + PATIENTS_PER_SHARD - 1
    return f"{volume.split}/{volume.split}_{first:05d}-{last:05d}.zip"


def encode(codes: np.ndarray) -> bytes:
    """Compress (Z, Y, X) uint8.

    Each slice is stored as its difference to the one below, modulo 256. Differences along z cost
    nothing to undo, being sums of whole slices, and take a fifth off the size of a chest.
    """
    differences = np.diff(codes, axis=0, prepend=np.zeros_like(codes[:1]))
    return zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress(differences.data)


def decode(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Undo encode, into an array of its own.

    Raises:
        ValueError, zstandard.ZstdError: the content is no volume of this shape.
    """
    expected = math.prod(shape)
    claimed = zstandard.frame_content_size(content)  # -1: the frame does not say
    if claimed not in (-1, expected):
        raise ValueError(f"unpacks to {claimed:,} bytes, not {expected:,}")
    # Of memory, a frame that says nothing gets as much as a volume needs.
    unpacked = zstandard.ZstdDecompressor().decompress(
        content, max_output_size=expected, allow_extra_data=False
    )
    differences = np.frombuffer(unpacked, np.uint8).reshape(shape)
    codes = np.empty(shape, np.uint8)
    codes[0] = differences[0]
    for z in range(1, len(codes)):  # np.add.accumulate takes four times as long along this axis
        np.add(codes[z - 1], differences[z], out=codes[z])
    return codes


def pack(members: Mapping[str, Member]) -> bytes:
    """A shard's bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members, key=natural):
            info = zipfile.ZipInfo(f"{name}.zst", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, also where this runs on Windows
            info.external_attr = 0o644 << 16
            info.comment = json.dumps(asdict(members[name].origin), sort_keys=True).encode()
            archive.writestr(info, members[name].content)
    return buffer.getvalue()


def read_member(shard: Path, name: str) -> bytes:
    """One compressed volume, its checksum proved. Raises one of UNREADABLE."""
    if not shard.is_file():  # a FIFO would block
        raise zipfile.BadZipFile(f"{shard} is no regular file")
    about = shard.stat()
    place = _places(shard, about.st_mtime_ns, about.st_size)[f"{name}.zst"]
    if place.start + place.size > about.st_size:  # else memory is taken for what is not there
        raise zipfile.BadZipFile(f"{name} ends beyond the end of the file")
    with shard.open("rb") as file:
        file.seek(place.start)
        content = file.read(place.size)
    if zlib.crc32(content) != place.checksum:
        raise zipfile.BadZipFile(f"{name} in {shard} does not have its checksum")
    return content


class _Place(NamedTuple):
    start: int
    size: int  # bytes
    checksum: int  # CRC-32


@lru_cache(maxsize=8192)
def _places(shard: Path, modified: int, size: int) -> dict[str, _Place]:  # noqa: ARG001  the key
    """Where members lie: to look it up for each took half of the time to read a small volume."""
    with zipfile.ZipFile(shard) as archive, shard.open("rb") as file:
        return {info.filename: _place(info, file) for info in archive.infolist()}


def _place(info: zipfile.ZipInfo, file: BinaryIO) -> _Place:
    """Past the header before the content, whose last two fields are lengths of what follows it."""
    file.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return _Place(info.header_offset + 30 + name + extra, info.compress_size, info.CRC)


def read_shard(shard: Path) -> tuple[dict[str, Member], bool]:
    """All volumes that can be read, their checksums proved; and whether that is all of them."""
    if not shard.is_file():  # a FIFO would block
        return {}, False
    members = {}
    whole = True
    try:
        with zipfile.ZipFile(shard) as archive:
            for info in archive.infolist():
                try:
                    if info.compress_type != zipfile.ZIP_STORED:  # could unpack to any size
                        raise zipfile.BadZipFile(f"{info.filename} is compressed")
                    origin = Origin(**json.loads(info.comment))
                    members[info.filename.removesuffix(".zst")] = Member(origin, archive.read(info))
                except (*UNREADABLE, TypeError):
                    whole = False
    except UNREADABLE:
        whole = False
    return members, whole
