"""Parallel, resumable generation of the sample; the bytes do not depend on the workers."""

import hashlib
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import track

from chest_phantom.acquisition import archive, plan_acquisition, volume_path
from chest_phantom.anatomy import draw_subject
from chest_phantom.cohort import Scan, plan_cohort
from chest_phantom.metadata_tables import METADATA_COLUMNS, csv_bytes, label_table, metadata_row
from chest_phantom.nifti_writer import encode_nifti
from chest_phantom.rasterize import draw_scan
from chest_phantom.scanner import draw_protocol, store
from chest_phantom.settings import PhantomError, Settings

log = logging.getLogger("chest_phantom")

Job = tuple[Scan, int]  # a scan and the number of one of its reconstructions
METADATA_NAMES = {"train": "train", "valid": "validation"}


def make_sample(out: Path, settings: Settings, workers: int) -> None:
    """Generate the sample into `out`, which is created when the sample is complete.

    Until then the files are in `<out>.part`; after an interruption the same command resumes from
    there.

    Args:
        out: folder to create.
        settings: settings of the sample.
        workers: number of processes.

    Raises:
        PhantomError: `out` exists, or an unfinished sample has other settings.
    """
    try:
        _make(out, settings, workers)
    except OSError as error:
        path = error.filename or out
        raise PhantomError(
            f"{path}: cannot be written ({error.strerror}); fix that and run the command again"
        ) from error


def _make(out: Path, settings: Settings, workers: int) -> None:
    part = _open_part(out, settings)
    scans = plan_cohort(settings.patients, settings.seed)
    jobs = [(scan, n) for scan in scans for n in range(1, scan.reconstructions + 1)]
    left = [job for job in jobs if not (part / volume_path(*job)).exists()]
    if len(left) < len(jobs):
        log.info("%s: resuming, %d volumes are complete already", part, len(jobs) - len(left))
    console = Console(stderr=True)
    drawn = _draw_all(left, part, settings, workers)
    for _ in track(
        drawn, f"generating {out}", len(left), console=console, disable=not console.is_terminal
    ):
        pass
    _write_tables(scans, part, settings)
    (part / "settings.json").unlink()
    if out.exists():
        out.rmdir()
    part.replace(out)
    log.info("%s: %d volumes of %d patients", out, len(jobs), settings.patients)


def _open_part(out: Path, settings: Settings) -> Path:
    """Create the partial folder, or reuse that of an interrupted run with equal settings."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PhantomError(f"{out}: exists already; give another --out, or delete it first")
    part = out.resolve().with_name(out.resolve().name + ".part")
    content = json.dumps(asdict(settings) | {"source": _source_hash()}, sort_keys=True)
    settings_file = part / "settings.json"
    is_same = settings_file.is_file() and settings_file.read_text(encoding="utf-8") == content
    if part.exists() and not is_same:
        raise PhantomError(
            f"{part}: holds an unfinished sample of other settings or of another version; "
            "delete it to start again"
        )
    atomic_write(content.encode(), settings_file)
    return part


def _source_hash() -> str:
    """Hash this package's code: volumes of two versions must not be mixed."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _draw_all(jobs: list[Job], part: Path, settings: Settings, workers: int) -> Iterator[None]:
    if workers == 1:
        for job in jobs:
            _draw_volume(job, part, settings)
            yield
        return
    count = len(jobs)
    # Spawned, as the progress bar's thread does not survive a fork. Only the parent handles SIGINT.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    with pool:
        try:
            yield from pool.map(_draw_volume, jobs, [part] * count, [settings] * count, chunksize=2)
        except BrokenProcessPool as error:
            raise PhantomError(
                f"{part}: a worker process was killed, perhaps because memory ran out; "
                "the same command with fewer --workers resumes from here"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_volume(job: Job, part: Path, settings: Settings) -> None:
    scan, number = job
    volume, protocol = draw_scan(scan, number, settings.size, settings.slices)
    acquisition = plan_acquisition(scan, number)
    stored, affine = store(archive(volume, acquisition), protocol)
    content = encode_nifti(stored, None if acquisition.release == "v1" else affine)
    atomic_write(content, part / volume_path(scan, number))


def _write_tables(scans: list[Scan], part: Path, settings: Settings) -> None:
    for split, metadata_name in METADATA_NAMES.items():
        chosen = [scan for scan in scans if scan.split == split]
        rows, no_chest = [], []
        for scan in chosen:
            subject = draw_subject(scan)
            for number in range(1, scan.reconstructions + 1):
                name, acquisition = scan.volume_name(number), plan_acquisition(scan, number)
                protocol = draw_protocol(subject, number, settings.size, settings.slices)
                rows.append(metadata_row(name, subject, protocol, acquisition))
                if not acquisition.chest:
                    no_chest.append(name)
        folder = part / "dataset"
        labels = folder / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
        atomic_write(label_table(chosen), labels)
        metadata = folder / "metadata" / f"{metadata_name}_metadata.csv"
        atomic_write(csv_bytes(METADATA_COLUMNS, rows), metadata)
        lines = "".join(f"{name}\n" for name in no_chest)
        atomic_write(lines.encode(), folder / f"no_chest_{split}.txt")


def atomic_write(content: bytes, path: Path) -> None:
    """Write a file so that after a kill it is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
