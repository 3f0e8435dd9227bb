"""The train stage: processed/ to checkpoints/."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from multi_abnormality import console

if __name__ == "__main__":
    console.take_stage_options()

from multi_abnormality.backup.service import Backup
from multi_abnormality.backup.verification import verify_pulled
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.files import write_json
from multi_abnormality.model.device import choose_device
from multi_abnormality.params import Params, load_params
from multi_abnormality.params_machine import parse_duration
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.checkpoints import BEST
from multi_abnormality.training.fit import Places, Training
from multi_abnormality.training.history import History
from multi_abnormality.training.lock import sole_training
from multi_abnormality.training.place import find_place
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.stopping import EXIT_CODE, Stopped, StopRequest

PROCESSED = Path("processed")


def run(
    params: Params,
    processed: Path,
    places: Places,
    metrics: Path,
    project: Path | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Train, and write metrics once training is complete.

    Args:
        params: all of them.
        processed: what it learns from.
        places: where it writes.
        metrics: the file.
        project: folder whose DVC remote each save is backed up to; None: no backup.
        ranks: the processes that train together, of which this one leads; None: it is alone.

    Raises:
        InputError: something does not serve; see Training and Backup.
        Stopped: by a signal or the time budget, with all saved.
    """
    budget = params.machine.time_budget
    with StopRequest(parse_duration(budget) if budget else None) as stop:
        training = Training(params, ProcessedSet(processed), places, ranks)
        if project is None or training.is_over:
            history = training.run(stop)
        else:
            identity = training.about["identity"]
            backup = Backup(params.backup, project, training.fingerprint, identity)
            history = _run_backed_up(training, stop, backup)
    summary = summarize(history, training.params.train.epochs)
    write_json(summary, metrics)
    if summary["stopped_early"]:
        best, waited = history.best, history.epochs[-1].epoch - history.best.epoch
        console.log.info(
            "early stopping: val_auroc has not improved for %d epoch%s (best %.3f at epoch %d)",
            waited, "s" * (waited != 1), best.val_auroc, best.epoch,
        )  # fmt: skip
    console.log.info(
        "trained %d of %d epochs; best epoch %d, val_auroc %.4f: %s",
        summary["epochs"], training.params.train.epochs, summary["best_epoch"],
        summary["val_auroc"], places.checkpoints / BEST,
    )  # fmt: skip
    console.log.info("the best epoch was chosen on %s", training.volumes.describe_validation())
    return summary


def _run_backed_up(training: Training, stop: StopRequest, backup: Backup) -> History:
    backup.start()
    try:
        history = training.run(stop, backup)
        backup.saved(len(history.epochs))
    finally:
        backup.close(backup.settings.grace)
    return history


def summarize(history: History, epochs: int) -> dict[str, Any]:
    """Return the content of metrics/train.json.

    Args:
        history: of the finished training.
        epochs: train.epochs.
    """
    best = history.best
    return {
        "epochs": len(history.epochs),
        "stopped_early": history.stopped_early(epochs),
        "best_epoch": best.epoch,
        "val_auroc": best.val_auroc,
        "val_loss": best.val_loss,
    }


def follow(params: Params, places: Places, ranks: Ranks) -> None:
    """Train beside the process that leads. It tells what there is to tell, and writes all files."""
    console.log.setLevel(logging.ERROR)
    try:
        with StopRequest() as stop, ranks:
            Training(params, ProcessedSet(PROCESSED), places, ranks).follow(stop)
    except Stopped:
        sys.exit(EXIT_CODE)


def main() -> None:
    here = Path(".dvc/tmp") if Path(".dvc").is_dir() else Path("logs")  # outside of a project
    # An experiment from DVC's queue runs in a folder that goes when it ends; DVC_ROOT stays.
    dvc = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc"
    lasting = dvc / "tmp" if dvc.is_dir() else here
    places = Places(
        checkpoints=Path("checkpoints"),
        logs=Path("logs"),
        history=Path("metrics/history.csv"),
        aside=Aside(lasting / "trainings", dvc / "cache/files/md5"),
    )
    params = load_params()
    device = choose_device(params.machine.accelerator)
    place = find_place(params.machine, device, params.train.batch_size)
    ranks = Ranks(place, [sys.executable, "-m", "multi_abnormality.stages.train"], device)
    if not ranks.leads:
        follow(params, places, ranks)
        return
    stopped_mark = here / "stopped"  # for make, since DVC hides the exit code
    stopped_mark.unlink(missing_ok=True)
    try:
        with ranks, sole_training(here / "train.lock"):
            verify_pulled(Path())
            run(params, PROCESSED, places, Path("metrics/train.json"), Path(), ranks)
    except Stopped as stopped:
        stopped_mark.touch()
        console.log.warning("stopped, since %s; `dvc repro` goes on from here", stopped)
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    console.run(main)
