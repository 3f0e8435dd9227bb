"""Learning rate range test (Smith 2017, arXiv:1506.01186).

A fresh model is trained for a few hundred steps at ever higher rates. The rate to train with is
where the loss falls fastest, well below the one where it begins to rise.

The loss of a batch depends mostly on how many positives it holds: on the sample that moved it by
9 % from step to step, and the whole fall was 9 %. So each loss is divided by the loss that
probabilities of 0.5 would have on the same labels, which leaves 0.9 %.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import cast

import numpy as np
import torch

from multi_abnormality import console
from multi_abnormality.data.batches import Batch
from multi_abnormality.data.drawn import DrawnVolumes, drawn_loader
from multi_abnormality.data.mixing import augmented
from multi_abnormality.data.randomness import derived_seed, generator
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.model.build import build
from multi_abnormality.model.device import choose_device
from multi_abnormality.model.losses import multilabel_loss, positive_weights
from multi_abnormality.params import Params
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.precision import resolve_precision
from multi_abnormality.training.volumes import select_volumes

SMOOTHING = 0.95  # of the loss, per step, to find where it diverges
DIVERGED = 1.5  # times the lowest loss
LEAST = 3  # losses that a slope is fitted to
WIDTH = 0.2  # decades, standard deviation of the weights of a local fit; or one step
SIGNIFICANT = 5.0  # standard errors that the steepest slope must be below zero
STABLE = 3.0  # factor by which other noise may move the suggestion
DRAWS = 200  # of such noise


@dataclass(frozen=True)
class Step:
    """One step of a range test.

    Attributes:
        rate: learning rate.
        loss: before the step.
        relative: the loss over that of probabilities of 0.5 on the same labels.
    """

    rate: float
    loss: float
    relative: float


def range_test(
    params: Params, processed: ProcessedSet, lowest: float, highest: float, steps: int
) -> list[Step]:
    """Run the test, up to the rate at which the loss diverges.

    Args:
        params: of the project; what learns is as in the last epoch.
        processed: what it learns from.
        lowest: learning rate of the first step.
        highest: of the last one.
        steps: of the optimizer.
    """
    learner = _Learner(params, processed)
    found: list[Step] = []
    mean, least = 0.0, math.inf
    for step in console.track(range(steps), "learning rates", steps, "steps"):
        rate = lowest * (highest / lowest) ** (step / max(steps - 1, 1))
        found.append(learner.learn(step, rate))
        mean = SMOOTHING * mean + (1 - SMOOTHING) * found[-1].relative
        smooth = mean / (1 - SMOOTHING ** (step + 1))
        least = min(least, smooth)
        if not math.isfinite(smooth) or smooth > DIVERGED * least:
            break
    return found


class _Learner:
    """A fresh model, set up as for training."""

    def __init__(self, params: Params, processed: ProcessedSet) -> None:
        settings = params.train
        names = select_volumes(params, processed.volumes("train"), processed.findings).train
        volumes = DrawnVolumes(
            processed, names, settings, params.seed, params.model.adjacent_slices
        )
        about = {
            "findings": list(processed.findings),
            "preprocess": processed.recipe,
            "model": params.model.model_dump(mode="json"),
        }
        torch.manual_seed(derived_seed(params.seed, "weights"))
        self._device = device = choose_device(params.machine.accelerator)
        self._model = model = build(about, params.model.pretrained).to(device).train()
        self._params = params
        self._batches = endless(volumes, settings.batch_size)
        labels = torch.from_numpy(volumes.labels)
        self._weights = positive_weights(labels, settings.positive_weight_limit).to(device)
        groups = parameter_groups(model, params.model, settings.weight_decay, settings.layer_decay)
        self._optimizer = torch.optim.AdamW(groups, fused=True)
        precision = resolve_precision(settings.precision, device)
        is_mixed = precision != "float32"
        self._mixed = torch.autocast(device.type, getattr(torch, precision), is_mixed)
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self._tuning = FineTuning(model, params.model)

    def learn(self, step: int, rate: float) -> Step:
        """Take a step of the optimizer at this learning rate."""
        settings = self._params.train
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self._tuning.apply(settings.epochs)
        self._optimizer.zero_grad()
        losses, guessed = [], []
        for part in range(settings.accumulate):
            batch = on_device(next(self._batches), self._device)
            hu = self._model.windows.decode(batch["volume"])
            rng = generator(self._params.seed, "mix", part, step, 0)
            with self._mixed:
                hu, labels = augmented(hu, batch, settings, rng)
                logits = self._model.classify(hu, batch["height"]).logits
                loss = multilabel_loss(logits, labels, settings, self._weights)
                guess = multilabel_loss(torch.zeros_like(logits), labels, settings, self._weights)
            self._scaler.scale(loss / settings.accumulate).backward()
            losses.append(loss.item())
            guessed.append(guess.item())
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), settings.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return Step(rate, sum(losses) / len(losses), sum(losses) / max(sum(guessed), 1e-9))


def suggest(found: Sequence[Step]) -> float:
    """The learning rate at which the relative loss falls fastest, over the logarithm of the rate.

    Slopes are of local linear fits. Before its minimum the curve must fall significantly, and the
    steepest place must stay where it is when noise of the same size is drawn again.

    Raises:
        InputError: the loss diverged before it could fall, or the curve is too noisy.
    """
    finite = [(step.rate, step.relative) for step in found if math.isfinite(step.relative)]
    if len(finite) < LEAST:
        raise InputError(
            f"--from: at {found[0].rate:.1e} and above the loss runs away within {len(found)} "
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
    others = fitted[:, None] + noise * rng.standard_normal((len(rates), DRAWS))
    low, high = np.quantile(rates[_steepest(smooth, slope, others)], [0.05, 0.95])
    best_rate = float(rates[best])
    if fall < SIGNIFICANT * error or max(best_rate / low, high / best_rate) > STABLE:
        raise InputError(
            f"--steps: {len(found)} steps are too noisy for a suggestion. The loss falls most at "
            f"{best_rate:.1e}, by {fall / max(error, 1e-12):.1f} standard errors of its slope "
            f"({SIGNIFICANT:.0f} are needed); with other noise of this size that rate is between "
            f"{low:.1e} and {high:.1e} (a factor of {STABLE:.0f} is allowed). Set --steps to "
            f"{2 * len(found)} or more, narrow --from and --to, or raise train.batch_size"
        )
    return best_rate


def _local_fits(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (N, N) that make values and slopes at N places of N losses there."""
    apart = places[None] - places[:, None]
    width = max(WIDTH, float(np.diff(places).max()))
    weights = np.exp(-0.5 * (apart / width) ** 2)
    zeroth, first, second = ((weights * apart**power).sum(axis=1)[:, None] for power in (0, 1, 2))
    scaled = weights / (zeroth * second - first**2)
    return scaled * (second - first * apart), scaled * (zeroth * apart - first)


def _steepest(smooth: np.ndarray, slope: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Where each of D curves (N, D) falls fastest before its minimum: (D,) places."""
    minimum = (smooth @ losses).argmin(axis=0)
    is_before = np.arange(len(losses))[:, None] <= minimum
    steepest: np.ndarray = np.where(is_before, slope @ losses, np.inf).argmin(axis=0)
    return steepest


def endless(volumes: DrawnVolumes, batch_size: int) -> Iterator[Batch]:
    """Batches of drawn_loader, epoch after epoch."""
    for epoch in count():
        yield from drawn_loader(volumes, batch_size, 0, epoch, 0)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """As Lightning's own, which need not be loaded for it."""
    moved = {key: part.to(device) if hasattr(part, "to") else part for key, part in batch.items()}
    return cast(Batch, moved)
