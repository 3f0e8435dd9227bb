"""Restore the newest resume state of this branch.

multi-abnormality resume && dvc pull --allow-missing && dvc repro --allow-missing
"""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import multi_abnormality
from multi_abnormality.backup.backup_setup import BACKUP_OFF
from multi_abnormality.backup.dvc_recorder import (
    CHECKPOINTS,
    Recorder,
    RecordError,
    open_repository,
)
from multi_abnormality.backup.dvc_remote import Remote
from multi_abnormality.backup.files_to_upload import committed_files
from multi_abnormality.backup.git import GitError, repository_of
from multi_abnormality.backup.object_verification import remotes_to_verify, set_verify
from multi_abnormality.backup.restore import InspectedState, WorkTree
from multi_abnormality.backup.resume_commit_checks import UnsafeTreeError
from multi_abnormality.backup.resume_states import THIS_MACHINE, State, find_states
from multi_abnormality.backup.upload_log import UploadLog
from multi_abnormality.config.schema import load_params
from multi_abnormality.runtime.run_fingerprint import differences, identify
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError, first_few, plural

log = console.log

REPLACED_DIR = "trainings/replaced"  # in .dvc/tmp


def resume(
    root: Path,
    fingerprint: str | None = None,
    allow_code_changes: bool = False,
    commit: str | None = None,
) -> State | None:
    """Restore the newest state's files into the work tree, and its objects into DVC's cache.

    Args:
        fingerprint: fingerprint of the run to resume, or its start; None for the newest run.
        allow_code_changes: whether to restore code that differs from this clone's.
        commit: hash of the state's commit, or its start; None for the newest state.

    Returns:
        The restored state, or None if there is nothing to resume.

    Raises:
        InputError: the work tree has conflicting changes, would train another run, or the remotes
            can't be read.
    """
    repo, git = open_repository(root), repository_of(root)
    if repo is None or git is None:
        raise InputError(
            f"{root.resolve()}: not in a Git and DVC project; run in the project's folder"
        )
    remote_name = load_params(root / "params.yaml").backup.remote
    remote = _open_remote(repo, remote_name)
    all_states = find_states(git, remote)
    states = [
        state for state in all_states
        if state.metadata.fingerprint.startswith(fingerprint or "")
        and state.commit.startswith(commit or "")
    ]  # fmt: skip
    if all_states and not states:
        raise InputError("no such resume state; available are:\n" + _listed(all_states))
    if not states:
        if remote is None:
            raise InputError(
                "no DVC remote, so there is nothing to resume from: add it by `dvc remote add "
                "--default backup URL`, or start a new run by `dvc repro`"
            )
        log.info("nothing to resume on this branch: `dvc repro` starts a new run")
        bundles = _query(remote, remote.bundles)
        if others := {name.rpartition("/")[0].rpartition("/")[0] for name in bundles}:
            log.info("other branches have resume states: %s", first_few(sorted(others)))
        return None
    tree = WorkTree(git, Path(repo.root_dir), committed_files(repo))
    found = _newest_restorable(states, tree, remote, allow_code_changes)
    state = found.state
    if any(_is_available(hash_, repo, remote) for hash_ in tree.finished_checkpoints(found)):
        log.info("that run is finished and recorded in dvc.lock: nothing to resume")
        return None
    plan = tree.plan_changes(found, allow_code_changes)
    tree.restore(plan, state)
    _check_fingerprint(state, Path(repo.root_dir))
    if state.location == THIS_MACHINE and state is all_states[0]:
        _record_newer_checkpoints(state, repo)
    elif state.location == THIS_MACHINE:
        _move_checkpoints(Path(repo.root_dir) / CHECKPOINTS, Path(repo.tmp_dir) / REPLACED_DIR)
    _adopt_uploads(found, remote, UploadLog(Path(repo.tmp_dir) / "backup.json"))
    set_verify(Path(repo.root_dir), remotes_to_verify(Path(repo.root_dir)))
    log.info(
        "resuming run %s, epochs done %d, from %s; restored: %s",
        state.metadata.run, state.metadata.epochs, state.location,
        ", ".join(sorted(plan)) or "nothing new",
    )  # fmt: skip
    _log_branch(tree, found)
    for other in {item.metadata.fingerprint for item in states} - {state.metadata.fingerprint}:
        log.info("another run can be resumed: --run %s", other)
    return state


def _open_remote(repo: Any, remote_name: str | None) -> Remote | None:
    from dvc.exceptions import DvcException

    name = remote_name or repo.config["core"].get("remote")
    if not name or remote_name == BACKUP_OFF:
        return None
    try:
        return Remote(repo, name)
    except DvcException as error:
        raise InputError(f"the DVC remote {name!r} can't be used: {error}") from error


def _is_available(hash_: str, repo: Any, remote: Remote | None) -> bool:
    """dvc.lock may have been committed elsewhere; its objects may not exist here."""
    if repo.cache.local.exists(hash_):
        return True
    return remote is not None and not _query(remote, lambda: remote.missing_objects([hash_]))


def _listed(states: list[State]) -> str:
    return "\n".join(
        f"  - {state.commit[:12]}: run {state.metadata.fingerprint}, epochs done "
        f"{state.metadata.epochs}, {state.location}"
        for state in states
    )


