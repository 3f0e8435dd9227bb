"""Find the scans at a path: a file, a DICOM series, a folder or a .zip."""

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from multi_abnormality.data.io.reader_registry import (
    MAGIC_BYTES,
    begins_like_dicom,
    format_of,
    scan_name,
    scan_suffixes,
    suffix_of,
)
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import UnusableScan, first_few, plural

if TYPE_CHECKING:
    from multi_abnormality.data.io.dicom_headers import Container, DicomFile, DicomHeader
    from multi_abnormality.data.io.dicom_series import DicomSeries

# Fraction of the smaller of two folders' images that may also be in the other one, as copies of
# some slices. With more, the folders are two exports of one series.
MAX_COMMON = 0.5
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_DIRECTORY = "dicomdir"  # lists the files of an export


@dataclass(frozen=True)
class ScanSource:
    """One scan, before it is read."""

    path: Path  # the file; for a DICOM series, the folder or .zip that contains it
    series: "DicomSeries | None" = None  # the DICOM series, or None for other formats
    in_folder: str = ""  # name of the series if its folder contains several

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files that the voxels depend on."""
        if self.series is not None:
            return tuple(dict.fromkeys(one.header.file.path for one in self.series.slices))
        scan_format = format_of(self.path)
        beside = scan_format.data_file(self.path) if scan_format else None
        return (self.path,) if beside is None else (self.path, beside)

    @property
    def name(self) -> str:
        """Return the file name without suffix, or folder and series."""
        path = self.path if self.path.name not in ("", "..") else self.path.resolve()
        if self.series is not None:
            name = path.stem if path.suffix.lower() == ".zip" and not path.is_dir() else path.name
            return f"{name}/{self.in_folder}" if self.in_folder else name
        return scan_name(path)

    @property
    def own_name(self) -> str:
        """Return the name, sanitized so that it is never a path such as "..".

        The part after a slash comes from a DICOM file, and must not lead to other folders.
        """
        first, *rest = self.name.split("/", 1)
        rest = [re.sub(r"[^\w.-]", "_", part) for part in rest]
        return "/".join(part if part.strip(".") else self.path.name for part in (first, *rest))

    def name_below(self, folder: Path) -> str | None:
        """Return the name with its parent folders below `folder`, in NFC; None if not below it."""
        # resolve() would follow links.
        path, start = (Path(os.path.abspath(one)) for one in (self.path, folder))  # noqa: PTH100
        if not path.is_relative_to(start) or path == start:
            return None
        parts = [*path.parent.relative_to(start).parts, self.own_name]
        return unicodedata.normalize("NFC", "/".join(parts))


def find_scans(path: Path) -> list[ScanSource]:
    """Find all scans at a path, in natural order.

    A file with a known suffix is a scan. A DICOM file of any name represents its series, whose
    other files are searched in its folder; a .zip the series in it; a folder all scans at any
    depth. Names that begin with a dot are ignored.

    Raises:
        UnusableScan: a .zip that is damaged, encrypted or too large.
        OSError: the path does not exist or cannot be read.
    """
    return _find_all(path)[0]


def require_scans(path: Path) -> list[ScanSource]:
    """Find all scans at a path, as find_scans does, or raise an error.

    Archives in a folder that are not read are logged, since they may contain scans.
    """
    sources, found = _find_all(path)
    if not sources:
        raise UnusableScan(_describe_nothing(path, found), "not one 3D scan")
    archives = [
        str(folder / name)
        for folder, others in found.others.items()
        for name in (other.rpartition(": ")[0] for other in others)
        if name.lower().endswith(ARCHIVES)
    ]
    if archives and path.is_dir():
        log.warning(
            "%s in %s left out, since only a .zip with a DICOM series is read: %s. Unpack the "
            "scans in them", plural(len(archives), "archive", "archives"), path,
            first_few(archives),
        )  # fmt: skip
    return sources


def _find_all(path: Path) -> "tuple[list[ScanSource], DicomContents]":
    """Return the scans at a path, and its other content."""
    if path.is_dir():
        return _in_folder(path)
    if format_of(path):
        return [ScanSource(path)], DicomContents()
    if is_zip(path):
        found = read_zip(path)
        if not found.headers:
            found.raise_errors()
        return found.sources(path), found
    return _series_of(path)


def resolve_scan(path: Path) -> ScanSource:
    """Return the only scan at a path.

    Of several series, the only usable one with a scanner's slices is selected, with a warning. A
    projection must be named by one of its files.

    Raises:
        UnusableScan: there are no or several scans, or only a projection.
        OSError: the path does not exist or cannot be read.
    """
    sources = require_scans(path)
    usable = [one for one in sources if one.series is None or one.series.problem is None]
    originals = [one for one in usable if one.series is None or not one.series.derivation.name]
    candidates = sources if len(sources) == 1 else originals or usable
    if len(candidates) != 1:
        listed = "\n".join(f"  - {_describe(source)}" for source in sources[:50])
        raise UnusableScan(
            f"holds {len(sources)} scans; name one of them, or one file of a series:\n{listed}",
            "not one 3D scan",
            path,
        )
    (chosen,) = candidates
    if (
        chosen.series is not None
        and chosen.series.derivation.is_projection
        and (path.is_dir() or is_zip(path))
    ):
        raise UnusableScan(
            f"its only series is a {chosen.series.derivation.name}; give the original slices, or, "
            f"if it is intended, one of its files, such as {chosen.files[0].name}",
            "not HU",
            path,
        )
    if others := [_describe(source) for source in sources if source is not chosen]:
        log.warning("%s: takes %s; left out %s", path, _describe(chosen), first_few(others))
    return chosen


def natural_key(path: Path | str) -> list[tuple[int, int, str]]:
    """Sort key that compares numbers in names by value: slice2 before slice10."""
    return [
        (0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part)
        for part in re.split(r"([0-9]{1,18}|/)", str(path))
        if part
    ]


def _series_of(path: Path) -> "tuple[list[ScanSource], DicomContents]":
    """Find the series of a DICOM file in its folder, and in sibling folders that start with it."""
    named = DicomContents()
    named.add_path(path)
    named.raise_errors()
    uids = named.uids()
    if not uids:
        return [], named
    found = DicomContents()
    found.add_folder(path.parent)
    here = path.absolute().parent
    for folder in _subfolders(here.parent) if uids != {""} else []:
        if folder != here:
            found.add_folder(folder, uids)
    sources = [
        source
        for source in _sorted(found.sources())
        if source.series is not None
        and source.series.uid in uids
        and any(one.header.file.folder == path.parent for one in source.series.slices)
    ]
    return sources, found if sources else named


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")
    except OSError:  # an unreadable folder contains no readable part of a series
        return []


class DicomContents:
    """DICOM files and other content of a folder or .zip.

    Attributes:
        headers: headers of the files that may be slices.
        others: descriptions of other files, by folder.
        faults: error in a file that may be a slice of any series, by folder.

    Args:
        also: keywords of further tags to read into the headers.
    """

    def __init__(self, also: tuple[str, ...] = ()) -> None:
        self._also = also
        self.headers: list[DicomHeader] = []
        self.others: dict[Path, list[str]] = defaultdict(list)
        self.faults: dict[Path, UnusableScan] = {}

    def add_path(self, path: Path) -> None:
        """Add a file that is not in a .zip."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            self.others[path.parent].append(f"{path.name}: not a regular file")
            return
        with path.open("rb") as file:
            head = file.read(MAGIC_BYTES)
        # pydicom takes a quarter of a second to import.
        if not begins_like_dicom(head, status.st_size):
            self.others[path.parent].append(f"{path.name}: {_describe_unknown(status.st_size)}")
            return
        from multi_abnormality.data.io.dicom_headers import Container, DicomFile

        with Container(path.parent) as container:
            self.add(container, DicomFile(path))

    def try_path(self, path: Path) -> None:
        """Add a file that is not in a .zip; read errors are added to the faults of its folder."""
        try:
            self.add_path(path)
        except FileNotFoundError:
            self.others[path.parent].append(f"{path.name}: broken link")
        except OSError as error:
            fault = f"{path}: cannot be read ({error.strerror}); check its permissions"
            self.faults.setdefault(path.parent, UnusableScan(fault, "damaged"))

    def add_folder(self, folder: Path, uids: set[str] | None = None) -> None:
        """Add the DICOM files of a folder without its subfolders.

        Args:
            folder: folder to read; ignored if unreadable.
            uids: SeriesInstanceUIDs; a folder whose first file has another one is skipped.
        """
        before = len(self.headers)
        try:
            _, _, names = next(walk(folder))
            for path in map(folder.joinpath, names):
                if is_zip(path) or format_of(path):
                    continue
                self.try_path(path)
                if uids is not None and len(self.headers) > before:
                    if self.headers[before].text("SeriesInstanceUID") not in uids:
                        del self.headers[before:]
                        return
                    uids = None
        except OSError:
            return

    def add(self, container: "Container", file: "DicomFile") -> None:
        """Add a file or a member of a .zip."""
        from multi_abnormality.data.io.dicom_headers import read_header
        from multi_abnormality.data.io.dicom_series import describe_no_slice

        try:
            header = read_header(container, file, self._also)
        except UnusableScan as error:
            self.faults.setdefault(file.folder, error)
            return
        if header is None:
            what: str | None = _describe_unknown(container.size(file))
        elif file.name.lower() == _DIRECTORY:
            what = "Media Storage Directory, no image"
        else:
            what = describe_no_slice(header)
        if what is not None or header is None:
            self.others[file.folder].append(f"{file.name}: {what}")
        else:
            self.headers.append(header)
            if header.pixels_at is None and not header.text("SeriesInstanceUID"):
                self.faults.setdefault(file.folder, header.without_pixels)

    def uids(self) -> set[str]:
        """Return the SeriesInstanceUIDs of the files that may be slices."""
        return {header.text("SeriesInstanceUID") for header in self.headers}

    def raise_errors(self) -> None:
        """Raise the first fault, if any."""
        for fault in self.faults.values():
            raise fault

    def sources(self, archive: Path | None = None) -> list[ScanSource]:
        """Group the files into series by SeriesInstanceUID or, without one, by folder."""
        from multi_abnormality.data.io.dicom_series import build_series

        found: dict[Path, list[DicomSeries]] = defaultdict(list)
        for headers in _group(self.headers, may_be_copies=archive is None):
            folders = sorted({header.file.folder for header in headers})
            path = archive or Path(os.path.commonpath(folders))
            others = [other for folder in folders for other in self.others[folder]]
            fault = next((self.faults[folder] for folder in folders if folder in self.faults), None)
            found[path].append(build_series(headers, path, others, fault))
        return [
            ScanSource(path, series, name)
            for path, together in found.items()
            for series, name in zip(together, _names_in_folder(together), strict=True)
        ]


