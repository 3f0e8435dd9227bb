"""The resume commit leaves the machine: to a Git remote, or as a bundle onto DVC's remote."""

import tempfile
from pathlib import Path

from multi_abnormality.backup.git import Git, GitError
from multi_abnormality.backup.remote import SUFFIX, Remote
from multi_abnormality.backup.states import LOCAL, PUBLISHED

_NEW = "refs/resume-bundle"  # while a bundle is looked into


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
    """Bring a bundle's commit here; its hash.

    Raises:
        GitError: it is damaged, or builds on commits that are not here.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bundle"
        remote.get_bundle(name, file)
        heads = git("bundle", "list-heads", str(file)).split()
        if len(heads) != 2:
            raise GitError(f"{name} is no bundle of this project")
        commit, ref = heads
        git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(file), f"+{ref}:{_NEW}")
    git("update-ref", "-d", _NEW)
    return commit


def drop_bundles(remote: Remote, run: str, keep: int) -> None:
    """Leave a run's newest bundles."""
    branch = run.rpartition("/")[0]
    names = [name for name in remote.bundles(branch) if name.startswith(f"{run}/")]
    for name in names[:-keep]:
        remote.delete_bundle(name)
