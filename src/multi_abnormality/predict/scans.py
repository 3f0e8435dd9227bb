"""Scans and DICOM series that the paths of a command line stand for."""

import glob
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from multi_abnormality.console import console, describe_failure, escape_path, log, printable
from multi_abnormality.data.io import scan_sources
from multi_abnormality.data.io.scan_sources import ScanSource
from multi_abnormality.errors import InputError, first_few
from multi_abnormality.predict.names import absolute

if TYPE_CHECKING:
    from multi_abnormality.data.io.dicom_series import DicomSeries

MIN_SLICES = 10  # fewer with a problem are a localizer, a screenshot or a test image

# Parts of Body Part Examined: of regions that show no chest, or only its edge.
_OTHER_BODY_PART = re.compile(
    r"HEAD|BRAIN|SKULL|FACE|ORBIT|SINUS|JAW|\bEAR|NECK|LARYNX|[CL]-?SPINE|CERVICAL|LUMBAR|SACRUM|"
    r"PELVIS|HIP|LEG|THIGH|FEMUR|KNEE|ANKLE|FOOT|FEET|TOE|\bARM|HUMERUS|ELBOW|WRIST|HAND|FINGER|"
    r"EXTREMITY|PROSTATE|BLADDER|COLON"
)
_CHEST = re.compile(r"CHEST|THORA|LUNG|HEART|CARDIAC|CORONARY|AORTA|TRUNK|BODY")


class Found(NamedTuple):
    """Scans to predict, and what is wrong.

    Attributes:
        scans: those to predict.
        faults: an error for each path that stands for none.
        unused: an error for each value of --series that fits none.
    """

    scans: list[ScanSource]
    faults: list[str]
    unused: list[str]


def find_scans(given: Iterable[Path], series: Sequence[str] = ()) -> Found:
    """Find the scans in files, folders and patterns such as "in/**/*.nii.gz", none twice.

    A folder stands for the scans in it and below. If it holds several DICOM series, a table of them
    is printed, and those are taken that may be CT of a chest: of several the scanner's own slices,
    never a projection, which has to be chosen. A link is a scan of its own: two
    patients' may lead to one file.

    Args:
        given: paths and patterns.
        series: SeriesInstanceUID, number or description of the DICOM series to take; the scans of
            other formats are taken anyway.
    """
    found: dict[tuple[Path, str], ScanSource] = {}
    faults: list[str] = []
    unused = set(series)
    for path in given:
        sources = _sources(path, faults)
        unused -= {value for value in series for one in sources if _matches(one.series, value)}
        chosen = _choose(path, sources, series, faults)
        for source in chosen:
            uid = source.series.uid if source.series else ""
            found.setdefault((absolute(source.path), uid), source)
    errors = [
        f"--series {value}: there is no such series; give its number, description or "
        "SeriesInstanceUID, as predict lists them without --series"
        for value in sorted(unused)
    ]
    return Found(list(found.values()), faults, errors)


def _sources(given: Path, faults: list[str]) -> list[ScanSource]:
    """Everything that a path or pattern stands for; what cannot be read is added to the faults."""
    sources = []
    is_pattern = glob.has_magic(str(given)) and not given.exists()
    for path in _matching(given) if is_pattern else [given]:
        try:
            sources += scan_sources.require_scans(path)
        except InputError as error:
            if not is_pattern:  # "in/*" also matches what is no scan
                faults.append(escape_path(str(error), path))
        except OSError as error:
            name = printable(str(error.filename or path))
            faults.append(f"{name}: cannot be read ({error.strerror or error})")
        except Exception as error:  # the other paths need not suffer
            faults.append(escape_path(describe_failure(path, error), path))
    if is_pattern and not sources:
        faults.append(f"{given}: no scan fits this pattern")
    return sources


