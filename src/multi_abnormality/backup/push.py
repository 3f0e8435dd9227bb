"""Upload of one backup: a child process of training, so that training never waits for a remote.

    python -m multi_abnormality.backup.push < job.json

Pushes the objects of a resume commit as `dvc push` does, publishes the commit, and deletes
superseded backups. Prints the result as JSON; progress bars and errors go to standard error.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multi_abnormality.backup.dvc_remote import BUNDLE_SUFFIX, Remote
from multi_abnormality.backup.git import Git, GitError, repository_of
from multi_abnormality.backup.prune import prune
from multi_abnormality.backup.resume_commit import LOCAL, PUBLISHED
from multi_abnormality.backup.upload_log import UploadLog

if TYPE_CHECKING:
    from dvc.repo import Repo

PARENT_CHECK_INTERVAL = 0.5  # s
NICENESS = 10  # while training continues; 19 would starve where training uses all cores
_TERMINATE_TIMEOUT = 2.0  # s for Git to remove its lock files
_KILL_TIMEOUT = 2.0  # s
_MAX_OUTPUT = 100_000  # bytes to read
_ENVIRONMENT = {
    "GDRIVE_NON_INTERACTIVE": "1",  # no login in a browser
    "DVC_IGNORE_ISATTY": "1",  # progress bars in a file, which shows that it makes progress
}


@dataclass(frozen=True)
class Job:
    """One upload: of which run, to where, and which paths."""

    root: str  # root directory of the DVC repository
    remote: str  # name of the DVC remote
    git_remote: str | None  # name of the Git remote for resume commits
    run: str  # <branch>/<fingerprint>
    keep: int  # number of generations to keep on the remote
    parent: int  # process id of training; the upload ends with it
    targets: tuple[str, ...] = ()  # paths to push; empty to only check write access to the remotes
    # Hashes of objects to push beside those of the run's newest generation.
    inputs: tuple[str, ...] = ()
    epochs: int = 0  # completed epochs
    commit: str | None = None  # hash of the resume commit; None without a Git repository
    awaited: bool = True  # whether training waits for the upload; otherwise it runs at low priority


class PushProcess:
    """Runs `multi_abnormality.backup.push` in a process group of its own, which Ctrl-C spares.

    Raises:
        OSError: the process can't be started.
    """

    def __init__(self, job: Job) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed by `terminate`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(asdict(job)).encode())
            stdin.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "multi_abnormality.backup.push"],
                cwd=job.root, stdin=stdin, stdout=self._output, stderr=self._errors,
                env=os.environ | _ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        self._size, self._last_progress = 0, time.monotonic()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def seconds_since_progress(self) -> float:
        """Seconds since the process last wrote anything, such as a progress bar."""
        if (size := os.fstat(self._errors.fileno()).st_size) != self._size:
            self._size, self._last_progress = size, time.monotonic()
        return time.monotonic() - self._last_progress

    def wait(self, seconds: float) -> bool:
        """Wait for the process; return whether it finished within that time."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.is_running()

    def result(self) -> dict[str, Any]:
        """Return the result of a finished process; it has a key "error" if the upload failed."""
        if text := os.pread(self._output.fileno(), _MAX_OUTPUT, 0):
            with suppress(ValueError):  # cut off by a full disk
                result: dict[str, Any] = json.loads(text)
                return result
        size = os.fstat(self._errors.fileno()).st_size
        errors = os.pread(self._errors.fileno(), _MAX_OUTPUT, max(0, size - _MAX_OUTPUT))
        lines = [line for line in errors.decode(errors="replace").splitlines() if line.strip()]
        last = f": {''.join(filter(str.isprintable, lines[-1])).strip()}" if lines else ""
        return {"error": f"its process exited with {self._process.returncode}{last}"}

    def terminate(self) -> None:
        """Terminate the process group and wait until it is gone.

        Gives up on processes that hang on a dead file system, such as a mounted Drive.
        """
        for number, timeout in (
            (signal.SIGTERM, _TERMINATE_TIMEOUT),
            (signal.SIGKILL, _KILL_TIMEOUT),
        ):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self._output.close()
        self._errors.close()


def _check_access(job: Job, remote: Remote, git: Git | None) -> dict[str, Any]:
    remote.probe()
    result = {"to": remote.url}
    if job.git_remote and git and git.find("rev-parse", "--verify", "HEAD"):
        try:
            _push_ref(git, job, "HEAD", "--dry-run")
        except GitError as error:
            result["git_error"] = _summary(error)
    return result


