"""Weights & Biases logger of steps and epochs."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # sends stack traces elsewhere

import wandb

from multi_abnormality.runtime.loggers.logged_run import LoggedRun
from multi_abnormality.runtime.loggers.tracking_thread import STOP_SECONDS, TrackingThread
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

PROJECT = "multi-abnormality"


class WandbLogger(TrackingThread):
    """Logs to the W&B run whose id is the run's fingerprint.

    Online, the server knows which steps it has. Offline, a directory is written for each start; it
    gets the whole history and replaces the earlier ones, whose last seconds a kill has lost.

    Raises:
        InputError: there are no credentials.
    """

    name = "wandb"

    def __init__(self, run: LoggedRun) -> None:
        is_online = wandb.setup().settings.mode in ("online", "shared")
        try:
            has_credentials = not is_online or wandb.login(prompt=False)
        except wandb.Error as error:
            raise InputError(f"train.loggers: wandb: {error}") from error
        if not has_credentials:
            raise InputError(
                "train.loggers: wandb has no credentials: set WANDB_API_KEY or run `wandb login`, "
                "or set WANDB_MODE=offline"
            )
        super().__init__(run)

    def connect(self) -> None:
        self._run = wandb.init(
            id=os.environ.get("WANDB_RUN_ID") or self.run.id,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or os.environ.get("DVC_EXP_NAME"),
            dir=os.environ.get("WANDB_DIR") or self.run.folder,
            config=self.run.config,
            allow_val_change=True,
            settings=wandb.Settings(
                console="off", silent=True, reinit="create_new", finish_timeout=STOP_SECONDS
            ),
        )
        self._run.define_metric("train/*", step_metric="step")
        for name in ("train_loss", "val_loss", "val_auroc", "auroc/*"):
            self._run.define_metric(name, step_metric="epoch")
        self.sent_step = self.sent_epochs = 0
        if self._run.offline:
            self._delete_earlier()
        elif not self._run.disabled:
            self.sent_step = int(self._run.summary.get("step", 0))
            self.sent_epochs = int(self._run.summary.get("epoch", -1)) + 1
            if self.run.history.steps and not self._run.resumed:
                log.info("wandb: no run %s yet: a new one starts", self._run.id)

    def _delete_earlier(self) -> None:
        """Delete this run's earlier directories, unless they were synced."""
        current = Path(self._run.dir).parent
        for folder in current.parent.glob(f"offline-run-*-{self._run.id}"):
            if folder.name != current.name and not list(folder.glob("*.synced")):
                shutil.rmtree(folder)

    def send_steps(self, steps: Mapping[int, dict[str, float]]) -> None:
        for step, values in steps.items():
            self._run.log({"step": step} | values)

    def send_epoch(self, epoch: int, values: dict[str, float]) -> None:
        self._run.log({"epoch": epoch} | values)

    def finish(self) -> None:
        self._run.finish(exit_code=0 if self.run.is_finished else 1)
