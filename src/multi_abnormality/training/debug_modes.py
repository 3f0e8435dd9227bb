"""Debug modes of training: train.debug is `fast_dev_run` or `overfit_batches`.

Their scores are meaningless, and their checkpoints are never resumed by a normal run.
"""

from collections.abc import Sequence
from typing import Any

from multi_abnormality.config.schema import Params
from multi_abnormality.utils.console import log

BATCHES = 2  # of an epoch
SCANS = 8  # minimum, so that some finding has both classes
OVERFIT_EPOCHS = 100


def apply_debug_overrides(params: Params) -> Params:
    """Return the parameters with the overrides of `train.debug`.

    fast_dev_run: two epochs of few scans, so that each part of the pipeline runs.
    overfit_batches: few scans without augmentation, also used for validation; the training loss
    must approach zero.
    """
    kind, epochs = params.train.debug, {"fast_dev_run": 2, "overfit_batches": OVERFIT_EPOCHS}
    if kind == "none":
        return params
    log.warning("train.debug: %s uses few scans and %d epochs; its scores mean nothing",
                kind, epochs[kind])  # fmt: skip
    train: dict[str, Any] = {
        "epochs": epochs[kind],
        "schedule_epochs": epochs[kind],
        "warmup_epochs": 0.5,
    }
    model: dict[str, Any] = {"unfreeze_epoch": min(params.model.unfreeze_epoch, 1)}
    if kind == "overfit_batches":
        model["dropout"] = 0.0
        train |= {
            "augmentation": "none",
            "mixup_prob": 0.0,
            "cutmix_prob": 0.0,
            "label_smoothing": 0.0,
            "oversample_threshold": 0.0,
            "reconstructions": "first",
            "ema_decay": 0.0,
            "early_stopping_patience": OVERFIT_EPOCHS,
            "save_every_n_epochs": OVERFIT_EPOCHS,
        }
    changes = {
        "train": params.train.model_copy(update=train),
        "model": params.model.model_copy(update=model),
    }
    return params.model_copy(update=changes)


def debug_subset(
    params: Params, train: Sequence[str], validation: Sequence[str], scans: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the names of training and validation volumes: all of them, except in a debug run.

    Args:
        scans: scan ids of `train` followed by those of `validation`.
    """
    train, validation = list(train), list(validation)
    if params.train.debug == "none":
        return train, validation
    count = max(BATCHES * params.train.batch_size, SCANS)
    subset = _of_first_scans(count, train, scans[: len(train)])
    if params.train.debug == "overfit_batches":
        return subset, subset
    return subset, _of_first_scans(count, validation, scans[len(train) :])


def _of_first_scans(count: int, names: Sequence[str], scans: Sequence[str]) -> list[str]:
    first = set(list(dict.fromkeys(scans))[:count])
    return [name for name, scan in zip(names, scans, strict=True) if scan in first]
