"""Download run: select volumes, log the plan, fetch and process the missing ones."""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from multi_abnormality.data.catalog.ct_rate_files import label_path
from multi_abnormality.data.catalog.placeholders import placeholder_path
from multi_abnormality.data.catalog.volume_id import SPLITS, VolumeName
from multi_abnormality.tools.download.destination import DownloadDir
from multi_abnormality.tools.download.hub import Hub, RemoteFile, TransferError, fetch, part_size
from multi_abnormality.tools.download.label_tables import HubTables, LabelTables
from multi_abnormality.tools.download.postprocess import StoreScan
from multi_abnormality.tools.download.selection import Choice, candidates, choose
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError, plural, raise_errors

Files = dict[VolumeName, RemoteFile]


def download(
    hub: Hub,
    choice: Choice,
    destination: DownloadDir,
    workers: int,
    make_post_download: Callable[[], StoreScan],
) -> None:
    """Fetch the chosen volumes that are missing; the folder is usable after each volume.

    Raises:
        InputError: the download can't start, or some volumes could not be fetched. The message
            lists them.
    """
    with destination.lock():
        post_download = make_post_download()
        hub.pin(label_path(SPLITS[0]))
        tables = HubTables(hub, destination)
        labels = LabelTables(tables.folder, destination.root)
        existing, exclusions = destination.files()
        excluded = tables.excluded(exclusions)
        labelled = set().union(*(labels.labelled[split] for split in choice.splits))
        chosen = choose(candidates(labelled, excluded, choice), choice, hub)
        _check_versions(chosen, existing, destination)
        missing = {
            name: file for name, file in chosen.items() if not post_download.is_complete(name, file)
        }
        destination.check_unlisted_scans(hub, existing.values())
        sizes = [file.size - part_size(destination.part(file)) for file in missing.values()]
        free = shutil.disk_usage(destination.work).free
        console.log.info(
            "CT-RATE %s at %.7s: %s, %s, %.2f GB; %d of them to fetch, %.2f GB; "
            "%.1f GB free in %s",
            choice.version, hub.commit,
            plural(len({name.patient_id for name in chosen}), "patient", "patients"),
            plural(len(chosen), "volume", "volumes"),
            sum(file.size for file in chosen.values()) / 1e9, len(missing), sum(sizes) / 1e9,
            free / 1e9, destination.root,
        )  # fmt: skip
        _check_free_space(sizes, free, destination, post_download, workers)
        tables.write_to(destination.root)
        labels.write(existing)
        if missing:
            post_download.prepare(existing.values())
        errors = _fetch_volumes(hub, missing, destination, post_download, labels, workers)
        raise_errors(
            errors,
            f"{len(errors)} of {plural(len(missing), 'volume', 'volumes')} could not be fetched or "
            f"used; the others are in {destination.root}/ and can be used. Run the same command "
            "again to retry these",
        )
        _log_next_steps(destination, labels)


def _check_versions(
    chosen: Files, existing: dict[VolumeName, Path], destination: DownloadDir
) -> None:
    """Raise an InputError if a chosen volume exists in the other version."""
    elsewhere = []
    for name, file in chosen.items():
        target = destination.target(file)
        if existing.get(name, target) not in (target, placeholder_path(target)):
            elsewhere.append(f"{existing[name]}: remove it, or use the other --version")
    raise_errors(
        elsewhere, f"{destination.root}/ has {len(elsewhere)} of these volumes in another version:"
    )


def _check_free_space(
    sizes: list[int], free: int, destination: DownloadDir, post_download: StoreScan, workers: int
) -> None:
    """Raise an InputError if files of these sizes do not fit on the disk."""
    hint = "--max-gb, --then-preprocess"
    if post_download.deletes_scans:
        sizes = sorted(sizes, reverse=True)[: workers + post_download.max_concurrent]
        hint = "fewer --workers"
    if sum(sizes) > free:
        raise InputError(
            f"{destination.root}: has {free / 1e9:.1f} GB free, but the download needs "
            f"{sum(sizes) / 1e9:.1f} GB. Reduce it by {hint}, --patients or --reconstructions "
            "first, or free disk space"
        )


def _fetch_volumes(
    hub: Hub,
    missing: Files,
    destination: DownloadDir,
    post_download: StoreScan,
    labels: LabelTables,
    workers: int,
) -> list[str]:
    """Fetch and process volumes; return the errors of those that failed, in order."""
    errors: dict[VolumeName, str] = {}
    slots = threading.Semaphore(workers)

    def fetch_and_process(name: VolumeName) -> None:
        file = missing[name]
        try:
            with slots:
                fetch(hub, file, destination.part(file))
        except TransferError as error:
            errors[name] = str(error)
            return
        if error_text := post_download.finish(name, file):
            errors[name] = error_text
        labels.add(name)

    with ThreadPoolExecutor(workers + post_download.max_concurrent) as pool:
        futures = [pool.submit(fetch_and_process, name) for name in missing]
        try:
            for future in console.track(as_completed(futures), "download", len(missing)):
                future.result()
        except BaseException:
            hub.stopping.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [errors[name] for name in missing if name in errors]


def _log_next_steps(destination: DownloadDir, labels: LabelTables) -> None:
    for split in SPLITS:
        if not any(name.split == split for name in labels.names):
            console.log.warning(
                "%s/ has no volume of the %s split, which the pipeline needs: add --split %s",
                destination.root, split, split,
            )  # fmt: skip
    console.log.info("download complete; next: `dvc add %s`, then `dvc repro`", destination.root)
