"""Registry of file formats: a new format is a module of this package and a line of FORMATS.

Modules are imported when needed, as most calls read one format. DICOM is no entry, since its files
are recognized by their content.
"""

import struct
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from multi_abnormality.utils.errors import UnusableScan, naming

if TYPE_CHECKING:
    from multi_abnormality.data.io.scan import Scan
    from multi_abnormality.data.io.series_metadata import Series

_ALSO_DICOM = (".hdr", ".img")  # suffixes that DICOM files have as well
# A DICOM file begins with a preamble and a magic number; names and suffixes vary.
PREAMBLE_BYTES = 128
MAGIC = b"DICM"
MAGIC_BYTES = PREAMBLE_BYTES + len(MAGIC)
_LONG_VR = (b"OB", b"UN", b"SQ")  # value representations whose length comes later


class Reader(Protocol):
    """Functions of a format's module."""

    def read(self, path: Path, metadata: "Series | None") -> "Scan":
        """Read a scan. Errors need not name the path.

        Args:
            path: file with one of the format's suffixes.
            metadata: row of CT-RATE's metadata table.

        Raises:
            UnusableScan: the file is damaged, or is not a 3D CT scan in HU.
            OSError: the file cannot be read.
        """

    def data_file(self, path: Path) -> Path | None:
        """Return the separate file of voxels, if there is one.

        Raises:
            UnusableScan: the header that names it is damaged.
            OSError: the header cannot be read.
        """


@dataclass(frozen=True)
class FileFormat:
    """A format of scan files."""

    name: str
    module: str  # module of its reader, absolute or relative to this package
    suffixes: tuple[str, ...]  # suffixes of files that count as a scan, in lower case
    # Suffixes of files that may be given, but belong to one of the former.
    data_suffixes: tuple[str, ...] = ()

    def read(self, path: Path, metadata: "Series | None" = None) -> "Scan":
        """Read a scan; see Reader."""
        with naming(path):
            return self._reader().read(path, metadata)

    def data_file(self, path: Path) -> Path | None:
        """Return the separate file of voxels, if there is one that can be found."""
        try:
            return self._reader().data_file(path)
        except (UnusableScan, OSError):  # raised again when the scan is read
            return None

    def _reader(self) -> Reader:
        return cast("Reader", import_module(self.module, __package__))


FORMATS = [
    FileFormat("NIfTI", ".nifti", (".nii.gz", ".nii", ".hdr"), (".img",)),
    FileFormat("MetaImage", ".metaimage", (".mha", ".mhd")),
    FileFormat("NRRD", ".nrrd", (".nrrd", ".nhdr")),
]


def scan_suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that count as a scan."""
    return tuple(suffix for one in FORMATS for suffix in one.suffixes)


def suffix_of(path: Path) -> str:
    """Return the known suffix of a file's name, in lower case, or ""."""
    name = path.name.lower()
    suffixes = (suffix for one in FORMATS for suffix in (*one.suffixes, *one.data_suffixes))
    return next((suffix for suffix in suffixes if name.endswith(suffix)), "")


def format_of(path: Path) -> FileFormat | None:
    """Return the format of a file by its suffix; None for DICOM and unknown formats."""
    suffix = suffix_of(path)
    if suffix in _ALSO_DICOM and path.is_file():
        with path.open("rb") as file:
            if has_preamble(file.read(MAGIC_BYTES)):
                return None
    return next((one for one in FORMATS if suffix in one.suffixes + one.data_suffixes), None)


def scan_name(path: Path) -> str:
    """Return the name of a file without its suffix, or of a folder."""
    if path.is_dir():
        return path.resolve().name
    return path.name[: len(path.name) - len(suffix_of(path))]


def has_preamble(head: bytes) -> bool:
    """Return whether bytes are a preamble followed by the magic number."""
    return head[PREAMBLE_BYTES:MAGIC_BYTES] == MAGIC


def begins_like_dicom(head: bytes, size: int) -> bool:
    """Return whether a file has a preamble, or begins as a data set does.

    Old files have no preamble; their first element is of group 0002 or 0008, little endian.
    """
    if has_preamble(head):
        return True
    if len(head) < 12:
        return False
    group, element, vr, length = struct.unpack("<HH2sH", head[:8])
    if group not in (2, 8) or element > 0x2FFF:
        return False
    if vr.isalpha() and vr.isupper():
        return vr in _LONG_VR or length < size
    return bool(struct.unpack("<L", head[4:8])[0] < min(size, 1 << 16))
