"""Index of an export: read the headers, choose series, write the tables."""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from multi_abnormality.config.field_types import CT_RATE, Findings, Section
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import load_params
from multi_abnormality.tools.index.earlier_table import EarlierTable
from multi_abnormality.tools.index.export_walk import files_of, read_export
from multi_abnormality.tools.index.header_cache import HeaderCache, cache_path
from multi_abnormality.tools.index.index_table import (
    COLUMNS,
    merge_table,
    row_of,
    write_series_table,
)
from multi_abnormality.tools.index.patient_warnings import warn_of_patients
from multi_abnormality.tools.index.pseudonyms import Pseudonyms
from multi_abnormality.tools.index.scan_paths import link_series, table_paths
from multi_abnormality.tools.index.series_choice import Decision, choose
from multi_abnormality.tools.index.series_records import Contents, parent_of
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, first_few, plural

PARAMS = Path("params.yaml")
MAX_FILES_BESIDE = 2000  # in a folder; to find a series among more takes seconds, for each series


class _Labels(Section):
    """The option --findings, checked as data.findings is."""

    findings: Findings


def resolve_findings(given: str | None) -> tuple[str, ...]:
    """Return the names of the label columns.

    Args:
        given: names separated by commas; None for those of params.yaml, if it exists.

    Raises:
        InputError: a name cannot be a finding's.
    """
    if given is None:
        names = load_params(PARAMS).data.names if PARAMS.exists() else ()
    else:
        listed = {
            "findings": given if given == CT_RATE else tuple(map(str.strip, given.split(",")))
        }
        try:
            found = _Labels.model_validate(listed).findings
        except ValidationError as error:
            messages = [one["msg"].removeprefix("Value error, ") for one in error.errors()]
            raise InputError(f"--findings: {first_few(messages)}") from None
        names = FINDINGS if isinstance(found, str) else found
    if both := sorted(set(names) & set(COLUMNS)):
        raise InputError(
            f"--findings: {', '.join(map(repr, both))} is a column of the table already; rename it"
        )
    return names


def index_export(
    folder: Path,
    out: Path,
    root: Path | None,
    salt: bytes,
    findings: Sequence[str],
    dates: str,
    workers: int | None,
    link: Path | None = None,
) -> dict[str, Any]:
    """Write the table of chosen series and that of all series; return the counts.

    Args:
        folder: folder of the export.
        out: table of the chosen series.
        root: folder that the table's paths start from; None for a default.
        salt: secret of the pseudonyms.
        findings: names of the label columns.
        dates: what the tables show of study dates: "day", "year" or "none".
        workers: number of processes; None for one per core.
        link: folder that gets a folder of links for each chosen series; None for none.

    Raises:
        InputError: no series is chosen; the table of all series has the reasons.
    """
    folder, start = _absolute(folder), _start_of_paths(link or folder, out, root)
    if link and (_absolute(link).is_relative_to(folder) or folder.is_relative_to(_absolute(link))):
        raise InputError(f"--link {link}: must not contain {folder}, nor lie in it")
    pseudonyms, series_table = Pseudonyms(salt), out.with_name(f"{out.stem}.series.csv")
    old = EarlierTable.read(out, series_table, pseudonyms.fingerprint)
    with _open_cache(cache_path(folder)) as cache:
        contents, sizes = read_export(folder, pseudonyms, cache, workers)
        decisions = choose(contents.records, table_paths(contents, folder, None if link else start))
        chosen = [decision for decision in decisions if decision.is_chosen]
        listed = folder if link else start  # what the decisions' paths start from
        old.match(decisions, listed, start, (folder, _absolute(out).parent))
        records = list(
            {
                (one.record.patient, one.record.key): one.record
                for one in (*chosen, *old.matches)
                if one is not None
            }.values()
        )
        files = files_of(records, cache) if link else []
    prefix = Path(os.path.relpath(folder, listed))
    damaged = {(prefix / name).as_posix(): reason for name, reason in sorted(contents.damaged)}
    rows = [row_of(decision, dates) for decision in decisions]
    write_series_table(
        series_table, [*rows, *old.unmatched_series()], damaged, pseudonyms.fingerprint
    )
    summary = _summarize(contents, decisions, sum(sizes.values()))
    _log_summary(folder, summary)
    if not chosen:
        raise InputError(_describe_nothing(folder, summary, series_table))
    warn_of_patients(contents.records, chosen)
    if link:
        links = {
            (record.patient, record.key): Path(os.path.relpath(path, start)).as_posix()
            for record, path in zip(
                records, link_series(_absolute(link), folder, records, files), strict=True
            )
        }
        chosen = [one._replace(path=links[one.record.patient, one.record.key]) for one in chosen]
        old.move([one and links[one.record.patient, one.record.key] for one in old.matches])
    else:
        _warn_of_slow_paths(chosen, sizes)
        old.move(
            [
                None if one is None or _is_elsewhere(start / row["scan"], folder) else one.path
                for one, row in zip(old.matches, old.rows, strict=True)
            ]
        )
    old.log_differences(decisions)
    added = merge_table(old, [row_of(decision, dates) for decision in chosen], findings)
    kept = len(old.rows)
    named = old.count_naming()
    if not link:
        named += sum(row["names_patient"] == "yes" for row in added)
    if named:
        log.warning(
            "%d of %d paths in the table contain the name, an id or the date of birth of their "
            "patient; use --link before you pass the table on", named, kept + len(added),
        )  # fmt: skip
    log.info(
        "%s: %d scans added, %d rows kept; its paths start from %s", out, len(added), kept, start
    )
    log.info("%s: all %d series, with the reason for each", series_table, len(decisions))
    tables = {"table": str(out), "series_table": str(series_table), "root": str(start)}
    return summary | {"added": len(added), "kept": kept} | tables


