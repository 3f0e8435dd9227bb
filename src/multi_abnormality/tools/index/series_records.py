"""What the headers of a DICOM export say about each series, without what identifies a patient.

Series are found and grouped by data/io/scan_sources.py, as for training and prediction.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from multi_abnormality.data.io.dicom_frames import UNCOMPRESSED
from multi_abnormality.data.io.dicom_geometry import thickness_of
from multi_abnormality.data.io.dicom_headers import DicomHeader, DicomSlice
from multi_abnormality.data.io.dicom_pixels import pixel_format
from multi_abnormality.data.io.dicom_series import DicomSeries
from multi_abnormality.data.io.reader_registry import format_of, scan_suffixes, suffix_of
from multi_abnormality.data.io.scan_sources import DicomContents, ScanSource, is_zip, read_zip
from multi_abnormality.tools.index.identifiers import IDS, NAMES, Identifiers
from multi_abnormality.tools.index.pseudonyms import (
    Pseudonyms,
    name_pseudonym,
    patient_pseudonym,
    similar_id,
)
from multi_abnormality.utils.errors import InputError, UnusableScan

KEYWORDS = (
    "StudyInstanceUID", "StudyDate", "Manufacturer", "ManufacturerModelName", "PatientAge",
    "PatientSex", "IssuerOfPatientID", *NAMES, *IDS,
)  # fmt: skip
MIN_COSINE = 0.8  # of the angle between slices and axial ones: a gantry tilts by up to 30 degrees
MAX_KIND = 80  # characters of the name of a kind of file
MAX_AGE = 90  # years; higher ages identify people
_ESCAPE = "\x1b"  # begins a change of the character set
_AGE = re.compile(r"0*(\d+)([DWMY])")
_PER_YEAR = {"D": 365, "W": 52, "M": 12, "Y": 1}


@dataclass(frozen=True)
class SeriesRecord:
    """A series of an export; texts are "" where unknown."""

    key: str  # pseudonym
    uid: str  # SeriesInstanceUID
    path: str  # folder or .zip that contains all its files, relative to the export
    first_file: str  # relative to the export
    folders: list[str]  # that contain its files
    in_zip: bool
    names_patient: bool  # whether its paths contain the patient's name or id
    study: str  # pseudonym
    patient: str  # pseudonym
    patient_any_issuer: str  # pseudonym of the id without its issuer
    similar_id: str  # pseudonym of the id without case, spaces and leading zeros
    name: str  # pseudonym of the name
    birth: str  # pseudonym of the date of birth
    study_date: str  # YYYY-MM-DD
    number: str
    description: str
    modality: str
    body_part: str
    manufacturer: str
    model: str
    kernel: str
    thickness: str  # mm
    age: str  # years
    sex: str
    slices: int
    spacing: float | None  # mm, between slices; None if there is a problem
    is_axial: bool
    derivation: str  # how it was computed from other slices
    problem: str  # why it is not a usable CT volume

    @property
    def length(self) -> float:
        """Return the length along the body, mm."""
        return self.slices * (self.spacing or 0.0)


@dataclass
class Contents:
    """Content of some files of an export. Paths are relative to the export.

    Attributes:
        records: the DICOM series.
        files: files of each series that is not in a .zip, by its key.
        others: number of other files, by kind.
        damaged: files that cannot be read, each with the reason.
        scans: scans of other formats and .zip.
    """

    records: list[SeriesRecord] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    scans: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        content = vars(self) | {"records": [vars(record) for record in self.records]}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Contents":
        content: dict[str, Any] = json.loads(text)
        return cls(
            [
                SeriesRecord(**row | {"folders": tuple(row["folders"])})
                for row in content["records"]
            ],
            content["files"],
            Counter(content["others"]),
            [(path, reason) for path, reason in content["damaged"]],
            content["scans"],
        )


def read_contents(root: str, names: Sequence[str], pseudonyms: Pseudonyms) -> str:
    """Read the headers of some files.

    Args:
        root: folder of the export.
        names: paths below it.
        pseudonyms: pseudonyms of patients and studies.

    Returns:
        JSON of the Contents, which is quicker to pass between processes.
    """
    export, contents, found = Path(root), Contents(), DicomContents(KEYWORDS)
    for name in names:
        path = export / name
        try:
            if is_zip(path):
                _add_zip(path, name, export, contents, pseudonyms)
                continue
            if known := format_of(path):
                if suffix_of(path) in scan_suffixes():
                    contents.scans.append(name)
                    contents.others[f"{known.name} file"] += 1
                continue
        except OSError as error:
            contents.damaged.append((name, f"cannot be read ({error.strerror})"))
            continue
        one = DicomContents(KEYWORDS)
        one.try_path(path)
        _count_others(one, contents)
        contents.damaged += [(name, _reason(fault, path)) for fault in one.faults.values()]
        found.headers += [] if one.faults else one.headers
        found.faults |= one.faults
    _add_series(found, None, export, contents, pseudonyms)
    return contents.to_json()


def _add_zip(
    path: Path, name: str, export: Path, contents: Contents, pseudonyms: Pseudonyms
) -> None:
    contents.scans.append(name)
    try:
        found = read_zip(path, KEYWORDS)
    except UnusableScan as error:
        contents.damaged.append((name, _reason(error, path)))
        return
    _count_others(found, contents)
    for folder, fault in found.faults.items():
        contents.damaged.append((_relative(folder, export), _reason(fault, path)))
    _add_series(found, path, export, contents, pseudonyms)


def _count_others(found: DicomContents, contents: Contents) -> None:
    for others in found.others.values():
        for other in others:
            kind = other.rpartition(": ")[2]
            is_whole = kind.isprintable() and len(kind) <= MAX_KIND
            contents.others[kind if is_whole else "damaged DICOM file"] += 1


def _add_series(
    found: DicomContents,
    archive: Path | None,
    export: Path,
    contents: Contents,
    pseudonyms: Pseudonyms,
) -> None:
    for header in found.headers if archive is None else ():
        name = _relative(header.file.path, export)
        contents.files.setdefault(_key(header, export, pseudonyms), []).append(name)
    contents.records += [
        _record(source, archive is not None, export, pseudonyms)
        for source in found.sources(archive)
    ]


def _key(header: DicomHeader, export: Path, pseudonyms: Pseudonyms) -> str:
    """Return the pseudonym of a file's series; a .zip is searched on its own."""
    uid = header.text("SeriesInstanceUID")
    place = "" if uid else _relative(header.file.folder, export)
    archive = "" if header.file.member is None else _relative(header.file.path, export)
    return pseudonyms.of("R", uid, place, archive)


