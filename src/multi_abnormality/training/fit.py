"""Train a classifier, from the newest checkpoint if there is one."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

import multi_abnormality
from multi_abnormality.console import log
from multi_abnormality.data.batches import (
    DrawnVolumes,
    WholeVolumes,
    drawn_loader,
    leave_signals_to_parent,
    whole_loader,
)
from multi_abnormality.data.randomness import derived_seed
from multi_abnormality.data.splits import split_validation
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.memory import keep_freed_memory
from multi_abnormality.model.build import build
from multi_abnormality.model.inference import choose_device
from multi_abnormality.params import Params
from multi_abnormality.training.aside import Aside
from multi_abnormality.training.checkpoints import (
    Backup,
    Cadence,
    Checkpoints,
    NoBackup,
    mark_complete,
)
from multi_abnormality.training.debug import choose, settle
from multi_abnormality.training.history import History, Limits, TensorBoard
from multi_abnormality.training.identity import (
    RAISABLE,
    differences,
    environment,
    fingerprint,
    identify,
)
from multi_abnormality.training.lightning_module import TrainingModule
from multi_abnormality.training.position import Position
from multi_abnormality.training.precision import resolve_precision
from multi_abnormality.training.report import Report
from multi_abnormality.training.resume import Folder
from multi_abnormality.training.stopping import Stopped, StopRequest
from multi_abnormality.training.trainer import explain_failure, make_trainer


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

    Raises:
        InputError: the data, a parameter or a folder does not serve.
    """

    def __init__(self, params: Params, processed: ProcessedSet, places: Places) -> None:
        params = settle(params)
        self.params = params
        self.places = places
        train, validation = split_validation(
            processed.volumes("train"), params.train.validation_fraction, params.seed
        )
        scans = processed.scans_of([*train, *validation])
        train, validation = choose(params, train, validation, scans)
        self.drawn = DrawnVolumes(
            processed, train, params.train, params.seed, params.model.adjacent_slices
        )
        if len(self.drawn) < params.train.batch_size:
            raise InputError(
                f"train.batch_size: {params.train.batch_size} is more than the {len(self.drawn)} "
                "scans there are to train on"
            )
        self.whole = WholeVolumes(processed, validation)
        _check_finetuning(params)
        self._device = choose_device(params.machine.accelerator)
        self._precision = resolve_precision(params.train.precision, self._device)
        package = Path(multi_abnormality.__file__).parent
        self.about = {
            "findings": list(processed.findings),
            "preprocess": processed.recipe,
            "model": params.model.model_dump(mode="json"),
            "train": params.train.model_dump(mode="json", exclude=RAISABLE),
            "volumes": {"train": train, "validation": validation},
            "identity": identify(params, processed.content_hash("train"), package),
            "environment": environment(self._device, self._precision),
        }
        self.fingerprint = fingerprint(self.about["identity"])
        folder = Folder(places.checkpoints, places.aside)
        places.aside.tidy()
        self.found = folder.find(self.about, params)
        self.history = self.found.history if self.found else History()

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
            if stop.reason:
                raise Stopped(stop.reason)
            self.history = self._fit(stop, backup)
        full = {"train": self.params.train.model_dump(mode="json")}
        mark_complete(self.places.checkpoints, self.about | full)
        self._mirror()
        self.history.write_csv(self.places.history)
        return self.history

    def _mirror(self) -> None:
        try:
            self.places.aside.mirror(self.places.checkpoints, self.fingerprint)
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
        batches = len(self.drawn) // self.params.train.batch_size
        log.info(
            "resuming from %s: epoch %d, step %d of %d; at most %d epochs are left",
            self.found.path, self._position.epoch, self._position.batch, batches,
            self.params.train.epochs - len(self.history.epochs),
        )  # fmt: skip
        changes = differences(self.found.content["about"]["environment"], self.about["environment"])
        if changes:
            log.warning("the last digits may differ from those of an undisturbed run: %s",
                        "; ".join(changes))  # fmt: skip

    def _fit(self, stop: StopRequest, backup: Backup) -> History:
        params, places = self.params, self.places
        keep_freed_memory()
        torch.manual_seed(derived_seed(params.seed, "weights"))
        model = build(self.about, params.model.pretrained if self.found is None else False)
        labels = torch.from_numpy(self.drawn.labels)
        module = TrainingModule(model, params, labels, self.about)
        sizes = params.train.batch_size, loading_workers(params)
        batches = drawn_loader(self.drawn, *sizes, self._position.epoch, self._position.batch)
        tensorboard = TensorBoard(places.logs, self.history)
        # EMAWeightAveraging moves frozen weights: its decay * w + (1 - decay) * w is not w.
        average = get_ema_multi_avg_fn(params.train.average_decay)
        averaging = WeightAveraging(multi_avg_fn=average)
        cadence = Cadence(params.train.save_every_n_epochs, 60 * params.train.save_every_n_minutes)
        callbacks = [
            Report(tensorboard, places.history, params.train.batch_size),
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
            ),
        ]
        trainer = make_trainer(params, self._device, self._precision, callbacks)
        try:
            trainer.fit(
                module,
                batches,
                whole_loader(self.whole, *sizes, leave_signals_to_parent),
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
            tensorboard.close()
        return module.history


def loading_workers(params: Params) -> int:
    """How many processes load. By itself one a core up to four for a GPU.

    None for a CPU: a volume is read in a thousandth of the time that a step on it takes there, and
    processes beside the step's threads would hold all of them up.
    """
    if params.machine.workers != "auto":
        return params.machine.workers
    if choose_device(params.machine.accelerator).type == "cpu":
        return 0
    return min(os.cpu_count() or 1, 4)


def _check_finetuning(params: Params) -> None:
    model, train = params.model, params.train
    if model.finetune != "full" and model.pretrained is False:
        log.warning(
            "model.finetune: %s holds random weights still: model.pretrained is false",
            model.finetune,
        )
    if model.finetune != "progressive":
        return
    if model.unfreeze_epoch >= train.epochs:
        raise InputError(
            f"model.unfreeze_epoch: {model.unfreeze_epoch} is not before train.epochs "
            f"({train.epochs}), so the backbone would never learn; lower it, or choose "
            "model.finetune: frozen"
        )
