"""Preprocess one scan into the processed set, unless it is up to date."""

from dataclasses import dataclass
from pathlib import Path

from multi_abnormality.config.schema import PreprocessSpec
from multi_abnormality.data.catalog.placeholders import (
    is_placeholder,
    metadata_changed_error,
    read_placeholder,
    source_deleted_error,
)
from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.series_metadata import Series
from multi_abnormality.data.preprocessing.resample import resample_and_quantize
from multi_abnormality.data.storage.dataset_writer import write_part
from multi_abnormality.data.storage.file_hashes import HashEntry, hash_scan
from multi_abnormality.data.storage.shards import Provenance
from multi_abnormality.utils.console import describe_failure, escape_path
from multi_abnormality.utils.errors import InputError, UnusableScan
from multi_abnormality.utils.parallel.pool import OUT_OF_MEMORY
from multi_abnormality.utils.system_memory import tune_malloc

UNEXPECTED = "unexpected error"


@dataclass(frozen=True)
class ProcessResult:
    """Result of one volume: processed (origin set), failed (fault set) or unchanged (neither)."""

    name: str
    origin: Provenance | None = None
    fault: str | None = None
    reason: str | None = None  # kind of fault, if the scan is unusable rather than unreadable
    hashed: HashEntry | None = None  # hash of the source, if it was read


def process_volume(
    name: str,
    path: Path,
    series: Series | None,
    stored: Provenance | None,
    recipe: PreprocessSpec,
    out: Path,
) -> ProcessResult:
    """Process a volume and write it as a part, unless the stored one is up to date.

    Safe to call from several processes. Errors caused by the source file are returned; errors of
    the output's disk are raised.

    Args:
        name: name of the volume.
        path: source file, or its placeholder.
        series: row of CT-RATE's metadata table.
        stored: provenance of the volume in the processed set, if it is there.
        recipe: preprocessing parameters.
        out: folder of the processed set.
    """
    tune_malloc()  # for the next scan
    hashed = None
    try:
        hashed = (
            HashEntry(read_placeholder(path).sha256, None)
            if is_placeholder(path)
            else hash_scan(path)
        )
        if is_made_of(stored, hashed.sha256, series):
            return ProcessResult(name, hashed=hashed)
        if is_placeholder(path):
            if stored is None or stored.source_sha256 != hashed.sha256:
                raise source_deleted_error(path)
            if stored.source_release == "v1":
                raise metadata_changed_error(path)
            return ProcessResult(name, hashed=hashed)  # the table only confirms v2's own header
        volume = read_volume(path, series)
        codes = resample_and_quantize(volume, recipe)
    except InputError as error:
        fault = str(error)
        fault = escape_path(fault if str(path) in fault else f"{path}: {fault}", path)
        reason = error.reason if isinstance(error, UnusableScan) else None
        return ProcessResult(name, None, fault, reason, hashed)
    except Exception as error:  # such as a bug in a library: the other volumes are still processed
        fault = escape_path(describe_failure(path, error), path)
        reason = OUT_OF_MEMORY if isinstance(error, MemoryError) else UNEXPECTED
        return ProcessResult(name, None, fault, reason, hashed)
    origin = write_part(out, name, hashed.sha256, volume, codes, series)
    return ProcessResult(name, origin, hashed=hashed)


def is_made_of(stored: Provenance | None, source_sha256: str | None, series: Series | None) -> bool:
    """Return whether a stored volume was made from this source and these metadata."""
    made_of = source_sha256, series.text if series else ""
    return stored is not None and (stored.source_sha256, stored.source_series) == made_of
