"""Where a training is backed up to: DVC's remote and Git's."""

from collections.abc import Iterator

from multi_abnormality.doctor.house import DOUBT, FAULT, WELL, House, Seen
from multi_abnormality.doctor.listen import warnings_kept

PATIENCE = 20.0  # s that a Git remote gets to answer


def look_at_dvc_remote(house: House) -> Iterator[Seen]:
    """By what a training does itself before its first epoch: a small file there and away again."""
    from multi_abnormality.backup.process import Worker
    from multi_abnormality.backup.setup import set_up
    from multi_abnormality.backup.verification import remotes_to_verify
    from multi_abnormality.errors import InputError

    if house.params is None:
        yield Seen(DOUBT, "DVC remote", "not looked at: params.yaml says which it is")
        return
    if house.trains:
        yield Seen(WELL, "DVC remote", "not tried: a training that runs here uses it")
        return
    worker = Worker(house.root)
    with warnings_kept() as warned:
        try:
            setup = set_up(house.params.backup, house.root, "doctor", worker)
        except InputError as error:
            yield Seen(FAULT, "DVC remote", str(error))
            return
        finally:
            worker.end()
    if setup is not None:
        yield Seen(
            WELL, "DVC remote", f"{setup.job.remote!r} takes files: training backs itself up"
        )
    for warning in warned:
        yield Seen(DOUBT, "DVC remote", warning)
    for name in remotes_to_verify(house.root):
        yield Seen(
            DOUBT, "DVC remote", f"DVC does not check what it pulls from {name!r}",
            f"dvc remote modify --local {name} verify true",
        )  # fmt: skip


def look_at_git(house: House) -> Iterator[Seen]:
    """dvc.lock and params.yaml are kept by Git: without it nothing is restored elsewhere."""
    from multi_abnormality.backup.git import Git, GitError, repository_of

    git = repository_of(house.root)
    if git is None:
        said = _why_no_repository(house)
        yield Seen(DOUBT, "Git", f"{said}, so no state of a training can be restored elsewhere",
                   "git init && git add --all && git commit")  # fmt: skip
        return
    branch = git.find("symbolic-ref", "--quiet", "--short", "HEAD")
    if branch is None:
        yield Seen(DOUBT, "Git", "HEAD is on no branch: new commits are easily lost",
                   "git switch main")  # fmt: skip
    names = git("remote").split()
    if not names:
        yield Seen(DOUBT, "Git", "no remote: commits stay on this machine",
                   "git remote add origin URL && git push --set-upstream origin HEAD")  # fmt: skip
    patient = Git(git.folder, patience=PATIENCE).unattended()
    for name in names:
        try:
            patient("ls-remote", "--quiet", name, "HEAD")
        except GitError as error:
            yield Seen(DOUBT, "Git", f"the remote {name!r} can't be asked: {error}",
                       f"git ls-remote {name}")  # fmt: skip
        else:
            yield Seen(WELL, "Git", f"branch {branch or '(none)'}; the remote {name!r} answers")


def _why_no_repository(house: House) -> str:
    from multi_abnormality.backup.git import Git, GitError

    try:
        Git(house.root)("rev-parse", "--show-toplevel")
    except GitError as error:
        return str(error)
    return "no work tree"
