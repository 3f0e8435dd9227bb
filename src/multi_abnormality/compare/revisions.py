"""What a name stands for, and the files that a project had there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multi_abnormality.errors import InputError

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

WORKSPACE = "workspace"  # the files as they lie here, in DVC's own word

Read = Callable[[str], bytes]  # a file's content, by its path below the project's folder


@dataclass(frozen=True)
class Revision:
    """A name that a user gave, and what it stands for; no commit for the work tree."""

    name: str
    commit: str | None

    def __str__(self) -> str:
        if self.commit is None or self.commit.startswith(self.name):
            return self.name
        return f"{self.name} ({self.commit[:7]})"


def resolve(repo: "Repo", name: str) -> Revision:
    """What a branch, tag, commit, experiment or the word `workspace` stands for.

    Raises:
        InputError: there is no such revision.
    """
    from dvc.scm import NoSCM, SCMError, resolve_rev

    if name == WORKSPACE:
        return Revision(name, None)
    if isinstance(repo.scm, NoSCM):
        raise InputError(f"{name}: this project is in no Git repository; only {WORKSPACE} is known")
    try:
        return Revision(name, resolve_rev(repo.scm, name))
    except SCMError as error:
        raise InputError(
            f"{name}: is no branch, tag, commit or experiment here ({error}); `git log --all` and "
            "`dvc exp show --all-commits` list what there is, `git fetch` and `dvc exp pull` "
            "bring more"
        ) from error


def reader(repo: "Repo", revision: Revision) -> Read:
    """Reads a revision's files out of the work tree; of a commit, out of Git, DVC's cache, or its
    default remote.

    What it returns raises InputError: the revision does not have the file, or it is nowhere.
    """
    if revision.commit is None:
        return _workspace(Path(repo.root_dir))
    return _commit(repo, revision, revision.commit)


def _workspace(root: Path) -> Read:
    def read(name: str) -> bytes:
        try:
            return (root / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"{name}: cannot be read ({error.strerror}), so the {WORKSPACE} has no scores; "
                "`dvc repro` makes them, `dvc pull` brings those of dvc.lock"
            ) from error

    return read


def _commit(repo: "Repo", revision: Revision, commit: str) -> Read:
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(repo=repo.root_dir, rev=commit)

    def read(name: str) -> bytes:
        try:
            if _is_recorded(files, name):
                content: bytes = files.read_bytes(name)
                return content
        except Exception as error:  # any file system's own
            raise _nowhere(repo, revision, commit, name, error) from error
        raise InputError(
            f"{revision}: has no scores ({name} is neither in its dvc.lock nor in Git); `git "
            f"switch --detach {commit[:7]}`, `dvc repro`, and commit what that changes"
        )

    return read


def _is_recorded(files: "DVCFileSystem", name: str) -> bool:
    """Whether Git has the file, or dvc.lock its hash: dvc.yaml alone promises it before it is."""
    try:
        return not {"fs_info", "md5"}.isdisjoint(files.info(name))
    except FileNotFoundError:
        return False


def _nowhere(
    repo: "Repo", revision: Revision, commit: str, name: str, error: Exception
) -> InputError:
    """What to do depends on whether there is a remote that was asked too."""
    remote = repo.config["core"].get("remote")
    if remote:
        place = f"the remote {remote!r}"
        hint = "`dvc push --all-commits`, or `dvc exp push`, on the machine that made it brings it"
    else:
        place = "a remote"
        hint = "`dvc remote add --default NAME URL` names the one that it was pushed to"
    said = "" if isinstance(error, FileNotFoundError) else f" ({type(error).__name__}: {error})"
    return InputError(
        f"{revision}: {name} is neither in DVC's cache nor on {place}{said}; {hint}. Or `git "
        f"switch --detach {commit[:7]}` and `dvc repro` make it anew"
    )
