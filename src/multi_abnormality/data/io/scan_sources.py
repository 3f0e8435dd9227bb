"""Which scans a path stands for: one rule for a file, a series, a folder and a .zip."""

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from multi_abnormality.console import log
from multi_abnormality.data.io.dicom_magic import (
    MAGIC_BYTES,
    begins_like_dicom,
    has_preamble,
)
from multi_abnormality.data.io.reader_registry import SUFFIXES, scan_name, suffix_of
from multi_abnormality.errors import UnusableScan, first_few

if TYPE_CHECKING:
    from multi_abnormality.data.io.dicom_headers import Container, DicomFile, DicomHeader
    from multi_abnormality.data.io.dicom_series import DicomSeries

# Share of the images of the smaller of two folders that may stand in the other one, too: copies of
# some slices. With more, both are exports of one series.
MAX_COMMON = 0.5
_DIRECTORY = "dicomdir"  # lists the files of an export, and is none of them


@dataclass(frozen=True)
class ScanSource:
    """One scan, before it is read.

    Attributes:
        path: the file; of a DICOM series the folder or .zip that holds it.
        series: of DICOM files, or None.
        in_folder: name of the series where its folder holds several.
    """

    path: Path
    series: "DicomSeries | None" = None
    in_folder: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the voxels depend on."""
        if self.series is not None:
            return tuple(dict.fromkeys(one.header.file.path for one in self.series.slices))
        beside = _data_file(self.path)
        return (self.path,) if beside is None else (self.path, beside)

    @property
    def name(self) -> str:
        """File name without suffix, or folder and series."""
        path = self.path if self.path.name not in ("", "..") else self.path.resolve()
        if self.series is not None:
            name = path.stem if path.suffix.lower() == ".zip" and not path.is_dir() else path.name
            return f"{name}/{self.in_folder}" if self.in_folder else name
        return scan_name(path)

    @property
    def own_name(self) -> str:
        """Its name, but never one that means a folder, such as "..".

        What follows a slash comes from inside a DICOM file, and must not lead elsewhere.
        """
        first, *rest = self.name.split("/", 1)
        rest = [re.sub(r"[^\w.-]", "_", part) for part in rest]
        return "/".join(part if part.strip(".") else self.path.name for part in (first, *rest))

    def name_below(self, folder: Path) -> str | None:
        """Its name with the folders that it lies in, in NFC; None where it is not below."""
        # resolve() would follow links.
        path, start = (Path(os.path.abspath(one)) for one in (self.path, folder))  # noqa: PTH100
        if not path.is_relative_to(start) or path == start:
            return None
        parts = [*path.parent.relative_to(start).parts, self.own_name]
        return unicodedata.normalize("NFC", "/".join(parts))


def find_scans(path: Path) -> list[ScanSource]:
    """Everything that a path stands for, in natural order.

    A file of a known suffix is a scan. A DICOM file, whatever its name, stands for its series, of
    which the rest is sought in its folder; a .zip for the series in it; a folder for all scans in
    it and below. Names that begin with a dot are no scans.

    Raises:
        UnusableScan: a .zip that is damaged, encrypted or too large.
        OSError: the path does not exist or cannot be read.
    """
    return _find(path)[0]


def require_scans(path: Path) -> list[ScanSource]:
    """As find_scans, of a path that must stand for something.

    Raises:
        UnusableScan: there is none; it describes what is there.
    """
    sources, found = _find(path)
    if not sources:
        raise UnusableScan(_describe_nothing(path, found), "not one 3D scan")
    return sources


def _find(path: Path) -> "tuple[list[ScanSource], _Found]":
    """The scans of a path, and what else is there."""
    if path.is_dir():
        return _in_folder(path)
    if suffix_of(path) and not is_dicom_by_content(path):
        return [ScanSource(path)], _Found()
    if _is_zip(path):
        found = _members_of(path)
        if not found.headers:
            found.raise_faults()
        return found.sources(path), found
    return _series_of(path)


def resolve_scan(path: Path) -> ScanSource:
    """The one scan that a path stands for.

    Of several series the only usable one is taken, with a warning: of those without a problem the
    one with a scanner's slices. A projection has to be named by one of its files.

    Raises:
        UnusableScan: there is none, or there are several, or a folder has but a projection.
        OSError: the path does not exist or cannot be read.
    """
    sources = require_scans(path)
    if len(sources) == 1:
        _refuse_projection(sources[0], path)
        return sources[0]
    usable = [source for source in sources if source.series is None or not source.series.problem]
    originals = [one for one in usable if one.series is None or not one.series.derivation.name]
    usable = originals or usable
    if len(usable) == 1:
        _refuse_projection(usable[0], path)
        others = [_describe(source) for source in sources if source is not usable[0]]
        log.warning("%s: takes %s; left out %s", path, _describe(usable[0]), first_few(others))
        return usable[0]
    listed = "\n".join(f"  - {_describe(source)}" for source in sources[:50])
    raise UnusableScan(
        f"{path}: holds {len(sources)} scans; name one of them, or one file of a series:\n{listed}",
        "not one 3D scan",
    )


def _refuse_projection(source: ScanSource, path: Path) -> None:
    """Refuse a folder or .zip that stands for no more than a projection."""
    if source.series is None or not source.series.derivation.is_projection:
        return
    if path.is_dir() or _is_zip(path):
        raise UnusableScan(
            f"{path}: its only series is a {source.series.derivation.name}; give the original "
            f"slices, or, if it is meant, one of its files, such as {source.files[0].name}",
            "not HU",
        )


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Key that sorts names with numbers by the numbers: slice2 before slice10."""
    return [
        (0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part)
        for part in re.split(r"([0-9]{1,18}|/)", str(path))
        if part
    ]


