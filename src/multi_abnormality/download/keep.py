"""What becomes of a volume that has been fetched: it stays, or only what was made of it does."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import joblib
import pandas as pd

from multi_abnormality import console
from multi_abnormality.data.metadata_table import SERIES, read_metadata_table
from multi_abnormality.data.names import SPLITS, VolumeName
from multi_abnormality.data.process import process_volume
from multi_abnormality.data.receipts import Receipt, read_receipt, receipt_path, write_receipt
from multi_abnormality.data.shards import read_shard
from multi_abnormality.data.store_recipe import check_replaceable
from multi_abnormality.data.store_writer import PARTS, StoreWriter
from multi_abnormality.download.hub import REPO, RemoteFile
from multi_abnormality.download.place import Place
from multi_abnormality.errors import InputError, raise_faults
from multi_abnormality.params import Params


class Keeper(Protocol):
    """Decides about volumes. `process` is called by several threads at a time.

    Attributes:
        count: how many volumes it processes at a time, beside those that are being fetched.
        frees: whether the volumes leave the disk.
    """

    count: int
    frees: bool

    def has(self, name: VolumeName, file: RemoteFile) -> bool:
        """Whether this volume needs no fetching."""

    def prepare(self, volumes: Iterable[Path]) -> None:
        """Called once before the first volume, with all sources that are there."""

    def process(self, name: VolumeName, file: RemoteFile) -> str | None:
        """Make of a whole and proved part what is wanted; its fault if it has one."""

    def put(self, file: RemoteFile, fault: str | None) -> None:
        """Put the volume, or what stands for it, to its place: in one rename."""


class KeepFiles:
    """Puts each volume to its place."""

    count = 0
    frees = False

    def __init__(self, place: Place) -> None:
        self._place = place

    def has(self, _name: VolumeName, file: RemoteFile) -> bool:
        return self._place.has(file)

    def prepare(self, volumes: Iterable[Path]) -> None:
        """Nothing to prepare."""

    def process(self, _name: VolumeName, _file: RemoteFile) -> None:
        """Nothing to process."""

    def put(self, file: RemoteFile, _fault: str | None) -> None:
        self._place.put(file)


class KeepProcessed:
    """Takes each volume through the preprocess stage's own code, and leaves a receipt.

    The stage finds these volumes done and gathers them into shards. A volume that cannot be
    processed is put to its place, so that the stage, too, will say what is wrong with it.
    """

    frees = True

    def __init__(self, place: Place, params: Params, out: Path) -> None:
        self._place, self._out = place, out
        self._recipe = params.preprocess.recipe
        self._stored = {
            name: member.origin.source_sha256
            for shard in sorted(out.glob("*/*.zip"), key=lambda path: path.parent.name == PARTS)
            for name, member in read_shard(shard)[0].items()
        }
        workers = params.machine.workers
        self.count = joblib.cpu_count() if workers == "auto" else max(1, workers)
        self._turns = threading.Semaphore(self.count)

    def has(self, name: VolumeName, file: RemoteFile) -> bool:
        receipt = receipt_path(self._place.target(file))
        if receipt.exists():
            try:
                if read_receipt(receipt).sha256 == file.oid:
                    return self._stored.get(str(name)) == file.oid
            except InputError as error:
                console.log.warning("%s", error)  # what it stands for is fetched now
        return self._place.has(file)

    def prepare(self, volumes: Iterable[Path]) -> None:
        check_replaceable(volumes, self._out, self._recipe)
        self._writer = StoreWriter(self._out, self._recipe)
        tables = [read_metadata_table(self._place.root, split) for split in SPLITS]
        raise_faults([fault for _, faults in tables for fault in faults], "correct these first")
        self._series = pd.concat([table[SERIES] for table, _ in tables]).to_dict()

    def process(self, name: VolumeName, file: RemoteFile) -> str | None:
        part = self._place.part(file)
        stored = self._writer.origins.get(str(name))
        with self._turns:
            series = self._series.get(str(name))
            return process_volume(str(name), part, series, stored, self._recipe, self._out).fault

    def put(self, file: RemoteFile, fault: str | None) -> None:
        if fault:
            self._place.put(file)
            return
        receipt = Receipt(file.oid, file.size, f"{REPO}/{file.path}")
        write_receipt(receipt, receipt_path(self._place.target(file)))
        self._place.part(file).unlink()