def _group(headers: "Iterable[DicomHeader]", may_be_copies: bool) -> "list[list[DicomHeader]]":
    """Group headers by series.

    Args:
        headers: headers of all files.
        may_be_copies: whether two exports of one series in different folders are two scans.
    """
    series: dict[str, dict[Path, list[DicomHeader]]] = defaultdict(lambda: defaultdict(list))
    for header in headers:
        uid = header.text("SeriesInstanceUID")
        series[uid or f"in {header.file.folder}"][header.file.folder].append(header)
    groups: list[list[DicomHeader]] = []
    for by_folder in series.values():
        images = [set(map(_image_key, found)) for found in by_folder.values()]
        if may_be_copies and any(
            len(one & other) > MAX_COMMON * min(len(one), len(other))
            for one, other in combinations(images, 2)
        ):
            groups += by_folder.values()
        else:
            groups.append([header for found in by_folder.values() for header in found])
    return groups


def _image_key(header: "DicomHeader") -> tuple[str, str]:
    """Return a key that identifies an image even if a program gave all the same UID."""
    return header.text("SOPInstanceUID"), header.text("ImagePositionPatient")


def _names_in_folder(together: "list[DicomSeries]") -> list[str]:
    """Return unique names for the series in a folder, or "" for a single one."""
    if len(together) == 1:
        return [""]
    numbers = [series.number for series in together]
    if None in numbers or len(set(numbers)) < len(numbers):
        return [series.uid for series in together]
    return [str(number) for number in numbers]


