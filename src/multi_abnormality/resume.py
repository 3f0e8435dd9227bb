"""Bring the newest resume state of this branch into the work tree.

python -m multi_abnormality.resume && dvc pull --allow-missing && dvc repro --allow-missing
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from multi_abnormality import console
from multi_abnormality.backup.find import HERE, State, find_states
from multi_abnormality.backup.git import GitError, repository_of
from multi_abnormality.backup.ledger import Ledger
from multi_abnormality.backup.place import WorkTree
from multi_abnormality.backup.record import (
    STAGE,
    Recorder,
    RecordError,
    open_repository,
    uncached_outputs,
)
from multi_abnormality.backup.remote import Remote
from multi_abnormality.backup.setup import OFF
from multi_abnormality.errors import InputError
from multi_abnormality.params import load_params

log = console.log


def resume(root: Path, fingerprint: str | None = None) -> State | None:
    """Put the newest state's files into the work tree, and nothing else.

    Args:
        root: folder of the project.
        fingerprint: of the run to go on with; None for the newest of all.

    Returns:
        What was put there; None where there is nothing to resume.

    Raises:
        InputError: there are local changes, or the remotes can't be asked.
    """
    repo, git = open_repository(root), repository_of(root)
    if repo is None or git is None:
        raise InputError(f"{root.resolve()} is not a clone of the project: no Git or no DVC here")
    wanted = load_params(root / "params.yaml").backup.remote
    remote = _open_remote(repo, wanted)
    states = find_states(git, remote)
    if fingerprint is not None:
        states = [state for state in states if state.about.run.endswith(f"/{fingerprint}")]
    tree = WorkTree(git, Path(repo.root_dir), uncached_outputs(repo))
    if not states:
        if remote is None:
            raise InputError(
                "no DVC remote, so there is nothing to resume from: `dvc remote add --default "
                "backup URL` names it, `dvc repro` starts from what is here"
            )
        log.info("nothing to resume on this branch: `dvc repro` starts from what is here")
        return None
    state = _newest_whole(states, remote)
    if any(_is_had(hash_, repo, remote) for hash_ in tree.ends_of(state)):
        log.info("that training has ended, and dvc.lock has its end: nothing to resume")
        return None
    names = tree.put(state)
    if state.place == HERE:
        _record_what_is_ahead(state, repo)
    _take_over(state, remote, Ledger(Path(repo.tmp_dir) / "backup.json"))
    log.info(
        "going on with %s, epochs done %d, from %s; brought back: %s",
        state.about.run, state.about.epochs, state.place, ", ".join(names) or "nothing new",
    )  # fmt: skip
    if wanted not in (None, repo.config["core"].get("remote")):
        _fetch(repo, wanted)
    for other in {item.about.run for item in states} - {state.about.run}:
        log.info("another run can be resumed: --run %s", other.rpartition("/")[2])
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


def _is_had(hash_: str, repo: Any, remote: Remote | None) -> bool:
    """A lock may come from somebody else, who has what it names."""
    if repo.cache.local.exists(hash_):
        return True
    return remote is not None and not _lacking(remote, [hash_])


def _newest_whole(states: list[State], remote: Remote | None) -> State:
    """The newest whose objects have all arrived: a machine may vanish while they are written."""
    if remote is None:
        return states[0]
    for state in states:
        objects = state.about.generations[-1].objects
        lacking = {hash_ for hash_ in _lacking(remote, objects) if not remote.cache.exists(hash_)}
        if not lacking:
            return state
        log.warning(
            "the state after %d epochs (%s) is skipped: %d of its objects are not on %s",
            state.about.epochs, state.place, len(lacking), remote.url,
        )  # fmt: skip
    raise InputError(
        f"{remote.url} has the objects of no resume state; `dvc remote list` tells whether it is "
        "the remote that was trained with, `dvc repro` starts from what is here"
    )


def _lacking(remote: Remote, objects: Iterable[str]) -> set[str]:
    try:
        return set(remote.lacks(objects))
    except Exception as error:  # any file system's own
        raise InputError(f"the DVC remote {remote.url} can't be asked: {error}") from error


def _fetch(repo: Any, remote: str) -> None:
    """Fill the cache from a remote that is not DVC's default one: `dvc pull` asks that alone."""
    from dvc.exceptions import DvcException

    try:
        repo.fetch([STAGE, "preprocess"], remote=remote)
    except DvcException as error:
        raise InputError(f"the DVC remote {remote!r} did not give all: {error}") from error


def _record_what_is_ahead(state: State, repo: Any) -> None:
    """Training went on here after its last backup: `dvc pull` must not put that over it."""
    try:
        recorder = Recorder(repo)
        if recorder.is_ahead():
            recorder.record(state.about.epochs)
            log.info("this machine's checkpoints are newer than what it sent; they stay")
    except RecordError as error:
        raise InputError(str(error)) from error


def _take_over(state: State, remote: Remote | None, ledger: Ledger) -> None:
    """What the lost machine sent is from now on this one's to tidy up."""
    run = state.about.run
    if remote is None or ledger.generations(run):
        return
    *earlier, newest = state.about.generations
    newest = replace(newest, uploaded=newest.own, remote=remote.url, sent=True)
    there = [replace(item, remote=remote.url) for item in earlier if not remote.lacks(item.objects)]
    ledger.set_generations(run, [*there, newest])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m multi_abnormality.resume",
        description=__doc__.splitlines()[0],
        parents=[console.options()],
    )
    parser.add_argument("--run", metavar="FINGERPRINT", help="instead of the newest of the branch")
    try:
        resume(Path(), parser.parse_args().run)
    except GitError as error:
        raise InputError(str(error)) from error


if __name__ == "__main__":
    console.run(main)