def _matching(pattern: Path) -> Iterator[Path]:
    """Paths that match a pattern, sorted; of a folder and what is in it only the folder."""
    # Path.glob takes no absolute pattern.
    matches = map(Path, sorted(glob.glob(str(pattern), recursive=True)))  # noqa: PTH207
    last: Path | None = None
    for path in matches:
        if last is None or not path.is_relative_to(last):
            yield path
            last = path if path.is_dir() else last


def _choose(
    given: Path, sources: list[ScanSource], series: Sequence[str], faults: list[str]
) -> list[ScanSource]:
    """The scans to predict. One DICOM series alone is never passed over in silence."""
    count = sum(source.series is not None for source in sources)
    reasons = [
        _reason_against(source.series, series, is_alone=count == 1) if source.series else None
        for source in sources
    ]
    if not series:
        reasons = _prefer_originals(sources, reasons)
    if count > 1 and log.isEnabledFor(logging.INFO):
        _print_series(given, sources, reasons)
    chosen = [one for one, reason in zip(sources, reasons, strict=True) if reason is None]
    if sources and not chosen and not series:
        why = first_few(list(dict.fromkeys(reason for reason in reasons if reason)))
        faults.append(
            f"{given}: none of its {count} DICOM series seems to be a CT of the chest ({why}); "
            "choose one by --series"
        )
    return chosen


def _prefer_originals(
    sources: Sequence[ScanSource], reasons: Sequence[str | None]
) -> list[str | None]:
    """Also leave out what was computed from others, where these are there."""
    names = [one.series.derivation.name if one.series else "" for one in sources]
    has_original = any(
        one.series is not None and not name and reason is None and one.series.problem is None
        for one, name, reason in zip(sources, names, reasons, strict=True)
    )
    return [
        f"{name}, not the original" if reason is None and name and has_original else reason
        for name, reason in zip(names, reasons, strict=True)
    ]


def _reason_against(series: "DicomSeries", chosen: Sequence[str], is_alone: bool) -> str | None:
    """Why a series is not predicted."""
    if chosen:
        return None if any(_matches(series, one) for one in chosen) else "not chosen by --series"
    if series.derivation.is_projection:
        return series.derivation.name
    if is_alone:
        return None
    if series.modality not in ("", "CT"):
        return f"modality {series.modality}"
    body_part = series.body_part.upper()
    if _OTHER_BODY_PART.search(body_part) and not _CHEST.search(body_part):
        return f"body part {series.body_part}"
    if series.problem and len(series.slices) < MIN_SLICES:
        return series.problem.partition("; ")[0].rpartition(": ")[2]  # neither path nor remedy
    return None


def _matches(series: "DicomSeries | None", value: str) -> bool:
    if series is None:
        return False
    value = value.strip()
    is_number = value.isascii() and value.isdecimal() and int(value) == series.number
    return (
        is_number
        or value in (series.uid, str(series.number))
        or (value.casefold() == series.description.casefold() != "")
    )


def _print_series(
    given: Path, sources: Sequence[ScanSource], reasons: Sequence[str | None]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(f"DICOM series in {printable(str(given))}"), title_justify="left", box=None,
        pad_edge=False,
    )  # fmt: skip
    columns = ("Scan", "No.", "Description", "Slices", "Spacing (mm)", "Kernel", "Predicted")
    for header in columns:
        table.add_column(header, overflow="fold")  # an ellipsis is not in every encoding
    for source, reason in zip(sources, reasons, strict=True):
        if series := source.series:
            spacing = " x ".join(f"{one:.3g}" for one in series.spacing or ()) or "unknown"
            cells = (
                source.name, "" if series.number is None else str(series.number),
                series.description, str(len(series.slices)), spacing, series.kernel,
                f"no: {reason}" if reason else "yes",
            )  # fmt: skip
            table.add_row(*(Text(printable(cell)) for cell in cells))
    # In a file each series has one line.
    screen = console.rich if console.is_terminal else Console(stderr=True, width=250)
    screen.print(table)
