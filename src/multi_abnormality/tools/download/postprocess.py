"""Post-download step of a volume: store the scan, or preprocess and delete it."""

import threading
from collections.abc import Iterable
from pathlib import Path

import joblib
import pandas as pd

from multi_abnormality.config.schema import Params
from multi_abnormality.data.catalog.catalog import SERIES
from multi_abnormality.data.catalog.ct_rate_files import read_metadata_table
from multi_abnormality.data.catalog.placeholders import (
    Placeholder,
    placeholder_path,
    read_placeholder,
    write_placeholder,
)
from multi_abnormality.data.catalog.volume_id import SPLITS, VolumeName
from multi_abnormality.data.storage.dataset_writer import PARTS, DatasetWriter, check_replaceable
from multi_abnormality.data.storage.process_scan import process_volume
from multi_abnormality.data.storage.shards import read_shard
from multi_abnormality.tools.download.destination import DownloadDir
from multi_abnormality.tools.download.hub import REPO, RemoteFile
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError, raise_errors


class StoreScan:
    """Stores each volume as downloaded. `finish` is called from several threads.

    Attributes:
        max_concurrent: number of volumes to process in parallel, besides those being fetched.
        deletes_scans: whether volumes are deleted from the disk.
    """

    max_concurrent = 0
    deletes_scans = False

    def __init__(self, destination: DownloadDir) -> None:
        self._destination = destination

    def is_complete(self, _name: VolumeName, file: RemoteFile) -> bool:
        """Whether this volume needs no download."""
        return self._destination.is_complete(file)

    def prepare(self, volumes: Iterable[Path]) -> None:
        """Called once before the first volume, with the paths of all existing volumes."""

    def finish(self, _name: VolumeName, file: RemoteFile) -> str | None:
        """Store a verified partial file or its placeholder; return an error if it is unusable."""
        self._destination.store(file)
        return None


class PreprocessAndDelete(StoreScan):
    """Preprocesses each volume by the preprocess stage's code and replaces it by a placeholder.

    The stage then only collects these volumes into shards. A volume that can't be processed is
    stored, so that the stage reports its error, too.
    """

    deletes_scans = True

    def __init__(self, destination: DownloadDir, params: Params, out: Path) -> None:
        super().__init__(destination)
        self._out = out
        self._recipe = params.preprocess.recipe
        self._stored = {
            name: entry.origin.source_sha256
            for shard in sorted(out.glob("*/*.zip"), key=lambda path: path.parent.name == PARTS)
            for name, entry in read_shard(shard)[0].items()
        }
        workers = params.machine.workers
        self.max_concurrent = joblib.cpu_count() if workers == "auto" else max(1, workers)
        self._slots = threading.Semaphore(self.max_concurrent)

    def is_complete(self, name: VolumeName, file: RemoteFile) -> bool:
        placeholder = placeholder_path(self._destination.target(file))
        if placeholder.exists():
            try:
                if read_placeholder(placeholder).sha256 == file.oid:
                    return self._stored.get(str(name)) == file.oid
            except InputError as error:
                console.log.warning("%s", error)  # its volume is fetched again
        return super().is_complete(name, file)

    def prepare(self, volumes: Iterable[Path]) -> None:
        check_replaceable(volumes, self._out, self._recipe)
        self._writer = DatasetWriter(self._out, self._recipe)
        tables = [read_metadata_table(self._destination.root, split) for split in SPLITS]
        raise_errors([error for _, errors in tables for error in errors], "correct these first")
        self._series = pd.concat([table[SERIES] for table, _ in tables]).to_dict()

    def finish(self, name: VolumeName, file: RemoteFile) -> str | None:
        part, stored = self._destination.part(file), self._writer.origins.get(str(name))
        series = self._series.get(str(name))
        with self._slots:
            error = process_volume(str(name), part, series, stored, self._recipe, self._out).fault
        if error:
            self._destination.store(file)
            return error
        placeholder = Placeholder(file.oid, file.size, f"{REPO}/{file.path}")
        write_placeholder(placeholder, placeholder_path(self._destination.target(file)))
        part.unlink()
        return None