def _newest_restorable(
    states: list[State], tree: WorkTree, remote: Remote | None, allow_code_changes: bool
) -> InspectedState:
    """Return the newest state that is safe to write and whose objects are complete.

    Other states are skipped with a warning, such as one whose upload was interrupted.
    """
    for state in states:
        reason = None
        try:
            found = tree.inspect(state, allow_code_changes)
            reason = _fetch(found, remote) if remote is not None else None
        except (UnsafeTreeError, GitError) as error:
            reason = str(error)
        if reason is None:
            return found
        log.warning(
            "the state after %s (%s) is skipped: %s",
            plural(state.metadata.epochs, "epoch", "epochs"), state.location, reason,
        )  # fmt: skip
    where = remote.url if remote is not None else "this machine"
    raise InputError(
        f"none of the resume states on {where} can be restored (see above); `dvc remote list` "
        "shows whether this is the run's remote, `dvc repro` starts a new run"
    )


def _fetch(found: InspectedState, remote: Remote) -> str | None:
    """Fetch and verify the state's objects; return an error text if it can't be used."""
    folders = found.folders()
    errors = _query(remote, lambda: remote.fetch(folders))
    if unsafe := remote.unsafe_folders(folders):
        return f"a folder on the remote contains the invalid path {next(iter(unsafe.values()))!r}"
    if found.drop_missing_preprocess(errors):
        log.warning("the preprocessed volumes are not on the remote and have to be regenerated")
    needed = found.objects()
    for folder in sorted(needed):
        if folder in errors:
            remote.remove_damaged([folder], folder)
            return f"the list of a folder, {folder}, {errors[folder]}"
    for folder in sorted(needed):
        paths = remote.files_of(folder)
        errors = _query(remote, partial(remote.fetch, paths))
        if errors:
            names = sorted(f"{paths[hash_]} {reason}" for hash_, reason in errors.items())
            removed = remote.remove_damaged(errors, folder)
            end = "; the damaged objects were deleted there" if removed else ""
            return first_few(names) + end
    return None


def _query(remote: Remote, query: Any) -> Any:
    try:
        return query()
    except Exception as error:  # any exception of a file system
        raise InputError(f"the DVC remote {remote.url} can't be read: {error}") from error


def _check_fingerprint(state: State, root: Path) -> None:
    """Check that the fingerprint of the restored run equals the state's.

    The work tree is the state's by now, so any difference lies outside it, such as a package that
    is installed elsewhere.
    """
    backup = state.metadata.identity
    if not backup:
        return
    params = load_params(root / "params.yaml")
    if params.train.debug != "none":
        from multi_abnormality.training.debug_modes import apply_debug_overrides  # imports torch

        params = apply_debug_overrides(params)
    package = Path(multi_abnormality.__file__).parent
    now = identify(params, backup["findings"], backup["processed"], package)
    if "pretrained_cfg" in backup:  # the checkpoints have the weights
        now["pretrained_cfg"] = backup["pretrained_cfg"]
        now["model"]["pretrained"] = backup["model"]["pretrained"]
    if params.machine.allow_code_changes:
        now["code"] = backup["code"]
    if lines := differences(backup, now):
        raise InputError(
            f"the restored run is not the one that was backed up ({state.location}):\n"
            + "\n".join(f"  - {line}" for line in lines)
            + f"\nThe installed code is {package}. `machine.allow_code_changes: true` "
            "continues the run over changed code, `dvc repro` starts a new run"
        )


def _record_newer_checkpoints(state: State, repo: Any) -> None:
    """Record checkpoints saved after the last backup, so that `dvc pull` keeps them."""
    try:
        recorder = Recorder(repo)
        if recorder.has_newer_checkpoints():
            recorder.record(state.metadata.epochs)
            log.info("the checkpoints on this machine are newer than its last backup and are kept")
    except RecordError as error:
        raise InputError(str(error)) from error


def _move_checkpoints(folder: Path, replaced: Path) -> None:
    """Move another run's checkpoints, which `dvc pull` would refuse to overwrite."""
    paths = sorted(folder.glob("*.ckpt"))
    for path in paths:
        replaced.mkdir(parents=True, exist_ok=True)
        shutil.move(path, replaced / path.name)
    if paths:
        log.info("another run's checkpoints were moved to %s", replaced)


def _adopt_uploads(found: InspectedState, remote: Remote | None, upload_log: UploadLog) -> None:
    """Let this machine prune the objects that the lost machine uploaded.

    Only for the newest generation is it verified that the run added its objects. Objects of earlier
    generations are therefore never deleted from the cache.
    """
    run = found.state.metadata.run
    if remote is None or upload_log.generations(run):
        return
    *earlier, newest = found.state.metadata.generations
    folders = found.objects()
    made = folders.union(*map(remote.files_of, folders)).intersection(newest.own)
    own = tuple(sorted(made))
    newest = newest.model_copy(
        update={"own": own, "uploaded": own, "remote": remote.id, "sent": True}
    )
    present = [
        item.model_copy(update={"own": (), "remote": remote.id})
        for item in earlier if not remote.missing_objects(item.objects)
    ]  # fmt: skip
    upload_log.set_generations(run, [*present, newest])


def _log_branch(tree: WorkTree, found: InspectedState) -> None:
    """Log how the state's branch and this one differ."""
    if unpushed := tree.unpushed(found):
        commit = found.state.commit[:12]
        how = f"`git merge {commit}^`" if found.head_changes else f"`git reset {commit}^`"
        log.info(
            "the backup builds on commits that this branch lacks: %s; %s adds them",
            first_few(unpushed, 3), how,
        )  # fmt: skip
    if found.ignored:
        log.warning(
            "not restored, since .gitignore excludes it: %s", first_few(sorted(found.ignored))
        )
    if found.head_changes:
        log.info("this branch has newer commits than the backup; their changes are kept")
