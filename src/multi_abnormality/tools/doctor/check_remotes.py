"""Checks of the DVC and Git remotes that training is backed up to."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from multi_abnormality.tools.doctor.context import CheckResult, DoctorContext, passed, warning

if TYPE_CHECKING:
    from multi_abnormality.backup.backup_setup import BackupSetup

RESULT_STAGES = ("train", "evaluate", "export")


def check_dvc_remote(context: DoctorContext) -> Iterator[CheckResult]:
    """Whether the DVC remote can be written, by the check that training makes before epoch 0."""
    from multi_abnormality.backup.backup_setup import set_up_backup
    from multi_abnormality.backup.object_verification import remotes_to_verify

    if context.params is None:
        yield warning("not checked: it depends on params.yaml")
        return
    if context.is_training:
        yield passed("not checked: a running training uses it")
        return
    setup = set_up_backup(context.params.backup, context.root, "doctor")
    if setup is not None:
        yield passed(f"{setup.job.remote!r} can be written: training will be backed up")
        if missing := _missing_results(setup):
            yield warning(
                f"results of the finished run are not on {setup.job.remote!r}: "
                f"{', '.join(missing)}",
                "dvc push",
            )
    for name in remotes_to_verify(context.root):
        yield warning(
            f"DVC does not check what it pulls from {name!r}",
            f"dvc remote modify --local {name} verify true",
        )


def _missing_results(setup: "BackupSetup") -> list[str]:
    """Return the results of a finished run, as dvc.lock records it, that only this machine has.

    Only `dvc push` uploads them: DVC does not run a finished stage again.
    """
    from multi_abnormality.backup.dvc_recorder import COMPLETE
    from multi_abnormality.backup.dvc_remote import Remote
    from multi_abnormality.backup.files_to_upload import hashes_of

    repo = setup.recorder.repo
    outs = [out for out in repo.index.outs if getattr(out.stage, "name", "") in RESULT_STAGES]
    if not any(out.def_path == COMPLETE and out.hash_info for out in outs):
        return []
    objects = {out: hashes_of(out) for out in outs if out.use_cache and out.hash_info}
    cached = {hash_ for hash_ in set().union(*objects.values()) if repo.cache.local.exists(hash_)}
    missing = Remote(repo, setup.job.remote).missing_objects(cached)
    return [out.def_path for out, hashes in objects.items() if missing.intersection(hashes)]


def check_git(context: DoctorContext) -> Iterator[CheckResult]:
    """Whether Git can store dvc.lock and params.yaml, without which no run is restored."""
    from multi_abnormality.backup.git import repository_of

    git = repository_of(context.root)
    if git is None:
        reason = _why_no_repository(context)
        yield warning(
            f"{reason}, so no run can be restored on another machine",
            "git init && git add --all && git commit",
        )
        return
    branch = git.find("symbolic-ref", "--quiet", "--short", "HEAD")
    if branch is None:
        yield warning(
            "HEAD is detached: new commits belong to no branch and may be lost", "git switch main"
        )
    names = git("remote").split()
    if not names:
        yield warning(
            "no remote: commits exist only on this machine",
            "git remote add origin URL && git push --set-upstream origin HEAD",
        )
    else:
        yield passed(f"branch {branch or '(none)'}; remotes: {', '.join(names)}")


def _why_no_repository(context: DoctorContext) -> str:
    from multi_abnormality.backup.git import Git, GitError

    try:
        Git(context.root)("rev-parse", "--show-toplevel")
    except GitError as error:
        return str(error)
    return "no work tree"
