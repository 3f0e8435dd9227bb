"""Resolution of revision names, and access to a revision's files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from multi_abnormality.utils.errors import InputError

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

WORKSPACE = "workspace"  # DVC's name for the files in the work tree

Read = Callable[[str], bytes]  # a file's content, by its path below the project's folder


@dataclass(frozen=True)
class Revision:
    """Name given by the user, and its commit; None for the work tree."""

    name: str
    commit: str | None

    def __str__(self) -> str:
        if self.commit is None or self.commit.startswith(self.name):
            return self.name
        return f"{self.name} ({self.commit[:7]})"


def require_repository(root: Path) -> "Repo":
    """Open the DVC repository of a project's folder.

    Raises:
        InputError: it is not in one.
    """
    from multi_abnormality.backup.dvc_recorder import open_repository

    repo = open_repository(root)
    if repo is None:
        raise InputError(f"{root.resolve()}: not in a DVC project; run in the project's folder")
    return repo


def resolve(repo: "Repo", name: str) -> Revision:
    """Resolve a branch, tag, commit, experiment or `workspace`."""
    from dvc.scm import NoSCM, SCMError, resolve_rev

    if not name.strip():  # Git resolves it to HEAD
        raise InputError(f"{name!r}: must be a branch, tag, commit or experiment")
    if name == WORKSPACE:
        return Revision(name, None)
    if isinstance(repo.scm, NoSCM):
        raise InputError(f"{name}: not in a Git repository; only {WORKSPACE} is available")
    try:
        return Revision(name, resolve_rev(repo.scm, name))
    except SCMError as error:
        raise InputError(
            f"{name}: unknown branch, tag, commit or experiment ({error}); `git log --all` and "
            "`dvc exp show --all-commits` list them, `git fetch` fetches more, `dvc exp pull "
            "origin NAME` an experiment"
        ) from error


def reader(repo: "Repo", revision: Revision) -> Read:
    """Return a function that reads a revision's files.

    Files of a commit are read from Git, DVC's cache or its default remote. The function raises
    InputError if the revision does not have the file, or it is not found or damaged.
    """
    if revision.commit is None:
        return partial(_read_workspace, Path(repo.root_dir))
    from dvc.api import DVCFileSystem

    # The commit may be older than the remote, which is configured in the work tree.
    config = {key: repo.config[key] for key in ("core", "cache", "remote")}
    files = DVCFileSystem(repo=repo.root_dir, rev=revision.commit, config=config)
    return partial(_read_commit, repo, revision, files)


def _read_workspace(root: Path, name: str) -> bytes:
    try:
        return (root / name).read_bytes()
    except OSError as error:
        raise InputError(
            f"{name}: cannot be read ({error.strerror}), so the {WORKSPACE} has no scores; "
            "`dvc repro` computes them, `dvc pull` fetches those of dvc.lock"
        ) from error


def _read_commit(repo: "Repo", revision: Revision, files: "DVCFileSystem", name: str) -> bytes:
    try:
        info = _recorded(files, name)
        content: bytes = files.read_bytes(name) if info else b""
    except Exception as error:  # file systems raise errors of their own
        raise _not_found(repo, revision, name, error) from error
    if not info:
        raise InputError(
            f"{revision}: has no scores ({name} is neither in its dvc.lock nor in Git); `git "
            f"switch --detach {revision.commit:.7}`, `dvc repro`, and commit the changes"
        )
    if "md5" in info and hashlib.md5(content, usedforsecurity=False).hexdigest() != info["md5"]:
        folder = _recorded(files, str(PurePosixPath(name).parent)).get("md5")
        raise _damaged(repo, revision, name, info["md5"], folder)
    return content


def _recorded(files: "DVCFileSystem", name: str) -> dict[str, Any]:
    """Return DVC's description of a file: `fs_info` if Git has it, `md5` if dvc.lock has its hash.

    Empty if neither has it; dvc.yaml may only declare it.
    """
    try:
        info: dict[str, Any] = files.info(name)
    except FileNotFoundError:
        return {}
    return {key: info[key] for key in ("fs_info", "md5") if key in info}


def _damaged(
    repo: "Repo", revision: Revision, name: str, md5: str, folder: str | None
) -> InputError:
    """Error that names the damaged object.

    Args:
        folder: hash of the list of its folder; if the remote has it, DVC uploads no file of it.
    """
    damaged = repo.cache.local.oid_to_path(md5)
    switch = f"`git switch --detach {revision.commit:.7}`"
    fetch = f"{switch} and `dvc fetch` get it from the remote"
    if not Path(damaged).exists():
        remote = repo.cloud.get_remote_odb()
        damaged = " and ".join(
            remote.fs.unstrip_protocol(remote.oid_to_path(one)) for one in (md5, folder) if one
        )
        fetch = "`dvc push --all-commits` on a machine with a sound copy uploads it"
    return InputError(
        f"{revision}: {name} is damaged: its MD5 is not that of dvc.lock; delete {damaged}. Then "
        f"{fetch}, or {switch} and `dvc repro` compute it again"
    )


def _not_found(repo: "Repo", revision: Revision, name: str, error: Exception) -> InputError:
    """Error with a hint that depends on whether a default remote is configured."""
    name_of_remote = repo.config["core"].get("remote")
    if name_of_remote:
        remote = f"the remote {name_of_remote!r}"
        hint = (
            "`dvc push --all-commits`, or for an experiment `dvc exp push origin NAME`, uploads it "
            "from the machine that has it"
        )
    else:
        remote = "a remote"
        hint = "`dvc remote add --default NAME URL` adds the one that it was pushed to"
    cause = "" if isinstance(error, FileNotFoundError) else f" ({type(error).__name__}: {error})"
    return InputError(
        f"{revision}: {name} is neither in DVC's cache nor on {remote}{cause}; {hint}. Or `git "
        f"switch --detach {revision.commit:.7}` and `dvc repro` compute it again"
    )
