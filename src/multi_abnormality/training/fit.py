"""Train a classifier, from the newest checkpoint if there is one."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, RichProgressBar

import multi_abnormality
from multi_abnormality.console import console, log
from multi_abnormality.data.batches import DrawnVolumes, WholeVolumes, drawn_loader, whole_loader
from multi_abnormality.data.randomness import derived_seed
from multi_abnormality.data.splits import split_validation
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.memory import keep_freed_memory
from multi_abnormality.model.build import build
from multi_abnormality.model.inference import choose_device
from multi_abnormality.params import Params
from multi_abnormality.training.checkpoints import Checkpoints, DurableIO, mark_complete
from multi_abnormality.training.history import History, TensorBoard
from multi_abnormality.training.identity import identify
from multi_abnormality.training.lightning_module import TrainingModule
from multi_abnormality.training.report import Report
from multi_abnormality.training.resume import find_resumable


@dataclass(frozen=True)
class Places:
    """Where training writes."""

    checkpoints: Path
    logs: Path
    history: Path  # a CSV file
    unfinished: Path  # takes in an unfinished training of another identity


def fit(params: Params, processed: ProcessedSet, places: Places) -> History:
    """Train to the end, and leave a complete best.ckpt and last.ckpt.

    Raises:
        InputError: the data or a parameter does not serve.
    """
    train, validation = _split(params, processed)
    package = Path(multi_abnormality.__file__).parent
    about = {
        "findings": list(processed.findings),
        "preprocess": processed.recipe,
        "model": params.model.model_dump(mode="json"),
        "train": params.train.model_dump(mode="json"),
        "volumes": {"train": train, "validation": validation},
        "identity": identify(params, processed.content_hash, package),
    }
    resumed = find_resumable(places.checkpoints, about["identity"], params.train, places.unfinished)
    history = History.from_state(resumed[1]["history"]) if resumed else History()
    if resumed and _is_over(history, params):
        log.info("%s is of a finished training; nothing is left to do", resumed[0])
    else:
        drawn = DrawnVolumes(processed, train, params.train.slices, params.seed)
        whole = WholeVolumes(processed, validation)
        history = _run(params, drawn, whole, about, places, resumed, history)
    mark_complete(places.checkpoints, about)
    history.write_csv(places.history)
    return history


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


def _split(params: Params, processed: ProcessedSet) -> tuple[list[str], list[str]]:
    volumes = processed.volumes("train")
    train, validation = split_validation(volumes, params.train.validation_fraction, params.seed)
    if len(train) < params.train.batch_size:
        raise InputError(
            f"train.batch_size: {params.train.batch_size} is more than the {len(train)} volumes "
            "there are to train on"
        )
    return train, validation


def _is_over(history: History, params: Params) -> bool:
    enough = len(history.epochs) >= params.train.epochs
    return enough or history.stalled(params.train.early_stopping_patience)


def _run(
    params: Params,
    drawn: DrawnVolumes,
    whole: WholeVolumes,
    about: dict[str, Any],
    places: Places,
    resumed: tuple[Path, dict[str, Any]] | None,
    history: History,
) -> History:
    checkpoint = resumed[0] if resumed else None
    if resumed:
        log.info(
            "resuming from %s: %d epochs and %d steps are done, at most %d epochs are left",
            checkpoint, len(history.epochs), resumed[1]["global_step"],
            params.train.epochs - len(history.epochs),
        )  # fmt: skip
    else:
        log.info("no checkpoint to resume from: training starts at epoch 0")
    keep_freed_memory()
    torch.manual_seed(derived_seed(params.seed, "weights"))
    model = build(about, params.model.pretrained if resumed is None else False)
    module = TrainingModule(model, params.train, params.seed, about)
    tensorboard = TensorBoard(places.logs, history)
    callbacks = [
        Report(tensorboard, places.history, params.train.batch_size),
        EMAWeightAveraging(decay=params.train.average_decay),
        Checkpoints(places.checkpoints, params.train.save_every_n_epochs),
    ]
    trainer = _trainer(params, callbacks)
    sizes = params.train.batch_size, loading_workers(params)
    batches = drawn_loader(drawn, *sizes, first_epoch=len(history.epochs))
    try:
        trainer.fit(
            module, batches, whole_loader(whole, *sizes), ckpt_path=checkpoint, weights_only=True
        )
    except SystemExit as end:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from end
    tensorboard.close()
    return module.history


def _trainer(params: Params, callbacks: list[Callback]) -> lightning.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if console.is_terminal:
        callbacks = [*callbacks, RichProgressBar()]
    return lightning.Trainer(
        accelerator="gpu" if choose_device(params.machine.accelerator).type == "cuda" else "cpu",
        devices=1,
        max_epochs=params.train.epochs,
        gradient_clip_val=params.train.clip_norm,
        deterministic=params.train.deterministic,
        plugins=[DurableIO()],
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=console.is_terminal,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
