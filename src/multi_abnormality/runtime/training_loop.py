"""The training loop: epochs, steps, validation, saves and stops, from top to bottom."""

from contextlib import closing
from dataclasses import dataclass

import torch

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
        """Return why to stop, and whether to save, on which all ranks agree."""
        return self.ranks.agree(self.stop.reason, self.saver is not None and self.saver.is_due)

    @torch.inference_mode()
    def _validate(self, epoch: int) -> EpochMetrics:
        """Predict this rank's validation volumes, and score those of all ranks."""
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
                        if self.saver:
                            self.saver.save(Position(epoch, self.data.batches))
                        raise Stopped(reason)
        local = map(torch.cat, zip(*parts, strict=True))
        logits, labels = mean_by_scan(*map(self.ranks.gather_shards, local))
        if not logits.isfinite().all():  # their AUROC would be finite, and could be the best
            raise InputError(
                f"no finite logits in the validation of epoch {epoch}; the last checkpoint is "
                "intact. Lower train.learning_rate"
            )
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
