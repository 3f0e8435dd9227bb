"""The resume commit leaves the machine: to a Git remote, or as a bundle onto DVC's remote."""

import re
import tempfile
from contextlib import suppress
from pathlib import Path

from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.remote import SUFFIX, Remote
from multi_abnormality.backup.snapshot_metadata import LOCAL, PUBLISHED

_NEW = "refs/resume-bundle"  # while a bundle is checked
_HEAD = re.compile(r"([0-9a-f]{40}) (refs/resume/[^\s]+)")
MAX_BUNDLE_BYTES = 128 << 20
PATIENCE = 300.0  # s that Git gets to unpack one


def push_ref(git: Git, remote: str, commit: str, run: str, rehearse: bool = False) -> None:
    """Put a commit on a Git remote.

    Args:
        git: of the repository.
        remote: name of the Git remote.
        commit: its hash.
        run: <branch>/<fingerprint>.
        rehearse: only ask whether it could be.

    Raises:
        GitError: it could not.
    """
    options = ["--dry-run"] if rehearse else []
    git.unattended()(
        "push", "--quiet", "--force", "--no-verify", "--no-signed", "--recurse-submodules=no",
        *options, remote, f"{commit}:{PUBLISHED}/{run}",
    )  # fmt: skip


def fetch_refs(git: Git, remote: str, pattern: str) -> list[str]:
    """Bring a Git remote's resume commits here; their hashes.

    Args:
        git: of the repository.
        remote: name of the Git remote.
        pattern: of the runs, such as "main/*".
    """
    refs = f"{PUBLISHED}/{pattern}"
    lines = git.unattended()("ls-remote", "--refs", remote, refs).splitlines()
    found = {name: commit for commit, name in (line.split("\t") for line in lines)}
    if found:
        specs = [f"+{name}:refs/remotes/{remote}/{name.removeprefix('refs/heads/')}"
                 for name in found]  # fmt: skip
        git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, *specs)
    return [commit for name, commit in found.items() if name.count("/") == refs.count("/")]


def put_bundle(git: Git, remote: Remote, commit: str, run: str) -> str:
    """Put a commit onto DVC's remote; the bundle's name, by which the newest sorts last.

    It holds what the published branches do not.
    """
    time = git("log", "-1", "--format=%ct", commit)
    name = f"{run}/{int(time):012d}-{commit[:12]}{SUFFIX}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle"
        published = ("--not", "--exclude=*/resume/*", "--remotes")
        git("bundle", "create", "--quiet", str(file), f"{LOCAL}/{run}", *published)
        remote.put_bundle(file, name)
    return name


def fetch_bundle(git: Git, remote: Remote, name: str) -> str:
    """Fetch a bundle's commit into this repository, under no ref; return its hash.

    Raises:
        GitError: it is damaged, too large, or builds on commits that are not here.
    """
    if (size := remote.bundle_size(name)) > MAX_BUNDLE_BYTES:
        raise GitError(f"it has {size:,} bytes, the limit is {MAX_BUNDLE_BYTES:,}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle"
        remote.get_bundle(name, file)
        patient = Git(git.folder, patience=PATIENCE)
        heads = git("bundle", "list-heads", str(file)).splitlines()
        found = _HEAD.fullmatch(heads[0]) if len(heads) == 1 else None
        if found is None:
            raise GitError("it is no bundle of this project: it must hold one resume commit")
        commit, ref = found.groups()
        try:
            _unbundle(patient, file, ref)
        except GitError as error:
            if "prerequisite" not in str(error):
                raise
            _fetch_history(git)
            try:
                _unbundle(patient, file, ref)
            except GitError as error:
                raise GitError(f"{error}; {_missing_history(git)}") from error
    return commit


def _unbundle(git: Git, file: Path, ref: str) -> None:
    options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")
    git("fetch", *options, str(file), f"+{ref}:{_NEW}")
    git("update-ref", "-d", _NEW)


def _fetch_history(git: Git) -> None:
    """Fetch what the Git remotes have: the clone may be older than the backup."""
    if git.find("rev-parse", "--is-shallow-repository") == "true":
        return
    with suppress(GitError):  # the bundle's own error says more
        git.unattended()("fetch", "--quiet", "--all", "--no-recurse-submodules")


def _missing_history(git: Git) -> str:
    """What to do where a bundle builds on commits that are not here."""
    if git.find("rev-parse", "--is-shallow-repository") == "true":
        return "this clone is shallow: `git fetch --unshallow` brings what it builds on"
    return (
        "no Git remote of this clone has these commits: the branch's history was rewritten since "
        "the backup, or it is of another project. Push them from a clone that has them, or start "
        "a new run with `dvc repro`"
    )


def drop_bundles(remote: Remote, run: str, keep: int) -> None:
    """Leave a run's newest bundles."""
    branch = run.rpartition("/")[0]
    names = [name for name in remote.bundles(branch) if name.startswith(f"{run}/")]
    for name in names[:-keep]:
        remote.delete_bundle(name)
