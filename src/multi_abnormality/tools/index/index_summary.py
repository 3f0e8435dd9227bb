"""Counts of an export, and what a run logs of them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multi_abnormality.tools.index.series_choice import Decision
from multi_abnormality.tools.index.series_records import Contents
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import first_few, plural


def summarize(contents: Contents, decisions: Sequence[Decision], files: int) -> dict[str, Any]:
    """Count files, series, studies and patients, and the reasons against series."""
    records = contents.records
    against = Counter(one.reason.kind for one in decisions if not one.is_chosen)
    studies = {record.study for record in records}
    with_scan = {one.record.study for one in decisions if one.is_chosen}
    return {
        "files": files,
        "series": len(records),
        "studies": len(studies),
        "patients": len({record.patient for record in records}),
        "chosen": len(with_scan),
        "studies_without": len(studies - with_scan),
        "not_chosen": _counts(against),
        "other_files": _counts(contents.others),
        "damaged_files": len(contents.damaged),
    }


def _counts(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda one: (-one[1], one[0])))


def _listed(counts: dict[str, int]) -> str:
    return first_few([f"{kind} ({count})" for kind, count in counts.items()], 10)


def log_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Log the result of `summarize`."""
    log.info(
        "%s: %s, %d series in %s of %s; %d series chosen, %s without one",
        folder, plural(summary["files"], "file", "files"), summary["series"],
        plural(summary["studies"], "study", "studies"),
        plural(summary["patients"], "patient", "patients"), summary["chosen"],
        plural(summary["studies_without"], "study", "studies"),
    )  # fmt: skip
    if summary["not_chosen"]:
        log.info("series that are not chosen: %s", _listed(summary["not_chosen"]))
    if summary["other_files"]:
        log.info("files that are no slices: %s", _listed(summary["other_files"]))


def describe_nothing(folder: Path, summary: dict[str, Any], series_table: Path) -> str:
    """Return the error for an export without a series to choose."""
    if not summary["files"]:
        return f"{folder}: holds no files; name the folder of the export"
    found = [
        f"{title}: {_listed(summary[key])}"
        for key, title in (("not_chosen", "series"), ("other_files", "other files"))
        if summary[key]
    ]
    if summary["damaged_files"]:
        found.append(f"damaged files: {summary['damaged_files']}")
    return (
        f"{folder}: holds no series of chest CT that can be used, in "
        f"{plural(summary['files'], 'file', 'files')}; "
        f"{'; '.join(found)}. {series_table} lists them with the reasons"
    )
