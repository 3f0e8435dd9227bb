"""Small files that unpack to gigabytes."""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import zstandard

BLOCK = 1 << 24  # bytes of zeros that are packed once and repeated
BLOCKS = 160  # 2.7 GB
LIMIT = (750, 750, 800)  # voxels: the most that readers take


@cache
def _zeros(wbits: int) -> bytes:
    """A packed block of zeros that can be repeated: a gzip member, or DEFLATE without its end."""
    if wbits == 31:
        return gzip.compress(bytes(BLOCK), 6, mtime=0)
    packer = zlib.compressobj(6, wbits=-15)
    return packer.compress(bytes(BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)


def _deflated(start: bytes, wbits: int) -> bytes:
    """`start` and gigabytes of zeros, packed."""
    packer = zlib.compressobj(1, wbits=wbits)
    return packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH) + _zeros(-15) * BLOCKS


def _headers(given: Path) -> bytes:
    """The bytes before the packed voxels, or the whole header if the voxels are separate."""
    content = given.read_bytes()
    for end in (b"LOCAL\n", b"\n\n"):
        if end in content:
            return content[: content.index(end) + len(end)]
    return content


def _put(given: Path, header: bytes, packed: bytes) -> None:
    """Write a header and packed voxels into one file, or into two if voxels are separate."""
    beside = [path for path in given.parent.iterdir() if path != given]
    given.write_bytes(header if beside else header + packed)
    if beside:
        beside[0].write_bytes(packed)


SIZES = {
    "more than its header promises": (48, 48, 24),
    "the largest size": LIMIT,
    "terabytes": (32767, 32767, 32767),
}


def _bomb_gzip(given: Path, rng: np.random.Generator) -> str:
    title = sorted(SIZES)[int(rng.integers(3))]
    shape = SIZES[title]
    if given.suffix == ".gz":
        header = bytearray(gzip.decompress(given.read_bytes())[:352])
        struct.pack_into("<3h", header, 42, *shape)
        given.write_bytes(gzip.compress(header, 1, mtime=0) + _zeros(31) * BLOCKS)
    else:
        header = _resized(_headers(given), b"sizes: ", shape)
        _put(given, header, _zeros(31) * BLOCKS)
    return f"{given.name}: bomb, {title}"


def _bomb_zlib(given: Path, rng: np.random.Generator) -> str:
    title = sorted(SIZES)[int(rng.integers(3))]
    packed = _deflated(b"", 15)
    header = _resized(_headers(given), b"DimSize = ", SIZES[title])
    header = _resized(header, b"CompressedDataSize = ", (len(packed),))
    _put(given, header, packed)
    return f"{given.name}: bomb, {title}"


def _resized(header: bytes, key: bytes, numbers: tuple[int, ...]) -> bytes:
    before, _, after = header.partition(key)
    return before + key + " ".join(map(str, numbers)).encode() + b"\n" + after.partition(b"\n")[2]


def _bomb_deflate(given: Path, rng: np.random.Generator) -> str:
    """A DICOM file whose packed data set continues for gigabytes after its pixels, or in them."""
    path = sorted(given.iterdir())[int(rng.integers(24))]
    content = path.read_bytes()
    (length,) = struct.unpack_from("<I", content, 140)  # of the group that is not packed
    start = 144 + length
    dataset = zlib.decompress(content[start:], -15)
    pixels = dataset.rindex(b"\xe0\x7f\x10\x00")
    if rng.random() < 0.5:
        dataset = dataset[: pixels + 8] + struct.pack("<I", BLOCK * BLOCKS)
    path.write_bytes(content[:start] + _deflated(dataset, -15))
    return f"{path.name}: bomb"


def _bomb_zip(given: Path, rng: np.random.Generator) -> str:
    """One more member of gigabytes, with its true size or a smaller one in the directory."""
    size = BLOCK * BLOCKS if rng.random() < 0.5 else 5000
    with zipfile.ZipFile(given, "a") as archive:
        info = zipfile.ZipInfo("study/bomb.dcm", (2020, 1, 1, 0, 0, 0))
        archive.writestr(info, _deflated(bytes(128) + b"DICM", -15))
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, size
    return f"{given.name}: bomb, size {size}"


def _bomb_zstd(given: Path, rng: np.random.Generator) -> str:
    """A volume of gigabytes in a shard, with its size in front or without it."""
    size = BLOCK * BLOCKS
    known = rng.random() < 0.5
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=size if known else -1)
    parts = [packer.compress(bytes(BLOCK)) for _ in range(BLOCKS)]
    content = b"".join([*parts, packer.flush()])
    (shard,) = given.rglob("*.zip")
    with zipfile.ZipFile(shard) as archive:
        (info,) = archive.infolist()
    with zipfile.ZipFile(shard, "w") as archive:
        archive.writestr(info, content)
    return f"{shard.name}: bomb, " + ("size known" if known else "size not known")


BOMBS: dict[str, Callable[[Path, np.random.Generator], str]] = {
    "gzip": _bomb_gzip,
    "zlib": _bomb_zlib,
    "deflate": _bomb_deflate,
    "zip": _bomb_zip,
    "zstd": _bomb_zstd,
}
