"""One scan from its file into the processed set, or kept there as it is."""

from dataclasses import dataclass
from pathlib import Path

from multi_abnormality.console import describe_failure, escape_path
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.receipts import (
    is_receipt,
    read_receipt,
    row_has_changed,
    voxels_are_gone,
)
from multi_abnormality.data.resample import standardize
from multi_abnormality.data.shards import Origin
from multi_abnormality.data.source_hashes import Hashed, hash_source
from multi_abnormality.data.store_writer import write_part
from multi_abnormality.data.work.pool import OUT_OF_MEMORY
from multi_abnormality.errors import InputError, UnusableScan
from multi_abnormality.memory import keep_freed_memory
from multi_abnormality.params_preprocess import Recipe

UNEXPECTED = "unexpected error"


@dataclass(frozen=True)
class Outcome:
    """Result of one volume: made (origin), failed (fault), or kept as it was (neither)."""

    name: str
    origin: Origin | None = None
    fault: str | None = None
    reason: str | None = None  # the fault's kind where it is the scan's, and not the disk's
    hashed: Hashed | None = None  # of the source, where it was read


def process_volume(
    name: str, path: Path, series: Series | None, stored: Origin | None, recipe: Recipe, out: Path
) -> Outcome:
    """Keep what is stored of a volume, or make it again from its file and keep that as a part.

    Several processes may do so at a time. Whatever its file leads to is its fault; a fault of the
    output's disk is raised.

    Args:
        name: of the volume.
        path: of its file, or of its receipt.
        series: what the metadata table knows of it.
        stored: what the processed set in `out` holds of it.
        recipe: what to make of it.
        out: folder of the processed set.
    """
    keep_freed_memory()  # for the next scan
    hashed = None
    try:
        hashed = Hashed(read_receipt(path).sha256, None) if is_receipt(path) else hash_source(path)
        if is_made_of(stored, hashed.sha256, series):
            return Outcome(name, hashed=hashed)
        if is_receipt(path):
            if stored is None or stored.source_sha256 != hashed.sha256:
                raise voxels_are_gone(path)
            if stored.source_release == "v1":
                raise row_has_changed(path)
            return Outcome(name, hashed=hashed)  # the table only confirms v2's own header
        volume = read_volume(path, series)
        codes = standardize(volume, recipe)
    except InputError as error:
        fault = str(error)
        fault = escape_path(fault if str(path) in fault else f"{path}: {fault}", path)
        reason = error.reason if isinstance(error, UnusableScan) else None
        return Outcome(name, None, fault, reason, hashed)
    except Exception as error:  # of a library, say: the other volumes need not suffer
        fault = escape_path(describe_failure(path, error), path)
        reason = OUT_OF_MEMORY if isinstance(error, MemoryError) else UNEXPECTED
        return Outcome(name, None, fault, reason, hashed)
    origin = write_part(out, name, hashed.sha256, volume, codes, series)
    return Outcome(name, origin, hashed=hashed)


def is_made_of(stored: Origin | None, source_sha256: str | None, series: Series | None) -> bool:
    """Whether what is stored was made of this source and of what is known of it."""
    made_of = source_sha256, series.text if series else ""
    return stored is not None and (stored.source_sha256, stored.source_series) == made_of
