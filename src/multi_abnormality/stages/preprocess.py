"""The preprocess stage: the scans in data/ to processed/, going on from where a run stopped."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from multi_abnormality import console
from multi_abnormality.data.ct_rate import Catalogue, read_catalogue
from multi_abnormality.data.names import SPLITS, VolumeName
from multi_abnormality.data.resample import standardize
from multi_abnormality.data.shards import Origin, shard_path
from multi_abnormality.data.store_writer import PARTS, StoreWriter, write_part
from multi_abnormality.data.volume import read_volume
from multi_abnormality.data.work.outcomes import Lost, outcomes
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.files import write_json
from multi_abnormality.params import Params, Preprocess, load_params

MEMORY = 10**9  # bytes that a worker may take


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
    items = {
        name: (name, Path(path).absolute(), writer.origins.get(name))
        for name, path in zip(volumes["name"], volumes["path"], strict=True)
    }
    process = partial(_process, recipe=params.preprocess, out=writer.root.absolute())
    share = [writer.root / PARTS, *(path for _, path, _ in islice(items.values(), 1))]
    for name, outcome in outcomes(process, items, params.machine, share, MEMORY):
        if isinstance(outcome, Lost):
            yield Outcome(name, fault=f"{items[name][1]}: {outcome.reason}")
        else:
            yield outcome


def _process(
    name: str, path: Path, stored: Origin | None, recipe: Preprocess, out: Path
) -> Outcome:
    try:
        source_sha256 = _hash(path)
        if stored and stored.source_sha256 == source_sha256:
            return Outcome(name)
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
