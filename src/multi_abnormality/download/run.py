"""The download as a whole: plan, say what will be fetched, fetch, keep the folder usable."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from multi_abnormality import console
from multi_abnormality.data.names import SPLITS, VolumeName
from multi_abnormality.download.choose import Choice, candidates, choose
from multi_abnormality.download.hub import Hub, RemoteFile
from multi_abnormality.download.place import Place
from multi_abnormality.download.tables import Labels, Tables, label_path
from multi_abnormality.download.transfer import UnfetchedError, fetch
from multi_abnormality.errors import InputError, raise_faults

Files = dict[VolumeName, RemoteFile]


def download(hub: Hub, choice: Choice, out: Path, workers: int) -> None:
    """Fetch what is chosen and not there yet; after each volume the folder is whole and usable.

    Raises:
        InputError: says what is in the way, or lists at the end what could not be fetched.
    """
    place = Place(out)
    with place.alone():
        hub.pin(label_path(SPLITS[0]))
        tables = _fetch_tables(hub, place)
        labels = {
            split: Labels(table, out / label_path(split)) for split, table in tables.labels.items()
        }
        chosen = _choose(hub, choice, place, tables, labels)
        there = place.volumes()
        missing = _missing(chosen, there, place)
        place.check_strangers(hub, there.values())
        _say(hub, choice, chosen, missing, place)
        tables.put_beside(out)
        shelf = Shelf(labels, set(there) - set(missing))
        faults = _fetch_volumes(hub, missing, place, shelf, workers)
        raise_faults(
            faults,
            f"{len(faults)} of {len(missing)} volumes could not be fetched; the others are in "
            f"{out}/ and can be used. Run the same command again for these",
        )
        _say_what_next(out, shelf)


class Shelf:
    """The volumes that are there, and the label tables that name them and no others."""

    def __init__(self, labels: dict[str, Labels], names: set[VolumeName]) -> None:
        self._labels = labels
        self.names = names
        for split in labels:
            self._cut(split)

    def add(self, name: VolumeName) -> None:
        self.names.add(name)
        self._cut(name.split)

    def _cut(self, split: str) -> None:
        self._labels[split].cut_to(name for name in self.names if name.split == split)


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


def _missing(chosen: Files, there: dict[VolumeName, Path], place: Place) -> Files:
    """What of the chosen is not there. Hashing what others put there may take a while."""
    elsewhere = [
        f"{there[name]}: remove it, or take it for given by the other --version"
        for name, file in chosen.items()
        if name in there and there[name] != place.root / file.path
    ]
    raise_faults(elsewhere, f"{place.root}/ has {len(elsewhere)} of these volumes in another form:")
    return {name: file for name, file in chosen.items() if not place.has(file)}


def _say(hub: Hub, choice: Choice, chosen: Files, missing: Files, place: Place) -> None:
    """One line of what will be fetched; an InputError where it does not fit on the disk."""
    need = sum(file.size - _part_size(place, file) for file in missing.values())
    free = shutil.disk_usage(place.work).free
    console.log.info(
        "CT-RATE %s at %.7s: %d patients, %d volumes, %.2f GB; %d of them to fetch, %.2f GB; "
        "%.1f GB free in %s",
        choice.version,
        hub.commit,
        len({name.patient_id for name in chosen}),
        len(chosen),
        sum(file.size for file in chosen.values()) / 1e9,
        len(missing),
        need / 1e9,
        free / 1e9,
        place.root,
    )
    if need > free:
        raise InputError(
            f"{place.root}: has {free / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are to come. "
            "Ask for less by --max-gb, --patients or --reconstructions first, or make room"
        )


def _part_size(place: Place, file: RemoteFile) -> int:
    part = place.part(file)
    return part.stat().st_size if part.exists() else 0


def _fetch_volumes(hub: Hub, missing: Files, place: Place, shelf: Shelf, workers: int) -> list[str]:
    """Fetch and put in place; the faults of what could not be fetched, in order."""
    faults: dict[VolumeName, str] = {}

    def arrivals(pool: ThreadPoolExecutor) -> Iterator[None]:
        futures = {
            pool.submit(fetch, hub, file, place.part(file)): name for name, file in missing.items()
        }
        for future in as_completed(futures):
            name = futures.pop(future)
            try:
                future.result()
            except UnfetchedError as error:
                faults[name] = str(error)
            else:
                place.put(missing[name])
                shelf.add(name)
            yield

    with ThreadPoolExecutor(workers) as pool:
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
