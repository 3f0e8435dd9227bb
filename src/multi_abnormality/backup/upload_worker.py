"""Upload worker: the process that contacts the remotes, so that training never waits for them.

Reads jobs from standard input, one JSON text per line. Writes a dot to standard output on progress,
and for each job a result: a JSON text after a record separator (RFC 7464). Exits when its parent
dies: then standard input ends, or, if loader workers still hold it open, the parent id changes.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from multi_abnormality.backup.dvc_recorder import open_repository
from multi_abnormality.backup.dvc_remote import Remote, RemoteError
from multi_abnormality.backup.git import GitError, repository_of
from multi_abnormality.backup.prune import prune
from multi_abnormality.backup.publish import push_ref, put_bundle
from multi_abnormality.backup.upload_log import UploadLog

PROGRESS_INTERVAL = 1.0  # s, minimum between two dots
PARENT_CHECK_INTERVAL = 0.5  # s
RESULT_PREFIX = "\x1e"


@dataclass(frozen=True)
class Job:
    """Job of the upload worker.

    Attributes:
        root: root directory of the DVC repository.
        remote: name of the DVC remote.
        git_remote: name of the Git remote for resume commits.
        run: <branch>/<fingerprint>.
        keep: number of generations to keep on the remote.
        probes: whether to only check write access to the remotes.
        objects: hashes of the objects to upload.
        epochs: completed epochs; None if the job uploads only the stage's inputs.
        commit: hash of the resume commit.
        awaited: whether training waits for the job; otherwise it runs at low priority.
    """

    root: str
    remote: str
    git_remote: str | None
    run: str
    keep: int
    probes: bool = False
    objects: tuple[str, ...] = ()
    epochs: int | None = None
    commit: str | None = None
    awaited: bool = False

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def _probe(job: Job, remote: Remote) -> dict[str, Any]:
    remote.probe()
    result = {"to": remote.url}
    git = repository_of(Path(job.root))
    if job.git_remote and git and git.find("rev-parse", "--verify", "HEAD"):
        try:
            push_ref(git, job.git_remote, "HEAD", job.run, dry_run=True)
        except GitError as error:
            result["git"] = str(error)
    return result


def _push(job: Job, remote: Remote, upload_log: UploadLog) -> dict[str, Any]:
    start = time.monotonic()

    def claim(hashes: set[str]) -> None:
        if job.epochs is not None:
            upload_log.claim(job.run, hashes, remote.id)

    sent = remote.push(job.objects, claim, _ProgressPrinter())
    result: dict[str, Any] = {"bytes": sent, "to": remote.url}
    if job.epochs is not None:
        result |= _publish(job, remote)
        upload_log.mark_sent(job.run)
    result["seconds"] = round(time.monotonic() - start, 1)
    return result


def _publish(job: Job, remote: Remote) -> dict[str, Any]:
    git = repository_of(Path(job.root))
    result: dict[str, Any] = {}
    if git is None or job.commit is None:
        return result
    if job.git_remote:
        try:
            push_ref(git, job.git_remote, job.commit, job.run)
            return {"resume": f"{job.git_remote}, branch resume/{job.run}"}
        except GitError as error:
            result["git"] = str(error)
    return result | {"resume": put_bundle(git, remote, job.commit, job.run)}


def _prune(
    job: Job, remote: Remote, upload_log: UploadLog, result: dict[str, Any]
) -> dict[str, Any]:
    """Delete superseded backups. A failure to do so does not fail the backup."""
    published = None if "git" in result else job.git_remote
    git = repository_of(Path(job.root))
    try:
        remote.remove_stale_uploads()
        return {"pruned": prune(remote, git, upload_log, job.run, job.keep, published)}
    except Exception as error:  # any exception of a file system
        return {"not_pruned": _error_summary(error)}


class _ProgressPrinter:
    """Writes a dot to standard output, at most once per `PROGRESS_INTERVAL`."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self) -> None:
        if time.monotonic() - self._last > PROGRESS_INTERVAL:
            self._last = time.monotonic()
            sys.stdout.write(".")
            sys.stdout.flush()


def _error_summary(error: BaseException) -> str:
    """Summarise an error and its causes in one line; DVC's causes are often more specific."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 3:
        text = " ".join(str(cause).split()) or type(cause).__name__
        if text not in texts:
            texts.append(text)
        cause = cause.__cause__
    return ": ".join(texts)[:500]


def _read_jobs(lines: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os.killpg(0, signal.SIGKILL)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_INTERVAL)
    os.killpg(0, signal.SIGKILL)


def _run_job(job: Job) -> dict[str, Any]:
    repo = open_repository(Path(job.root))
    if repo is None:
        raise RemoteError(f"{job.root} is no longer in a DVC project")
    with closing(repo), closing(Remote(repo, job.remote)) as remote:
        if job.probes:
            return _probe(job, remote)
        upload_log = UploadLog(Path(repo.tmp_dir) / "backup.json")
        result = _push(job, remote, upload_log)
        return (
            result | _prune(job, remote, upload_log, result) if job.epochs is not None else result
        )


def lower_priority() -> None:
    """Lower this process's CPU priority; Linux also schedules by session (autogroup)."""
    os.nice(19)
    with suppress(OSError):  # autogroup is missing or may not be changed
        Path("/proc/self/autogroup").write_text("19")


def main() -> None:
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_jobs, args=(lines,), daemon=True).start()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    logging.getLogger().addHandler(logging.NullHandler())
    is_low_priority = False
    while True:
        job = Job(**json.loads(lines.get()))
        if not job.awaited and not is_low_priority:
            lower_priority()
            is_low_priority = True
        try:
            result = _run_job(job)
        except Exception as error:  # any exception of a remote; returned to training
            result = {"error": _error_summary(error)}
        sys.stdout.write(f"{RESULT_PREFIX}{json.dumps(result)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
