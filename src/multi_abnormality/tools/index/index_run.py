"""Index of an export: read the headers, choose series, write the tables."""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from multi_abnormality.tools.index.index_summary import describe_nothing, log_summary, summarize
from multi_abnormality.tools.index.index_table import (
    COLUMNS,
    merge_table,
    row_of,
    write_series_table,
)
from multi_abnormality.tools.index.patient_warnings import warn_of_patients
from multi_abnormality.tools.index.pseudonyms import Pseudonyms
from multi_abnormality.tools.index.scan_paths import link_path, link_series, table_paths
from multi_abnormality.tools.index.series_choice import Decision, choose
from multi_abnormality.tools.index.series_records import parent_of
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
    if link:
        link = _absolute(link)
        if link.is_relative_to(folder) or folder.is_relative_to(link):
            raise InputError(f"--link {link}: must not contain {folder}, nor lie in it")
    pseudonyms, series_table = Pseudonyms(salt), out.with_name(f"{out.stem}.series.csv")
    old = EarlierTable.read(out, series_table, pseudonyms.fingerprint)
    listed = folder if link else start  # what the paths of all series start from
    with _open_cache(cache_path(folder)) as cache:
        contents, sizes = read_export(folder, pseudonyms, cache, workers)
        decisions = choose(contents.records, table_paths(contents, folder, None if link else start))
        old.match(decisions, listed, start)
        chosen = [decision for decision in decisions if decision.is_chosen]
        named = [*chosen, *(row.match for row in old.rows if row.match)]
        links = {link_path(link, one.record): one.record for one in named} if link else {}
        files = files_of([*links.values()], cache) if link else []
    prefix = Path(os.path.relpath(folder, listed))
    damaged = {(prefix / name).as_posix(): reason for name, reason in sorted(contents.damaged)}
    rows = [row_of(decision, dates) for decision in decisions] + old.unmatched_series()
    write_series_table(series_table, rows, damaged, pseudonyms.fingerprint)
    log.info("%s: all series, with the reason for each: %d", series_table, len(decisions))
    summary = summarize(contents, decisions, sum(sizes.values()))
    log_summary(folder, summary)
    if not chosen:
        raise InputError(describe_nothing(folder, summary, series_table))
    warn_of_patients(contents.records, chosen)
    for path, names in zip(links, files, strict=True):
        link_series(path, [folder / name for name in names])
    if link:
        chosen = [_linked(one, link, start) for one in chosen]
    _move_rows(old, folder, start, link)
    old.log_differences(decisions)
    added = merge_table(old, [row_of(decision, dates) for decision in chosen], findings)
    log.info(
        "%s: %s added, %s kept; its paths start from %s",
        out, plural(len(added), "scan", "scans"), plural(len(old.rows), "row", "rows"), start,
    )  # fmt: skip
    _warn_of_names(old, [] if link else added, folder, link)
    if not link:
        _warn_of_slow_paths(old, added, decisions, sizes)
    tables = {"table": str(out), "series_table": str(series_table), "root": str(start)}
    return summary | {"added": len(added), "kept": len(old.rows)} | tables


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


def _linked(one: Decision, link: Path, start: Path) -> Decision:
    """Return a series with the path of its links."""
    path = os.path.relpath(link_path(link, one.record), start)
    return one._replace(path=Path(path).as_posix())


def _move_rows(old: EarlierTable, folder: Path, start: Path, link: Path | None) -> None:
    """Replace the paths of rows by those of the links.

    Without links by those of the export, unless the row's own path exists elsewhere.
    """
    paths: list[str | None] = []
    for row in old.rows:
        if row.match is None or (not link and _is_elsewhere(start / row["scan"], folder)):
            paths.append(None)
        else:
            paths.append((_linked(row.match, link, start) if link else row.match).path)
    old.move(paths)


def _is_elsewhere(path: Path, folder: Path) -> bool:
    """Return whether a path of the table is good, although it is not one of this export."""
    return path.exists() and not _absolute(path).is_relative_to(folder)


def _warn_of_names(
    old: EarlierTable, added: Sequence[Mapping[str, str]], folder: Path, link: Path | None
) -> None:
    named = old.count_naming() + sum(row["names_patient"] == "yes" for row in added)
    if named:
        fix = "use --link before you pass the table on"
        if link:
            fix = f"{folder} does not have their series: {fix}, with the export that has them"
        log.warning(
            "%s: paths that contain the name, an id or the date of birth of their patient: "
            "%d; %s", old.path, named, fix,
        )  # fmt: skip


def _warn_of_slow_paths(
    old: EarlierTable,
    added: Sequence[Mapping[str, str]],
    decisions: Sequence[Decision],
    sizes: Counter[str],
) -> None:
    in_table = {row["scan"] for row in old.rows} | {row["scan"] for row in added}
    slow = [
        one
        for one in decisions
        if one.path in in_table
        and not one.record.in_zip
        and Path(one.path).name == Path(one.record.first_file).name
        and sizes[parent_of(one.record.first_file)] > MAX_FILES_BESIDE
    ]
    if slow:
        log.warning(
            "%s: %s of more than %d files, which are searched for each of them; use --link",
            old.path, plural(len(slow), "scan is in a folder", "scans are in folders"),
            MAX_FILES_BESIDE,
        )  # fmt: skip
