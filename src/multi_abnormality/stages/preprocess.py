"""The preprocess stage: the scans in data/ to processed/, going on from where a run stopped."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from multi_abnormality import console

if __name__ == "__main__":
    console.take_stage_options()

import pandas as pd

from multi_abnormality.backup.verification import verify_pulled
from multi_abnormality.data.catalogue import Catalogue
from multi_abnormality.data.metadata_table import SERIES
from multi_abnormality.data.process import Outcome, is_made_of, process_volume
from multi_abnormality.data.rows import capped
from multi_abnormality.data.shards import FOLDERS, shard_path
from multi_abnormality.data.source import read_catalogue
from multi_abnormality.data.source_hashes import SourceHashes
from multi_abnormality.data.store import is_synthetic, mixed_with_synthetic
from multi_abnormality.data.store_recipe import check_catalogue_replaceable
from multi_abnormality.data.store_writer import PARTS, StoreWriter
from multi_abnormality.data.work.outcomes import Lost, outcomes
from multi_abnormality.errors import raise_faults
from multi_abnormality.files import write_json
from multi_abnormality.params import Params, load_params

MEMORY = 10**9  # bytes that a worker may take


def run(
    params: Params, data: Path, out: Path, metrics: Path, memory: Path | None = None
) -> dict[str, Any]:
    """Bring the processed set `out` in line with the scans in `data`, and write its counts.

    Args:
        params: of the project.
        data: folder of the scans and their tables.
        out: folder of the processed set.
        metrics: JSON file for the counts.
        memory: file with the scans' hashes as earlier runs found them; None: all are hashed.

    Raises:
        InputError: lists everything wrong with the tables, or else every volume that cannot be
            used, where preprocess.on_error does not leave those out. All others are kept, and the
            next run continues from there.
    """
    catalogue = read_catalogue(data, params.data)
    recipe, is_ct_rate = params.preprocess.recipe, catalogue.source.is_ct_rate
    check_catalogue_replaceable(catalogue, data, out, recipe)
    writer = StoreWriter(out, recipe, is_ct_rate)
    with SourceHashes(memory) as hashes:
        faults = _store_volumes(catalogue.volumes, writer, params, hashes)
    skip = params.preprocess.on_error == "skip"
    raise_faults(
        [item.fault for item in faults if item.fault and not (skip and item.reason)],
        f"{len(faults)} of {len(catalogue.volumes)} volumes cannot be used; the others are done "
        f"and kept. Correct these, or leave them out {catalogue.source.leave_out}, or all scans "
        "that are at fault themselves by preprocess.on_error: skip; then run again",
    )
    for line in capped([outcome.fault for outcome in faults if outcome.fault]):
        console.log.warning("left out: %s", line)
    rejected = {outcome.name: outcome.reason for outcome in faults if outcome.reason}
    catalogue = catalogue.without(rejected)
    _check_duplicates(catalogue, writer)
    writer.finish(catalogue, rejected)
    summary = _summarize(catalogue, writer, rejected)
    write_json(summary, metrics)
    return summary


def _store_volumes(
    volumes: pd.DataFrame, writer: StoreWriter, params: Params, hashes: SourceHashes
) -> list[Outcome]:
    """Store all good volumes; what became of the others, in order."""
    shards = {name: shard_path(name) for name in volumes["name"]}
    waiting: dict[str, set[str]] = defaultdict(set)
    for name, shard in shards.items():
        waiting[shard].add(name)
    content = {shard: set(names) for shard, names in waiting.items()}
    faults = {}
    made = 0
    first: dict[bool, str] = {}  # name of the first volume that is synthetic, and that is not
    done = _outcomes(volumes, writer, params, hashes)
    for outcome in console.track(done, "preprocess", len(volumes)):
        shard = shards[outcome.name]
        if outcome.origin:
            writer.add(outcome.name, outcome.origin)
            made += 1
        if not outcome.fault:
            kind = is_synthetic(writer.origins[outcome.name].source_notes)
            first.setdefault(kind, outcome.name)
            if len(first) == 2:
                raise mixed_with_synthetic("data", first[True], first[False])
        if outcome.fault:
            faults[outcome.name] = outcome
            if outcome.reason or outcome.name not in writer.origins:
                content[shard].remove(outcome.name)  # else it stays: there may be no other copy
        waiting[shard].remove(outcome.name)
        if content[shard] and not waiting[shard]:
            writer.assemble(content[shard])
    console.log.info(
        "%s: %d volumes made, %d kept, %d left out",
        writer.root, made, len(volumes) - made - len(faults), len(faults),
    )  # fmt: skip
    return [faults[name] for name in volumes["name"] if name in faults]


def _outcomes(
    volumes: pd.DataFrame, writer: StoreWriter, params: Params, hashes: SourceHashes
) -> Iterator[Outcome]:
    """In the order in which they are done."""
    items = {}
    for row in volumes[["name", "path", SERIES]].itertuples(index=False):
        path, stored = Path(row.path), writer.origins.get(row.name)
        if is_made_of(stored, hashes.known(path), row.series):
            yield Outcome(row.name)
        else:
            items[row.name] = row.name, path.absolute(), row.series, stored
    if not items:
        return
    process = partial(process_volume, recipe=params.preprocess.recipe, out=writer.root.absolute())
    share = [writer.root / PARTS, next(iter(items.values()))[1]]
    skip = params.preprocess.on_error == "skip"
    for name, outcome in outcomes(process, items, params.machine, share, MEMORY, survive=skip):
        path = items[name][1]
        if isinstance(outcome, Lost):
            yield Outcome(name, fault=f"{path}: {outcome.reason}", reason=outcome.kind)
            continue
        if outcome.hashed:
            hashes.note(path, outcome.hashed)
        yield outcome


def _check_duplicates(catalogue: Catalogue, writer: StoreWriter) -> None:
    """Compare the voxels of all scans: another compression or header is another file.

    One scan under two patients may be learned from and scored. In a table of own scans that is
    refused; CT-RATE's splits are given, so there it is logged, as is what lies in one split.

    Raises:
        InputError: lists such scans of own tables.
    """
    rows = catalogue.volumes.set_index("name")[["patient_id", "split"]]
    first: dict[str, str] = {}
    faults, warnings = [], []
    for name, patient, split in rows.itertuples():
        other = first.setdefault(writer.origins[name].voxels_sha256, name)
        if rows["patient_id"][other] == patient:
            continue
        same = f"{other} and {name} hold the same voxels, and are of two patients"
        if rows["split"][other] == split:
            warnings.append(f"{same}; one scan of one patient must stand once")
        elif catalogue.source.is_ct_rate:
            warnings.append(
                f"{same}, one in each split, so the scores are too good; leave one of them out "
                f"{catalogue.source.leave_out}"
            )
        else:
            faults.append(
                f"{same}, one in each split, so the model would be scored on what it learned; "
                "delete one of the rows, or give both the true patient (data.columns.patient) and "
                "one split"
            )
    for line in capped(warnings):
        console.log.warning("%s", line)
    raise_faults(capped(faults), "the same scan is learned from and scored; correct these first")


def _summarize(
    catalogue: Catalogue, writer: StoreWriter, rejected: dict[str, str]
) -> dict[str, Any]:
    parts = catalogue.volumes.groupby("split")
    origins = [writer.origins[name] for name in catalogue.volumes["name"]]
    notes = [note for origin in origins for note in origin.source_notes.split("; ") if note]
    summary = {
        "excluded": len(catalogue.excluded),
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
    if not catalogue.source.is_ct_rate:
        del summary["releases"]
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
