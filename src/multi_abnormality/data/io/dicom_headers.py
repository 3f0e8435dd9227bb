"""Headers of DICOM files, and the slices that they describe, without pixels."""

import logging
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

from pydicom import config
from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from multi_abnormality.data.io.byte_streams import open_regular_file
from multi_abnormality.data.io.reader_registry import MAGIC_BYTES, begins_like_dicom, has_preamble
from multi_abnormality.data.io.scan import MAX_VOXELS
from multi_abnormality.utils.errors import UnusableScan, plural

MAX_MEMBERS = 100_000
MAX_ARCHIVE_BYTES = 2 << 30  # sum of all members, decompressed
# OSError, since offsets of a damaged directory may be anywhere.
_ZIP_ERRORS = (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError)
MAX_INFLATED_BYTES = 1 << 29  # per deflated file; decompressing takes twice the memory

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}  # float, double, integer
_KEYWORDS = """
    ImageType SOPClassUID SOPInstanceUID AcquisitionTime Modality SeriesDescription PatientName
    PatientID PatientBirthDate BodyPartExamined ConvolutionKernel SeriesInstanceUID SeriesNumber
    AcquisitionNumber InstanceNumber FrameOfReferenceUID ImagePositionPatient
    ImageOrientationPatient SliceThickness SamplesPerPixel PhotometricInterpretation
    NumberOfFrames Rows Columns PixelSpacing BitsAllocated BitsStored HighBit
    PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit RescaleIntercept RescaleSlope
    RescaleType ModalityLUTSequence SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence
"""
_TAGS: list[BaseTag | int] = [keyword_dict[keyword] for keyword in _KEYWORDS.split()]

# Values are checked where they are used; pydicom's checks are slow and warn of harmless deviations,
# such as a UID with a letter.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
config.settings.reading_validation_mode = config.IGNORE


@dataclass(frozen=True)
class DicomFile:
    """A file in a folder, or a member of a .zip."""

    path: Path  # of the file or of the .zip
    member: str | None = None  # name inside the .zip, or None

    def __str__(self) -> str:
        return str(self.path if self.member is None else self.path / self.member)

    @property
    def name(self) -> str:
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    @property
    def folder(self) -> Path:
        return self.path.parent if self.member is None else (self.path / self.member).parent


