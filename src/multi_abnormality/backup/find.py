"""The resume states of a branch, wherever they are."""

from collections.abc import Iterator
from dataclasses import dataclass

from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.publish import fetch_bundle, fetch_refs
from multi_abnormality.backup.remote import Remote
from multi_abnormality.backup.states import LOCAL, About, branch_of
from multi_abnormality.console import log
from multi_abnormality.errors import InputError

HERE = "this machine"


@dataclass(frozen=True)
class State:
    """A resume commit that is here now.

    Attributes:
        commit: its hash.
        time: of the commit, in seconds.
        about: its message.
        place: where it was found.
    """

    commit: str
    time: int
    about: About
    place: str

    @classmethod
    def read(cls, git: Git, commit: str, place: str) -> "State":
        time = int(git("log", "-1", "--format=%ct", commit))
        return cls(commit, time, About.read(git, commit), place)

    def order(self) -> tuple[int, int, str]:
        """The newest sorts last: two of one second go by how far they are."""
        return self.time, self.about.epochs, self.commit


def find_states(git: Git, remote: Remote | None) -> list[State]:
    """All of the current branch, the newest first, those of HEAD's own hash included.

    Args:
        git: of the repository.
        remote: DVC's, where there is one.

    Raises:
        InputError: a remote can't be asked, or what it has can't be read, and there is no other
            state. To start anew then would also replace those backups by the new ones.
    """
    head = git.find("rev-parse", "--verify", "--quiet", "HEAD") or ""
    failures: list[str] = []
    states: dict[str, State] = {}
    for branch in dict.fromkeys((branch_of(git), head[:12])):
        for state in (
            *_local(git, branch),
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


def _local(git: Git, branch: str) -> Iterator[State]:
    names = git("for-each-ref", "--format=%(objectname)", f"{LOCAL}/{branch}/*").split()
    yield from (State.read(git, commit, HERE) for commit in names)


def _published(git: Git, branch: str, failures: list[str]) -> Iterator[State]:
    for name in git("remote").split():
        try:
            for commit in fetch_refs(git, name, f"{branch}/*"):
                yield State.read(git, commit, f"the Git remote {name}")
        except GitError as error:
            failures.append(f"the Git remote {name!r} can't be asked: {error}")


def _bundled(git: Git, remote: Remote | None, branch: str, failures: list[str]) -> Iterator[State]:
    if remote is None:
        return
    try:
        names = remote.bundles(branch)
    except Exception as error:  # any file system's own
        failures.append(f"the DVC remote {remote.url} can't be asked: {error}")
        return
    for name in names:
        try:
            yield State.read(git, fetch_bundle(git, remote, name), f"the DVC remote, {name}")
        except (GitError, ValueError) as error:
            failures.append(f"the bundle {name} is skipped: {error}{_help(error)}")
        except Exception as error:  # any file system's own
            failures.append(f"the bundle {name} can't be fetched from {remote.url}: {error}")


def _help(error: Exception) -> str:
    if "prerequisite" not in str(error):
        return ""
    return "; `git fetch --unshallow` or `git fetch --all` brings what it builds on"
