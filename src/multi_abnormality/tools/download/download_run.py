"""Download run: select volumes, log the plan, fetch and process the missing ones."""

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from multi_abnormality.data.catalog.label_table import label_path
from multi_abnormality.data.catalog.placeholders import placeholder_path
from multi_abnormality.data.catalog.volume_id import SPLITS, VolumeName
from multi_abnormality.tools.download.destination import DownloadDir
from multi_abnormality.tools.download.file_transfer import TransferError, fetch
from multi_abnormality.tools.download.hub import Hub, RemoteFile
from multi_abnormality.tools.download.label_sync import LabelTable, LabelTableSync, Tables
from multi_abnormality.tools.download.postprocess import PostDownload
from multi_abnormality.tools.download.selection import Choice, candidates, choose
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError, raise_errors

Files = dict[VolumeName, RemoteFile]


def download(
    hub: Hub,
    choice: Choice,
    destination: DownloadDir,
    workers: int,
    make_post_download: Callable[[], PostDownload],
) -> None:
    """Fetch the chosen volumes that are missing; the folder is usable after each volume.

    Args:
        hub: hub to download from.
        choice: selection of volumes.
        destination: folder to download to.
        workers: number of files to fetch in parallel.
        make_post_download: creates the post-download step once the folder is locked.

    Raises:
        InputError: the download can't start, or some volumes could not be fetched. The message
            lists them.
    """
    out = destination.root
    with destination.lock():
        post_download = make_post_download()
        hub.pin(label_path(SPLITS[0]))
        tables = _fetch_tables(hub, destination)
        labels = {
            split: LabelTable(table, out / label_path(split))
            for split, table in tables.labels.items()
        }
        chosen = _choose(hub, choice, destination, tables, labels)
        existing = destination.volumes()
        missing = _missing(chosen, existing, destination, post_download)
        destination.check_unlisted_scans(hub, existing.values())
        _log_plan(hub, choice, chosen, missing, destination)
        _check_free_space(missing, destination, post_download, workers)
        tables.write_to(out)
        label_sync = LabelTableSync(labels, set(existing))
        if missing:
            post_download.prepare(existing.values())
        errors = _fetch_volumes(hub, missing, destination, post_download, label_sync, workers)
        raise_errors(
            errors,
            f"{len(errors)} of {len(missing)} volumes could not be fetched or used; the others "
            f"are in {out}/ and can be used. Run the same command again to retry these",
        )
        _log_next_steps(out, label_sync)


def _fetch_tables(hub: Hub, destination: DownloadDir) -> Tables:
    def fetch_table(file: RemoteFile, path: Path) -> None:
        part = destination.part(file)
        try:
            fetch(hub, file, part)
        except TransferError as error:
            raise InputError(f"{error}; run the same command again") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)

    return Tables(hub, SPLITS, destination.work / "tables", fetch_table)


def _choose(
    hub: Hub,
    choice: Choice,
    destination: DownloadDir,
    tables: Tables,
    labels: dict[str, LabelTable],
) -> Files:
    excluded = tables.excluded(destination.files().exclusions)
    labelled = set().union(*(labels[split].names for split in choice.splits))
    return choose(candidates(labelled, excluded, choice), choice, hub.describe)


def _missing(
    chosen: Files,
    existing: dict[VolumeName, Path],
    destination: DownloadDir,
    post_download: PostDownload,
) -> Files:
    """Return the chosen volumes that are missing; this may hash many files."""
    elsewhere = [
        f"{existing[name]}: remove it, or use the other --version"
        for name, file in chosen.items()
        if name in existing
        and existing[name]
        not in (destination.target(file), placeholder_path(destination.target(file)))
    ]
    raise_errors(
        elsewhere, f"{destination.root}/ has {len(elsewhere)} of these volumes in another version:"
    )
    return {
        name: file for name, file in chosen.items() if not post_download.is_complete(name, file)
    }


def _log_plan(
    hub: Hub, choice: Choice, chosen: Files, missing: Files, destination: DownloadDir
) -> None:
    """Log a one-line summary of the download."""
    console.log.info(
        "CT-RATE %s at %.7s: %d patients, %d volumes, %.2f GB; %d of them to fetch, %.2f GB; "
        "%.1f GB free in %s",
        choice.version,
        hub.commit,
        len({name.patient_id for name in chosen}),
        len(chosen),
        sum(file.size for file in chosen.values()) / 1e9,
        len(missing),
        sum(file.size - _part_size(destination, file) for file in missing.values()) / 1e9,
        shutil.disk_usage(destination.work).free / 1e9,
        destination.root,
    )


def _check_free_space(
    missing: Files, destination: DownloadDir, post_download: PostDownload, workers: int
) -> None:
    """Check that the download fits on the disk.

    Raises:
        InputError: it does not fit.
    """
    sizes = sorted(
        (file.size - _part_size(destination, file) for file in missing.values()), reverse=True
    )
    need = (
        sum(sizes[: workers + post_download.max_concurrent])
        if post_download.deletes_scans
        else sum(sizes)
    )
    free = shutil.disk_usage(destination.work).free
    if need > free:
        hint = "fewer --workers" if post_download.deletes_scans else "--max-gb, --then-preprocess"
        raise InputError(
            f"{destination.root}: has {free / 1e9:.1f} GB free, but the download needs "
            f"{need / 1e9:.1f} GB. Reduce it by {hint}, --patients or --reconstructions first, or "
            "free disk space"
        )


def _part_size(destination: DownloadDir, file: RemoteFile) -> int:
    part = destination.part(file)
    return part.stat().st_size if part.exists() else 0


def _fetch_volumes(
    hub: Hub,
    missing: Files,
    destination: DownloadDir,
    post_download: PostDownload,
    label_sync: LabelTableSync,
    workers: int,
) -> list[str]:
    """Fetch and process volumes; return the errors of those that failed, in order."""
    errors: dict[VolumeName, str] = {}
    slots = threading.Semaphore(workers)

    def fetch_and_process(name: VolumeName) -> str | None:
        with slots:
            fetch(hub, missing[name], destination.part(missing[name]))
        error_text = post_download.process(name, missing[name])
        label_sync.add(name, partial(post_download.store, missing[name], error_text))
        return error_text

    def completed(pool: ThreadPoolExecutor) -> Iterator[None]:
        futures = {pool.submit(fetch_and_process, name): name for name in missing}
        for future in as_completed(futures):
            name = futures.pop(future)
            try:
                error_text = future.result()
            except TransferError as error:
                error_text = str(error)
            if error_text:
                errors[name] = error_text
            yield

    with ThreadPoolExecutor(workers + post_download.max_concurrent) as pool:
        try:
            for _ in console.track(completed(pool), "download", len(missing)):
                pass
        except BaseException:
            hub.stopping.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [errors[name] for name in missing if name in errors]


def _log_next_steps(out: Path, label_sync: LabelTableSync) -> None:
    for split in SPLITS:
        if not any(name.split == split for name in label_sync.names):
            console.log.warning(
                "%s/ has no volume of the %s split, which the pipeline needs: add --split %s",
                out,
                split,
                split,
            )
    console.log.info("download complete; next: `dvc add %s`, then `dvc repro`", out)
