"""Random mutations of files, and the expected result of each."""

import csv
import gzip
import io
import os
import re
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mutations.bombs import BOMBS
from mutations.formats import Format, voxel_spans

TEXT_VALUES = (
    "", "0", "-1", "nan", "inf", "-inf", "1e400", "1e-320", "2147483647", "-2147483648", "100",
    "99999999999999999999999", "%s%n%n%n%s", "%s%03d.raw 1 99 1", "LIST", "LIST 2", "0 0 0",
    "-1 -1 -1", "nan nan nan", "inf inf inf", "2147483647 2147483647 2147483647", "1e9 1e9 1e9",
    "65536 65536 65536", "(nan,0,0) (0,1,0) (0,0,1)", "(0,0,0) (0,0,0) (0,0,0)", "none none none",
    ".", "..", "/dev/zero", "/etc/passwd", "\0", "\N{FULLWIDTH DIGIT THREE}", "True", "x" * 70000,
    "MET_CHAR", "MET_DOUBLE", "MET_ULONG_LONG", "float", "uint64", "block", "ascii", "bzip2", "hex",
)  # fmt: skip
BINARY_VALUES = {
    "h": (0, 1, -1, 2, 7, 8, 100, 32767, -32768),
    "f": (0.0, -0.0, -1.0, 1e-38, 3e38, float("nan"), float("inf"), float("-inf")),
    "i": (0, -1, 2**31 - 1, -(2**31), 540, 1543569408),
    "b": (0, 1, 2, 3, 16, 127, -128),
}
NIFTI_FIELDS = (
    ("sizeof_hdr", 0, "i"), ("intent_code", 68, "h"), ("datatype", 70, "h"), ("bitpix", 72, "h"),
    *((f"dim[{n}]", 40 + 2 * n, "h") for n in range(8)),
    *((f"pixdim[{n}]", 76 + 4 * n, "f") for n in range(5)),
    ("vox_offset", 108, "f"), ("scl_slope", 112, "f"), ("scl_inter", 116, "f"),
    ("xyzt_units", 123, "b"), ("qform_code", 252, "h"), ("sform_code", 254, "h"),
    ("quatern_b", 256, "f"), ("qoffset_z", 276, "f"),
    *((f"srow[{n}]", 280 + 4 * n, "f") for n in range(12)), ("magic", 344, "i"),
)  # fmt: skip
DICOM_TAGS = {
    "TransferSyntaxUID": (0x0002, 0x0010), "SOPClassUID": (0x0008, 0x0016),
    "SOPInstanceUID": (0x0008, 0x0018), "Modality": (0x0008, 0x0060),
    "PatientID": (0x0010, 0x0020), "PatientPosition": (0x0018, 0x5100),
    "SeriesInstanceUID": (0x0020, 0x000E), "InstanceNumber": (0x0020, 0x0013),
    "ImagePositionPatient": (0x0020, 0x0032), "ImageOrientationPatient": (0x0020, 0x0037),
    "SamplesPerPixel": (0x0028, 0x0002), "PhotometricInterpretation": (0x0028, 0x0004),
    "NumberOfFrames": (0x0028, 0x0008), "Rows": (0x0028, 0x0010), "Columns": (0x0028, 0x0011),
    "PixelSpacing": (0x0028, 0x0030), "BitsAllocated": (0x0028, 0x0100),
    "BitsStored": (0x0028, 0x0101), "HighBit": (0x0028, 0x0102),
    "PixelRepresentation": (0x0028, 0x0103), "RescaleIntercept": (0x0028, 0x1052),
    "RescaleSlope": (0x0028, 0x1053),
}  # fmt: skip
DICOM_TEXTS = (
    "", "0", "-1", "nan", "inf", "1e400", "2147483647", "%s%n%n", "1.2.3", "\\", "\\\\\\\\\\",
    "0\\0", "-1\\-1", "nan\\nan", "1\\1\\1", "0\\0\\0\\0\\0\\0", "1\\0\\0\\1\\0\\0", "CT", "MR",
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.201", "RGB", "x" * 3000,
)  # fmt: skip
CELLS = (
    "", "nan", "2", "-1", "1e999", '"', "a,b", '"open', "\0", "x" * 200_000, "1,1,1,1", "\udcff",
    "\N{FULLWIDTH DIGIT ONE}", "=1+1", "\x1b[31m", "1\r", "train_1_a_1.nii.gz", "[nan, 0]", "[[[[",
)  # fmt: skip

