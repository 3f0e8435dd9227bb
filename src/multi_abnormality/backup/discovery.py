"""Discovery of a branch's resume states: on this machine, on Git remotes and on the DVC remote."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from multi_abnormality.backup.dvc_remote import Remote
from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.publish import fetch_bundle, fetch_refs
from multi_abnormality.backup.snapshot_metadata import LOCAL, SnapshotMetadata, branch_of
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

THIS_MACHINE = "this machine"
MAX_TIME = 2**32 - 1  # s since the epoch; Git rejects much later times


@dataclass(frozen=True)
class State:
    """A resume commit, fetched into this repository.

    Attributes:
        commit: hash of the commit.
        time: commit time, in seconds since the epoch.
        metadata: content of the commit message.
        location: where the commit was found, for messages.
    """

    commit: str
    time: int
    metadata: SnapshotMetadata
    location: str

    @classmethod
    def read(cls, git: Git, commit: str, location: str, branch: str) -> "State":
        """Read a commit's metadata.

        Raises:
            ValueError: the commit is not a resume commit of this branch, or is malformed.
        """
        metadata = SnapshotMetadata.read(git, commit)
        if metadata.branch != branch:
            raise ValueError(f"it belongs to branch {metadata.branch!r}, not {branch!r}")
        time = int(git("log", "-1", "--format=%ct", commit))
        if time > MAX_TIME:
            raise ValueError(f"its commit time {time} is after {MAX_TIME}")
        return cls(commit, time, metadata, location)

    def order(self) -> tuple[int, int, str]:
        """Sort key by commit time, then by epochs."""
        return self.time, self.metadata.epochs, self.commit


def find_states(git: Git, remote: Remote | None) -> list[State]:
    """Find all states of the current branch, newest first, including those of HEAD's own hash.

    Malformed or damaged states are skipped with a warning.

    Args:
        git: repository to search.
        remote: DVC remote, if any.

    Raises:
        InputError: a remote can't be read and no other state was found. Starting a new run would
            replace the backups on it.
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
            "no resume state was found, but some remotes or states could not be read (see above)"
        )
    return sorted(states.values(), key=State.order, reverse=True)


def _local(git: Git, branch: str, failures: list[str]) -> Iterator[State]:
    refs = git("for-each-ref", "--format=%(objectname)", f"{LOCAL}/{branch}/*").split()
    for commit in refs:
        yield from _read(git, partial(str, commit), THIS_MACHINE, branch, failures)


def _published(git: Git, branch: str, failures: list[str]) -> Iterator[State]:
    for name in git("remote").split():
        location = f"the Git remote {name}"
        try:
            commits = fetch_refs(git, name, f"{branch}/*")
        except GitError as error:
            failures.append(f"{location} can't be read: {error}")
            continue
        for commit in commits:
            yield from _read(git, partial(str, commit), location, branch, failures)


def _bundled(git: Git, remote: Remote | None, branch: str, failures: list[str]) -> Iterator[State]:
    if remote is None:
        return
    try:
        names = remote.bundles(branch)
    except Exception as error:  # any exception of a file system
        failures.append(f"the DVC remote {remote.url} can't be read: {error}")
        return
    for name in names:
        location = f"the DVC remote, {name}"
        yield from _read(git, partial(fetch_bundle, git, remote, name), location, branch, failures)


def _read(
    git: Git, fetch: Callable[[], str], location: str, branch: str, failures: list[str]
) -> Iterator[State]:
    try:
        yield State.read(git, fetch(), location, branch)
    except (GitError, ValueError) as error:
        failures.append(f"{location} is skipped: {error}")
    except Exception as error:  # any exception of a file system
        failures.append(f"{location} can't be fetched: {type(error).__name__}: {error}")