def _in_folder(folder: Path) -> tuple[list[ScanSource], DicomContents]:
    """Find the scans in a folder at any depth, and its other content."""
    found = DicomContents()
    sources = []
    for path in (parent / name for parent, _, names in walk(folder) for name in names):
        if format_of(path):
            if suffix_of(path) in scan_suffixes():
                sources.append(ScanSource(path))
        elif is_zip(path):
            try:
                inside = _find_all(path)[0]
            except (UnusableScan, OSError):  # raised again when it is read
                inside = [ScanSource(path)]
            if not inside:
                found.others[path.parent].append(f"{path.name}: a .zip without a DICOM series")
            sources += inside
        else:
            found.try_path(path)
    sources += found.sources()
    if not found.headers and sources:
        for damaged in found.faults.values():
            log.warning("%s", damaged)
    return _sorted(sources), found


def _sorted(sources: list[ScanSource]) -> list[ScanSource]:
    return sorted(sources, key=lambda one: natural_key(one.path / one.in_folder))


def read_zip(path: Path, also: tuple[str, ...] = ()) -> DicomContents:
    """Read the headers of a .zip's members."""
    from multi_abnormality.data.io.dicom_headers import Container

    found = DicomContents(also)
    with Container(path) as container:
        for file in container.members():
            if any(part.startswith(".") for part in Path(file.member or "").parts):
                continue
            if is_zip(Path(file.name)):
                found.others[file.folder].append(f"{file.name}: a .zip in a .zip")
            elif suffix_of(Path(file.name)) not in ("", ".hdr", ".img"):
                found.others[file.folder].append(f"{file.name}: a scan to be unpacked first")
            else:
                found.add(container, file)
    return found


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk a folder as os.walk does, in natural order, without hidden files and folders.

    Links are followed: a folder that is one of its own parents is left out, as by `find -L`; one
    that links name twice is yielded under both paths.

    Raises:
        OSError: the folder itself cannot be read; for subfolders a warning is logged.
    """
    waiting: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(folder, ())]
    while waiting:
        parent, above = waiting.pop()
        try:
            status = parent.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                continue
            with os.scandir(parent) as found:
                entries = sorted(found, key=lambda one: natural_key(one.name))
        except OSError as error:
            if not above:
                raise
            log.warning("%s: left out, it cannot be read (%s)", parent, error.strerror)
            continue
        folders: list[str] = []
        names: list[str] = []
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if _is_folder(entry) else names).append(entry.name)
        yield parent, folders, names
        waiting += [(parent / name, (*above, here)) for name in reversed(folders)]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # its reader reports it
        return False


def is_zip(path: Path) -> bool:
    """Return whether a path has the suffix of a .zip."""
    return path.suffix.lower() == ".zip"


def _describe_unknown(size: int) -> str:
    return "no DICOM file" if size else "empty file"


def _describe(source: ScanSource) -> str:
    """Describe a scan in one line, so that a user can choose."""
    series = source.series
    if series is None:
        return str(source.path)
    parts = [f"{source.name}:", series.description or "(no description)"]
    if series.derivation.name:
        parts.append(f"({series.derivation.name})")
    if series.number is not None:
        parts.append(f"number {series.number},")
    parts.append(f"{plural(len(series.slices), 'slice', 'slices')},")
    if series.spacing is not None:
        parts.append(f"{' x '.join(f'{length:.3g}' for length in series.spacing)} mm,")
    parts.append(f"kernel {series.kernel or 'unknown'},")
    example = series.slices[0].header.file
    return " ".join([*parts, f"in {example}"]) + (f" ({series.problem})" if series.problem else "")


def _describe_nothing(path: Path, found: DicomContents) -> str:
    """Describe the content of a path without scans."""
    formats = f"DICOM or one of {', '.join(scan_suffixes())}"
    found.raise_errors()
    others = [other for folder in found.others.values() for other in folder]
    if path.is_dir() or is_zip(path):
        return f"{path}: holds no scan, {formats}" + (f"; {first_few(others)}" if others else "")
    what = others[0].partition(": ")[2] if others else "no slice of a CT volume"
    return f"{path}: is not a scan ({what}); give {formats}"
