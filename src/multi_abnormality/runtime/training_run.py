"""Training run: resumes from the latest checkpoint, if there is one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import multi_abnormality
from multi_abnormality.config.schema import Params
from multi_abnormality.data.loading.feature_store import FeatureStore
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.models.classifier import VolumeClassifier
from multi_abnormality.models.device import choose_device
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.models.pretrained_cfg import PretrainedCfg, weights_warnings
from multi_abnormality.models.pretrained_weights import find_pretrained, is_on_hub
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.checkpoint_io import (
    BEST,
    Position,
    kept_names,
    load_checkpoint,
    mark_complete,
    training_state,
)
from multi_abnormality.runtime.checkpoint_saver import BackupHook, CheckpointSaver
from multi_abnormality.runtime.datamodule import DataModule
from multi_abnormality.runtime.fabric_setup import make_fabric, resolve_precision
from multi_abnormality.runtime.feature_encoding import encode_volumes, features_key
from multi_abnormality.runtime.graceful_stop import Stopped, StopRequest
from multi_abnormality.runtime.loggers.logged_run import LoggedRun
from multi_abnormality.runtime.loggers.logger_registry import check_loggers, make_loggers
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.runtime.progress_logger import ProgressLogger
from multi_abnormality.runtime.resume_decision import (
    CheckpointDir,
    ResumeCandidate,
    recorded_pretrained_cfg,
)
from multi_abnormality.runtime.run_fingerprint import (
    NOT_IN_FINGERPRINT,
    UNRECORDED,
    differences,
    environment,
    environment_warnings,
    fingerprint,
    identify,
)
from multi_abnormality.runtime.training_errors import explain_failure
from multi_abnormality.runtime.training_loop import TrainingLoop
from multi_abnormality.training.debug_modes import apply_debug_overrides
from multi_abnormality.training.finetuning import check_finetuning
from multi_abnormality.training.frozen_features import uncached_reason
from multi_abnormality.training.history import History, StopCriteria
from multi_abnormality.training.training_step import TrainingStep
from multi_abnormality.utils.collectives import gather
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

    @property
    def features(self) -> Path:
        """Directory of the features of frozen encoders, which DVC does not manage either."""
        return self.archive.root.parent / "features"


class TrainingRun:
    """A training run, set up with its data and the checkpoint to resume from.

    Raises:
        InputError: the data, a parameter or a path is unusable.
    """

    def __init__(
        self,
        params: Params,
        processed: ProcessedDataset,
        paths: RunPaths,
        ranks: ProcessGroup | None = None,
    ) -> None:
        check_finetuning(params.model, params.train)
        check_loggers(params.train.loggers)
        params = apply_debug_overrides(params)
        uncached_reason(params.model, params.train)  # raises before anything is read
        self.params = params
        self._processed = processed
        self.paths = paths
        self.ranks = ranks or ProcessGroup()
        self._device = self.ranks.device(choose_device(params.machine.accelerator))
        self._precision = resolve_precision(params.train.precision, self._device)
        self.datamodule = DataModule(params, processed, self.ranks, self._device)
        self._weights: Path | None = None
        pretrained_cfg = self._describe_weights(
            scores_ct_rate=processed.is_ct_rate and not processed.synthetic
        )
        package = Path(multi_abnormality.__file__).parent
        self.metadata: dict[str, Any] = {
            "findings": list(processed.findings),
            "synthetic": processed.synthetic,
            "preprocess": processed.recipe,
            "model": params.model.model_dump(mode="json"),
            "train": params.train.model_dump(mode="json", exclude=NOT_IN_FINGERPRINT),
            "volumes": self.datamodule.names,
            "identity": identify(
                params,
                processed.findings,
                processed.content_hash("train"),
                package,
                pretrained_cfg,
            ),
            "environment": environment(self._device, self._precision, self.ranks.size),
        }
        if processed.fold is not None:
            self.metadata["cross_validation"] = {"fold": processed.fold, "folds": params.data.folds}
        if pretrained_cfg:  # only then, so that other checkpoints keep their bytes
            self.metadata["pretrained_cfg"] = pretrained_cfg
        self.fingerprint = fingerprint(self.metadata["identity"])
        self.checkpoint = self._find() if self.ranks.is_rank_zero else None
        self.history = self.checkpoint.history if self.checkpoint else History()
        self.average: dict[str, Any] | None = None  # description of the averaged epochs, at the end

    def _describe_weights(self, scores_ct_rate: bool) -> dict[str, Any] | None:
        """Return the description of the pretrained weights; only rank 0 looks for them."""
        model = self.params.model
        if not (model.pretrained or is_on_hub(model.backbone)):
            return None
        cfg = None
        if self.ranks.is_rank_zero:
            is_here = isinstance(model.pretrained, str) and Path(model.pretrained).exists()
            cfg = None if is_here else recorded_pretrained_cfg(model, self.paths.checkpoints)
            if cfg is None:
                found = find_pretrained(model)
                cfg = found.cfg.to_dict() if found.cfg else None
                self._weights = found.file
            for line in weights_warnings(PretrainedCfg.from_dict(cfg), scores_ct_rate):
                log.warning("%s", line)
        return gather(cfg)[0]

    def _find(self) -> ResumeCandidate | None:
        folder = CheckpointDir(self.paths.checkpoints, self.paths.archive)
        self.paths.archive.prune()
        return folder.select_and_archive_others(self.metadata, self.params)

    def run(self, stop: StopRequest | None = None, backup: BackupHook | None = None) -> History:
        """Train to the end, and leave a complete best.ckpt and last.ckpt. All ranks call this.

        Raises:
            InputError: the loss is not finite, or a file cannot be written.
            Stopped: a stop was requested on any rank; a checkpoint is saved.
        """
        try:
            return self._run(stop or StopRequest(), backup or BackupHook())
        except RuntimeError as error:
            if (explained := explain_failure(error, self.params)) is None:
                raise
            raise explained from error

    def _run(self, stop: StopRequest, backup: BackupHook) -> History:
        self._share_checkpoint()
        best = None
        is_complete = self.is_finished and self._is_averaged()
        self._log_start(is_complete)
        if not is_complete:
            for line in self.datamodule.warnings:
                log.warning("%s", line)
            if line := self.datamodule.describe_oversampling():
                log.info("%s", line)
            reason, _ = self.ranks.agree(stop.reason, False)
            if reason:
                raise Stopped(reason)
            best = self._fit(stop, backup)
        if self.ranks.is_rank_zero:
            full = {"train": self.params.train.model_dump(mode="json", exclude=UNRECORDED)}
            mark_complete(self.paths.checkpoints, self.metadata | full, best)
            if self.params.train.average_best > 1:
                saved = ResumeCandidate.read(self.paths.checkpoints / BEST)
                self.average = saved.content["average"]
            self._sync_archive(kept_names(self.history, self.params.train.save_every_n_epochs))
            self.history.write_csv(self.paths.history)
        return self.history

    def _sync_archive(self, kept: list[str]) -> None:
        try:
            self.paths.archive.sync(self.paths.checkpoints, self.fingerprint, kept)
        except (InputError, OSError) as error:  # checkpoints/ is complete without the archive
            log.warning("%s; training continues", error)

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its last epoch or stopped early."""
        return self.history.is_finished(StopCriteria.of(self.params))

    def _is_averaged(self) -> bool:
        """Whether best.ckpt has the average of the best of all epochs, if one is wanted."""
        if self.params.train.average_best == 1:
            return True
        is_averaged = False
        if self.ranks.is_rank_zero:
            best = ResumeCandidate.read(self.paths.checkpoints / BEST).content
            of = best.get("average", {}).get("trained_epochs")
            is_averaged = of == len(self.history.epochs)
        return gather(is_averaged)[0]

    @property
    def _position(self) -> Position:
        return self.checkpoint.position if self.checkpoint else Position(0, 0)

    def _log_start(self, is_complete: bool) -> None:
        if self.checkpoint is None:
            log.info("no checkpoint to resume from: training starts at epoch 0")
            return
        pretrained = self.params.model.pretrained
        if isinstance(pretrained, str) and not Path(pretrained).exists():
            log.warning("model.pretrained: %s is missing; resuming does not need it", pretrained)
        if is_complete:
            log.info("%s is of a finished training; nothing to do", self.checkpoint.path)
            return
        log.info(
            "resuming from %s: epoch %d, batch %d of %d; epochs left at most: %d",
            self.checkpoint.path, self._position.epoch, self._position.batch,
            self.datamodule.batches, self.params.train.epochs - len(self.history.epochs),
        )  # fmt: skip
        for line in environment_warnings(
            self.checkpoint.content["about"]["environment"], self.metadata["environment"]
        ):
            log.warning(line)
        before = self.checkpoint.content["about"]["identity"]
        for line in differences(before, self.metadata["identity"]):
            log.warning("machine.allow_code_changes is true, so training continues over: %s", line)

    def _share_checkpoint(self) -> None:
        """Check that all ranks have the same fingerprint, and resume from rank 0's checkpoint."""
        mine = self.metadata["identity"] | {"train": self.params.train.model_dump(mode="json")}
        path = self.checkpoint.path if self.checkpoint else None
        (first, path), *others = gather((mine, path))
        for rank, (other, _) in enumerate(others, start=1):
            if different := differences(first, other):
                raise InputError(
                    f"rank {rank} and rank 0 would train different runs: "
                    f"{'; '.join(different)}; let all nodes use the same directory"
                )
        if path is not None and not self.ranks.is_rank_zero:
            self.checkpoint = ResumeCandidate.read(path)
            self.history = self.checkpoint.history

    def _build(self) -> VolumeClassifier:
        """Build the model; DDP sends rank 0's weights to the other ranks."""
        torch.manual_seed(derived_seed(self.params.seed, "weights"))
        cfg = PretrainedCfg.from_dict(self.metadata.get("pretrained_cfg"))
        weights = None
        if cfg and cfg.sha256 and self.checkpoint is None and self.ranks.is_rank_zero:
            weights = self._weights or find_pretrained(self.params.model, recorded=cfg).file
        return build_classifier(self.metadata, weights)

    def _fit(self, stop: StopRequest, backup: BackupHook) -> dict[str, Any] | None:
        """Train to the end; return what to replace in best.ckpt if epochs are averaged."""
        tune_malloc()
        fabric = make_fabric(self.params.train, self._device, self._precision, self.ranks)
        data = self.datamodule
        labels = torch.from_numpy(data.train_dataset.labels)
        step = TrainingStep(self._build(), self.params, labels, fabric, data.batches)
        if self.checkpoint:
            step.load_state(training_state(load_checkpoint(self.checkpoint.path)))
        self._cache_features(step, stop)
        saver = logger = None
        if self.ranks.is_rank_zero and not self.is_finished:
            saver = self._make_saver(step, backup)
            logger = self._make_logger()
        loop = TrainingLoop(self.params, data, step, self.history, self.ranks, stop, saver, logger)
        try:
            if not self.is_finished:
                loop.fit(self._position)
            best = loop.average_best_epochs() if self.params.train.average_best > 1 else None
        finally:
            data.close()
            if logger:
                logger.close()
        if saver:
            saver.log_summary()
        return best

    def _cache_features(self, step: TrainingStep, stop: StopRequest) -> None:
        """Encode the slices of all volumes once, if the encoder does not change."""
        if step.uncached_reason:
            if self.params.model.finetune == "frozen":
                log.info("frozen encoder: each epoch encodes all slices, since %s",
                         step.uncached_reason)  # fmt: skip
            return
        model, package = step.average.module.model, Path(multi_abnormality.__file__).parent
        key = features_key(model, self.metadata, self.params.train.compile, package)
        manifest = self._processed.manifest
        hashes = dict(zip(manifest["name"], manifest["voxels_sha256"], strict=True))
        store = FeatureStore(self.paths.features / gather(key)[0], hashes)
        names = [name for part in self.datamodule.names.values() for name in part]
        encode_volumes(step, self._processed, names, store, self.ranks, stop)
        self.datamodule.use_features(store)

    def _make_saver(self, step: TrainingStep, backup: BackupHook) -> CheckpointSaver:
        saver = CheckpointSaver(
            self.paths.checkpoints, self.params.train, self.history, step.state, self.metadata,
            backup, self._sync_archive,
        )  # fmt: skip
        # If the machine were lost before the first save, the remote would have the processed
        # volumes, but no state that refers to them.
        if self.checkpoint is None and backup.is_on:
            saver.save(Position(0, 0))
        return saver

    def _make_logger(self) -> ProgressLogger:
        settings, data = self.params.train, self.datamodule
        names = ("seed", "preprocess", "model", "train")
        run = LoggedRun(
            self.fingerprint, self.params.model_dump(mode="json", include=set(names)),
            self.history, StopCriteria.of(self.params), self.paths.logs, self.paths.history,
        )  # fmt: skip
        loggers = make_loggers(settings.loggers, run)
        return ProgressLogger(loggers, self.history, settings, data.batches, data.val_batches)
