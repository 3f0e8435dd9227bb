"""Two ways to find a training's faults before it takes hours: train.debug is `fast` or `overfit`.

Their scores mean nothing. A checkpoint of theirs is never gone on from without them.
"""

from collections.abc import Sequence
from typing import Any

from multi_abnormality.console import log
from multi_abnormality.params import Params

BATCHES = 2  # of an epoch
SCANS = 8  # at least: some finding has both classes among them
OVERFIT_EPOCHS = 100


def settle(params: Params) -> Params:
    """The parameters of a debug run; all others' stay as they are.

    fast: two epochs of few scans, so that each part of the pipeline runs.
    overfit: few scans, as they are and validated on, over and over: their loss must nearly vanish.
    """
    kind, epochs = params.train.debug, {"fast": 2, "overfit": OVERFIT_EPOCHS}
    if kind == "none":
        return params
    log.warning("train.debug: %s takes few scans and %d epochs; its scores mean nothing",
                kind, epochs[kind])  # fmt: skip
    train: dict[str, Any] = {
        "epochs": epochs[kind],
        "schedule_epochs": epochs[kind],
        "warmup_epochs": 0.5,
    }
    model: dict[str, Any] = {"unfreeze_epoch": min(params.model.unfreeze_epoch, 1)}
    if kind == "overfit":
        model["dropout"] = 0.0
        train |= {
            "augmentation": "none",
            "mixup": 0.0,
            "cutmix": 0.0,
            "label_smoothing": 0.0,
            "reconstructions": "first",
            "average_decay": 0.0,
            "early_stopping_patience": OVERFIT_EPOCHS,
            "save_every_n_epochs": OVERFIT_EPOCHS,
        }
    changes = {
        "train": params.train.model_copy(update=train),
        "model": params.model.model_copy(update=model),
    }
    return params.model_copy(update=changes)


def choose(
    params: Params, train: Sequence[str], validation: Sequence[str], scans: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The volumes that a run learns from and validates on: all of them, but for a debug run.

    Args:
        params: of the run.
        train: names of volumes.
        validation: names of volumes.
        scans: of which scan each of `train` and then `validation` is a reconstruction.
    """
    train, validation = list(train), list(validation)
    if params.train.debug == "none":
        return train, validation
    count = max(BATCHES * params.train.batch_size, SCANS)
    learned = _of_first(count, train, scans[: len(train)])
    if params.train.debug == "overfit":
        return learned, learned
    return learned, _of_first(count, validation, scans[len(train) :])


def _of_first(count: int, names: Sequence[str], scans: Sequence[str]) -> list[str]:
    few = set(list(dict.fromkeys(scans))[:count])
    return [name for name, scan in zip(names, scans, strict=True) if scan in few]