class Container:
    """Opens the files of a folder, or the members of a .zip.

    Raises:
        UnusableScan: the .zip is damaged.
        OSError: the .zip cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        self._file: BinaryIO | None = None
        if path.suffix.lower() == ".zip" and not path.is_dir():
            self._file = open_regular_file(path)
            try:
                self._archive = zipfile.ZipFile(self._file)
            except _ZIP_ERRORS as error:
                self._file.close()
                raise self._damaged(path, error) from None

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def members(self) -> Iterator[DicomFile]:
        """Yield the members of a .zip after checking their number and sizes.

        Raises:
            UnusableScan: the .zip is encrypted or exceeds a limit.
        """
        assert self._archive is not None
        members = [member for member in self._archive.infolist() if not member.is_dir()]
        unpacked = sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS or unpacked > MAX_ARCHIVE_BYTES:
            raise UnusableScan(
                f"holds {len(members):,} files of {unpacked:,} bytes; the limits are "
                f"{MAX_MEMBERS:,} files and {MAX_ARCHIVE_BYTES:,} bytes; unpack it, and give a "
                "folder for each series",
                "too large",
                self._path,
            )
        for member in members:
            file = DicomFile(self._path, member.filename)
            if member.flag_bits & 1:
                raise UnusableScan("is encrypted; unpack the .zip first", "damaged", file)
            yield file

    def open(self, file: DicomFile) -> BinaryIO:
        """Open a file or a member as a seekable stream."""
        if file.member is None:
            return open_regular_file(file.path)
        assert self._archive is not None
        try:
            # The buffer makes small reads and small backward seeks fast.
            member: Any = self._archive.open(file.member)  # has the methods of a raw stream
            return BufferedReader(member, 1 << 16)
        except _ZIP_ERRORS as error:
            raise self._damaged(file, error) from None

    def size(self, file: DicomFile) -> int:
        """Return the number of decompressed bytes."""
        if file.member is None:
            return file.path.stat().st_size
        assert self._archive is not None
        return self._archive.getinfo(file.member).file_size

    @staticmethod
    def _damaged(where: object, error: Exception) -> UnusableScan:
        return UnusableScan(f"is a damaged .zip ({error}); fetch it again", "damaged", where)


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """Header of a DICOM file: everything before the pixels."""

    file: DicomFile  # file that the header is from
    tags: Dataset  # the tags that this package uses, unconverted
    meta: Dataset  # file meta information, group 0002
    syntax: str  # transfer syntax UID
    size: int  # bytes of the file, after decompression if it is deflated
    pixels_at: int | None  # offset of the pixel data element, or None if there is none
    data_at: int  # offset of the data set, after the file meta information

    @cached_property
    def sop_class(self) -> str:
        return _text(self.tags, "SOPClassUID") or _text(self.meta, "MediaStorageSOPClassUID")

    @cached_property
    def kind(self) -> str:
        """Return the name of the SOP class, such as "X-Ray Radiation Dose SR"."""
        name = UID(self.sop_class).name.removesuffix(" Storage")
        return name if name != self.sop_class else f"SOP class {name or 'missing'}"

    @property
    def without_pixels(self) -> UnusableScan:
        """Return the error for a file that ends before its pixels."""
        return UnusableScan(
            "is truncated: it ends before its pixel data (7FE0,0010); fetch it again",
            "damaged",
            self.file,
        )

    def text(self, keyword: str) -> str:
        """Return the value of a tag as text; "" if it is missing or empty."""
        return _text(self.tags, keyword)

    @property
    def encoding(self) -> tuple[bool, bool]:
        """Return whether the data set has implicit VRs, and whether it is little endian."""
        is_implicit, is_little = self.tags.original_encoding
        return bool(is_implicit), bool(is_little)

    def integer(self, keyword: str) -> int | None:
        """Return the value of an unsigned integer tag; None if it is missing or invalid."""
        element = self.tags.get_item(_tag(keyword))
        if element is None:
            return None
        value = element.value
        if not isinstance(value, bytes):
            return value if isinstance(value, int) else None
        return int.from_bytes(value, "little" if self.encoding[1] else "big") if value else None

    def label(self, keyword: str) -> str:
        """Return a text tag for display, decoded with the file's character set."""
        try:
            element = self.tags.get(_tag(keyword))
            value = "" if element is None else element.value
        except Exception:  # pydicom raises exceptions of all kinds for damaged values
            return ""
        parts = value if not isinstance(value, str) and isinstance(value, Sequence) else [value]
        return " ".join("".join(c for c in str(part) if c.isprintable()) for part in parts).strip()


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """One frame of a file, with its tags."""

    header: DicomHeader
    frame: int  # index of the frame in its file
    # Data sets to look up tags in, from the frame's own to that of the file.
    groups: tuple[Dataset, ...]

    def __str__(self) -> str:
        return str(self.header.file) + self._frame_name()

    @property
    def name(self) -> str:
        return self.header.file.name + self._frame_name()

    def _frame_name(self) -> str:
        return f" (frame {self.frame + 1})" if len(self.groups) > 1 else ""

    def text(self, keyword: str) -> str:
        """Return the value of a tag as text; "" if it is missing or empty."""
        return next((text for group in self.groups if (text := _text(group, keyword))), "")

    def numbers(self, keyword: str, count: int, reason: str = "geometry") -> tuple[float, ...]:
        """Return the value of a tag of `count` finite decimal numbers.

        Raises:
            UnusableScan: the tag is missing, empty or invalid; with `reason`.
        """
        text = self.text(keyword)
        if not text:
            is_present = any(keyword_dict[keyword] in group for group in self.groups)
            self.refuse(f"has {'an empty' if is_present else 'no'} {tag_name(keyword)}", reason)
        try:
            values = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            values = ()
        if len(values) != count or not all(map(math.isfinite, values)):
            what = "a finite number" if count == 1 else f"{count} finite numbers"
            self.refuse(f"its {tag_name(keyword)} is {text[:80]!r}, not {what}", reason)
        return values

    def whole(self, keyword: str, default: int | None = None) -> int:
        """Return the value of a tag of one integer.

        Raises:
            UnusableScan: the tag is missing and there is no default, or it is invalid.
        """
        try:
            return int(self.header.tags[_tag(keyword)].value)
        except Exception:  # missing, empty or damaged
            if default is None or self.header.text(keyword):
                self.refuse(f"has no {tag_name(keyword)} that is a whole number", "damaged")
            return default

    def refuse(self, what: str, reason: str) -> NoReturn:
        """Raise the error that names this file."""
        raise UnusableScan(f"{what}; export the series again from its source", reason, str(self))


def tag_name(keyword: str) -> str:
    """Format a tag for messages, such as "PixelSpacing (0028,0030)"."""
    tag = keyword_dict[keyword]
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def read_header(
    container: Container, file: DicomFile, also: tuple[str, ...] = ()
) -> DicomHeader | None:
    """Read a file's tags; None if it is not a DICOM file.

    Args:
        container: folder or .zip that the file is in.
        also: keywords of tags to read besides those that this package uses.

    Raises:
        UnusableScan: the DICOM file cannot be parsed.
        OSError: the file cannot be read.
    """
    is_marked = True
    with container.open(file) as stream:
        try:
            size = container.size(file)
            head = stream.read(MAGIC_BYTES)
            if not begins_like_dicom(head, size):
                return None
            is_marked = has_preamble(head)
            return _parse(stream, file, size, is_marked, also)
        except (UnusableScan, OSError):
            raise
        except Exception as error:  # pydicom raises exceptions of all kinds for damaged files
            if not is_marked:
                return None
            raise UnusableScan(
                f"is a damaged DICOM file ({type(error).__name__}: {error}); fetch it again",
                "damaged",
                file,
            ) from None


