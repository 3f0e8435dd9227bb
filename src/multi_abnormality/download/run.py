"""The download as a whole: plan, say what will be fetched, fetch, keep the folder usable."""

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from multi_abnormality import console
from multi_abnormality.data.label_table import label_path
from multi_abnormality.data.names import SPLITS, VolumeName
from multi_abnormality.data.receipts import receipt_path
from multi_abnormality.download.choose import Choice, candidates, choose
from multi_abnormality.download.hub import Hub, RemoteFile
from multi_abnormality.download.keep import Keeper
from multi_abnormality.download.place import Place
from multi_abnormality.download.tables import Labels, Shelf, Tables
from multi_abnormality.download.transfer import UnfetchedError, fetch
from multi_abnormality.errors import InputError, raise_faults

Files = dict[VolumeName, RemoteFile]


def download(
    hub: Hub, choice: Choice, place: Place, workers: int, make_keeper: Callable[[], Keeper]
) -> None:
    """Fetch what is chosen and not there yet; after each volume the folder is whole and usable.

    Args:
        workers: how many files are fetched at a time.
        make_keeper: called when no other download can be at the folder.

    Raises:
        InputError: says what is in the way, or lists at the end what could not be fetched.
    """
    out = place.root
    with place.alone():
        keeper = make_keeper()
        hub.pin(label_path(SPLITS[0]))
        tables = _fetch_tables(hub, place)
        labels = {
            split: Labels(table, out / label_path(split)) for split, table in tables.labels.items()
        }
        chosen = _choose(hub, choice, place, tables, labels)
        there = place.volumes()
        missing = _missing(chosen, there, place, keeper)
        place.check_strangers(hub, there.values())
        _say(hub, choice, chosen, missing, place)
        _check_room(missing, place, keeper, workers)
        tables.put_beside(out)
        shelf = Shelf(labels, set(there))
        if missing:
            keeper.prepare(there.values())
        faults = _fetch_volumes(hub, missing, place, keeper, shelf, workers)
        raise_faults(
            faults,
            f"{len(faults)} of {len(missing)} volumes could not be fetched or used; the others "
            f"are in {out}/ and can be used. Run the same command again for these",
        )
        _say_what_next(out, shelf)


def _fetch_tables(hub: Hub, place: Place) -> Tables:
    def fetch_table(file: RemoteFile, path: Path) -> None:
        part = place.part(file)
        try:
            fetch(hub, file, part)
        except UnfetchedError as error:
            raise InputError(f"{error}; run the same command again") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)

    return Tables(hub, SPLITS, place.work / "tables", fetch_table)


def _choose(
    hub: Hub, choice: Choice, place: Place, tables: Tables, labels: dict[str, Labels]
) -> Files:
    excluded = tables.excluded(place.files().exclusions)
    labelled = set().union(*(labels[split].names for split in choice.splits))
    return choose(candidates(labelled, excluded, choice), choice, hub.describe)


def _missing(chosen: Files, there: dict[VolumeName, Path], place: Place, keeper: Keeper) -> Files:
    """What of the chosen is not there. Hashing what others put there may take a while."""
    elsewhere = [
        f"{there[name]}: remove it, or take it for given by the other --version"
        for name, file in chosen.items()
        if name in there
        and there[name] not in (place.target(file), receipt_path(place.target(file)))
    ]
    raise_faults(elsewhere, f"{place.root}/ has {len(elsewhere)} of these volumes in another form:")
    return {name: file for name, file in chosen.items() if not keeper.has(name, file)}


def _say(hub: Hub, choice: Choice, chosen: Files, missing: Files, place: Place) -> None:
    """One line of what will be fetched."""
    console.log.info(
        "CT-RATE %s at %.7s: %d patients, %d volumes, %.2f GB; %d of them to fetch, %.2f GB; "
        "%.1f GB free in %s",
        choice.version,
        hub.commit,
        len({name.patient_id for name in chosen}),
        len(chosen),
        sum(file.size for file in chosen.values()) / 1e9,
        len(missing),
        sum(file.size - _part_size(place, file) for file in missing.values()) / 1e9,
        shutil.disk_usage(place.work).free / 1e9,
        place.root,
    )


def _check_room(missing: Files, place: Place, keeper: Keeper, workers: int) -> None:
    """Raise an InputError where it does not fit on the disk."""
    sizes = sorted((file.size - _part_size(place, file) for file in missing.values()), reverse=True)
    need = sum(sizes[: workers + keeper.count]) if keeper.frees else sum(sizes)
    free = shutil.disk_usage(place.work).free
    if need > free:
        way_out = "fewer --workers" if keeper.frees else "--max-gb, --then-preprocess"
        raise InputError(
            f"{place.root}: has {free / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are to come. "
            f"Ask for less by {way_out}, --patients or --reconstructions first, or make room"
        )


def _part_size(place: Place, file: RemoteFile) -> int:
    part = place.part(file)
    return part.stat().st_size if part.exists() else 0


def _fetch_volumes(
    hub: Hub, missing: Files, place: Place, keeper: Keeper, shelf: Shelf, workers: int
) -> list[str]:
    """Fetch and keep; the faults of what could not be, in order."""
    faults: dict[VolumeName, str] = {}
    turns = threading.Semaphore(workers)

    def fetch_and_keep(name: VolumeName) -> str | None:
        with turns:
            fetch(hub, missing[name], place.part(missing[name]))
        fault = keeper.process(name, missing[name])
        shelf.add(name, partial(keeper.put, missing[name], fault))
        return fault

    def arrivals(pool: ThreadPoolExecutor) -> Iterator[None]:
        futures = {pool.submit(fetch_and_keep, name): name for name in missing}
        for future in as_completed(futures):
            name = futures.pop(future)
            try:
                fault = future.result()
            except UnfetchedError as error:
                fault = str(error)
            if fault:
                faults[name] = fault
            yield

    with ThreadPoolExecutor(workers + keeper.count) as pool:
        try:
            for _ in console.track(arrivals(pool), "download", len(missing)):
                pass
        except BaseException:
            hub.stopping.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [faults[name] for name in missing if name in faults]


def _say_what_next(out: Path, shelf: Shelf) -> None:
    for split in SPLITS:
        if not any(name.split == split for name in shelf.names):
            console.log.warning(
                "%s/ has no volume of the %s split, and the pipeline needs some: --split %s",
                out,
                split,
                split,
            )
    console.log.info("all there; next: `dvc add %s`, then `dvc repro`", out)
