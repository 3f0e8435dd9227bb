"""Training run: resumes from the latest checkpoint, if there is one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import multi_abnormality.utils.torchvision_compat  # isort: skip
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

import multi_abnormality
from multi_abnormality.config.schema import Params
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.device import choose_device
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_callback import (
    BackupHook,
    CheckpointCallback,
    NoBackup,
    SaveInterval,
)
from multi_abnormality.runtime.checkpoint_files import kept_names, mark_complete
from multi_abnormality.runtime.checkpoint_resume import CheckpointDir, ResumeCandidate
from multi_abnormality.runtime.datamodule import DataModule
from multi_abnormality.runtime.debug_modes import apply_debug_overrides
from multi_abnormality.runtime.graceful_stop import Stopped, StopRequest
from multi_abnormality.runtime.lightning_trainer import explain_failure, make_trainer
from multi_abnormality.runtime.precision import resolve_precision
from multi_abnormality.runtime.process_group import DistributedContext
from multi_abnormality.runtime.progress_logger import ProgressLogger
from multi_abnormality.runtime.run_fingerprint import (
    RAISABLE,
    differences,
    environment,
    environment_warnings,
    fingerprint,
    identify,
)
from multi_abnormality.runtime.tensorboard import TensorBoard
from multi_abnormality.runtime.train_progress import TrainProgress
from multi_abnormality.training.finetuning import check_finetuning
from multi_abnormality.training.history import History, StopCriteria
from multi_abnormality.training.training_step import TrainingModule
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.rng import derived_seed
from multi_abnormality.utils.system_memory import tune_malloc


@dataclass(frozen=True)
class RunPaths:
    """Output paths of a run."""

    checkpoints: Path
    logs: Path
    history: Path  # a CSV file
    archive: CheckpointArchive


class TrainingRun:
    """A training run, set up with its data and the checkpoint to resume from.

    Args:
        params: all parameters.
        processed: the processed dataset.
        paths: output paths.
        ranks: distributed context; None for a single process.

    Raises:
        InputError: the data, a parameter or a path is unusable.
    """

    def __init__(
        self,
        params: Params,
        processed: ProcessedDataset,
        paths: RunPaths,
        ranks: DistributedContext | None = None,
    ) -> None:
        check_finetuning(params.model, params.train)
        params = apply_debug_overrides(params)
        self.params = params
        self.paths = paths
        self.ranks = ranks or DistributedContext()
        self.datamodule = DataModule(params, processed, self.ranks)
        self._device = self.ranks.device(choose_device(params.machine.accelerator))
        self._precision = resolve_precision(params.train.precision, self._device)
        package = Path(multi_abnormality.__file__).parent
        self.about: dict[str, Any] = {
            "findings": list(processed.findings),
            "synthetic": processed.synthetic,
            "preprocess": processed.recipe,
            "model": params.model.model_dump(mode="json"),
            "train": params.train.model_dump(mode="json", exclude=RAISABLE),
            "volumes": self.datamodule.names,
            "identity": identify(
                params, processed.findings, processed.content_hash("train"), package
            ),
            "environment": environment(self._device, self._precision, self.ranks.size),
        }
        self.fingerprint = fingerprint(self.about["identity"])
        self.found = self._find() if self.ranks.is_rank_zero else None
        self.history = self.found.history if self.found else History()

    def _find(self) -> ResumeCandidate | None:
        folder = CheckpointDir(self.paths.checkpoints, self.paths.archive)
        self.paths.archive.prune()
        return folder.find(self.about, self.params)

    def run(self, stop: StopRequest | None = None, backup: BackupHook | None = None) -> History:
        """Train to the end, and leave a complete best.ckpt and last.ckpt.

        Args:
            stop: stop request, checked after every step.
            backup: hook called after every save of last.ckpt.

        Raises:
            InputError: the loss is not finite, or a file cannot be written.
            Stopped: a stop was requested; a checkpoint is saved.
        """
        stop, backup = stop or StopRequest(), backup or NoBackup()
        self._log_start()
        if not self.is_finished:
            for line in self.datamodule.warnings:
                log.warning("%s", line)
            if stop.reason:
                raise Stopped(stop.reason)
            self.history = self._fit(stop, backup)
        full = {"train": self.params.train.model_dump(mode="json")}
        mark_complete(self.paths.checkpoints, self.about | full)
        self._sync_archive(kept_names(self.history, self.params.train.save_every_n_epochs))
        self.history.write_csv(self.paths.history)
        return self.history

    def run_worker_rank(self, stop: StopRequest) -> None:
        """Train as any rank but 0, which calls `run`.

        Args:
            stop: stop request, checked after every step.

        Raises:
            InputError: this rank has another fingerprint than rank 0; or as `run`.
            Stopped: a stop was requested on any rank.
        """
        self._fit(stop, NoBackup())

    def _sync_archive(self, kept: list[str]) -> None:
        try:
            self.paths.archive.sync(self.paths.checkpoints, self.fingerprint, kept)
        except InputError as error:  # checkpoints/ is complete without the archive
            log.warning("%s; training continues", error)

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its last epoch or stopped early."""
        return self.history.is_finished(StopCriteria.of(self.params))

    @property
    def _position(self) -> TrainProgress:
        return self.found.position if self.found else TrainProgress(0, 0)

    def _log_start(self) -> None:
        if self.found is None:
            log.info("no checkpoint to resume from: training starts at epoch 0")
            return
        if self.is_finished:
            log.info("%s is of a finished training; nothing to do", self.found.path)
            return
        log.info(
            "resuming from %s: epoch %d, step %d of %d; at most %d epochs are left",
            self.found.path, self._position.epoch, self._position.batch, self.datamodule.batches,
            self.params.train.epochs - len(self.history.epochs),
        )  # fmt: skip
        for line in environment_warnings(
            self.found.content["about"]["environment"], self.about["environment"]
        ):
            log.warning(line)

    def _check_ranks_agree(self) -> None:
        """Check that all ranks have the same fingerprint, and resume from rank 0's checkpoint."""
        ranks = self.ranks
        mine = self.about["identity"] | {"train": self.params.train.model_dump(mode="json")}
        first, path = ranks.broadcast_object((mine, self.found.path if self.found else None))
        if different := differences(first, mine):
            raise InputError(
                f"rank {ranks.rank} and rank 0 would train different runs: "
                f"{'; '.join(different)}; let all nodes use the same directory"
            )
        if path is not None and not ranks.is_rank_zero:
            self.found = ResumeCandidate.read(path)

    def _build(self) -> VolumeClassifier:
        torch.manual_seed(derived_seed(self.params.seed, "weights"))
        takes_pretrained = self.found is None and self.ranks.is_rank_zero
        model = build_classifier(
            self.about, self.params.model.pretrained if takes_pretrained else False
        )
        if self.ranks.size > 1 and self.found is None:
            model.load_state_dict(self.ranks.broadcast_object(model.state_dict()))
        return model

    def _fit(self, stop: StopRequest, backup: BackupHook) -> History:
        params, paths, ranks = self.params, self.paths, self.ranks
        ranks.init()
        self._check_ranks_agree()
        tune_malloc()
        labels = torch.from_numpy(self.datamodule.train_dataset.labels)
        module = TrainingModule(self._build(), params, labels, self.about, ranks)
        batches, validation = self.datamodule.loaders(self._position)
        # EMAWeightAveraging changes frozen weights: its decay * w + (1 - decay) * w is not w.
        average = get_ema_multi_avg_fn(params.train.ema_decay)
        averaging = WeightAveraging(multi_avg_fn=average)
        interval = SaveInterval(
            params.train.save_every_n_epochs, 60 * params.train.save_every_n_minutes
        )
        progress = (
            ProgressLogger(TensorBoard(paths.logs, self.history), paths.history, params.train)
            if ranks.is_rank_zero
            else None
        )
        callbacks = [
            *([progress] if progress else []),
            averaging,
            CheckpointCallback(
                paths.checkpoints,
                len(batches),
                params.train.accumulate_grad_batches,
                interval,
                stop,
                averaging,
                backup,
                self._sync_archive,
                ranks,
                stop_check_batches=self.datamodule.stop_check_batches,
                is_new=self.found is None,
            ),
        ]
        trainer = make_trainer(params, self._device, self._precision, callbacks)
        try:
            trainer.fit(
                module,
                batches,
                validation,
                ckpt_path=self.found.path if self.found else None,
                weights_only=True,
            )
        except RuntimeError as error:
            if (explained := explain_failure(error, params)) is None:
                raise
            raise explained from error
        finally:
            # Lightning does not shut down the training loader if validation is interrupted.
            trainer.fit_loop.teardown()
            if progress:
                progress.close()
            ranks.detach()
        return module.history
