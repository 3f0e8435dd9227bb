"""What a backup needs, and whether it can work: asked before the first epoch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.backup.git import Git, GitError, repository_of
from multi_abnormality.backup.ledger import Ledger
from multi_abnormality.backup.process import Worker
from multi_abnormality.backup.record import (
    Recorder,
    RecordError,
    open_repository,
    uncached_outputs,
)
from multi_abnormality.backup.snapshot import Snapshot
from multi_abnormality.backup.snapshot_metadata import branch_of
from multi_abnormality.backup.worker import Job
from multi_abnormality.console import log
from multi_abnormality.errors import InputError
from multi_abnormality.params_machine import Backup as Settings

if TYPE_CHECKING:
    from dvc.repo import Repo

OFF = "off"  # in place of a remote's name
PROBE = 90.0  # s that a remote gets to take a small file


@dataclass(frozen=True)
class Setup:
    """All that stays the same while a training is backed up.

    Attributes:
        job: with no objects yet; the others are made from it.
        recorder: of the train stage.
        snapshot: of the work tree; None where there is no Git.
        ledger: of this folder.
        inputs: hashes of what the stage reads from DVC's cache.
        written: files that every resume commit takes as they are then.
    """

    job: Job
    recorder: Recorder
    snapshot: Snapshot | None
    ledger: Ledger
    inputs: tuple[str, ...]
    written: tuple[Path, ...]


def set_up(settings: Settings, root: Path, fingerprint: str, worker: Worker) -> Setup | None:
    """Look at the project and, meanwhile, let a worker try its remotes.

    Returns:
        None where there is nothing to back up to; that is told.

    Raises:
        InputError: a remote that was asked for does not exist, or can't be reached or written.
    """
    repo = open_repository(root)
    if repo is None:
        log.warning("%s is in no DVC project: nothing is backed up", root.resolve())
        return None
    if settings.remote == OFF:
        log.warning("backup.remote is %r: checkpoints stay on this machine", OFF)
        return None
    name = settings.remote or repo.config["core"].get("remote")
    if not name:
        log.warning(
            "no DVC remote: checkpoints stay on this machine, and who loses it loses the run. To "
            "back up: `dvc remote add --default backup FOLDER`, on another disk, or gdrive://…"
        )
        return None
    root = Path(repo.root_dir)
    git = repository_of(root)
    _check_names(settings, name, set(repo.config["remote"]), git)
    run = f"{branch_of(git) if git else 'no-git'}/{fingerprint}"
    job = Job(str(root), name, settings.git_remote, run, settings.keep)
    worker.give(replace(job, probes=True, awaited=True))
    try:
        found = _look(repo, git, job)
    finally:
        _await(worker, job)
    return found


def _check_names(settings: Settings, name: str, known: set[str], git: Git | None) -> None:
    if name not in known:
        raise InputError(
            f"backup.remote: there is no DVC remote {name!r}, only "
            f"{', '.join(sorted(known)) or 'none at all'}; `dvc remote add {name} URL` makes it"
        )
    wanted, remotes = settings.git_remote, git("remote").split() if git else []
    if wanted and wanted not in remotes:
        raise InputError(
            f"backup.git_remote: there is no Git remote {wanted!r}, only "
            f"{', '.join(remotes) or 'none at all'}; `git remote add {wanted} URL` makes it"
        )


def _look(repo: "Repo", git: Git | None, job: Job) -> Setup:
    folder, root = Path(repo.tmp_dir), Path(repo.root_dir)
    try:
        recorder = Recorder(repo)
        snapshot = Snapshot(git, folder) if git else None
    except RecordError as error:
        raise InputError(f"{error}\nWait for the other DVC command, or end it") from error
    except GitError as error:
        raise InputError(f"{root}: the work tree can't be backed up: {error}") from error
    inputs, missing = recorder.inputs()
    _warn(missing, recorder, snapshot)
    written = (root / "dvc.lock", *uncached_outputs(repo))
    ledger = Ledger(folder / "backup.json")
    return Setup(job, recorder, snapshot, ledger, tuple(inputs), written)


def _warn(missing: list[str], recorder: Recorder, snapshot: Snapshot | None) -> None:
    """Of what a restore would not bring back."""
    if snapshot is None:
        log.warning("no Git repository: dvc.lock is not backed up, and without it no restore")
        return
    if missing:
        log.warning(
            "not in DVC's cache, so not in the backup; a restore has to make it anew: %s",
            ", ".join(missing),
        )
    sources = [dep.fs_path for dep in recorder.files if dep.is_in_repo and dep.exists]
    untracked = snapshot.untracked([*sources, ":(glob)**/*.dvc", ":(glob)**/dvc.yaml"])
    if untracked:
        log.warning(
            "not in Git, so not in the backup, and a restore would miss it: %s; `git add` helps",
            ", ".join(untracked),
        )


def _await(probe: Worker, job: Job) -> None:
    name = job.remote
    if probe.wait(PROBE):
        said: dict[str, Any] = probe.said()
    else:
        said = {"error": f"no answer within {PROBE:.0f} s"}
    if "error" in said:
        raise InputError(
            f"the DVC remote {name!r} can't be written, so nothing would be backed up: "
            f"{said['error']}. Mend it (`dvc remote modify {name} …`), name another one as "
            "backup.remote in params.yaml, or `off` to train without a backup"
        )
    if "git" in said:
        log.warning(
            "the Git remote %r can't be written, so resume commits go to the DVC remote %r: %s",
            job.git_remote, name, said["git"],
        )  # fmt: skip