def slices_of(header: DicomHeader) -> list[DicomSlice]:
    """Return the frames of an image file."""
    first = DicomSlice(header, 0, (header.tags,))
    count = first.whole("NumberOfFrames", 1)
    if not 1 <= count <= MAX_VOXELS:
        first.refuse(f"its {tag_name('NumberOfFrames')} is {count}", "damaged")
    try:
        shared = _macros(header.tags, "SharedFunctionalGroupsSequence")
        frames = _macros(header.tags, "PerFrameFunctionalGroupsSequence")
    except Exception as error:  # pydicom parses sequences only now
        first.refuse(f"its functional groups are damaged ({error})", "damaged")
    if not frames and not shared:
        if count > 1:
            first.refuse(
                f"is a multi-frame file ({header.kind}) whose frames have no positions: it has no "
                f"{tag_name('PerFrameFunctionalGroupsSequence')}",
                "not one 3D scan",
            )
        return [first]
    if len(frames) != count:
        first.refuse(
            f"has {plural(count, 'frame', 'frames')} and "
            f"{plural(len(frames), 'item', 'items')} in its "
            f"{tag_name('PerFrameFunctionalGroupsSequence')}",
            "damaged",
        )
    common = tuple(macro for item in shared for macro in item)
    return [
        DicomSlice(header, index, (*own, *common, header.tags)) for index, own in enumerate(frames)
    ]


def _macros(tags: Dataset, keyword: str) -> list[tuple[Dataset, ...]]:
    """Return the data sets of the macros in each item of a functional groups sequence."""
    return [
        tuple(
            element.value[0]
            for element in item
            if element.VR == "SQ" and element.value and not element.tag.is_private
        )
        for item in tags.get(keyword) or ()
    ]


def _parse(
    stream: BinaryIO, file: DicomFile, size: int, is_marked: bool, also: tuple[str, ...]
) -> DicomHeader | None:
    """Read the tags of a stream whose first MAGIC_BYTES bytes have been read."""
    if not is_marked:
        stream.seek(0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _n: int(tag) >> 16 != 2)
    syntax = _text(meta, "TransferSyntaxUID")
    start = stream.tell()
    probe = stream.read(6)
    stream.seek(start)
    if syntax == DEFLATED:
        stream, size = inflate(stream, file)
    is_implicit, is_little = _encoding(syntax, probe)
    tags = read_dataset(
        stream,
        is_implicit,
        is_little,
        stop_when=lambda tag, _vr, _n: int(tag) in _PIXEL_TAGS,  # BaseTag compares slowly
        specific_tags=[*_TAGS, *map(_tag, also)],
    )
    if not is_marked and not {0x00080016, 0x00280010} & tags.keys():
        return None  # neither SOP class nor rows: not DICOM after all
    end = stream.tell()
    group, element = struct.unpack("<HH" if is_little else ">HH", stream.read(4).ljust(4, b"\0"))
    at_pixels = group << 16 | element in _PIXEL_TAGS
    if not syntax:
        was_implicit, was_little = tags.original_encoding
        syntax = IMPLICIT if was_implicit else EXPLICIT if was_little else BIG_ENDIAN
    return DicomHeader(
        file=file,
        tags=tags,
        meta=meta,
        syntax=syntax,
        size=size,
        pixels_at=end if at_pixels else None,
        data_at=start,
    )


def _encoding(syntax: str, probe: bytes) -> tuple[bool, bool]:
    """Return whether the data set has implicit VRs, and whether it is little endian."""
    if syntax:
        return syntax == IMPLICIT, syntax != BIG_ENDIAN
    is_explicit = probe[4:6].isalpha() and probe[4:6].isupper()
    # Group 0008 read in the wrong order is 0800.
    return not is_explicit, not (is_explicit and probe[:1] == b"\0")


def inflate(stream: BinaryIO, file: DicomFile) -> tuple[BinaryIO, int]:
    """Decompress the rest of a file with deflated transfer syntax; also return its size.

    Raises:
        UnusableScan: the data are truncated or exceed the limit.
        zlib.error: the data are damaged.
    """
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    data = decompressor.decompress(stream.read(), MAX_INFLATED_BYTES)
    if not decompressor.eof:
        what = "is too large" if decompressor.unconsumed_tail else "is truncated"
        raise UnusableScan(f"{what}: its deflated data do not end; fetch it again", "damaged", file)
    return BytesIO(data), len(data)


@cache
def _tag(keyword: str) -> BaseTag:
    """Return the tag as the type that pydicom looks up fastest."""
    return BaseTag(keyword_dict[keyword])


def _text(tags: Dataset, keyword: str) -> str:
    element = tags.get_item(_tag(keyword))
    if element is None:
        return ""
    value = element.value
    if isinstance(value, bytes):
        return value.decode("latin-1").strip(" \0")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\\".join(map(str, value))
    return "" if value is None else str(value).strip(" \0")
