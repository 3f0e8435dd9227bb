"""Warnings of patients that may be others than their ids say, without naming them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from multi_abnormality.tools.index.series_choice import Decision
from multi_abnormality.tools.index.series_records import SeriesRecord
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import first_few, plural


def warn_of_patients(records: Sequence[SeriesRecord], chosen: Sequence[Decision]) -> None:
    """Log what may be wrong with patients, with their pseudonyms and paths."""
    if unknown := len({one.record.study for one in chosen if not one.record.patient_any_issuer}):
        log.warning(
            "%s no patient: each counts as a patient of its own, whose scans may land in train and "
            "test", plural(unknown, "study names", "studies name"),
        )  # fmt: skip
    identified = [one for one in records if one.patient_any_issuer]
    for title, pairs in (
        ("dates of birth", [(one.patient, one.birth) for one in identified if one.birth]),
        ("names", [(one.patient, one.name) for one in identified if one.name]),
    ):
        if several := _several(pairs):
            log.warning(
                "%s several %s: placeholders such as ANON make one patient of many; see %s",
                plural(len(several), "patient id has", "patient ids have"), title,
                _listed(several, records),
            )  # fmt: skip
    without_id = {one.patient: one.name for one in identified if not one.similar_id}
    if len(without_id) > 1:
        log.warning(
            "%d patients have no id: they are distinguished by name and date of birth; see %s",
            len(without_id), _listed(without_id, records),
        )  # fmt: skip
    any_issuer = [(one.similar_id, one.patient_any_issuer) for one in identified if one.similar_id]
    if similar := _several(any_issuer):
        patients = {one.patient: None for one in identified if one.similar_id in similar}
        log.warning(
            "%s in several ways, which differ in case, spaces or leading zeros, and so has "
            "several pseudonyms; use one in the column patient if that is one patient; see %s",
            plural(len(similar), "patient id is written", "patient ids are written"),
            _listed(patients, records),
        )  # fmt: skip
    if several := _several((one.patient_any_issuer, one.patient) for one in identified):
        log.warning(
            "%s several issuers, or one only in some studies, and so several pseudonyms; use one "
            "issuer for each patient", plural(len(several), "patient id has", "patient ids have"),
        )  # fmt: skip
    if several := _several((one.study, one.patient_any_issuer) for one in identified):
        studies = plural(len(several), "study has", "studies have")
        log.warning("%s series of several patients: left out", studies)


def _several(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the keys that have several values."""
    found: dict[str, set[str]] = defaultdict(set)
    for key, value in pairs:
        found[key].add(value)
    return [key for key, values in found.items() if len(values) > 1]


def _listed(patients: Iterable[str], records: Sequence[SeriesRecord]) -> str:
    """Return pseudonyms, each with the files of its studies, if their paths do not name it."""
    paths: dict[str, dict[str, str]] = {patient: {} for patient in patients}  # by study
    for record in records:
        if record.patient in paths and not record.names_patient:
            paths[record.patient].setdefault(record.study, record.first_file)
    return first_few(
        [
            f"{patient} ({first_few(list(found.values()), 2)})" if found else patient
            for patient, found in paths.items()
        ]
    )