def _record(source: ScanSource, in_zip: bool, export: Path, pseudonyms: Pseudonyms) -> SeriesRecord:
    series = source.series
    assert series is not None
    first = series.slices[0]
    header = first.header
    identifiers = Identifiers.of(dict.fromkeys(one.header for one in series.slices))

    def clean(text: str) -> str:
        """Return a text for a table, without identifiers."""
        # A spreadsheet would run a cell that begins with these as a formula.
        return re.sub(r"^[=+\-@\s]+", "", identifiers.remove_from(text)).strip()

    def label(keyword: str) -> str:
        return clean(_label(first, keyword))

    patient, any_issuer = patient_pseudonym(header, pseudonyms)
    key = _key(header, export, pseudonyms)
    folders = {one.header.file.folder for one in series.slices}
    problem = "" if series.problem is None else _reason(series.problem, source.path, folders)
    files = [_relative(one.header.file.path, export) for one in series.slices]
    first_file = min(files)
    birth = header.label("PatientBirthDate")
    return SeriesRecord(
        key=key,
        uid=series.uid if re.fullmatch(r"[0-9.]+", series.uid) else "",
        path=_relative(source.path, export),
        first_file=first_file,
        folders=sorted({parent_of(name) for name in files}),
        in_zip=in_zip,
        names_patient=identifiers.are_in(first_file),
        study=pseudonyms.of("S", header.text("StudyInstanceUID") or key),
        patient=patient or pseudonyms.of("P", header.text("StudyInstanceUID") or key, "", "study"),
        patient_any_issuer=any_issuer,
        similar_id=similar_id(header, pseudonyms),
        name=name_pseudonym(header, pseudonyms),
        birth=pseudonyms.of("B", birth) if birth else "",
        study_date=_date(header.text("StudyDate")),
        number="" if series.number is None else str(series.number),
        description=label("SeriesDescription"),
        modality=_label(first, "Modality"),
        body_part=label("BodyPartExamined"),
        manufacturer=label("Manufacturer"),
        model=label("ManufacturerModelName"),
        kernel=label("ConvolutionKernel"),
        thickness=thickness_of(first),
        age=_age(header),
        sex=label("PatientSex")[:1],
        slices=len(series.slices),
        spacing=None if series.spacing is None else round(series.spacing[0], 4),
        is_axial=_is_axial(series),
        derivation=series.derivation.name,
        problem=clean(problem or _truncation(series.slices)),
    )


