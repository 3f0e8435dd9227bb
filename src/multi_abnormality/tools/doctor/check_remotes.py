"""Checks of the DVC and Git remotes that training is backed up to."""

from collections.abc import Iterator

from multi_abnormality.tools.doctor.context import CheckResult, DoctorContext, passed, warning


def check_dvc_remote(context: DoctorContext) -> Iterator[CheckResult]:
    """Whether the DVC remote can be written, by the check that training makes before epoch 0."""
    from multi_abnormality.backup.backup_setup import missing_results, run_preflight
    from multi_abnormality.backup.pulled_objects import remotes_to_verify

    if context.params is None:
        yield warning("not checked: it depends on params.yaml")
        return
    if context.is_training:
        yield passed("not checked: a running training uses it")
        return
    setup = run_preflight(context.params.backup, context.root, "doctor")
    if setup is not None:
        yield passed(f"{setup.job.remote!r} can be written: training will be backed up")
        if missing := missing_results(setup):
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
