"""Choice of one chest CT series of each study, as docs/how-to/pacs-export.md describes it."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from multi_abnormality.data.io.scan_sources import natural_key
from multi_abnormality.inference.input_scans import is_other_body_part
from multi_abnormality.tools.index.scan_paths import TablePath
from multi_abnormality.tools.index.series_records import SeriesRecord

LENGTHS = (150.0, 500.0)  # mm: a chest; less is a part of one, more also an abdomen or a head
THIN = 3.0  # mm between slices; among thinner ones, the kernel counts more than the spacing
SOFT, UNKNOWN, SHARP = range(3)
KERNELS = ("soft kernel", "kernel of unknown sharpness", "sharp kernel")

_SHARP = re.compile(r"LUNG|BONE|EDGE|SHARP|HRCT|ULTRA|^(?:D|E|L|Y[CDE])$")
_SOFT = re.compile(r"SOFT|SMOOTH|STAND|STND|STD|BODY|CHST|^(?:A|B|C|SB)$")
_SIEMENS = re.compile(r"^[BDHIQTU][A-Z]?(\d\d)")
_CANON = re.compile(r"^FC(\d\d)")
SHARP_SIEMENS, SHARP_CANON = 50, 30  # lowest numbers of sharp kernels of the body


class Reason(NamedTuple):
    """Why a series is chosen or not."""

    kind: str  # for counts
    text: str


class Decision(NamedTuple):
    """A series, and whether it is chosen."""

    record: SeriesRecord
    path: str  # in the table
    is_chosen: bool
    reason: Reason


def choose(records: Sequence[SeriesRecord], paths: Sequence[TablePath]) -> list[Decision]:
    """Decide for each series whether it is the one of its study; a study may have none.

    Args:
        records: series of an export.
        paths: path of each series in the table.

    Returns:
        Decisions in natural order of the paths.
    """
    patients: dict[str, dict[str, str]] = defaultdict(dict)  # pseudonyms by study and id
    for record in records:
        if record.patient_any_issuer:
            patients[record.study].setdefault(record.patient_any_issuer, record.patient)
    studies: dict[str, list[tuple[SeriesRecord, str]]] = defaultdict(list)
    decisions = []
    for record, (path, problem) in zip(records, paths, strict=True):
        reason = reason_against(record)
        if reason is None and len(patients[record.study]) > 1:
            reason = Reason("several patients in a study", "its study has several patients")
        if reason is None and problem:
            reason = Reason("path", problem)
        if reason is None:
            if not record.patient_any_issuer and patients[record.study]:  # others name the patient
                ((any_issuer, patient),) = patients[record.study].items()
                record = replace(record, patient=patient, patient_any_issuer=any_issuer)
            studies[record.study].append((record, path))
        else:
            decisions.append(Decision(record, path, False, reason))
    for candidates in studies.values():
        decisions += _prefer(candidates)
    return sorted(decisions, key=lambda one: (natural_key(Path(one.path)), one.record.uid))


def reason_against(record: SeriesRecord) -> Reason | None:
    """Return why a series is no candidate, or None."""
    shortest, longest = LENGTHS
    if record.modality not in ("", "CT"):
        return Reason(f"not CT ({record.modality})", f"not CT but {record.modality}")
    if "localizer" in record.problem:
        return Reason("localizer", "localizer")
    if record.problem:
        return Reason("not a usable volume", record.problem)
    if record.derivation:
        return Reason(record.derivation, record.derivation)
    if not record.is_axial:
        return Reason("not axial", "not axial")
    if is_other_body_part(record.body_part):
        return Reason("another body part", f"body part {record.body_part}")
    if record.length < shortest:
        text = f"covers {record.length:.0f} mm, less than {shortest:.0f} mm"
        return Reason("too short", text)
    if record.length > longest:
        text = f"covers {record.length:.0f} mm, more than a chest ({longest:.0f} mm)"
        return Reason("longer than a chest", text)
    return None


def sharpness(kernel: str) -> int:
    """Return SOFT, SHARP or UNKNOWN for a vendor's name of a convolution kernel."""
    for name in re.split(r"[\s\\]+", kernel.upper()):
        if _SHARP.search(name):
            return SHARP
        if _SOFT.search(name):
            return SOFT
        for pattern, limit in ((_SIEMENS, SHARP_SIEMENS), (_CANON, SHARP_CANON)):
            if found := pattern.match(name):
                return SHARP if int(found[1]) >= limit else SOFT
    return UNKNOWN


def _prefer(candidates: Sequence[tuple[SeriesRecord, str]]) -> Iterator[Decision]:
    ranked = [(_criteria(*one), *one) for one in candidates]
    ranked.sort(key=lambda one: [value for value, _ in one[0]])
    best, first, first_path = ranked[0]
    why = _difference(best, ranked[1][0]) if len(ranked) > 1 else "the only candidate"
    yield Decision(first, first_path, True, Reason("chosen", why))
    for criteria, record, path in ranked[1:]:
        why = f"{_difference(criteria, best)}; chosen: {first_path}"
        yield Decision(record, path, False, Reason("another series is preferred", why))


def _criteria(record: SeriesRecord, path: str) -> list[tuple[Any, str]]:
    """Return what series are compared by, the most important first, each with a text.

    Lower values are better. The last is unique, so that there is always a difference.
    """
    spacing, kernel = record.spacing or 0.0, sharpness(record.kernel)
    distance = f"{spacing:g} mm between slices"
    return [
        (spacing > THIN, distance),
        (kernel, KERNELS[kernel]),
        (spacing, distance),
        (-record.slices, f"{record.slices} slices"),
        (record.uid, "order of SeriesInstanceUID"),
        (natural_key(Path(path)), "copy of one series"),
    ]


def _difference(own: list[tuple[Any, str]], other: list[tuple[Any, str]]) -> str:
    """Return the text of the first criterion that two series differ in."""
    pairs = zip(own, other, strict=True)
    return next((one[1] for one, another in pairs if one[0] != another[0]), own[-1][1])
