"""What talks to the remotes: a process of its own that training never waits for.

It reads jobs, each a line of JSON, from its standard input, and writes to its standard output a dot
whenever something moved, and for each job an answer: a JSON text after a record separator (RFC
7464). It dies with the process that started it: the input ends then, or, where that one's loader
workers outlive it and hold the input open, it has another parent.
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

from multi_abnormality.backup.git import GitError, repository_of
from multi_abnormality.backup.ledger import Ledger
from multi_abnormality.backup.prune import prune
from multi_abnormality.backup.publish import push_ref, put_bundle
from multi_abnormality.backup.record import open_repository
from multi_abnormality.backup.remote import Remote, RemoteError

BEAT = 1.0  # s between two dots at least
LOOK = 0.5  # s between two looks whether the parent lives
ANSWER = "\x1e"  # goes before each


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        root: DVC's folder.
        remote: name of DVC's remote.
        git_remote: name of the Git remote for resume commits.
        run: <branch>/<fingerprint>.
        keep: generations that stay.
        probes: whether to see only if the remotes can be written.
        objects: hashes to send.
        epochs: whole epochs done, for a state; None for the inputs alone.
        commit: hash of the state's resume commit.
        awaited: whether somebody waits for it, or it must not disturb.
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
    said = {"to": remote.url}
    git = repository_of(Path(job.root))
    if job.git_remote and git and git.find("rev-parse", "--verify", "HEAD"):
        try:
            push_ref(git, job.git_remote, "HEAD", job.run, rehearse=True)
        except GitError as error:
            said["git"] = str(error)
    return said


def _push(job: Job, remote: Remote, ledger: Ledger) -> dict[str, Any]:
    start = time.monotonic()

    def claim(hashes: set[str]) -> None:
        if job.epochs is not None:
            ledger.claim(job.run, hashes, remote.id)

    sent = remote.push(job.objects, claim, _Beat())
    said: dict[str, Any] = {"bytes": sent, "to": remote.url}
    if job.epochs is not None:
        said |= _publish(job, remote)
        ledger.mark_sent(job.run)
    said["seconds"] = round(time.monotonic() - start, 1)
    return said


def _publish(job: Job, remote: Remote) -> dict[str, Any]:
    git = repository_of(Path(job.root))
    said: dict[str, Any] = {}
    if git is None or job.commit is None:
        return said
    if job.git_remote:
        try:
            push_ref(git, job.git_remote, job.commit, job.run)
            return {"resume": f"{job.git_remote}, branch resume/{job.run}"}
        except GitError as error:
            said["git"] = str(error)
    return said | {"resume": put_bundle(git, remote, job.commit, job.run)}


def _prune(job: Job, remote: Remote, ledger: Ledger, said: dict[str, Any]) -> dict[str, Any]:
    """A backup that is out stays a good one, whatever becomes of the tidying."""
    published = None if "git" in said else job.git_remote
    git = repository_of(Path(job.root))
    try:
        remote.sweep()
        return {"pruned": prune(remote, git, ledger, job.run, job.keep, published)}
    except Exception as error:  # any file system's own
        return {"not_pruned": _reason(error)}


class _Beat:
    """Writes a dot, but not too many."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self) -> None:
        if time.monotonic() - self._last > BEAT:
            self._last = time.monotonic()
            sys.stdout.write(".")
            sys.stdout.flush()


def _reason(error: BaseException) -> str:
    """What went wrong, in a line: DVC often says it in the cause."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 3:
        text = " ".join(str(cause).split()) or type(cause).__name__
        if text not in texts:
            texts.append(text)
        cause = cause.__cause__
    return ": ".join(texts)[:500]


def _listen(lines: SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os.killpg(0, signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os.killpg(0, signal.SIGKILL)


def _do(job: Job) -> dict[str, Any]:
    repo = open_repository(Path(job.root))
    if repo is None:
        raise RemoteError(f"{job.root} is in no DVC project any more")
    with closing(repo), closing(Remote(repo, job.remote)) as remote:
        if job.probes:
            return _probe(job, remote)
        ledger = Ledger(Path(repo.tmp_dir) / "backup.json")
        said = _push(job, remote, ledger)
        return said | _prune(job, remote, ledger, said) if job.epochs is not None else said


def step_back() -> None:
    """Leave the processors to others; Linux shares them out among sessions first."""
    os.nice(19)
    with suppress(OSError):  # a system without that sharing, or one that forbids to change it
        Path("/proc/self/autogroup").write_text("19")


def main() -> None:
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    logging.getLogger().addHandler(logging.NullHandler())
    stepped_back = False
    while True:
        job = Job(**json.loads(lines.get()))
        if not job.awaited and not stepped_back:
            step_back()
            stepped_back = True
        try:
            said = _do(job)
        except Exception as error:  # any remote's own; the other process tells it
            said = {"error": _reason(error)}
        sys.stdout.write(f"{ANSWER}{json.dumps(said)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