def _label(one: DicomSlice, keyword: str) -> str:
    """Return a text tag of a slice; "" if its length is damaged, so that it contains other tags."""
    text = one.text(keyword)
    if any(ord(character) < ord(" ") and character != _ESCAPE for character in text):
        return ""
    return one.header.label(keyword) or text.replace("\\", " ").strip()


def parent_of(name: str) -> str:
    """Return the folder of a path below the export, "" for the export itself."""
    return os.path.dirname(name)  # noqa: PTH120


def _relative(path: Path, export: Path) -> str:
    return path.relative_to(export).as_posix()


def _reason(error: InputError, path: Path, folders: Iterable[Path] = ()) -> str:
    """Return what is wrong, without folders, fix, and the texts of libraries, which may be values.

    Args:
        error: the error.
        path: what the message may begin with.
        folders: folders whose files the message may name.
    """
    text = str(error).removeprefix(f"{path}: ")
    for folder in sorted({path.parent, *folders}, key=lambda one: -len(str(one))):
        text = text.replace(f"{folder}/", "")
    text = re.sub(r"(is a damaged [^(;]*?) \(.*", r"\1", text.partition("; ")[0])
    text = re.sub(r"(['\"]).*\1", "invalid", text)
    return text if text.isprintable() else f"unusable: {getattr(error, 'reason', 'damaged')}"


def _truncation(slices: Sequence[DicomSlice]) -> str:
    """Return an error if an uncompressed file of a volume is shorter than its pixels."""
    form = pixel_format(slices[0])
    for header, count in Counter(one.header for one in slices).items():
        if header.pixels_at is None or header.syntax not in UNCOMPRESSED:
            continue
        bits = header.integer("BitsAllocated") or form.allocated
        tag_and_length = 8 if header.encoding[0] else 12
        needed = tag_and_length + count * form.rows * form.columns * bits // 8
        if header.size - header.pixels_at < needed:
            return f"{header.file.name} is truncated"
    return ""


def _is_axial(series: DicomSeries) -> bool:
    """Return whether the slices are stacked along the body; unknown counts as such."""
    if series.affine is None:
        return True
    normal = np.cross(series.affine[:3, 0], series.affine[:3, 1])
    return bool(abs(normal[2]) >= MIN_COSINE * np.linalg.norm(normal))


def _date(text: str) -> str:
    found = re.fullmatch(r"(\d{4})[.]?(\d\d)[.]?(\d\d)", text)
    return "-".join(found.groups()) if found else ""


def _age(header: DicomHeader) -> str:
    """Return the age in years at the study, at most MAX_AGE."""
    if found := _AGE.fullmatch(header.label("PatientAge").upper()):
        years = int(found[1]) // _PER_YEAR[found[2]]
    else:
        birth, study = (
            _date(header.text(keyword)).replace("-", "")
            for keyword in ("PatientBirthDate", "StudyDate")
        )
        if not birth or not study or birth > study:
            return ""
        years = (int(study) - int(birth)) // 10_000
    return str(min(years, MAX_AGE))