def is_dicom_by_content(path: Path) -> bool:
    """Whether a file has DICOM's preamble, though its suffix is of another format."""
    if path.suffix.lower() not in (".hdr", ".img") or not path.is_file():
        return False
    with path.open("rb") as file:
        return has_preamble(file.read(MAGIC_BYTES))


def _series_of(path: Path) -> "tuple[list[ScanSource], _Found]":
    """The series of one DICOM file: in its folder, and in those beside it that begin with it."""
    named = _Found()
    named.add_path(path)
    named.raise_faults()
    uids = named.uids()
    if not uids:
        return [], named
    found = _Found()
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
    except OSError:  # what cannot be looked into holds no part of a series that can be read
        return []


class _Found:
    """DICOM files, and what lies beside them, of a folder or .zip.

    Attributes:
        headers: of the files that may be slices.
        others: what else there is, by folder, each with what it is.
        faults: what is wrong with a file that may be a slice of any series, by its folder.
    """

    def __init__(self) -> None:
        self.headers: list[DicomHeader] = []
        self.others: dict[Path, list[str]] = defaultdict(list)
        self.faults: dict[Path, UnusableScan] = {}

    def add_path(self, path: Path) -> None:
        """Add a file that is not in a .zip.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            self.others[path.parent].append(f"{path.name}: no regular file")
            return
        with path.open("rb") as file:
            head = file.read(MAGIC_BYTES)
        # pydicom takes a quarter of a second to import: only where there is DICOM.
        if not begins_like_dicom(head, status.st_size):
            self.others[path.parent].append(f"{path.name}: {_describe_strange(status.st_size)}")
            return
        from multi_abnormality.data.io.dicom_headers import Container, DicomFile

        with Container(path.parent) as container:
            self.add(container, DicomFile(path))

    def try_path(self, path: Path) -> None:
        """Add a file that is not in a .zip; what cannot be read is a fault of its folder."""
        try:
            self.add_path(path)
        except FileNotFoundError:
            self.others[path.parent].append(f"{path.name}: link to a file that is gone")
        except OSError as error:
            fault = f"{path}: cannot be read ({error.strerror}); check its permissions"
            self.faults.setdefault(path.parent, UnusableScan(fault, "damaged"))

    def add_folder(self, folder: Path, uids: set[str] | None = None) -> None:
        """Add the DICOM files of a folder without its subfolders.

        Args:
            folder: where they are; if it cannot be read, there are none.
            uids: SeriesInstanceUIDs; of a folder whose first file has another nothing is added.
        """
        before = len(self.headers)
        try:
            for path in _files(folder, with_subfolders=False):
                if _is_zip(path) or (suffix_of(path) and not is_dicom_by_content(path)):
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
            header = read_header(container, file)
        except UnusableScan as error:
            self.faults.setdefault(file.folder, error)
            return
        if header is None:
            what: str | None = _describe_strange(container.size(file))
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
        """SeriesInstanceUIDs of the files that may be slices."""
        return {header.text("SeriesInstanceUID") for header in self.headers}

    def raise_faults(self) -> None:
        """Raise what is wrong with a file."""
        for fault in self.faults.values():
            raise fault

    def sources(self, archive: Path | None = None) -> list[ScanSource]:
        """The series, grouped by SeriesInstanceUID and, without one, by folder.

        Args:
            archive: the .zip that all files are in, or None.
        """
        from multi_abnormality.data.io.dicom_series import build_series

        sources = []
        for headers in _group(self.headers, may_be_copies=archive is None):
            folders = sorted({header.file.folder for header in headers})
            path = archive or Path(os.path.commonpath(folders))
            others = [other for folder in folders for other in self.others[folder]]
            fault = next((self.faults[folder] for folder in folders if folder in self.faults), None)
            sources.append(ScanSource(path, build_series(headers, path, others, fault)))
        return _named(sources)


def _group(headers: "Iterable[DicomHeader]", may_be_copies: bool) -> "list[list[DicomHeader]]":
    """The files of each series.

    Args:
        headers: of all files.
        may_be_copies: two exports of one series, in folders of their own, are two scans.
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
    """What tells one image from another, also where a program gave all the same UID."""
    return header.text("SOPInstanceUID"), header.text("ImagePositionPatient")


