"""Which scans a path stands for: one rule for a file, a series, a folder and a .zip."""

import os
import re
import stat
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


def find_scans(path: Path) -> list[ScanSource]:
    """Everything that a path stands for, in natural order.

    A file of a known suffix is a scan. A DICOM file, whatever its name, stands for its series, of
    which the rest is sought in its folder; a .zip for the series in it; a folder for all scans in
    it and below. Names that begin with a dot are no scans.

    Raises:
        UnusableScan: a .zip that is damaged, encrypted or too large.
        OSError: the path does not exist or cannot be read.
    """
    if path.is_dir():
        return _in_folders([path])
    if suffix_of(path) and not is_dicom_by_content(path):
        return [ScanSource(path)]
    if _is_zip(path):
        return _in_zip(path)
    return _series_of(path)


def resolve_scan(path: Path) -> ScanSource:
    """The one scan that a path stands for.

    Of several series the only usable one is taken, with a warning.

    Raises:
        UnusableScan: there is none, or there are several.
        OSError: the path does not exist or cannot be read.
    """
    sources = find_scans(path)
    if len(sources) == 1:
        return sources[0]
    if not sources:
        raise UnusableScan(_describe_nothing(path), "not one 3D scan")
    usable = [source for source in sources if source.series is None or not source.series.problem]
    if len(usable) == 1:
        others = [_describe(source) for source in sources if source is not usable[0]]
        log.warning("%s: takes %s; left out %s", path, _describe(usable[0]), first_few(others))
        return usable[0]
    listed = "\n".join(f"  - {_describe(source)}" for source in sources[:50])
    raise UnusableScan(
        f"{path}: holds {len(sources)} scans; name one of them, or one file of a series:\n{listed}",
        "not one 3D scan",
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


def _series_of(path: Path) -> list[ScanSource]:
    """The series of one DICOM file: in its folder, and in those beside it that begin with it."""
    found = _Found()
    found.add_path(path)
    found.raise_faults()
    uids = found.uids()
    folder = path.absolute().parent
    beside = [
        other
        for other in _subfolders(folder.parent)
        if other != folder and uids & _first_uids(other) - {""}
    ]
    sources = _in_folders([path.parent, *beside], with_subfolders=False)
    return [
        source
        for source in sources
        if source.series is not None
        and source.series.uid in uids
        and any(one.header.file.folder == path.parent for one in source.series.slices)
    ]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")
    except OSError:  # what cannot be looked into holds no part of a series that can be read
        return []


def _first_uids(folder: Path) -> set[str]:
    """SeriesInstanceUID of the first DICOM file of a folder."""
    try:
        for path in _files(folder, with_subfolders=False):
            found = _Found()
            if not suffix_of(path) or is_dicom_by_content(path):
                found.add_path(path)
            if found.headers:
                return found.uids()
    except OSError:
        return set()
    return set()


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


def _in_folders(folders: list[Path], with_subfolders: bool = True) -> list[ScanSource]:
    found = _Found()
    sources = []
    for path in (path for folder in folders for path in _files(folder, with_subfolders)):
        suffix = "" if is_dicom_by_content(path) else suffix_of(path)
        if suffix in SUFFIXES:
            sources.append(ScanSource(path))
        elif suffix:
            continue
        elif _is_zip(path):
            sources += _in_zip_below(path)
        else:
            try:
                found.add_path(path)
            except FileNotFoundError:
                found.others[path.parent].append(f"{path.name}: link to a file that is gone")
            except OSError as error:
                fault = f"{path}: cannot be read ({error.strerror}); check its permissions"
                found.faults.setdefault(path.parent, UnusableScan(fault, "damaged"))
    sources += found.sources()
    if not found.headers:
        for damaged in found.faults.values():
            log.warning("%s", damaged)
    return sorted(sources, key=lambda one: natural_key(one.path / one.in_folder))


def _in_zip(path: Path) -> list[ScanSource]:
    found = _members_of(path)
    if not found.headers:
        found.raise_faults()
    return found.sources(path)


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
        return _in_zip(path)
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
    if series.number is not None:
        parts.append(f"number {series.number},")
    parts.append(f"{len(series.slices)} slices,")
    if series.spacing is not None:
        parts.append(f"{' x '.join(f'{length:.3g}' for length in series.spacing)} mm,")
    parts.append(f"kernel {series.kernel or 'unknown'},")
    example = series.slices[0].header.file
    return " ".join([*parts, f"in {example}"]) + (f" ({series.problem})" if series.problem else "")


def _describe_nothing(path: Path) -> str:
    """What is there where no scan is."""
    formats = f"DICOM or one of {', '.join(SUFFIXES)}"
    found = _members_of(path) if _is_zip(path) and not path.is_dir() else _Found()
    if path.is_dir():
        for file in _files(path, with_subfolders=True):
            found.add_path(file)
    elif not _is_zip(path):
        found.add_path(path)
    found.raise_faults()
    others = [other for folder in found.others.values() for other in folder]
    if path.is_dir() or _is_zip(path):
        return f"{path}: holds no scan, {formats}" + (f"; {first_few(others)}" if others else "")
    return f"{path}: is no scan ({others[0].partition(': ')[2]}); give {formats}"
