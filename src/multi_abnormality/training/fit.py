"""Train a classifier, from the newest checkpoint if there is one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

import multi_abnormality
from multi_abnormality.console import log
from multi_abnormality.data.randomness import derived_seed
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.memory import keep_freed_memory
from multi_abnormality.model.build import build
from multi_abnormality.model.classifier import VolumeClassifier
from multi_abnormality.model.device import choose_device
from multi_abnormality.params import Params
from multi_abnormality.run_fingerprint import (
    RAISABLE,
    differences,
    environment,
    fingerprint,
    identify,
    told_changes,
)
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.checkpoints import kept_names, mark_complete
from multi_abnormality.training.debug import settle
from multi_abnormality.training.finetuning import check_finetuning
from multi_abnormality.training.history import History, Limits
from multi_abnormality.training.lightning_module import TrainingModule
from multi_abnormality.training.position import Position
from multi_abnormality.training.precision import resolve_precision
from multi_abnormality.training.ranks import Ranks
from multi_abnormality.training.report import Report
from multi_abnormality.training.resume import Folder, Found
from multi_abnormality.training.saves import Backup, Cadence, Checkpoints, NoBackup
from multi_abnormality.training.stopping import Stopped, StopRequest
from multi_abnormality.training.tensorboard import TensorBoard
from multi_abnormality.training.trainer import explain_failure, make_trainer
from multi_abnormality.training.volumes import Volumes


@dataclass(frozen=True)
class Places:
    """Where training writes."""

    checkpoints: Path
    logs: Path
    history: Path  # a CSV file
    aside: Aside  # for what no DVC command may touch


class Training:
    """A training that is set up, and knows what it would go on from.

    Args:
        params: all of them.
        processed: what it learns from.
        places: where it writes.
        ranks: the processes that train together; None: this one alone.

    Raises:
        InputError: the data, a parameter or a folder does not serve.
    """

    def __init__(
        self, params: Params, processed: ProcessedSet, places: Places, ranks: Ranks | None = None
    ) -> None:
        check_finetuning(params.model, params.train)
        params = settle(params)
        self.params = params
        self.places = places
        self.ranks = ranks or Ranks()
        self.volumes = Volumes(params, processed, self.ranks)
        self._device = self.ranks.device(choose_device(params.machine.accelerator))
        self._precision = resolve_precision(params.train.precision, self._device)
        package = Path(multi_abnormality.__file__).parent
        self.about: dict[str, Any] = {
            "findings": list(processed.findings),
            "synthetic": processed.synthetic,
            "preprocess": processed.recipe,
            "model": params.model.model_dump(mode="json"),
            "train": params.train.model_dump(mode="json", exclude=RAISABLE),
            "volumes": self.volumes.names,
            "identity": identify(
                params, processed.findings, processed.content_hash("train"), package
            ),
            "environment": environment(self._device, self._precision, self.ranks.size),
        }
        self.fingerprint = fingerprint(self.about["identity"])
        self.found = self._find() if self.ranks.leads else None
        self.history = self.found.history if self.found else History()

    def _find(self) -> Found | None:
        folder = Folder(self.places.checkpoints, self.places.aside)
        self.places.aside.tidy()
        return folder.find(self.about, self.params)

    def run(self, stop: StopRequest | None = None, backup: Backup | None = None) -> History:
        """Train to the end, and leave a complete best.ckpt and last.ckpt.

        Args:
            stop: looked at after every step; None: nothing stops it.
            backup: told of every save to go on from; None: nobody is.

        Raises:
            InputError: the loss is not finite, or a file can't be written.
            Stopped: `stop` asked for it; all is saved.
        """
        stop, backup = stop or StopRequest(), backup or NoBackup()
        self._tell_start()
        if not self.is_over:
            for line in self.volumes.warnings:
                log.warning("%s", line)
            if stop.reason:
                raise Stopped(stop.reason)
            self.history = self._fit(stop, backup)
        full = {"train": self.params.train.model_dump(mode="json")}
        mark_complete(self.places.checkpoints, self.about | full)
        self._mirror(kept_names(self.history, self.params.train.save_every_n_epochs))
        self.history.write_csv(self.places.history)
        return self.history

    def follow(self, stop: StopRequest) -> None:
        """Train as one of several processes, beside the first one, which calls `run`.

        Args:
            stop: looked at after every step.

        Raises:
            InputError: this process would train something else; or as `run`.
            Stopped: any process's `stop` asked for it.
        """
        self._fit(stop, NoBackup())

    def _mirror(self, kept: list[str]) -> None:
        try:
            self.places.aside.mirror(self.places.checkpoints, self.fingerprint, kept)
        except InputError as error:  # checkpoints/ has it all
            log.warning("%s; training goes on", error)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.history.is_over(Limits.of(self.params))

    @property
    def _position(self) -> Position:
        return self.found.position if self.found else Position(0, 0)

    def _tell_start(self) -> None:
        if self.found is None:
            log.info("no checkpoint to go on from: training starts at epoch 0")
            return
        if self.is_over:
            log.info("%s is of a finished training; nothing is left to do", self.found.path)
            return
        log.info(
            "resuming from %s: epoch %d, step %d of %d; at most %d epochs are left",
            self.found.path, self._position.epoch, self._position.batch, self.volumes.batches,
            self.params.train.epochs - len(self.history.epochs),
        )  # fmt: skip
        for line in told_changes(
            self.found.content["about"]["environment"], self.about["environment"]
        ):
            log.warning(line)

    def _agree(self) -> None:
        """Have all processes train the same, from the same checkpoint."""
        ranks = self.ranks
        mine = self.about["identity"] | {"train": self.params.train.model_dump(mode="json")}
        first, path = ranks.share((mine, self.found.path if self.found else None))
        if faults := differences(first, mine):
            raise InputError(
                f"process {ranks.rank} would train something else than process 0: "
                f"{'; '.join(faults)}; let all nodes work in the same folder"
            )
        if path is not None and not ranks.leads:
            self.found = Found.read(path)

    def _build(self) -> VolumeClassifier:
        torch.manual_seed(derived_seed(self.params.seed, "weights"))
        takes_pretrained = self.found is None and self.ranks.leads
        model = build(self.about, self.params.model.pretrained if takes_pretrained else False)
        if self.ranks.size > 1 and self.found is None:
            model.load_state_dict(self.ranks.share(model.state_dict()))
        return model

    def _fit(self, stop: StopRequest, backup: Backup) -> History:
        params, places, ranks = self.params, self.places, self.ranks
        ranks.assemble()
        self._agree()
        keep_freed_memory()
        labels = torch.from_numpy(self.volumes.drawn.labels)
        module = TrainingModule(self._build(), params, labels, self.about, ranks)
        batches, validation = self.volumes.loaders(self._position)
        # EMAWeightAveraging moves frozen weights: its decay * w + (1 - decay) * w is not w.
        average = get_ema_multi_avg_fn(params.train.average_decay)
        averaging = WeightAveraging(multi_avg_fn=average)
        cadence = Cadence(params.train.save_every_n_epochs, 60 * params.train.save_every_n_minutes)
        report = (
            Report(TensorBoard(places.logs, self.history), places.history, params.train)
            if ranks.leads
            else None
        )
        callbacks = [
            *([report] if report else []),
            averaging,
            Checkpoints(
                places.checkpoints,
                len(batches),
                params.train.accumulate,
                cadence,
                stop,
                averaging,
                backup,
                self._mirror,
                ranks,
                looks=self.volumes.looks,
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
            if (told := explain_failure(error, params)) is None:
                raise
            raise told from error
        finally:
            # Lightning itself forgets the training's loader where a validation is cut short.
            trainer.fit_loop.teardown()
            if report:
                report.close()
            ranks.leave()
        return module.history
