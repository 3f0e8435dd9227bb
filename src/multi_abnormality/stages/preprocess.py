"""The preprocess stage: the scans in data/ to processed/, going on from where a run stopped."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from joblib.externals.loky.process_executor import TerminatedWorkerError

from multi_abnormality import console
from multi_abnormality.data.ct_rate import Catalogue, read_catalogue
from multi_abnormality.data.metadata_table import SERIES
from multi_abnormality.data.names import SPLITS, VolumeName
from multi_abnormality.data.receipts import is_receipt, read_receipt, voxels_are_gone
from multi_abnormality.data.resample import standardize
from multi_abnormality.data.series import Series
from multi_abnormality.data.shards import Origin, shard_path
from multi_abnormality.data.store_writer import StoreWriter, check_replaceable, write_part
from multi_abnormality.data.volume import read_volume
from multi_abnormality.errors import InputError, UnusableScan, raise_faults
from multi_abnormality.files import write_json
from multi_abnormality.params import Params, Recipe, load_params


@dataclass(frozen=True)
class Outcome:
    """What became of one volume: made anew (origin), bad (fault), or kept as it was (neither)."""

    name: str
    origin: Origin | None = None
    fault: str | None = None
    reason: str | None = None  # the fault's kind where it is the scan's, and not the disk's


def run(params: Params, data: Path, out: Path, metrics: Path) -> dict[str, Any]:
    """Bring the processed set `out` in line with the scans in `data`, and write its counts.

    Raises:
        InputError: lists everything wrong with the tables, or else every volume that cannot be
            used, where preprocess.on_error does not leave those out. All others are kept, and the
            next run goes on from there.
    """
    catalogue = read_catalogue(data)
    check_replaceable(map(Path, catalogue.volumes["path"]), out, params.preprocess.recipe)
    writer = StoreWriter(out, params.preprocess.recipe)
    faults = _store_volumes(catalogue.volumes, writer, params)
    skip = params.preprocess.on_error == "skip"
    raise_faults(
        [outcome.fault for outcome in faults if not (skip and outcome.reason)],
        f"{len(faults)} of {len(catalogue.volumes)} volumes cannot be used; the others are done "
        f"and kept. Mend these, or leave them out by a line in {data}/dataset/no_chest_train.txt "
        "or no_chest_valid.txt each, or all scans that are at fault themselves by "
        "preprocess.on_error: skip; then run again",
    )
    for outcome in faults:
        console.log.warning("left out: %s", outcome.fault)
    rejected = {outcome.name: outcome.reason for outcome in faults}
    catalogue = catalogue.without(rejected, data)
    writer.finish(catalogue, rejected)
    summary = _summarize(catalogue, writer, rejected)
    write_json(summary, metrics)
    return summary


def _store_volumes(volumes: pd.DataFrame, writer: StoreWriter, params: Params) -> list[Outcome]:
    """Store all good volumes; what became of the others, in order."""
    shards = {name: shard_path(VolumeName.parse(name)) for name in volumes["name"]}
    waiting: dict[str, set[str]] = defaultdict(set)
    for name, shard in shards.items():
        waiting[shard].add(name)
    content = {shard: set(names) for shard, names in waiting.items()}
    faults = {}
    made = 0
    for outcome in console.track(_outcomes(volumes, writer, params), "preprocess", len(volumes)):
        shard = shards[outcome.name]
        if outcome.origin:
            writer.add(outcome.name, outcome.origin)
            made += 1
        if outcome.fault:
            faults[outcome.name] = outcome
            content[shard].remove(outcome.name)
        waiting[shard].remove(outcome.name)
        if content[shard] and not waiting[shard]:
            writer.assemble(content[shard])
    console.log.info("%d volumes made, %d kept", made, len(volumes) - made - len(faults))
    return [faults[name] for name in volumes["name"] if name in faults]


def _outcomes(volumes: pd.DataFrame, writer: StoreWriter, params: Params) -> Iterator[Outcome]:
    """In the order in which they are done."""
    workers = params.machine.workers
    count = joblib.cpu_count() if workers == "auto" else max(1, workers)
    recipe = params.preprocess.recipe
    tasks = (
        joblib.delayed(process_volume)(
            row.name, Path(row.path), row.series, writer.origins.get(row.name), recipe, writer.root
        )
        for row in volumes[["name", "path", SERIES]].itertuples(index=False)
    )
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        try:
            yield from joblib.Parallel(n_jobs=count, return_as="generator_unordered")(tasks)
        except (MemoryError, TerminatedWorkerError):
            raise InputError(
                "a worker process was killed or stopped, most likely for lack of memory; what is "
                f"done is kept. Lower machine.workers (now {count}) or preprocess.shape in "
                "params.yaml, then run again"
            ) from None


def process_volume(
    name: str, path: Path, series: Series | None, stored: Origin | None, recipe: Recipe, out: Path
) -> Outcome:
    """Keep what is stored of a volume, or make it anew from its file and keep that as a part."""
    try:
        source_sha256 = read_receipt(path).sha256 if is_receipt(path) else _hash(path)
        made_of = source_sha256, series.text if series else ""
        if stored and (stored.source_sha256, stored.source_series) == made_of:
            return Outcome(name)
        if is_receipt(path):
            raise voxels_are_gone(path)
        volume = read_volume(path, series)
        codes = standardize(volume, recipe)
    except InputError as error:
        fault = str(error)
        reason = error.reason if isinstance(error, UnusableScan) else None
        return Outcome(name, None, fault if str(path) in fault else f"{path}: {fault}", reason)
    return Outcome(name, write_part(out, name, source_sha256, volume, codes, series))


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None


def _summarize(
    catalogue: Catalogue, writer: StoreWriter, rejected: dict[str, str]
) -> dict[str, Any]:
    parts = catalogue.volumes.groupby("split")
    origins = [writer.origins[name] for name in catalogue.volumes["name"]]
    notes = [note for origin in origins for note in origin.source_notes.split("; ") if note]
    return {
        "excluded": len(catalogue.excluded),
        "handled": _counts(notes),
        "patients": parts["patient_id"].nunique().to_dict(),
        "rejected": _counts(rejected.values()),
        "releases": _counts(origin.source_release for origin in origins),
        "scans": parts["scan_id"].nunique().to_dict(),
        "stored_bytes": sum(
            path.stat().st_size for split in SPLITS for path in (writer.root / split).glob("*.zip")
        ),
        "volumes": parts.size().to_dict(),
    }


def _counts(kinds: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items()))


def main() -> None:
    run(load_params(), Path("data"), Path("processed"), Path("metrics/preprocess.json"))


if __name__ == "__main__":
    console.run(main)
