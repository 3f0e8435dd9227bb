"""Train stage: processed/ to checkpoints/."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from multi_abnormality.runtime.graceful_stop import exit_on_signals
from multi_abnormality.utils import console

if __name__ == "__main__":
    console.parse_stage_args()
    exit_on_signals()

import torch

from multi_abnormality.backup.backup_manager import BackupManager
from multi_abnormality.backup.object_verification import verify_pulled
from multi_abnormality.config.field_types import parse_duration
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.models.device import choose_device
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import BEST
from multi_abnormality.runtime.graceful_stop import (
    EXIT_CODE,
    Stopped,
    StopRequest,
    mark_stopped,
    stopped_mark,
)
from multi_abnormality.runtime.launcher import end_with_launcher, launch_ranks
from multi_abnormality.runtime.lost_ranks import EXIT_TIMEOUT, LostRankError
from multi_abnormality.runtime.process_group import ProcessGroup, find_rank, run_rank
from multi_abnormality.runtime.run_lock import training_lock
from multi_abnormality.runtime.training_run import RunPaths, TrainingRun
from multi_abnormality.training.history import History
from multi_abnormality.utils.atomic_io import write_json
from multi_abnormality.utils.errors import InputError, plural

PROCESSED = Path("processed")


def run(
    params: Params,
    processed: Path,
    paths: RunPaths,
    metrics: Path,
    project: Path | None = None,
    ranks: ProcessGroup | None = None,
) -> dict[str, Any]:
    """Train, and write metrics once training is complete.

    Args:
        metrics: JSON file for the metrics.
        project: folder whose DVC remote each save is backed up to; None: no backup.
        ranks: processes of the run, of which this is rank 0; None: a single process.

    Raises:
        InputError: an input is invalid; see TrainingRun and BackupManager.
        Stopped: by a signal or the time budget, after saving.
    """
    budget = params.machine.max_time
    with StopRequest(parse_duration(budget) if budget else None) as stop:
        training = TrainingRun(params, ProcessedDataset(processed, params.data.fold), paths, ranks)
        if project is None or training.is_finished:
            history = training.run(stop)
        else:
            identity = training.metadata["identity"]
            backup = BackupManager(params.backup, project, training.fingerprint, identity)
            history = _run_backed_up(training, stop, backup)
    summary = summarize(history, training.params.train.epochs, training.average)
    write_json(summary, metrics)
    if summary["stopped_early"]:
        best, waited = history.best, history.epochs[-1].epoch - history.best.epoch
        console.log.info(
            "early stopping: val_auroc has not improved for %d epoch%s (best %.3f at epoch %d)",
            waited, "s" * (waited != 1), best.val_auroc, best.epoch,
        )  # fmt: skip
    console.log.info(
        "trained %d of %s; best epoch %d, val_auroc %.4f: %s",
        summary["epochs"], plural(training.params.train.epochs, "epoch", "epochs"),
        summary["best_epoch"],
        summary["val_auroc"], paths.checkpoints / BEST,
    )  # fmt: skip
    console.log.info("the best epoch was chosen on %s", training.datamodule.describe_validation())
    return summary


def _run_backed_up(training: TrainingRun, stop: StopRequest, backup: BackupManager) -> History:
    if not backup.start():
        return training.run(stop)
    try:
        history = training.run(stop, backup)
        backup.saved(len(history.epochs), is_final=True)
    finally:
        backup.close(backup.settings.grace)
    return history


def summarize(
    history: History, epochs: int, average: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the content of metrics/train.json for a finished run.

    Args:
        history: history of the run.
        epochs: value of `train.epochs`.
        average: which epochs' weights were averaged, and their score; None: of the best alone.
    """
    best = history.best
    return {
        "epochs": len(history.epochs),
        "stopped_early": len(history.epochs) < epochs,
        "best_epoch": best.epoch,
        "val_auroc": best.val_auroc,
        "val_loss": best.val_loss,
    } | ({"average": average} if average else {})


def run_worker_rank(
    params: Params, paths: RunPaths, ranks: ProcessGroup, device: torch.device
) -> None:
    """Train as another rank than 0. Rank 0 logs, writes all files, and exits first."""
    console.log.setLevel(logging.ERROR)
    seconds = params.backup.grace + EXIT_TIMEOUT
    ranks.join(device)
    with StopRequest() as stop:
        try:
            processed = ProcessedDataset(PROCESSED, params.data.fold)
            TrainingRun(params, processed, paths, ranks).run(stop)
        except Stopped:
            ranks.wait_for_rank_zero(seconds)
            sys.exit(EXIT_CODE)
        except LostRankError:  # rank 0 or the launcher reports it
            sys.exit(1)
        except InputError as error:
            # Rank 0 reports an error that all ranks have, and then exits.
            if not ranks.wait_for_rank_zero(EXIT_TIMEOUT):
                console.log.error("rank %d: %s", ranks.rank, error)
            sys.exit(1)


def main() -> None:
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        stopped_mark().unlink(missing_ok=True)  # before any error
    state = stopped_mark().parent
    # DVC's queue runs an experiment in a temporary folder; DVC_ROOT is persistent.
    dvc = Path(os.environ.get("DVC_ROOT", ".")) / ".dvc"
    persistent = dvc / "tmp" if dvc.is_dir() else state
    paths = RunPaths(
        checkpoints=Path("checkpoints"),
        logs=Path("logs"),
        history=Path("metrics/history.csv"),
        archive=CheckpointArchive(persistent / "trainings", dvc / "cache/files/md5"),
    )
    params = load_params()
    device = choose_device(params.machine.accelerator)
    ranks = find_rank(params.machine, device, params.train.batch_size)
    if not ranks.is_launched:
        command = [sys.executable, "-m", "multi_abnormality.stages.train"]
        launch_ranks(ranks.size, command, params.backup.grace)
    end_with_launcher()
    if not ranks.is_rank_zero:
        run_worker_rank(params, paths, ranks, device)
        return
    try:
        with training_lock(state / "train.lock"):
            verify_pulled(Path())
            ranks.join(device)
            run(params, PROCESSED, paths, Path("metrics/train.json"), Path(), ranks)
    except Stopped as stopped:
        mark_stopped()
        console.log.warning("stopped, since %s; `dvc repro` resumes from here", stopped)
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    run_rank(lambda: console.run(main))
