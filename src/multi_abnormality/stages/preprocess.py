"""Preprocess stage: scans in data/ to processed/. An interrupted run is resumed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from multi_abnormality.utils import console

if __name__ == "__main__":
    console.parse_stage_args()

import pandas as pd

from multi_abnormality.backup.object_verification import verify_pulled
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.catalog.catalog import FOLD, SERIES, Catalog
from multi_abnormality.data.catalog.label_checks import count_labels
from multi_abnormality.data.catalog.read_catalog import read_catalog
from multi_abnormality.data.storage.dataset_writer import (
    PARTS,
    DatasetWriter,
    check_catalog_replaceable,
)
from multi_abnormality.data.storage.file_hashes import FileHashCache
from multi_abnormality.data.storage.process_scan import ProcessResult, is_made_of, process_volume
from multi_abnormality.data.storage.processed_dataset import is_synthetic, mixed_with_synthetic
from multi_abnormality.data.storage.shards import FOLDERS, shard_path
from multi_abnormality.utils.atomic_io import write_json
from multi_abnormality.utils.errors import plural, raise_errors
from multi_abnormality.utils.parallel.run_all import TaskFailed, run_all
from multi_abnormality.utils.strict_csv import truncate

MEMORY = 10**9  # bytes per worker


def run(
    params: Params, data: Path, out: Path, metrics: Path, memory: Path | None = None
) -> dict[str, Any]:
    """Update the processed dataset `out` from the scans in `data`, and write its counts.

    Args:
        data: directory of the scans and their tables.
        metrics: JSON file for the counts.
        memory: file with the scans' hashes from earlier runs; None: hash all scans.

    Raises:
        InputError: lists all errors in the tables, or else every volume that cannot be used, unless
            preprocess.on_error leaves it out. The other volumes are stored, and the next run
            continues from there.
    """
    catalog = read_catalog(data, params.data)
    recipe, is_ct_rate = params.preprocess.recipe, catalog.source.is_ct_rate
    check_catalog_replaceable(catalog, data, out, recipe)
    writer = DatasetWriter(out, recipe, is_ct_rate)
    with FileHashCache(memory) as hashes:
        failed = _store_volumes(catalog.volumes, writer, params, hashes)
    skip = params.preprocess.on_error == "skip"
    raise_errors(
        [result.fault for result in failed if result.fault and not (skip and result.reason)],
        f"{len(failed)} of {plural(len(catalog.volumes), 'volume', 'volumes')} cannot be used; the "
        "others are stored. "
        f"Correct these, or leave them out {catalog.source.leave_out}, or leave out all faulty "
        "scans by preprocess.on_error: skip; then run again",
    )
    for line in truncate([result.fault for result in failed if result.fault]):
        console.log.warning("left out: %s", line)
    rejected = {result.name: result.reason for result in failed if result.reason}
    catalog = catalog.drop(rejected)
    _check_duplicates(catalog, writer)
    writer.finish(catalog, rejected)
    summary = _summarize(catalog, writer, rejected)
    write_json(summary, metrics)
    return summary


def _store_volumes(
    volumes: pd.DataFrame, writer: DatasetWriter, params: Params, hashes: FileHashCache
) -> list[ProcessResult]:
    """Store all valid volumes; return the results of the others, in order."""
    shards = {name: shard_path(name) for name in volumes["name"]}
    waiting: dict[str, set[str]] = defaultdict(set)
    for name, shard in shards.items():
        waiting[shard].add(name)
    content = {shard: set(names) for shard, names in waiting.items()}
    failed = {}
    made = 0
    first: dict[bool, str] = {}  # name of the first volume that is synthetic, and that is not
    results = _process(volumes, writer, params, hashes)
    for result in console.track(results, "preprocess", len(volumes)):
        shard = shards[result.name]
        if result.origin:
            writer.add(result.name, result.origin)
            made += 1
        if result.fault:
            failed[result.name] = result
            if result.reason or result.name not in writer.origins:
                content[shard].remove(result.name)  # else it stays: there may be no other copy
        else:
            first.setdefault(is_synthetic(writer.origins[result.name].source_notes), result.name)
            if len(first) == 2:
                raise mixed_with_synthetic("data", first[True], first[False])
        waiting[shard].remove(result.name)
        if content[shard] and not waiting[shard]:
            writer.assemble(content[shard])
    console.log.info(
        "%s: %s made, %d kept, %d left out",
        writer.root, plural(made, "volume", "volumes"),
        len(volumes) - made - len(failed), len(failed),
    )  # fmt: skip
    return [failed[name] for name in volumes["name"] if name in failed]


def _process(
    volumes: pd.DataFrame, writer: DatasetWriter, params: Params, hashes: FileHashCache
) -> Iterator[ProcessResult]:
    """Yield the result of each volume as it is done."""
    items = {}
    for row in volumes[["name", "path", SERIES]].itertuples(index=False):
        path, stored = Path(row.path), writer.origins.get(row.name)
        if is_made_of(stored, hashes.known(path), row.series):
            yield ProcessResult(row.name)
        else:
            items[row.name] = row.name, path.absolute(), row.series, stored
    if not items:
        return
    task = partial(process_volume, recipe=params.preprocess.recipe, out=writer.root.absolute())
    shared_paths = [writer.root / PARTS, next(iter(items.values()))[1]]
    skip = params.preprocess.on_error == "skip"
    for name, result in run_all(task, items, params.machine, shared_paths, MEMORY, survive=skip):
        path = items[name][1]
        if isinstance(result, TaskFailed):
            yield ProcessResult(name, fault=f"{path}: {result.reason}", reason=result.kind)
            continue
        if result.hashed:
            hashes.note(path, result.hashed)
        yield result


def _check_duplicates(catalog: Catalog, writer: DatasetWriter) -> None:
    """Detect scans of two patients with equal voxels, whatever their compression or header.

    Such a scan may be in two splits, or folds, which inflates the scores. In a table of own scans
    that is an error; CT-RATE's splits are given, so there it is logged, as are duplicates within a
    split.

    Raises:
        InputError: lists duplicates in two splits of an own table.
    """
    rows = catalog.volumes.set_index("name")[["patient_id", "split"]]
    if FOLD in catalog.volumes:
        rows["split"] += catalog.volumes[FOLD].to_numpy()
    first: dict[str, str] = {}
    errors, warnings = [], []
    for name, patient, split in rows.itertuples():
        other = first.setdefault(writer.origins[name].voxels_sha256, name)
        if rows["patient_id"][other] == patient:
            continue
        same = f"{other} and {name} hold the same voxels, but belong to two patients"
        if rows["split"][other] == split:
            warnings.append(f"{same}; remove one, or give both one patient")
        elif catalog.source.is_ct_rate:
            warnings.append(
                f"{same}, in two splits or folds, which inflates the scores; leave one of them out "
                f"{catalog.source.leave_out}"
            )
        else:
            errors.append(
                f"{same}, in two splits or folds, so the model would be scored on a training scan; "
                "delete one of the rows, or give both the true patient (data.columns.patient) and "
                "one split"
            )
    for line in truncate(warnings):
        console.log.warning("%s", line)
    raise_errors(truncate(errors), "the same scan is in two splits; correct these first")


def _summarize(catalog: Catalog, writer: DatasetWriter, rejected: dict[str, str]) -> dict[str, Any]:
    parts = catalog.volumes.groupby("split")
    origins = [writer.origins[name] for name in catalog.volumes["name"]]
    notes = [note for origin in origins for note in origin.source_notes.split("; ") if note]
    summary = {
        "excluded": len(catalog.excluded),
        "handled": _counts(notes),
        "patients": parts["patient_id"].nunique().to_dict(),
        "rejected": _counts(rejected.values()),
        "releases": _counts(origin.source_release for origin in origins),
        "scans": parts["scan_id"].nunique().to_dict(),
        "stored_bytes": sum(
            path.stat().st_size
            for folder in FOLDERS
            for path in (writer.root / folder).glob("*.zip")
        ),
        "volumes": parts.size().to_dict(),
    }
    if FOLD in catalog.volumes:
        patients = catalog.volumes.groupby(FOLD)["patient_id"].nunique().to_dict()
        summary["folds"] = {fold: count for fold, count in patients.items() if fold}
    if not catalog.source.is_ct_rate:
        del summary["releases"]
        summary["labels"] = {
            split: count_labels(rows[list(catalog.findings)].to_numpy(), catalog.findings)
            for split, rows in parts
        }
    return summary


def _counts(kinds: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items()))


def main() -> None:
    verify_pulled(Path())
    run(
        load_params(),
        Path("data"),
        Path("processed"),
        Path("metrics/preprocess.json"),
        Path(".dvc/tmp/source_hashes.json"),
    )


if __name__ == "__main__":
    console.run(main)
