"""The training loop: epochs, steps, validation, saves and stops, from top to bottom."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multi_abnormality.config.schema import Params
from multi_abnormality.runtime.checkpoint_io import Position
from multi_abnormality.runtime.checkpoint_saver import CheckpointSaver
from multi_abnormality.runtime.datamodule import DataModule
from multi_abnormality.runtime.graceful_stop import Stopped, StopRequest
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.runtime.progress_logger import ProgressLogger
from multi_abnormality.training.history import EpochMetrics, History, StopCriteria
from multi_abnormality.training.training_step import TrainingStep
from multi_abnormality.training.val_metrics import auroc_by_finding, macro_auroc, mean_by_scan
from multi_abnormality.training.weight_average import mean_state
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError


@dataclass
class TrainingLoop:
    """Trains a model to the end, on every rank.

    All ranks run this loop, and stop and flush at the same steps. Rank 0 alone saves and logs:
    the others have neither a saver nor a logger.
    """

    params: Params
    data: DataModule
    step: TrainingStep
    history: History
    ranks: ProcessGroup
    stop: StopRequest
    saver: CheckpointSaver | None
    logger: ProgressLogger | None

    def fit(self, position: Position) -> None:
        """Train from a position to the last epoch, or until early stopping.

        Raises:
            InputError: a loss or a logit is not finite, or a file cannot be written.
            Stopped: a stop was requested on any rank; a checkpoint is saved.
        """
        criteria = StopCriteria.of(self.params)
        for epoch in range(position.epoch, criteria.epochs):
            first = position.batch if epoch == position.epoch else 0
            self._train_epoch(epoch, first)
            self.history.epochs.append(self._validate(epoch))
            self.step.keep_best_epochs(self.history)
            if self.logger:
                self.logger.log_epoch()
            is_last = self.history.is_finished(criteria)
            reason, _ = self._agree()
            if self.saver:
                self.saver.save_epoch(epoch, is_last=is_last or reason is not None)
            if is_last:
                break
            if reason:
                raise Stopped(reason)

    def _train_epoch(self, epoch: int, first: int) -> None:
        """Train on the batches of an epoch from number `first` on."""
        if self.logger:
            self.logger.start_epoch(first)
        self.step.begin_epoch(epoch)
        with closing(self.data.train_batches(epoch, first)) as batches:
            for index, batch in enumerate(batches, first):
                ends_step = self.step(batch, epoch, index)
                if self.logger:
                    self.logger.advance(index + 1)
                if ends_step:  # accumulated gradients are not part of a checkpoint
                    self._save_or_stop(Position(epoch, index + 1))
                if (index + 1) % self.params.train.log_every_n_steps == 0:
                    self._flush()
                if self.saver:
                    self.saver.backup.poll()
        self._flush()

    def _flush(self) -> None:
        """Read the losses since the last call from the device, check and log them."""
        steps = self.step.flush()
        self.history.steps += steps
        if self.logger and steps:
            self.logger.log_steps(steps)

    def _save_or_stop(self, position: Position) -> None:
        """Save if it is time to, or if a stop is requested."""
        reason, is_due = self._agree()
        if reason or is_due:
            self._flush()  # raises instead of saving a model whose loss is not finite
            if self.saver:
                self.saver.save(position)
        if reason:
            raise Stopped(reason)

    def _agree(self) -> tuple[str | None, bool]:
        """Return why any rank wants to stop, and whether one wants to save; all ranks call this."""
        return self.ranks.agree(self.stop.reason, self.saver is not None and self.saver.is_due)

    def average_best_epochs(self) -> dict[str, Any]:
        """Average the weights of the best 2, 3, … epochs, and choose what scores best on val.

        The best epoch alone is a candidate, too; of equal ones, that of the most epochs is chosen.
        `train.average_best` must be above 1. Training must not continue after this, since it
        replaces the moving average.

        Returns:
            What to replace in best.ckpt.

        Raises:
            InputError: a logit is not finite.
            Stopped: a stop was requested; after a resume, the averaging starts again.
        """
        ranked = self.history.ranked(self.params.train.average_best)
        states = [self.step.best_states[epoch.epoch] for epoch in ranked]
        candidates = [(ranked[0].val_auroc, ranked[0].val_loss, 1)]
        for count in range(2, len(states) + 1):
            self.step.average.module.load_state_dict(mean_state(states[:count]))
            logits, labels = self._predict()
            auroc = macro_auroc(auroc_by_finding(logits, labels, self.data.findings))
            candidates.append((auroc, self.step.loss(logits, labels).item(), count))
        auroc, loss, count = max(candidates, key=lambda each: (each[0], each[2]))
        epochs = [epoch.epoch for epoch in ranked[:count]]
        log.info(
            "averages of the best 1 to %d epochs: val_auroc %s; chosen: epoch%s %s",
            len(states), ", ".join(f"{each[0]:.4f}" for each in candidates),
            "s" * (count > 1), ", ".join(map(str, epochs)),
        )  # fmt: skip
        average = {
            "epochs": epochs,
            "val_auroc": auroc,
            "val_loss": loss,
            "trained_epochs": len(self.history.epochs),
        }
        return {"state_dict": mean_state(states[:count]), "average": average}

    @torch.inference_mode()
    def _validate(self, epoch: int) -> EpochMetrics:
        """Score the moving average of the weights after an epoch."""
        logits, labels = self._predict(Position(epoch, self.data.batches))
        train_loss = self.step.end_epoch()
        auroc = auroc_by_finding(logits, labels, self.data.findings)
        return EpochMetrics(
            epoch=epoch,
            step=self.step.steps,
            learning_rate=self.step.learning_rate,
            train_loss=train_loss,
            val_loss=self.step.loss(logits, labels).item(),
            val_auroc=macro_auroc(auroc),
            auroc=auroc,
        )

    @torch.inference_mode()
    def _predict(self, position: Position | None = None) -> tuple[Tensor, Tensor]:
        """Predict this rank's validation volumes, and gather those of all ranks.

        Args:
            position: of the checkpoint to save if a stop is requested; None: none is needed.

        Returns:
            Logits (S, F) and labels (S, F), a row per scan.
        """
        if self.logger:
            self.logger.start_validation()
        parts = []
        with closing(self.data.validation_batches()) as batches:
            for index, batch in enumerate(batches):
                parts.append((self.step.predict(batch), batch["labels"].cpu(), batch["scan"].cpu()))
                if self.logger:
                    self.logger.advance(index + 1)
                if index < self.data.stop_check_batches:
                    reason, _ = self._agree()
                    if reason:
                        if self.saver and position:
                            self.saver.save(position)
                        raise Stopped(reason)
        local = map(torch.cat, zip(*parts, strict=True))
        logits, labels = mean_by_scan(*map(self.ranks.gather_shards, local))
        if not logits.isfinite().all():  # their AUROC would be finite, and could be the best
            weights = f"epoch {position.epoch}" if position else "averaged epochs"
            raise InputError(
                f"no finite logits in the validation of {weights}; the last checkpoint is "
                "intact. Lower train.learning_rate"
            )
        return logits, labels
