"""The preprocess stage: the scans in data/ to processed/, going on from where a run stopped."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from joblib.externals.loky.process_executor import TerminatedWorkerError

from multi_abnormality import console
from multi_abnormality.data.ct_rate import Catalogue, read_catalogue
from multi_abnormality.data.names import SPLITS, VolumeName
from multi_abnormality.data.receipts import is_receipt, read_receipt, voxels_are_gone
from multi_abnormality.data.resample import standardize
from multi_abnormality.data.shards import Origin, shard_path
from multi_abnormality.data.store_writer import StoreWriter, check_replaceable, write_part
from multi_abnormality.data.volume import read_volume
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.files import write_json
from multi_abnormality.params import Params, Preprocess, load_params


@dataclass(frozen=True)
class Outcome:
    """What became of one volume: made anew (origin), bad (fault), or kept as it was (neither)."""

    name: str
    origin: Origin | None = None
    fault: str | None = None


def run(params: Params, data: Path, out: Path, metrics: Path) -> dict[str, Any]:
    """Bring the processed set `out` in line with the scans in `data`, and write its counts.

    Raises:
        InputError: lists everything wrong with the tables, or else every volume that cannot be
            used. All others are kept, and the next run goes on from there.
    """
    catalogue = read_catalogue(data)
    check_replaceable(map(Path, catalogue.volumes["path"]), out, params.preprocess)
    writer = StoreWriter(out, params.preprocess)
    faults = _store_volumes(catalogue.volumes, writer, params)
    raise_faults(
        faults,
        f"{len(faults)} of {len(catalogue.volumes)} volumes cannot be used; the others are done "
        f"and kept. Mend these or leave them out by a line in {data}/dataset/no_chest_train.txt "
        "or no_chest_valid.txt each, then run again",
    )
    writer.finish(catalogue)
    summary = _summarize(catalogue, out)
    write_json(summary, metrics)
    return summary


def _store_volumes(volumes: pd.DataFrame, writer: StoreWriter, params: Params) -> list[str]:
    """Store all good volumes; the faults of the others, in order."""
    shards = {name: shard_path(VolumeName.parse(name)) for name in volumes["name"]}
    waiting: dict[str, set[str]] = defaultdict(set)
    for name, shard in shards.items():
        waiting[shard].add(name)
    content = {shard: set(names) for shard, names in waiting.items()}
    outcomes = _outcomes(volumes, writer, params)
    faults = {}
    made = 0
    for outcome in console.track(outcomes, "preprocess", len(volumes)):
        if outcome.fault:
            faults[outcome.name] = outcome.fault
            continue
        if outcome.origin:
            writer.add(outcome.name, outcome.origin)
            made += 1
        shard = shards[outcome.name]
        waiting[shard].remove(outcome.name)
        if not waiting[shard]:
            writer.assemble(content[shard])
    console.log.info("%d volumes made, %d kept", made, len(volumes) - made - len(faults))
    return [faults[name] for name in volumes["name"] if name in faults]


def _outcomes(volumes: pd.DataFrame, writer: StoreWriter, params: Params) -> Iterator[Outcome]:
    """In the order in which they are done."""
    workers = params.machine.workers
    count = joblib.cpu_count() if workers == "auto" else max(1, workers)
    tasks = (
        joblib.delayed(process_volume)(
            name, Path(path), writer.origins.get(name), params.preprocess, writer.root
        )
        for name, path in zip(volumes["name"], volumes["path"], strict=True)
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
    name: str, path: Path, stored: Origin | None, recipe: Preprocess, out: Path
) -> Outcome:
    """Keep what is stored of a volume, or make it anew from its file and keep that as a part."""
    try:
        source_sha256 = read_receipt(path).sha256 if is_receipt(path) else _hash(path)
        if stored and stored.source_sha256 == source_sha256:
            return Outcome(name)
        if is_receipt(path):
            raise voxels_are_gone(path)
        volume = read_volume(path)
        origin = write_part(out, name, source_sha256, volume, standardize(volume, recipe))
    except InputError as error:
        fault = str(error)
        return Outcome(name, fault=fault if str(path) in fault else f"{path}: {fault}")
    return Outcome(name, origin=origin)


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch it again") from None


def _summarize(catalogue: Catalogue, out: Path) -> dict[str, Any]:
    parts = catalogue.volumes.groupby("split")
    return {
        "excluded": len(catalogue.excluded),
        "patients": parts["patient_id"].nunique().to_dict(),
        "scans": parts["scan_id"].nunique().to_dict(),
        "stored_bytes": sum(
            path.stat().st_size for split in SPLITS for path in (out / split).glob("*.zip")
        ),
        "volumes": parts.size().to_dict(),
    }


def main() -> None:
    run(load_params(), Path("data"), Path("processed"), Path("metrics/preprocess.json"))


if __name__ == "__main__":
    console.run(main)
