"""Discovery of a branch's resume states: on this machine, on Git remotes and on the DVC remote."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from multi_abnormality.backup.dvc_remote import Remote
from multi_abnormality.backup.git import Git, GitError, branch_of
from multi_abnormality.backup.resume_commit import LOCAL, PUBLISHED, ResumeMetadata
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

THIS_MACHINE = "this machine"
MAX_TIME = 2**32 - 1  # s since the epoch; Git rejects much later times
MAX_BUNDLE_BYTES = 128 << 20
UNBUNDLE_TIMEOUT = 300.0  # s
_TEMPORARY_REF = "refs/resume-bundle"  # of a bundle that is being fetched
# Hints for a bundle that builds on commits that are missing here.
_SHALLOW = "this clone is shallow: `git fetch --unshallow` fetches the missing commits"
_UNKNOWN = (
    "no Git remote of this clone has these commits: the branch's history was rewritten since the "
    "backup, or it belongs to another project. Push them from a clone that has them, or start a "
    "new run with `dvc repro`"
)
_BUNDLE_HEAD = re.compile(r"([0-9a-f]{40}) (refs/resume/[^\s]+)")


@dataclass(frozen=True)
class State:
    """A resume commit, fetched into this repository."""

    commit: str  # hash of the commit
    time: int  # commit time, in seconds since the epoch
    metadata: ResumeMetadata  # content of the commit message
    location: str  # where the commit was found, for messages

    @classmethod
    def read(cls, git: Git, commit: str, location: str, branch: str) -> "State":
        """Read a commit's metadata."""
        metadata = ResumeMetadata.read(git, commit)
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

    Raises:
        InputError: a remote can't be read and no other state was found. Starting a new run would
            replace the backups on it.
    """
    head = git.find("rev-parse", "--verify", "--quiet", "HEAD") or ""
    failures: list[str] = []
    states: dict[str, State] = {}
    for branch in dict.fromkeys((branch_of(git), head[:12])):
        for location, fetch in _sources(git, remote, branch, failures):
            try:
                state = State.read(git, fetch(), location, branch)
                states.setdefault(state.commit, state)
            except (GitError, ValueError) as error:
                failures.append(f"{location} is skipped: {error}")
            except Exception as error:  # any exception of a file system
                failures.append(f"{location} can't be fetched: {type(error).__name__}: {error}")
    for failure in failures:
        log.warning("%s", failure)
    if failures and not states:
        raise InputError(
            "no resume state was found, but some remotes or states could not be read (see above)"
        )
    return sorted(states.values(), key=State.order, reverse=True)


def _sources(
    git: Git, remote: Remote | None, branch: str, failures: list[str]
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the location of each state, and a function that fetches it and returns its hash."""
    refs = git("for-each-ref", "--format=%(objectname)", f"{LOCAL}/{branch}/*").split()
    yield from ((THIS_MACHINE, partial(str, commit)) for commit in refs)
    for name in git("remote").split():
        location = f"the Git remote {name}"
        try:
            commits = fetch_refs(git, name, f"{branch}/*")
        except GitError as error:
            failures.append(f"{location} can't be read: {error}")
            continue
        yield from ((location, partial(str, commit)) for commit in commits)
    if remote is None:
        return
    try:
        names = remote.bundles(branch)
    except Exception as error:  # any exception of a file system
        failures.append(f"the DVC remote {remote.url} can't be read: {error}")
        return
    for name in names:
        yield f"the DVC remote, {name}", partial(_fetch_bundle, git, remote, name)


def fetch_refs(git: Git, remote: str, pattern: str) -> list[str]:
    """Fetch resume commits from a Git remote and return their hashes."""
    refs = f"{PUBLISHED}/{pattern}"
    lines = git.non_interactive()("ls-remote", "--refs", remote, refs).splitlines()
    found = {name: commit for commit, name in (line.split("\t") for line in lines)}
    if found:
        specs = [f"+{name}:refs/remotes/{remote}/{name.removeprefix('refs/heads/')}"
                 for name in found]  # fmt: skip
        git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, *specs)
    return [commit for name, commit in found.items() if name.count("/") == refs.count("/")]


def _fetch_bundle(git: Git, remote: Remote, name: str) -> str:
    """Fetch a bundle's commit into this repository, without a ref, and return its hash."""
    if (size := remote.bundle_size(name)) > MAX_BUNDLE_BYTES:
        raise GitError(f"it has {size:,} bytes, the limit is {MAX_BUNDLE_BYTES:,}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle"
        remote.get_bundle(name, file)
        heads = git("bundle", "list-heads", str(file)).splitlines()
        found = _BUNDLE_HEAD.fullmatch(heads[0]) if len(heads) == 1 else None
        if found is None:
            raise GitError("it is not a bundle of this project: it must contain one resume commit")
        commit, ref = found.groups()
        unbundler = Git(git.folder, timeout=UNBUNDLE_TIMEOUT)
        try:
            _unbundle(unbundler, file, ref)
        except GitError as error:
            if "prerequisite" not in str(error):
                raise
            # This clone may be older than the backup.
            is_shallow = git.find("rev-parse", "--is-shallow-repository") == "true"
            if not is_shallow:
                with suppress(GitError):  # the bundle's own error is more specific
                    git.non_interactive()("fetch", "--quiet", "--all", "--no-recurse-submodules")
            try:
                _unbundle(unbundler, file, ref)
            except GitError as error:
                raise GitError(f"{error}; {_SHALLOW if is_shallow else _UNKNOWN}") from error
    return commit


def _unbundle(git: Git, file: Path, ref: str) -> None:
    options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    git("fetch", *options, str(file), f"+{ref}:{_TEMPORARY_REF}")
    git("update-ref", "-d", _TEMPORARY_REF)
