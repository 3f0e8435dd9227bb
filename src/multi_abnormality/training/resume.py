"""Where training goes on from."""

import shutil
from pathlib import Path
from typing import Any

from multi_abnormality.console import log
from multi_abnormality.params import Train
from multi_abnormality.training.checkpoints import newest
from multi_abnormality.training.history import History
from multi_abnormality.training.identity import differences


def find_resumable(
    folder: Path, identity: dict[str, Any], train: Train, aside: Path
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of this very training; those of another are put out of the way.

    Args:
        folder: of checkpoints.
        identity: of the training that is to go on.
        train: how long it is to go on.
        aside: folder that takes in what another, unfinished training left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):  # of a save that was killed
        leftover.unlink()
    found = newest(folder)
    if found is None:
        return None
    path, checkpoint = found
    history = History.from_state(checkpoint["history"])
    changed = differences(checkpoint["about"]["identity"], identity) + _too_far(history, train)
    if not changed:
        return found
    log.warning("%s is of another training, so this one starts anew. What differs:", path)
    for line in changed:
        log.warning("  - %s", line)
    if checkpoint["complete"]:  # `dvc repro` has put it into DVC's cache
        for file in folder.glob("*.ckpt"):
            file.unlink()
    else:
        _put_aside(folder, aside)
    return None


def _too_far(history: History, train: Train) -> list[str]:
    """Why a training of today's length would have ended before this history does."""
    done = len(history.epochs)
    if done > train.epochs:
        return [f"train.epochs: {done} epochs are done, now {train.epochs} are wanted"]
    if any(
        History(history.epochs[:count]).stalled(train.early_stopping_patience)
        for count in range(1, done)
    ):
        return ["train.early_stopping_patience: is now so low that training would have ended"]
    return []


def _put_aside(folder: Path, aside: Path) -> None:
    aside.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in aside.iterdir() if path.name.isdigit()]
    place = aside / str(max(numbers, default=0) + 1)
    shutil.move(folder, place)
    folder.mkdir()
    log.warning("that training had not ended; its checkpoints are kept in %s", place)
