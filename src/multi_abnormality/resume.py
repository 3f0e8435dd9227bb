"""Restore the newest resume state of this branch.

python -m multi_abnormality.resume && dvc pull --allow-missing && dvc repro --allow-missing
"""

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import multi_abnormality
from multi_abnormality import console
from multi_abnormality.backup.discovery import HERE, State, find_states
from multi_abnormality.backup.git import GitError, repository_of
from multi_abnormality.backup.ledger import Ledger
from multi_abnormality.backup.record import (
    CHECKPOINTS,
    Recorder,
    RecordError,
    open_repository,
    uncached_outputs,
)
from multi_abnormality.backup.remote import Remote
from multi_abnormality.backup.restore import Inspected, WorkTree
from multi_abnormality.backup.setup import OFF
from multi_abnormality.backup.tree_changes import UnsafeTreeError
from multi_abnormality.backup.verification import remotes_to_verify, set_verify
from multi_abnormality.errors import InputError, first_few
from multi_abnormality.params import load_params
from multi_abnormality.run_fingerprint import differences, identify

log = console.log

REPLACED = "trainings/replaced"  # in DVC's folder of temporary files


def resume(
    root: Path,
    fingerprint: str | None = None,
    allow_code_changes: bool = False,
    commit: str | None = None,
) -> State | None:
    """Restore the newest state's files into the work tree, and its objects into DVC's cache.

    Args:
        root: the project's folder.
        fingerprint: of the run to continue; None: the newest of all.
        allow_code_changes: whether the state may bring other code than this clone has.
        commit: start of the hash of the state's commit; None: the newest.

    Returns:
        The restored state; None if there is nothing to resume.

    Raises:
        InputError: there are conflicting changes here, the state is of another run than would be
            trained, or the remotes can't be asked.
    """
    repo, git = open_repository(root), repository_of(root)
    if repo is None or git is None:
        raise InputError(f"{root.resolve()} is not a clone of the project: no Git or no DVC here")
    wanted = load_params(root / "params.yaml").backup.remote
    remote = _open_remote(repo, wanted)
    known = find_states(git, remote)
    states = [
        state for state in known
        if state.metadata.fingerprint.startswith(fingerprint or "")
        and state.commit.startswith(commit or "")
    ]  # fmt: skip
    if known and not states:
        raise InputError("no such resume state; these are there:\n" + _listed(known))
    if not states:
        if remote is None:
            raise InputError(
                "no DVC remote, so there is nothing to resume from: `dvc remote add --default "
                "backup URL` names it, `dvc repro` starts from what is here"
            )
        log.info("nothing to resume on this branch: `dvc repro` starts from what is here")
        if others := {name.rpartition("/")[0].rpartition("/")[0] for name in _bundles(remote)}:
            log.info("other branches have states: %s", first_few(sorted(others)))
        return None
    tree = WorkTree(git, Path(repo.root_dir), uncached_outputs(repo))
    found = _newest_restorable(states, tree, remote, allow_code_changes)
    state = found.state
    if any(_is_available(hash_, repo, remote) for hash_ in tree.ends_of(found)):
        log.info("that run is finished and recorded in dvc.lock: nothing to resume")
        return None
    plan = tree.plan(found, allow_code_changes)
    tree.apply(plan, state)
    _check_fingerprint(state, Path(repo.root_dir))
    if state.place == HERE and state is known[0]:
        _record_newer_checkpoints(state, repo)
    elif state.place == HERE:
        _make_way(Path(repo.root_dir) / CHECKPOINTS, Path(repo.tmp_dir) / REPLACED)
    _adopt(found, remote, Ledger(Path(repo.tmp_dir) / "backup.json"))
    set_verify(Path(repo.root_dir), remotes_to_verify(Path(repo.root_dir)))
    log.info(
        "resuming run %s, epochs done %d, from %s; restored: %s",
        state.metadata.run, state.metadata.epochs, state.place,
        ", ".join(sorted(plan)) or "nothing new",
    )  # fmt: skip
    _log_branch(tree, found)
    for other in {item.metadata.fingerprint for item in states} - {state.metadata.fingerprint}:
        log.info("another run can be resumed: --run %s", other)
    return state


def _open_remote(repo: Any, wanted: str | None) -> Remote | None:
    from dvc.exceptions import DvcException

    name = wanted or repo.config["core"].get("remote")
    if not name or wanted == OFF:
        return None
    try:
        return Remote(repo, name)
    except DvcException as error:
        raise InputError(f"the DVC remote {name!r} does not serve: {error}") from error


def _is_available(hash_: str, repo: Any, remote: Remote | None) -> bool:
    """dvc.lock may have been committed elsewhere; its objects may not exist here."""
    if repo.cache.local.exists(hash_):
        return True
    return remote is not None and not _ask(remote, lambda: remote.lacks([hash_]))


def _listed(states: list[State]) -> str:
    return "\n".join(
        f"  - {state.commit[:12]}: run {state.metadata.fingerprint}, epochs done "
        f"{state.metadata.epochs}, {state.place}"
        for state in states
    )


def _bundles(remote: Remote | None) -> list[str]:
    return [] if remote is None else _ask(remote, remote.bundles)


