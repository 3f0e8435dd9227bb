"""Discovery of scans and DICOM series in the paths of a command line."""

import glob
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from multi_abnormality.data.io import scan_sources
from multi_abnormality.data.io.scan_sources import ScanSource
from multi_abnormality.inference.scan_id import absolute
from multi_abnormality.utils.console import console, describe_failure, escape_path, log, printable
from multi_abnormality.utils.errors import InputError, first_few

if TYPE_CHECKING:
    from multi_abnormality.data.io.dicom_series import DicomSeries

MIN_SLICES = 10  # a series with fewer and a problem is a localizer, screenshot or test image

# Parts of the tag Body Part Examined for regions without the chest, or with its edge only.
_OTHER_BODY_PART = re.compile(
    r"HEAD|BRAIN|SKULL|FACE|ORBIT|SINUS|JAW|\bEAR|NECK|LARYNX|[CL]-?SPINE|CERVICAL|LUMBAR|SACRUM|"
    r"PELVIS|HIP|LEG|THIGH|FEMUR|KNEE|ANKLE|FOOT|FEET|TOE|\bARM|HUMERUS|ELBOW|WRIST|HAND|FINGER|"
    r"EXTREMITY|PROSTATE|BLADDER|COLON"
)
_CHEST = re.compile(r"CHEST|THORA|LUNG|HEART|CARDIAC|CORONARY|AORTA|TRUNK|BODY")


class FoundScans(NamedTuple):
    """Scans to predict, and errors."""

    scans: list[ScanSource]
    faults: list[str]  # one error per path without a scan
    unused: list[str]  # one error per value of --series without a match


def find_scans(given: Iterable[Path | str] | Path | str, series: Sequence[str] = ()) -> FoundScans:
    """Find the scans in files, folders and patterns such as "in/**/*.nii.gz", without duplicates.

    A folder is searched recursively. If it holds several DICOM series, a table of them is printed,
    and those that may be CT of a chest are selected: original slices before reformatted ones, and
    projections only by `series`. Links are separate scans, since those of two patients may lead to
    one file.

    Args:
        given: paths and patterns, or a single one.
        series: SeriesInstanceUID, number or description of the DICOM series to select; scans of
            other formats are always selected.
    """
    found: dict[tuple[Path, str], ScanSource] = {}
    faults: list[str] = []
    unused = set(series)
    for path in map(Path, [given] if isinstance(given, Path | str) else given):
        sources = _sources(path, faults)
        unused -= {
            value for value in series for source in sources if _matches(source.series, value)
        }
        chosen = _choose(path, sources, series, faults)
        for source in chosen:
            uid = source.series.uid if source.series else ""
            found.setdefault((absolute(source.path), uid), source)
    errors = [
        f"--series {value}: there is no such series; give its number, description or "
        "SeriesInstanceUID, as predict lists them without --series"
        for value in sorted(unused)
    ]
    return FoundScans(list(found.values()), faults, errors)


def _sources(given: Path, faults: list[str]) -> list[ScanSource]:
    """Return all scans of a path or pattern; errors are appended to `faults`."""
    sources = []
    is_pattern = glob.has_magic(str(given)) and not given.exists()
    for path in _matching(given) if is_pattern else [given]:
        try:
            sources += scan_sources.require_scans(path)
        except ModuleNotFoundError:  # of every scan
            raise
        except InputError as error:
            if not is_pattern:  # "in/*" also matches other files
                faults.append(escape_path(str(error), path))
        except OSError as error:
            name = printable(str(error.filename or path))
            faults.append(f"{name}: cannot be read ({error.strerror or error})")
        except Exception as error:
            faults.append(escape_path(describe_failure(path, error), path))
    if is_pattern and not sources:
        faults.append(f"{given}: no scan matches this pattern")
    return sources


def _matching(pattern: Path) -> Iterator[Path]:
    """Yield the paths that match a pattern, sorted; not those in a folder that matches as well."""
    # Path.glob does not accept absolute patterns.
    matches = map(Path, sorted(glob.glob(str(pattern), recursive=True)))  # noqa: PTH207
    last: Path | None = None
    for path in matches:
        if last is None or not path.is_relative_to(last):
            yield path
            last = path if path.is_dir() else last


def _choose(
    given: Path, sources: list[ScanSource], series: Sequence[str], faults: list[str]
) -> list[ScanSource]:
    """Select the scans to predict; if no DICOM series is selected, append an error."""
    count = sum(source.series is not None for source in sources)
    reasons = [
        _reason_against(source.series, series, is_alone=count == 1) if source.series else None
        for source in sources
    ]
    if not series:
        reasons = _prefer_originals(sources, reasons)
    if count > 1 and log.isEnabledFor(logging.INFO):
        _print_series(given, sources, reasons)
    chosen = [source for source, reason in zip(sources, reasons, strict=True) if reason is None]
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
    """Also leave out derived series if an original one is selected."""
    names = [source.series.derivation.name if source.series else "" for source in sources]
    has_original = any(
        source.series is not None and not name and reason is None and source.series.problem is None
        for source, name, reason in zip(sources, names, reasons, strict=True)
    )
    return [
        f"{name}, not the original" if reason is None and name and has_original else reason
        for name, reason in zip(names, reasons, strict=True)
    ]


def _reason_against(series: "DicomSeries", chosen: Sequence[str], is_alone: bool) -> str | None:
    """Return why a series is not predicted, or None."""
    if chosen:
        is_chosen = any(_matches(series, value) for value in chosen)
        return None if is_chosen else "not chosen by --series"
    if series.derivation.is_projection:
        return series.derivation.name
    if is_alone:
        return None
    if series.modality not in ("", "CT"):
        return f"modality {series.modality}"
    if is_other_body_part(series.body_part):
        return f"body part {series.body_part}"
    if series.problem and len(series.slices) < MIN_SLICES:
        return str(series.problem).partition("; ")[0].rpartition(": ")[2]  # without path and fix
    return None


def is_other_body_part(body_part: str) -> bool:
    """Return whether BodyPartExamined names a region without the chest; unknown values do not."""
    name = body_part.upper()
    return bool(_OTHER_BODY_PART.search(name)) and not _CHEST.search(name)


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
        table.add_column(header, overflow="fold")  # not every encoding has an ellipsis
    for source, reason in zip(sources, reasons, strict=True):
        if series := source.series:
            spacing = " x ".join(f"{mm:.3g}" for mm in series.spacing or ()) or "unknown"
            cells = (
                source.name, "" if series.number is None else str(series.number),
                series.description, str(len(series.slices)), spacing, series.kernel,
                f"no: {reason}" if reason else "yes",
            )  # fmt: skip
            table.add_row(*(Text(printable(cell)) for cell in cells))
    # In a file, one line per series.
    screen = console.rich if console.is_terminal else Console(stderr=True, width=250)
    screen.print(table)