def _named(sources: list[ScanSource]) -> list[ScanSource]:
    """The series with names of their own where a folder holds several."""
    series: dict[Path, list[DicomSeries]] = defaultdict(list)
    for source in sources:
        assert source.series is not None
        series[source.path].append(source.series)
    named = []
    for source in sources:
        assert source.series is not None
        numbers = [one.number for one in series[source.path]]
        has_numbers = None not in numbers and len(set(numbers)) == len(numbers)
        name = str(source.series.number) if has_numbers else source.series.uid
        named.append(replace(source, in_folder=name) if len(numbers) > 1 else source)
    return named


def _in_folder(folder: Path) -> tuple[list[ScanSource], _Found]:
    """The scans in a folder and below, and what else is there."""
    found = _Found()
    sources = []
    for path in _files(folder, with_subfolders=True):
        suffix = "" if is_dicom_by_content(path) else suffix_of(path)
        if suffix in SUFFIXES:
            sources.append(ScanSource(path))
        elif suffix:
            continue
        elif _is_zip(path):
            sources += _in_zip_below(path)
        else:
            found.try_path(path)
    sources += found.sources()
    if not found.headers and sources:
        for damaged in found.faults.values():
            log.warning("%s", damaged)
    return _sorted(sources), found


def _sorted(sources: list[ScanSource]) -> list[ScanSource]:
    return sorted(sources, key=lambda one: natural_key(one.path / one.in_folder))


def _members_of(path: Path) -> _Found:
    from multi_abnormality.data.io.dicom_headers import Container

    found = _Found()
    with Container(path) as container:
        for file in container.members():
            if any(part.startswith(".") for part in Path(file.member or "").parts):
                continue
            if _is_zip(Path(file.name)):
                found.others[file.folder].append(f"{file.name}: a .zip in a .zip")
            elif suffix_of(Path(file.name)) not in ("", ".hdr", ".img"):
                found.others[file.folder].append(f"{file.name}: a scan to be unpacked first")
            else:
                found.add(container, file)
    return found


def _in_zip_below(path: Path) -> list[ScanSource]:
    """The series in a .zip that was not named; a damaged one is a scan that cannot be read."""
    try:
        return _find(path)[0]
    except (UnusableScan, OSError):
        return [ScanSource(path)]


def _files(folder: Path, with_subfolders: bool, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Files in a folder and below, but not the hidden ones. Links are followed, in circles not.

    Raises:
        OSError: the folder itself cannot be read; of others it is logged.
    """
    real = folder.resolve()
    if real in above:
        return
    try:
        paths = sorted(folder.iterdir(), key=natural_key)
    except OSError as error:
        if not above:
            raise
        log.warning("%s: left out, it cannot be read (%s)", folder, error.strerror)
        return
    for path in paths:
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif with_subfolders:
            yield from _files(path, with_subfolders, (*above, real))


def _data_file(path: Path) -> Path | None:
    """The file beside a header that holds the voxels, where it is another and can be found."""
    suffix = suffix_of(path)
    if suffix in (".hdr", ".img"):
        other = ".img" if suffix == ".hdr" else ".hdr"
        beside = (path.with_suffix(other), path.with_suffix(other.upper()))
        return next((file for file in beside if file.is_file()), None)
    try:
        if suffix == ".mhd":
            from multi_abnormality.data.io import metaimage

            return metaimage.data_file(path)
        if suffix == ".nhdr":
            from multi_abnormality.data.io import nrrd

            return nrrd.data_file(path)
    except (UnusableScan, OSError):  # whoever reads the scan raises it again
        return None
    return None


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _describe_strange(size: int) -> str:
    return "no DICOM file" if size else "empty file"


def _describe(source: ScanSource) -> str:
    """One line about a scan, to choose by."""
    series = source.series
    if series is None:
        return str(source.path)
    parts = [f"{source.name}:", series.description or "(no description)"]
    if series.derivation.name:
        parts.append(f"({series.derivation.name})")
    if series.number is not None:
        parts.append(f"number {series.number},")
    parts.append(f"{len(series.slices)} slices,")
    if series.spacing is not None:
        parts.append(f"{' x '.join(f'{length:.3g}' for length in series.spacing)} mm,")
    parts.append(f"kernel {series.kernel or 'unknown'},")
    example = series.slices[0].header.file
    return " ".join([*parts, f"in {example}"]) + (f" ({series.problem})" if series.problem else "")


def _describe_nothing(path: Path, found: _Found) -> str:
    """What is there where no scan is.

    Raises:
        UnusableScan: what is wrong with a file that may be a slice.
    """
    formats = f"DICOM or one of {', '.join(SUFFIXES)}"
    found.raise_faults()
    others = [other for folder in found.others.values() for other in folder]
    if path.is_dir() or _is_zip(path):
        return f"{path}: holds no scan, {formats}" + (f"; {first_few(others)}" if others else "")
    what = others[0].partition(": ")[2] if others else "no slice of a CT volume"
    return f"{path}: is no scan ({what}); give {formats}"
