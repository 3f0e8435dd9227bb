"""Where training goes on from."""

from pathlib import Path
from typing import Any

from multi_abnormality.console import log
from multi_abnormality.training.checkpoints import newest
from multi_abnormality.training.identity import differences


def find_resumable(
    folder: Path, identity: dict[str, Any], aside: Path
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of this very training; those of another are put out of the way.

    Args:
        folder: of checkpoints.
        identity: of the training that is to go on.
        aside: folder that takes in what another, unfinished training left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = newest(folder)
    if found is None:
        return None
    path, checkpoint = found
    changed = differences(checkpoint["about"]["identity"], identity)
    if not changed:
        return found
    log.warning("%s is of another training, so this one starts anew. What differs:", path)
    for line in changed:
        log.warning("  - %s", line)
    if checkpoint["complete"]:  # then it is in DVC's cache
        for file in folder.glob("*.ckpt"):
            file.unlink()
    else:
        _put_aside(folder, aside)
    return None


def _put_aside(folder: Path, aside: Path) -> None:
    aside.mkdir(parents=True, exist_ok=True)
    place = aside / str(len(list(aside.iterdir())) + 1)
    folder.rename(place)
    folder.mkdir()
    log.warning("that training had not ended; its checkpoints are kept in %s", place)