@contextmanager
def _open_cache(path: Path) -> Iterator[HeaderCache]:
    """Open the cache, and report its errors, such as a full disk."""
    try:
        with HeaderCache(path) as cache:
            yield cache
    except sqlite3.Error as error:
        raise InputError(
            f"{path}: cannot be read or written ({error}); check that there is space, or delete it"
        ) from error


def _absolute(path: Path) -> Path:
    # resolve() would follow links, by which an export may lie in data/
    return Path(os.path.abspath(path))  # noqa: PTH100


def _start_of_paths(scans: Path, out: Path, root: Path | None) -> Path:
    """Return the folder that the table's paths start from."""
    export = _absolute(scans)
    if root is None:
        beside = _absolute(out).parent
        return beside if export.is_relative_to(beside) else export
    start = _absolute(root)
    if not export.is_relative_to(start):
        raise InputError(f"--root {root}: does not contain {scans}; name a folder above it")
    return start


def _summarize(contents: Contents, decisions: Sequence[Decision], files: int) -> dict[str, Any]:
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


def _log_summary(folder: Path, summary: dict[str, Any]) -> None:
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


def _describe_nothing(folder: Path, summary: dict[str, Any], series_table: Path) -> str:
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
        f"{folder}: holds no series of chest CT that can be used, in {summary['files']} files; "
        f"{'; '.join(found)}. {series_table} lists them with the reasons"
    )


def _is_elsewhere(path: Path, folder: Path) -> bool:
    """Return whether a path of the table is good, although it is not one of this export."""
    return path.exists() and not _absolute(path).is_relative_to(folder)


def _warn_of_slow_paths(chosen: Sequence[Decision], sizes: Counter[str]) -> None:
    slow = [
        one
        for one in chosen
        if Path(one.path).name == Path(one.record.first_file).name
        and sizes[parent_of(one.record.first_file)] > MAX_FILES_BESIDE
    ]
    if slow:
        log.warning(
            "%d series lie in folders of more than %d files, which are searched for each of them; "
            "use --link", len(slow), MAX_FILES_BESIDE,
        )  # fmt: skip
