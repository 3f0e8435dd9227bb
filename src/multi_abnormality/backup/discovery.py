"""Discovery of a branch's resume states: on this machine, on Git remotes and on the DVC remote."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.publish import fetch_bundle, fetch_refs
from multi_abnormality.backup.remote import Remote
from multi_abnormality.backup.snapshot_metadata import LOCAL, SnapshotMetadata, branch_of
from multi_abnormality.console import log
from multi_abnormality.errors import InputError

HERE = "this machine"
LATEST = 2**32 - 1  # s: Git takes no time far beyond, and each backup is later than the last


@dataclass(frozen=True)
class State:
    """A resume commit that was found and is now in this repository.

    Attributes:
        commit: its hash.
        time: commit time, in seconds since the epoch.
        metadata: content of its message.
        place: where it was found, for messages.
    """

    commit: str
    time: int
    metadata: SnapshotMetadata
    place: str

    @classmethod
    def read(cls, git: Git, commit: str, place: str, branch: str) -> "State":
        """Read a commit's metadata.

        Raises:
            ValueError: it is no resume commit of this branch, or is malformed.
        """
        metadata = SnapshotMetadata.read(git, commit)
        if metadata.branch != branch:
            raise ValueError(f"it says that it is of branch {metadata.branch!r}, not {branch!r}")
        time = int(git("log", "-1", "--format=%ct", commit))
        if time > LATEST:
            raise ValueError(f"its time, {time}, lies beyond {LATEST}")
        return cls(commit, time, metadata, place)

    def order(self) -> tuple[int, int, str]:
        """Sort key: the newest state sorts last; of two with one time, the one with more epochs."""
        return self.time, self.metadata.epochs, self.commit


def find_states(git: Git, remote: Remote | None) -> list[State]:
    """Find all states of the current branch, newest first, including those of HEAD's own hash.

    What is malformed or damaged is skipped with a warning.

    Args:
        git: the repository.
        remote: the DVC remote, if there is one.

    Raises:
        InputError: a remote can't be reached, or what it has can't be read, and there is no other
            state. Starting a new run would also replace these backups.
    """
    head = git.find("rev-parse", "--verify", "--quiet", "HEAD") or ""
    failures: list[str] = []
    states: dict[str, State] = {}
    for branch in dict.fromkeys((branch_of(git), head[:12])):
        for state in (
            *_local(git, branch, failures),
            *_published(git, branch, failures),
            *_bundled(git, remote, branch, failures),
        ):
            states.setdefault(state.commit, state)
    for failure in failures:
        log.warning("%s", failure)
    if failures and not states:
        raise InputError(
            "no resume state was found, but not everything could be asked and read (see above)"
        )
    return sorted(states.values(), key=State.order, reverse=True)


def _local(git: Git, branch: str, failures: list[str]) -> Iterator[State]:
    refs = git("for-each-ref", "--format=%(objectname)", f"{LOCAL}/{branch}/*").split()
    for commit in refs:
        yield from _read(git, partial(str, commit), HERE, branch, failures)


def _published(git: Git, branch: str, failures: list[str]) -> Iterator[State]:
    for name in git("remote").split():
        place = f"the Git remote {name}"
        try:
            commits = fetch_refs(git, name, f"{branch}/*")
        except GitError as error:
            failures.append(f"{place} can't be asked: {error}")
            continue
        for commit in commits:
            yield from _read(git, partial(str, commit), place, branch, failures)


def _bundled(git: Git, remote: Remote | None, branch: str, failures: list[str]) -> Iterator[State]:
    if remote is None:
        return
    try:
        names = remote.bundles(branch)
    except Exception as error:  # any file system's own
        failures.append(f"the DVC remote {remote.url} can't be asked: {error}")
        return
    for name in names:
        place = f"the DVC remote, {name}"
        yield from _read(git, partial(fetch_bundle, git, remote, name), place, branch, failures)


def _read(
    git: Git, fetch: Callable[[], str], place: str, branch: str, failures: list[str]
) -> Iterator[State]:
    try:
        yield State.read(git, fetch(), place, branch)
    except (GitError, ValueError) as error:
        failures.append(f"{place} is skipped: {error}")
    except Exception as error:  # any file system's own
        failures.append(f"{place} can't be fetched: {type(error).__name__}: {error}")