def _newest_restorable(
    states: list[State], tree: WorkTree, remote: Remote | None, allow_code_changes: bool
) -> Inspected:
    """Return the newest state that is safe to write and whose objects are here, whole.

    Others are skipped with a warning. A machine may vanish while objects are written.

    Raises:
        InputError: there is none.
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
            "the state after %d epochs (%s) is skipped: %s",
            state.metadata.epochs, state.place, reason,
        )  # fmt: skip
    where = remote.url if remote is not None else "this machine"
    raise InputError(
        f"none of the resume states on {where} can be restored (see above); `dvc remote list` "
        "shows whether it is the remote that was trained with, `dvc repro` starts from what is here"
    )


def _fetch(found: Inspected, remote: Remote) -> str | None:
    """Fetch what training needs, verified; return why the state can't be used, if it can't."""
    folders = found.folders()
    faults = _ask(remote, lambda: remote.fetch(folders))
    if unsafe := remote.unsafe_folders(folders):
        return f"a folder on the remote names the file {next(iter(unsafe.values()))!r}"
    if found.drop_missing_preprocess(faults):
        log.warning("the preprocessed volumes are not on the remote; they have to be made again")
    needed = found.objects()
    for folder in sorted(needed):
        if folder in faults:
            remote.remove_damaged([folder], folder)
            return f"the list of a folder, {folder}, {faults[folder]}"
    for folder in sorted(needed):
        paths = remote.files_of(folder)
        faults = _ask(remote, partial(remote.fetch, paths))
        if faults:
            names = sorted(f"{paths[hash_]} {reason}" for hash_, reason in faults.items())
            removed = remote.remove_damaged(faults, folder)
            end = "; what is damaged was removed there" if removed else ""
            return first_few(names) + end
    return None


def _ask(remote: Remote, question: Any) -> Any:
    try:
        return question()
    except Exception as error:  # any file system's own
        raise InputError(f"the DVC remote {remote.url} can't be asked: {error}") from error


def _check_fingerprint(state: State, root: Path) -> None:
    """Compare the run that would be trained now with the state's.

    What was restored stays: it is the state's own, so what differs lies outside of the work tree,
    such as a package that is installed elsewhere.
    """
    backup = state.metadata.identity
    if not backup:
        return
    params = load_params(root / "params.yaml")
    if params.train.debug != "none":
        from multi_abnormality.training.debug import settle  # imports torch

        params = settle(params)
    package = Path(multi_abnormality.__file__).parent
    now = identify(params, backup["findings"], backup["processed"], package)
    if params.machine.accept_changed_code:
        now["code"] = backup["code"]
    if lines := differences(backup, now):
        raise InputError(
            f"the run that would be trained is not the one that was backed up ({state.place}):\n"
            + "\n".join(f"  - {line}" for line in lines)
            + f"\nThe code that runs here is {package}. `machine.accept_changed_code: true` "
            "continues the run over changed code, `dvc repro` starts a new run"
        )


def _record_newer_checkpoints(state: State, repo: Any) -> None:
    """Training continued here after its last backup: `dvc pull` must not overwrite that."""
    try:
        recorder = Recorder(repo)
        if recorder.is_ahead():
            recorder.record(state.metadata.epochs)
            log.info("this machine's checkpoints are newer than its last backup; they stay")
    except RecordError as error:
        raise InputError(str(error)) from error


def _make_way(folder: Path, replaced: Path) -> None:
    """Move another run's checkpoints out of the way: `dvc pull` would stop at them."""
    paths = sorted(folder.glob("*.ckpt"))
    for path in paths:
        replaced.mkdir(parents=True, exist_ok=True)
        shutil.move(path, replaced / path.name)
    if paths:
        log.info("another run's checkpoints were moved to %s", replaced)


def _adopt(found: Inspected, remote: Remote | None, ledger: Ledger) -> None:
    """Let this machine prune what the lost one uploaded.

    Only of the newest generation it is known what the run made: what a state says of earlier ones
    may be anybody's, and is only taken away on the remote.
    """
    run = found.state.metadata.run
    if remote is None or ledger.generations(run):
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
        for item in earlier if not remote.lacks(item.objects)
    ]  # fmt: skip
    ledger.set_generations(run, [*present, newest])


def _log_branch(tree: WorkTree, found: Inspected) -> None:
    """Log how the state's branch and this one differ."""
    if unpushed := tree.unpushed(found):
        commit = found.state.commit[:12]
        how = f"`git merge {commit}^`" if found.moved else f"`git reset {commit}^`"
        log.info(
            "the backup builds on commits that this branch lacks: %s; %s adds them",
            first_few(unpushed, 3), how,
        )  # fmt: skip
    if found.ignored:
        log.warning("left out, since .gitignore excludes it: %s", first_few(sorted(found.ignored)))
    if found.moved:
        log.info("this branch has newer commits than the backup; what they changed stays")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.resume",
        description=__doc__.splitlines()[0],
        parents=[console.options()],
    )
    parser.add_argument("--run", metavar="FINGERPRINT", help="instead of the newest of the branch")
    parser.add_argument("--state", metavar="COMMIT", help="instead of the newest of the run")
    parser.add_argument(
        "--allow-code-changes", action="store_true",
        help="also restore code that differs from this clone's: whoever can write to the remote "
        "can have it run here",
    )  # fmt: skip
    arguments = parser.parse_args()
    try:
        resume(Path(), arguments.run, arguments.allow_code_changes, arguments.state)
    except GitError as error:
        raise InputError(str(error)) from error


if __name__ == "__main__":
    console.run(main)
