"""The sample as files: drawn in parallel, the same bytes however many draw, resumable."""

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from multi_abnormality.console import log, track
from multi_abnormality.errors import InputError
from multi_abnormality.files import write_durably
from multi_abnormality.sample.anatomy import draw_subject
from multi_abnormality.sample.cohort import Scan, plan_cohort
from multi_abnormality.sample.delivery import archive, plan_delivery, volume_path
from multi_abnormality.sample.draw import draw_scan
from multi_abnormality.sample.nifti import encode_nifti
from multi_abnormality.sample.scanner import draw_protocol, store
from multi_abnormality.sample.settings import Settings
from multi_abnormality.sample.tables import METADATA_COLUMNS, csv_bytes, label_table, metadata_row

Job = tuple[Scan, int]  # a scan and the number of one of its reconstructions
METADATA_NAMES = {"train": "train", "valid": "validation"}


def make_sample(out: Path, settings: Settings, workers: int) -> None:
    """Draw the sample into `out`, which appears when it is complete.

    Until then the files gather in a folder beside it, `<out>.part`; the same command goes on
    there after an interruption.

    Raises:
        InputError: a setting out of range, `out` in use, an unfinished sample of other settings.
    """
    settings.check()
    if workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}")
    try:
        _make(out, settings, workers)
    except OSError as error:
        place = error.filename or out
        raise InputError(
            f"{place}: cannot be written ({error.strerror}); mend that, then again"
        ) from error


def _make(out: Path, settings: Settings, workers: int) -> None:
    part = _open_part(out, settings)
    scans = plan_cohort(settings.patients, settings.seed)
    jobs = [(scan, n) for scan in scans for n in range(1, scan.reconstructions + 1)]
    left = [job for job in jobs if not (part / volume_path(*job)).exists()]
    if len(left) < len(jobs):
        log.info("%s: going on, %d volumes are there already", part, len(jobs) - len(left))
    for _ in track(_draw_all(left, part, settings, workers), f"drawing {out}", len(left)):
        pass
    _write_tables(scans, part, settings)
    (part / "settings.json").unlink()
    if out.exists():
        out.rmdir()
    part.replace(out)


def _open_part(out: Path, settings: Settings) -> Path:
    """The folder that the sample grows in, new or of an interrupted run with equal settings."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: is there already; give another --out, or delete it first")
    part = out.resolve().with_name(out.resolve().name + ".part")
    wanted = json.dumps(asdict(settings) | {"source": _source_hash()}, sort_keys=True)
    note = part / "settings.json"
    if part.exists() and (not note.is_file() or note.read_text(encoding="utf-8") != wanted):
        raise InputError(
            f"{part}: holds an unfinished sample of other settings or of another version; "
            "delete it to start anew"
        )
    write_durably(wanted.encode(), note)
    return part


def _source_hash() -> str:
    """Hash of the code that draws: volumes of two versions must not mix."""
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
    # Spawned, as the progress bar's thread does not survive a fork; an interrupt is for the parent.
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
            raise InputError(
                f"{part}: a drawing process was killed, perhaps for want of memory; "
                "the same command with fewer --workers goes on from here"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_volume(job: Job, part: Path, settings: Settings) -> None:
    scan, number = job
    volume, protocol = draw_scan(scan, number, settings.size, settings.slices)
    delivery = plan_delivery(scan, number)
    stored, affine = store(archive(volume, delivery), protocol)
    content = encode_nifti(stored, None if delivery.release == "v1" else affine)
    write_durably(content, part / volume_path(scan, number))


def _write_tables(scans: list[Scan], part: Path, settings: Settings) -> None:
    for split, metadata_name in METADATA_NAMES.items():
        chosen = [scan for scan in scans if scan.split == split]
        rows, no_chest = [], []
        for scan in chosen:
            subject = draw_subject(scan)
            for number in range(1, scan.reconstructions + 1):
                name, delivery = scan.volume_name(number), plan_delivery(scan, number)
                protocol = draw_protocol(subject, number, settings.size, settings.slices)
                rows.append(metadata_row(name, subject, protocol, delivery))
                if not delivery.chest:
                    no_chest.append(name)
        folder = part / "dataset"
        labels = folder / "multi_abnormality_labels" / f"{split}_predicted_labels.csv"
        write_durably(label_table(chosen), labels)
        metadata = folder / "metadata" / f"{metadata_name}_metadata.csv"
        write_durably(csv_bytes(METADATA_COLUMNS, rows), metadata)
        lines = "".join(f"{name}\n" for name in no_chest)
        write_durably(lines.encode(), folder / f"no_chest_{split}.txt")
