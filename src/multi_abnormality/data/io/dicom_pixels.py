"""Stored values of DICOM slices, read in threads and, if compressed, decoded in processes."""

import os
import queue
import struct
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom.uid import UID

from multi_abnormality.data.io import dicom_decoder
from multi_abnormality.data.io.dicom_frames import END_OF_IMAGE, UNCOMPRESSED, FrameReader
from multi_abnormality.data.io.dicom_headers import BIG_ENDIAN, Container, DicomSlice, tag_name

JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))
_LOSSY_JPEG = JPEG[:2]  # Baseline and Extended
JPEG_2000 = (*(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91)), *dicom_decoder.HTJ2K)

_FRAMES_PER_PROCESS = 8  # fewer do not justify another process
_JPEG_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEG_2000_START = b"\xff\x4f\xff\x51"

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class PixelFormat:
    """Storage format of a file's values."""

    rows: int
    columns: int
    allocated: int  # bits per value in memory: 8, 16 or 32
    stored: int  # bits that belong to the value
    high: int  # index of the highest of these; bits above may hold something else
    signed: bool  # whether values are signed

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.allocated // 8


def pixel_format(one: DicomSlice) -> PixelFormat:
    """Return the storage format of a slice."""
    rows, columns = one.whole("Rows"), one.whole("Columns")
    if min(rows, columns) < 2:
        one.refuse(f"has {rows} rows and {columns} columns", "not one 3D scan")
    if (samples := one.whole("SamplesPerPixel", 1)) != 1:
        one.refuse(f"holds {samples} values a pixel, as pictures in colour do", "not HU")
    photometric = one.text("PhotometricInterpretation")
    # These differ in display only.
    if photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
        one.refuse(f"its {tag_name('PhotometricInterpretation')} is {photometric}", "not HU")
    allocated, stored = one.whole("BitsAllocated"), one.whole("BitsStored")
    high = one.whole("HighBit", stored - 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated:
        one.refuse(
            f"has BitsAllocated {allocated}, BitsStored {stored} and HighBit {high}, which "
            "contradict each other or are not supported",
            "damaged",
        )
    if (signed := one.whole("PixelRepresentation")) not in (0, 1):
        one.refuse(f"its {tag_name('PixelRepresentation')} is {signed}, not 0 or 1", "damaged")
    return PixelFormat(rows, columns, allocated, stored, high, bool(signed))


def stored_planes(
    slices: Sequence[DicomSlice], path: Path
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the stored values of each slice, (rows, columns), and the mask of its padding."""
    cpus = _available_cpus()
    compressed = sum(one.header.syntax not in UNCOMPRESSED for one in slices)
    processes = min(cpus, -(-compressed // _FRAMES_PER_PROCESS))
    with (
        Container(path) as container,
        FrameReader(container) as frames,
        _Decoders(processes) as decoders,
    ):
        forms = list(map(pixel_format, slices))
        usual = Counter(forms).most_common(1)[0][0]

        def load(given: tuple[DicomSlice, PixelFormat]) -> tuple[np.ndarray, np.ndarray | None]:
            one, form = given
            data = frames.read(one, form.frame_bytes)
            if one.header.syntax in UNCOMPRESSED:
                order = ">" if one.header.syntax == BIG_ENDIAN else "<"
                values = np.frombuffer(data, f"{order}u{form.allocated // 8}")
                values = values.astype(values.dtype.newbyteorder("="), copy=False)
                expected = usual
            else:
                values = decoders.decode(one, form, data)
                form, expected = (replace(each, high=each.stored - 1) for each in (form, usual))
            values = values.reshape(form.rows, form.columns)
            stored = _stored_values(values, form)
            if form != expected and (
                form.allocated != expected.allocated
                or not np.array_equal(stored, _stored_values(values, expected))
            ):
                one.refuse(
                    "has other bits to a value (BitsAllocated, BitsStored, HighBit or "
                    "PixelRepresentation) than most slices of its series, and its values depend "
                    "on them",
                    "damaged",
                )
            return stored, _padding(one, form, values, stored)

        yield from _in_threads(load, zip(slices, forms, strict=True), cpus)


def _available_cpus() -> int:
    """Return the number of cores that this process may use; one in a worker process."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(threads)) if threads.isdecimal() and int(threads) else cores


def same_pixels(one: DicomSlice, other: DicomSlice) -> bool:
    """Return whether two slices have the same stored bytes."""
    content = []
    for each in (one, other):
        with Container(each.header.file.path) as container, FrameReader(container) as frames:
            content.append(frames.read(each, pixel_format(each).frame_bytes))
    return content[0] == content[1]


def _stored_values(values: np.ndarray, form: PixelFormat) -> np.ndarray:
    """Extract the bits that belong to the value; those above may be an overlay, or the sign."""
    if form.signed:
        values = values.view(f"i{values.itemsize}")
    if form.stored == form.allocated:
        return values
    up = form.allocated - 1 - form.high
    shifted: np.ndarray = np.left_shift(values, up)
    return np.asarray(np.right_shift(shifted, form.allocated - form.stored))


def _padding(
    one: DicomSlice, form: PixelFormat, values: np.ndarray, stored: np.ndarray
) -> np.ndarray | None:
    """Return the mask of a slice's padding, or None if it has none.

    The number in the tag may contradict its VR (63536 for -2000), or use bits that do not belong to
    the value.
    """
    limits = [
        _padding_limit(one, keyword, form)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ]
    if limits[0] is None:
        return None
    ends = [limit for limit in limits if limit is not None]
    low, high = min(ends), max(ends)
    mask: np.ndarray = (stored >= low) & (stored <= high)
    if form.stored != form.allocated:
        whole = values.view(stored.dtype)
        mask |= (whole >= low) & (whole <= high)
    return mask if mask.any() else None


def _padding_limit(one: DicomSlice, keyword: str, form: PixelFormat) -> int | None:
    value = one.header.integer(keyword)
    if value is None:
        return None
    value &= (1 << form.allocated) - 1
    is_negative = form.signed and value >> (form.allocated - 1)
    return value - (1 << form.allocated) if is_negative else value


def _in_threads(load: Callable[[T], U], items: Iterable[T], threads: int) -> Iterator[U]:
    """Yield results in order, computing a few ahead."""
    ahead: deque[Future[U]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(load, item))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


class _Decoders:
    """Processes that decompress frames; a crash only affects the current scan.

    They are separate programs, as forking is not safe with threads, and spawning imports the main
    module again.
    """

    def __init__(self, count: int) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for _ in range(count):
            self._start()

    def __enter__(self) -> "_Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            with process:
                pass

    def _start(self) -> None:
        few_threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-P", dicom_decoder.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print
            env={**os.environ, **few_threads},
        )
        self._processes.append(process)
        self._idle.put(process)

    def decode(self, one: DicomSlice, form: PixelFormat, data: bytes) -> np.ndarray:
        """Decode a compressed frame to unsigned integers of form.allocated bits.

        Raises:
            UnusableScan: the frame is damaged, or its transfer syntax is not supported.
        """
        precision, signed = _check_stream(one, form, data)
        head = dicom_decoder.REQUEST.pack(
            one.header.syntax.encode(), form.rows, form.columns, precision, signed, len(data)
        )
        process = self._idle.get()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(head + data)
            process.stdin.flush()
            answer = process.stdout.read(dicom_decoder.ANSWER.size)
            is_decoded, length = dicom_decoder.ANSWER.unpack(answer)
            content = process.stdout.read(length)
        except (OSError, struct.error):
            self._start()  # a replacement, as other threads may wait for one
            one.refuse(f"its decoder ended with exit code {process.wait()}", "damaged")
        self._idle.put(process)
        if not is_decoded:
            one.refuse(f"its pixel data cannot be decoded ({content.decode()})", "damaged")
        size = 1 if precision <= 8 else 2 if precision <= 16 else 4
        if len(content) != form.rows * form.columns * size:
            one.refuse(
                f"its pixel data decode to {len(content):,} bytes where "
                f"{form.rows * form.columns * size:,} are expected",
                "damaged",
            )
        values = np.frombuffer(content, f"<{'i' if signed else 'u'}{size}")
        return values.astype(f"i{form.allocated // 8}").view(f"u{form.allocated // 8}")


def _check_stream(one: DicomSlice, form: PixelFormat, data: bytes) -> tuple[int, bool]:
    """Return the precision of a compressed frame and whether it is signed, if it is complete.

    Decoders accept truncated streams, and allocate the memory that the header asks for.
    """
    syntax = one.header.syntax
    if syntax == dicom_decoder.RLE:
        return form.allocated, False
    if syntax not in (*JPEG, *JPEG_2000):
        one.refuse(f"its transfer syntax, {UID(syntax).name}, is not supported", "damaged")
    if not data.rstrip(b"\0").endswith(END_OF_IMAGE):
        one.refuse("its compressed pixel data are truncated: they have no end marker", "damaged")
    try:
        precision, signed, rows, columns, samples = (
            _jpeg_2000_header(data) if syntax in JPEG_2000 else _jpeg_header(data)
        )
    except (IndexError, struct.error, ValueError):
        one.refuse("its compressed pixel data have no sound header", "damaged")
    if (rows, columns, samples) != (form.rows, form.columns, 1):
        one.refuse(
            f"its compressed pixel data have {rows} rows, {columns} columns and {samples} values a "
            f"pixel where its tags have {form.rows}, {form.columns} and 1",
            "damaged",
        )
    # GDCM writes others, and its decoder lets values below 0 wrap around.
    if syntax in _LOSSY_JPEG and precision not in (8, 12):
        one.refuse(
            f"its lossy JPEG data have {precision} bits a value, where JPEG has 8 or 12, so that "
            "decoders differ in what they make of them",
            "damaged",
        )
    if not 2 <= precision <= form.allocated:
        one.refuse(
            f"its compressed pixel data have {precision} bits a value where its "
            f"{tag_name('BitsAllocated')} is {form.allocated}",
            "damaged",
        )
    return precision, signed


def _jpeg_header(data: bytes) -> tuple[int, bool, int, int, int]:
    """Return precision, sign, rows, columns and samples per pixel of a JPEG or JPEG-LS stream."""
    if data[:2] != b"\xff\xd8":
        raise ValueError
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        if data[at] != 0xFF:
            raise ValueError
        if data[at + 1] in _JPEG_FRAME_HEADERS:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 4)
            return precision, False, rows, columns, samples
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _jpeg_2000_header(data: bytes) -> tuple[int, bool, int, int, int]:
    """Return the fields of _jpeg_header for a JPEG 2000 code stream, also inside a JP2 file."""
    at = data.index(_JPEG_2000_START) + len(_JPEG_2000_START)
    right, bottom, left, top = struct.unpack_from(">4L", data, at + 4)
    samples, depth = struct.unpack_from(">HB", data, at + 36)
    return (depth & 0x7F) + 1, depth > 0x7F, bottom - top, right - left, samples