RECIPES = (
    "{}", "[]", "null", '{"format": 3}', '{"format": 3, "preprocess": {"shape": [-1]}}',
    '{"format": 3, "preprocess": {"shape": [1e9, 9, 9]}}', "[" * 100_000,
    '{"format": 3, "preprocess": {"shape": [1000000, 1000000, 1000000]}}',
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What was done to an original.

    Attributes:
        what: in words, with the file's name.
        faithful: whether other voxels than the original's must not be accepted.
    """

    what: str
    faithful: bool


@dataclass(frozen=True)
class Target:
    """A copy of a format's original that is about to be changed."""

    format: Format
    given: Path  # what the reader will be given
    root: Path

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    def is_vital(self, path: Path) -> bool:
        """Return whether the scan cannot be read without the file.

        Outer slices of a series are not vital, as no file holds the number of slices.
        """
        slices = sorted(self.given.glob("*.dcm")) if self.given.is_dir() else []
        return path not in (slices[:1] + slices[-1:])


Make = Callable[[Target, np.random.Generator], Change]


def change_bytes(target: Target, rng: np.random.Generator) -> Change:
    """Flip, cut, insert, delete, swap or overwrite bytes of one file."""
    path = _pick(target.files, rng)
    content = path.read_bytes()
    spans = voxel_spans(path)
    span = range(len(content))
    region = "file"
    if spans:
        voxels = _pick(spans, rng)
        regions = {"voxels": voxels, "end": range(max(voxels.start, voxels.stop - 8), voxels.stop)}
        if voxels.start > 0:
            regions["header"] = range(voxels.start)
        region = _pick(sorted(regions), rng)
        span = regions[region]
    name = _pick(sorted(BYTE_CHANGES), rng)
    changed, what = BYTE_CHANGES[name](content, span, rng)
    path.write_bytes(changed)
    stored = region in ("voxels", "end")
    if name == "cut":
        faithful = target.is_vital(path) or (stored and target.format.bounded)
    else:
        shorter = name == "delete" and target.format.bounded
        faithful = stored and (target.format.checksum or shorter)
    return Change(f"{path.name}, {region}: {what}", faithful)


def _flip(content: bytes, span: range, rng: np.random.Generator) -> tuple[bytes, str]:
    changed = bytearray(content)
    offsets = [_offset(span, rng) for _ in range(_pick((1, 1, 1, 2, 8), rng))]
    for offset in offsets:
        changed[offset] ^= 1 << int(rng.integers(8))
    return bytes(changed), f"bits flipped at {offsets}"


def _cut(content: bytes, span: range, rng: np.random.Generator) -> tuple[bytes, str]:
    end = _offset(span, rng)
    return content[:end], f"cut after {end} of {len(content)} bytes"


def _insert(content: bytes, span: range, rng: np.random.Generator) -> tuple[bytes, str]:
    at, count = _offset(span, rng), _pick((1, 2, 7, 512), rng)
    return content[:at] + rng.bytes(count) + content[at:], f"{count} bytes inserted at {at}"


def _delete(content: bytes, span: range, rng: np.random.Generator) -> tuple[bytes, str]:
    at, count = _offset(span, rng), _pick((1, 2, 7, 512), rng)
    return content[:at] + content[min(at + count, span.stop) :], f"{count} bytes deleted at {at}"


def _swap(content: bytes, span: range, rng: np.random.Generator) -> tuple[bytes, str]:
    size = min(_pick((4, 64, 512), rng), len(span) // 2)
    first, second = sorted(int(at) for at in rng.integers(span.start, span.stop - size + 1, 2))
    second = max(second, min(first + size, span.stop - size))
    changed = bytearray(content)
    changed[first : first + size] = content[second : second + size]
    changed[second : second + size] = content[first : first + size]
    return bytes(changed), f"{size} bytes at {first} and {second} swapped"


def _overwrite(content: bytes, span: range, rng: np.random.Generator) -> tuple[bytes, str]:
    at = _offset(span, rng)
    count = min(_pick((1, 4, 64, 1024), rng), span.stop - at)
    fill = _pick((b"\0", b"\xff", b""), rng)
    changed = bytearray(content)
    changed[at : at + count] = fill * count if fill else rng.bytes(count)
    return bytes(changed), f"{count} bytes at {at} overwritten"


BYTE_CHANGES = {
    "cut": _cut, "delete": _delete, "flip": _flip, "insert": _insert, "overwrite": _overwrite,
    "swap": _swap,
}  # fmt: skip


def change_header(target: Target, rng: np.random.Generator) -> Change:
    """Set a value of a header or of a table to an extreme."""
    what = HEADER_CHANGES[target.format.header](target, rng)
    return Change(what, faithful=False)


def _change_text(target: Target, rng: np.random.Generator) -> str:
    path = target.given
    spans = voxel_spans(path)
    content = path.read_bytes()
    end = spans[0].start if spans else len(content)
    lines = content[:end].decode("latin-1").splitlines(keepends=True)
    at = int(rng.integers(len(lines)))
    key, separator, _ = re.split(r"( = |: |$)", lines[at].rstrip("\n"), maxsplit=1)
    how = _pick(("value", "value", "value", "value", "drop", "double", "key"), rng)
    value = _pick(TEXT_VALUES, rng)
    new = {
        "value": f"{key}{separator}{value}\n",
        "drop": "",
        "double": lines[at] * 2,
        "key": f"Not{lines[at]}",
    }[how]
    lines[at] = new
    path.write_bytes("".join(lines).encode() + content[end:])
    return f"{path.name}: {how} of {key!r}, {value[:40]!r}"


def _change_nifti(target: Target, rng: np.random.Generator) -> str:
    path = target.given
    raw = path.read_bytes()
    packed = path.suffix == ".gz"
    content = bytearray(gzip.decompress(raw) if packed else raw)
    done = []
    for _ in range(_pick((1, 1, 2), rng)):
        name, offset, form = NIFTI_FIELDS[rng.integers(len(NIFTI_FIELDS))]
        value = _pick(BINARY_VALUES[form], rng)
        struct.pack_into("<" + form, content, offset, value)
        done.append(f"{name} = {value}")
    path.write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)
    return f"{path.name}: {', '.join(done)}"


def _change_dicom(target: Target, rng: np.random.Generator) -> str:
    """Rewrite an element of one slice, or of all."""
    slices = [path for path in target.files if path.suffix == ".dcm"]
    chosen = slices if rng.random() < 0.5 else [_pick(slices, rng)]
    present = [name for name, tag in DICOM_TAGS.items() if _find(slices[0].read_bytes(), tag)]
    name = _pick(present, rng)
    text, drop = _pick(DICOM_TEXTS, rng), rng.random() < 0.15
    number = _pick((0, 1, 2, 3, 8, 15, 16, 17, 64, 32768, 65535), rng)
    for path in chosen:
        content = path.read_bytes()
        path.write_bytes(_set_element(content, DICOM_TAGS[name], text, number, drop))
    which = "all slices" if len(chosen) > 1 else chosen[0].name
    return f"{which}: {name}, " + ("left out" if drop else f"{text[:40]!r} or {number}")


def _find(content: bytes, tag: tuple[int, int]) -> tuple[int, str] | None:
    for order in "<>":
        at = content.find(struct.pack(f"{order}HH", *tag))
        if at >= 0:
            return at, order
    return None


def _set_element(content: bytes, tag: tuple[int, int], text: str, number: int, drop: bool) -> bytes:
    found = _find(content, tag)
    if found is None:
        return content
    at, order = found
    vr = content[at + 4 : at + 6]
    explicit = vr.isalpha() and vr.isupper()
    form = f"{order}H" if explicit else f"{order}I"
    start = at + (6 if explicit else 4)
    (length,) = struct.unpack_from(form, content, start)
    end = start + struct.calcsize(form) + length
    if drop:
        return content[:at] + content[end:]
    old = content[end - length : end]
    whole = vr == b"US" or (not explicit and length == 2 and tag[0] == 0x28)
    value = struct.pack(f"{order}H", number) if whole else text.encode() + b" " * (len(text) % 2)
    assert len(old) == length
    return content[:start] + struct.pack(form, len(value)) + value + content[end:]


def _change_table(target: Target, rng: np.random.Generator) -> str:
    path = _pick([path for path in target.files if path.suffix in (".csv", ".json")], rng)
    if path.suffix == ".json":
        value = _pick(RECIPES, rng)
        path.write_text(value)
        return f"{path.name}: {value[:60]}"
    rows = list(csv.reader(path.read_text().splitlines()))
    row = int(rng.integers(len(rows)))
    column = int(rng.integers(len(rows[row])))
    cell = _pick(CELLS, rng)
    how = _pick(("cell", "cell", "row", "drop", "wide"), rng)
    rows[row] = {
        "cell": [*rows[row][:column], cell, *rows[row][column + 1 :]],
        "row": rows[0],
        "drop": rows[row][:column],
        "wide": [f"c{n}" for n in range(int(_pick((30, 1_000_000), rng)))],
    }[how]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    if rng.random() < 0.5:  # as it stands there, with quotes that do not close
        buffer.write("".join(",".join(cells) + "\n" for cells in rows))
    else:
        writer.writerows(rows)
    path.write_bytes(buffer.getvalue().encode(errors="surrogateescape"))
    return f"{path.name}: {how} at line {row + 1}, {cell[:20]!r}"


HEADER_CHANGES = {
    "text": _change_text,
    "nifti": _change_nifti,
    "dicom": _change_dicom,
    "table": _change_table,
}


def change_kind(target: Target, rng: np.random.Generator) -> Change:
    """Replace a file by something else of the same name."""
    path = _pick(target.files, rng)
    content = path.read_bytes()
    name = _pick(sorted(KINDS), rng)
    faithful = target.is_vital(path)
    path.unlink()
    KINDS[name](path, content)
    return Change(f"{path.name}: {name}", faithful or name == "file twice")


KINDS: dict[str, Callable[[Path, bytes], object]] = {
    "empty": lambda path, _: path.touch(),
    "missing": lambda *_: None,
    "a FIFO": lambda path, _: os.mkfifo(path),
    "a folder": lambda path, _: path.mkdir(),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a link to nothing": lambda path, _: path.symlink_to("gone"),
    "a link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "text": lambda path, _: path.write_text("404: Not Found\n" * 40),
    "an HTML page": lambda path, _: path.write_text("<!DOCTYPE html><html>sign in</html>"),
    "zeros": lambda path, content: path.write_bytes(bytes(len(content))),
    "noise": lambda path, content: path.write_bytes(
        np.random.default_rng(len(content)).bytes(len(content))
    ),
    "file twice": lambda path, content: path.write_bytes(content * 2),
    "gzip of it": lambda path, content: path.write_bytes(gzip.compress(content, 1, mtime=0)),
}
SUFFIXES = (
    ".nii", ".nii.gz", ".hdr", ".img", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm", ".zip", ".csv",
    ".NII.GZ", "",
)  # fmt: skip


def change_suffix(target: Target, rng: np.random.Generator) -> tuple[Change, Path]:
    """Name the file that is given as one of another format."""
    suffix = _pick(SUFFIXES, rng)
    path = target.given
    moved = path.with_name(path.name.partition(".")[0] + suffix)
    if path.is_dir():
        return Change(f"{path.name}: nothing", True), path
    shutil.move(path, moved)
    return Change(f"{path.name}: named {moved.name}", True), moved


def change(target: Target, rng: np.random.Generator) -> tuple[Change, Path]:
    """Change a copy of an original in one way.

    Returns:
        What was done, and the path to read.
    """
    drawn = rng.random()
    if drawn < 0.04 and target.format.bomb:
        return Change(BOMBS[target.format.bomb](target.given, rng), faithful=False), target.given
    if drawn < 0.40 and target.format.header != "none":
        return change_header(target, rng), target.given
    if drawn < 0.48 and target.given.is_file() and target.format.kind == "scan":
        return change_suffix(target, rng)
    if drawn < 0.58:
        return change_kind(target, rng), target.given
    return change_bytes(target, rng), target.given


def _pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def _offset(span: range, rng: np.random.Generator) -> int:
    return span[int(rng.integers(len(span)))]