def _upload(job: Job, repo: "Repo", remote: Remote, git: Git | None) -> dict[str, Any]:
    """Push a run's newest generation, publish its resume commit, and delete superseded backups."""
    start, upload_log = time.monotonic(), UploadLog(Path(repo.tmp_dir) / "backup.json")
    generations = upload_log.generations(job.run)
    newest = generations[-1]
    new = remote.missing_objects({*newest.objects, *job.inputs})
    earlier = (item.uploaded for item in generations if item.remote == remote.id)
    # Objects of this run that are on the remote after this upload: those it may delete later.
    # Recorded before the upload, in case of a kill.
    uploaded = tuple(sorted(new.union(*earlier).intersection(newest.own)))
    upload_log.update_newest(job.run, uploaded=uploaded, remote=remote.id)
    pushed_bytes = remote.push(job.commit, job.targets, new)
    result = {"bytes": pushed_bytes, **_publish(job, remote, git)}
    upload_log.update_newest(job.run, sent=True)
    result["seconds"] = round(time.monotonic() - start, 1)
    result |= _prune(job, remote, git, upload_log, "git_error" in result)
    listed = {key: result[key] for key in ("bytes", "seconds", "resume", "pruned") if key in result}
    names = {"run": job.run, "remote": job.remote, "epochs": job.epochs, "commit": job.commit}
    upload_log.add_backup(names | listed)
    return result | {"to": remote.url, "epochs": job.epochs}


def _publish(job: Job, remote: Remote, git: Git | None) -> dict[str, Any]:
    """Push the resume commit to the Git remote, or upload a bundle of it to the DVC remote."""
    if git is None or job.commit is None:
        return {}
    failure = {}
    if job.git_remote:
        try:
            _push_ref(git, job, job.commit)
            return {"resume": f"{job.git_remote}, branch resume/{job.run}"}
        except GitError as error:
            failure = {"git_error": _summary(error)}
    return {"resume": _put_bundle(git, remote, job.commit, job.run), **failure}


def _push_ref(git: Git, job: Job, commit: str, *options: str) -> None:
    git.non_interactive()(
        "push", "--quiet", "--force", "--no-verify", "--no-signed", "--recurse-submodules=no",
        *options, str(job.git_remote), f"{commit}:{PUBLISHED}/{job.run}",
    )  # fmt: skip


def _put_bundle(git: Git, remote: Remote, commit: str, run: str) -> str:
    """Upload a bundle of what the published branches lack; the newest name sorts last."""
    seconds = int(git("log", "-1", "--format=%ct", commit))
    name = f"{run}/{seconds:012d}-{commit[:12]}{BUNDLE_SUFFIX}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle"
        published = ("--not", "--exclude=*/resume/*", "--remotes")
        git("bundle", "create", "--quiet", str(file), f"{LOCAL}/{run}", *published)
        remote.put_bundle(file, name)
    return name


def _prune(
    job: Job, remote: Remote, git: Git | None, upload_log: UploadLog, git_remote_failed: bool
) -> dict[str, Any]:
    """Delete superseded backups. A failure to do so does not fail the backup."""
    git_remote = None if git_remote_failed else job.git_remote
    try:
        remote.remove_stale_uploads()
        return {"pruned": prune(remote, git, upload_log, job.run, job.keep, git_remote)}
    except Exception as error:  # any exception of a file system
        return {"not_pruned": _summary(error)}


def _summary(error: BaseException) -> str:
    """Summarize an error and its causes in one line; DVC's causes are often more specific."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 3:
        text = " ".join(str(cause).split()) or type(cause).__name__
        if text not in texts:
            texts.append(text)
        cause = cause.__cause__
    return ": ".join(texts)[:500]


def _run(job: Job) -> dict[str, Any]:
    from dvc.repo import Repo

    git = repository_of(Path(job.root))
    with closing(Repo(job.root)) as repo, closing(Remote(repo, job.remote)) as remote:
        if job.targets:
            return _upload(job, repo, remote, git)
        return _check_access(job, remote, git)


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_INTERVAL)
    os.killpg(0, signal.SIGKILL)


def lower_priority(niceness: int) -> None:
    """Lower this process's CPU priority; Linux also schedules by session (autogroup)."""
    os.nice(niceness)
    with suppress(OSError):  # autogroup is missing or may not be changed
        Path("/proc/self/autogroup").write_text(str(niceness))


def main() -> None:
    job = Job(**json.load(sys.stdin))
    threading.Thread(target=_exit_with_parent, args=(job.parent,), daemon=True).start()
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # what libraries print
        logging.getLogger().addHandler(logging.NullHandler())
        if not job.awaited:
            lower_priority(NICENESS)
        try:
            result = _run(job)
        except Exception as error:  # any exception of a remote; returned to training
            result = {"error": _summary(error)}
        json.dump(result, output)


if __name__ == "__main__":
    main()
