"""Learning rate range test (Smith 2017, arXiv:1506.01186).

A new model is trained for a few hundred steps at increasing rates. The suggested rate is where the
loss falls fastest, well below the one where it begins to rise.

The loss of a batch depends mostly on its number of positives: on the sample scans this changed it
by 9 % from step to step, as much as the whole fall. So each loss is divided by the loss of
probabilities of 0.5 on the same labels, which leaves 0.9 %.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch

from multi_abnormality.config.schema import Params
from multi_abnormality.data.loading.train_dataset import TrainDataset, train_dataloader
from multi_abnormality.data.storage.processed_dataset import ProcessedDataset
from multi_abnormality.data.transforms.batch import Batch, batches_on_device
from multi_abnormality.models.device import choose_device
from multi_abnormality.models.factory import build_classifier
from multi_abnormality.models.pretrained_weights import find_pretrained
from multi_abnormality.runtime.fabric_setup import make_fabric, resolve_precision
from multi_abnormality.runtime.process_group import ProcessGroup
from multi_abnormality.training.lr_schedule import set_learning_rate
from multi_abnormality.training.training_step import TrainingStep
from multi_abnormality.training.volume_selection import select_volumes
from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError
from multi_abnormality.utils.rng import derived_seed, generator

SMOOTHING = 0.95  # exponential smoothing of the loss per step, to detect divergence
DIVERGED = 1.5  # ratio to the lowest loss
MIN_LOSSES = 3  # for fitting a slope
WIDTH = 0.2  # decades, standard deviation of the weights of a local fit; at least one step
SIGNIFICANT = 5.0  # standard errors by which the steepest slope must be below zero
STABLE = 3.0  # largest factor by which resampled noise may move the suggestion
N_RESAMPLES = 200  # of the noise


@dataclass(frozen=True)
class Step:
    """One step of a range test."""

    rate: float
    loss: float  # loss before the step
    relative: float  # loss divided by that of probabilities of 0.5 on the same labels


def range_test(
    params: Params, processed: ProcessedDataset, lowest: float, highest: float, steps: int
) -> list[Step]:
    """Run the test, up to the rate at which the loss diverges.

    Args:
        params: parameters of the project; frozen parameters are those of the last epoch.
    """
    training_step, batches = _new_training(params, processed)
    found: list[Step] = []
    mean, least = 0.0, math.inf
    for step in console.track(range(steps), "learning rates", steps, "steps"):
        rate = lowest * (highest / lowest) ** (step / max(steps - 1, 1))
        set_learning_rate(training_step.optimizer, rate)
        loss, reference = _take_step(training_step, batches, params, step)
        parts = params.train.accumulate_grad_batches
        found.append(Step(rate, loss / parts, loss / reference))
        mean = SMOOTHING * mean + (1 - SMOOTHING) * found[-1].relative
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        least = min(least, smooth)
        if not math.isfinite(smooth) or smooth > DIVERGED * least:
            break
    return found


def _new_training(
    params: Params, processed: ProcessedDataset
) -> tuple[TrainingStep, Iterator[Batch]]:
    """Return the training step of a new model, and endless batches."""
    settings = params.train
    chosen = select_volumes(params, processed.volumes("train"), processed.findings)
    volumes = TrainDataset(
        processed, chosen.train, settings, params.seed, params.model.adjacent_slices,
        chosen.untrained,
    )  # fmt: skip
    metadata: dict[str, Any] = {
        "findings": list(processed.findings),
        "preprocess": processed.recipe,
        "model": params.model.model_dump(mode="json"),
    }
    torch.manual_seed(derived_seed(params.seed, "weights"))
    pretrained = find_pretrained(params.model)
    if pretrained.cfg:
        metadata["pretrained_cfg"] = pretrained.cfg.to_dict()
    model = build_classifier(metadata, pretrained.file)
    device = choose_device(params.machine.accelerator)
    precision = resolve_precision(settings.precision, device)
    fabric = make_fabric(settings, device, precision, ProcessGroup())
    labels = torch.from_numpy(volumes.labels)
    training_step = TrainingStep(model, params, labels, fabric, num_batches=1)
    training_step.begin_epoch(settings.epochs)
    return training_step, endless(volumes, settings.batch_size, device)


def _take_step(
    training_step: TrainingStep, batches: Iterator[Batch], params: Params, step: int
) -> tuple[float, float]:
    """Take an optimizer step; return the sum of its losses, and those of probabilities of 0.5."""
    parts = params.train.accumulate_grad_batches
    losses, references = [], []
    for part in range(parts):
        rng = generator(params.seed, "mix", part, step, 0)
        loss, labels = training_step.accumulate(
            next(batches), rng, parts, ends_step=part + 1 == parts
        )
        losses.append(loss.item())
        guess = torch.zeros_like(labels)
        references.append(training_step.loss(guess, labels, training_step.labeled_share).item())
    training_step.optimizer_step()
    return sum(losses), max(sum(references), 1e-9)


def suggest(found: Sequence[Step]) -> float:
    """Return the learning rate at which the relative loss falls fastest per decade.

    Slopes are those of local linear fits. The steepest slope before the minimum must be
    significant, and its rate must be stable when noise of the same size is resampled.

    Raises:
        InputError: the loss diverged at once, or the curve is too noisy.
    """
    finite = [(step.rate, step.relative) for step in found if math.isfinite(step.relative)]
    if len(finite) < MIN_LOSSES:
        raise InputError(
            f"--from: at {found[0].rate:.1e} and above the loss diverges within {len(found)} "
            "steps; choose a lower first rate"
        )
    rates, losses = np.array(finite).T
    smooth, slope = _local_fits(np.log10(rates))
    fitted = smooth @ losses
    best = int(_steepest(smooth, slope, losses[:, None])[0])
    before = losses[: max(int(fitted.argmin()), 2) + 1]
    noise = float(np.median(np.abs(np.diff(before))) / (0.6745 * math.sqrt(2)))  # robust
    error = noise * float(np.linalg.norm(slope[best]))
    fall = -float(slope[best] @ losses)
    rng = generator(0, "range test")
    others = fitted[:, None] + noise * rng.standard_normal((len(rates), N_RESAMPLES))
    low, high = np.quantile(rates[_steepest(smooth, slope, others)], [0.05, 0.95])
    best_rate = float(rates[best])
    if fall < SIGNIFICANT * error or max(best_rate / low, high / best_rate) > STABLE:
        raise InputError(
            f"--steps: {len(found)} steps are too noisy for a suggestion. The loss falls most at "
            f"{best_rate:.1e}, by {fall / max(error, 1e-12):.1f} standard errors of its slope "
            f"({SIGNIFICANT:.0f} are needed); with noise of the same size that rate is between "
            f"{low:.1e} and {high:.1e} (a factor of {STABLE:.0f} is allowed). Set --steps to "
            f"{2 * len(found)} or more, narrow --from and --to, or raise train.batch_size"
        )
    return best_rate


def _local_fits(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, N) matrices that map N losses to fitted values and slopes at N positions `x`."""
    distance = x[None] - x[:, None]
    width = max(WIDTH, float(np.diff(x).max()))
    weights = np.exp(-0.5 * (distance / width) ** 2)
    zeroth, first, second = (
        (weights * distance**power).sum(axis=1)[:, None] for power in (0, 1, 2)
    )
    scaled = weights / (zeroth * second - first**2)
    return scaled * (second - first * distance), scaled * (zeroth * distance - first)


def _steepest(smooth: np.ndarray, slope: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the (D,) indices at which curves (N, D) fall fastest before their minima."""
    minimum = (smooth @ losses).argmin(axis=0)
    is_before = np.arange(len(losses))[:, None] <= minimum
    steepest: np.ndarray = np.where(is_before, slope @ losses, np.inf).argmin(axis=0)
    return steepest


def endless(volumes: TrainDataset, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Yield the batches of train_dataloader on a device, epoch after epoch."""
    for epoch in count():
        yield from batches_on_device(train_dataloader(volumes, batch_size, 0, epoch, 0), device)
