"""Set-up of a run's backup: everything that it needs, checked before the first epoch."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.backup.dvc_recorder import Recorder, RecordError, open_repository
from multi_abnormality.backup.files_to_upload import Inputs, committed_files, uploaded_inputs
from multi_abnormality.backup.git import Git, GitError, branch_of, repository_of
from multi_abnormality.backup.push import Job, PushProcess
from multi_abnormality.backup.resume_commit import ResumeCommits
from multi_abnormality.backup.upload_log import UploadLog
from multi_abnormality.config.schema import BackupConfig as Settings
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from dvc.repo import Repo

BACKUP_OFF = "off"  # value of backup.remote
PROBE_TIMEOUT = 90.0  # s to write a small file to the remote


@dataclass(frozen=True)
class BackupSetup:
    """Everything that stays constant during the backup of a run."""

    job: Job  # template of the upload jobs, without a state
    recorder: Recorder  # recorder of the train stage
    commits: ResumeCommits | None  # commits of the work tree; None without a Git repository
    upload_log: UploadLog  # upload log of this working copy
    inputs: Inputs  # the stage's inputs in DVC's cache
    written: tuple[Path, ...]  # files that every resume commit reads from the work tree again


def set_up_backup(settings: Settings, root: Path, fingerprint: str) -> BackupSetup | None:
    """Inspect the project while a child process checks write access to its remotes.

    Returns:
        The result, or None with a warning if there is no remote to back up to.
    """
    repo = open_repository(root)
    if repo is None:
        log.warning("%s is not in a DVC project: nothing is backed up", root.resolve())
        return None
    if settings.remote == BACKUP_OFF:
        log.warning("backup.remote is %r: checkpoints exist only on this machine", BACKUP_OFF)
        return None
    name = settings.remote or repo.config["core"].get("remote")
    if not name:
        log.warning(
            "no DVC remote: checkpoints exist only on this machine and are lost with it. To back "
            "up: `dvc remote add --default backup FOLDER`, on another disk, or gdrive://…"
        )
        return None
    root = Path(repo.root_dir)
    git = repository_of(root)
    _check_remote("backup.remote", "DVC", name, repo.config["remote"])
    if settings.git_remote:
        known = git("remote").split() if git else []
        _check_remote("backup.git_remote", "Git", settings.git_remote, known)
    run = f"{branch_of(git) if git else 'no-git'}/{fingerprint}"
    job = Job(str(root), name, settings.git_remote, run, settings.keep_last, os.getpid())
    try:
        probe = PushProcess(job)
    except OSError as error:
        raise InputError(f"the DVC remote's process can't be started: {error}") from error
    try:
        result = _inspect_project(repo, git, job)
        _check_probe(probe, job)
    finally:
        probe.terminate()
    return result


def _check_remote(key: str, tool: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(
            f"{key}: there is no {tool} remote {name!r}, only "
            f"{', '.join(sorted(known)) or 'none at all'}; `{tool.lower()} remote add {name} URL` "
            "adds it"
        )


def _inspect_project(repo: "Repo", git: Git | None, job: Job) -> BackupSetup:
    folder, root = Path(repo.tmp_dir), Path(repo.root_dir)
    try:
        recorder = Recorder(repo)
        commits = ResumeCommits(git, folder) if git else None
    except RecordError as error:
        raise InputError(f"{error}\nWait for the other DVC command, or stop it") from error
    except GitError as error:
        raise InputError(f"{root}: the work tree can't be backed up: {error}") from error
    inputs = uploaded_inputs(repo, recorder.files)
    _warn_not_backed_up(inputs, recorder, commits)
    written = tuple(committed_files(repo))
    upload_log = UploadLog(folder / "backup.json")
    return BackupSetup(job, recorder, commits, upload_log, inputs, written)


def _warn_not_backed_up(inputs: Inputs, recorder: Recorder, commits: ResumeCommits | None) -> None:
    """Warn about files that a restore would lack."""
    if commits is None:
        log.warning("no Git repository: dvc.lock is not backed up, so nothing can be restored")
        return
    if inputs.missing:
        log.warning(
            "not in DVC's cache, so not backed up; must be regenerated after a restore: %s",
            ", ".join(inputs.missing),
        )
    sources = [dep.fs_path for dep in recorder.files if dep.is_in_repo and dep.exists]
    untracked = commits.untracked([*sources, ":(glob)**/*.dvc", ":(glob)**/dvc.yaml"])
    if untracked:
        log.warning(
            "not in Git, so not backed up and missing after a restore: %s; run `git add`",
            ", ".join(untracked),
        )


def _check_probe(probe: PushProcess, job: Job) -> None:
    result: dict[str, Any] = {"error": f"no answer within {PROBE_TIMEOUT:.0f} s"}
    if probe.wait(PROBE_TIMEOUT):
        result = probe.result()
    if "error" in result:
        raise InputError(
            f"the DVC remote {job.remote!r} can't be written, so nothing would be backed up: "
            f"{result['error']}. Fix it (`dvc remote modify {job.remote} …`), or set backup.remote "
            "in params.yaml to another remote, or to `off` to train without a backup"
        )
    if "git_error" in result:
        log.warning(
            "the Git remote %r can't be written, so resume commits go to the DVC remote %r: %s",
            job.git_remote, job.remote, result["git_error"],
        )  # fmt: skip
