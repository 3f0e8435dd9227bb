"""The loss while the learning rate rises (Smith 2017, arXiv:1506.01186).

A fresh model is trained for a few hundred steps at ever higher rates. The rate to train with is
where the loss falls fastest, well below the one where it begins to rise.
"""

import math
from collections.abc import Iterator
from itertools import count
from typing import cast

import numpy as np
import torch

from multi_abnormality import console
from multi_abnormality.data.batches import Batch
from multi_abnormality.data.drawn import DrawnVolumes, drawn_loader
from multi_abnormality.data.mixing import augmented
from multi_abnormality.data.randomness import derived_seed, generator
from multi_abnormality.data.splits import split_validation
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.model.build import build
from multi_abnormality.model.device import choose_device
from multi_abnormality.model.losses import multilabel_loss, positive_weights
from multi_abnormality.params import Params
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.precision import resolve_precision

SMOOTHING = 0.95  # of the loss, per step
DIVERGED = 1.5  # times the lowest loss
LEAST = 3  # losses that a slope is told from


def range_test(
    params: Params, processed: ProcessedSet, lowest: float, highest: float, steps: int
) -> list[tuple[float, float]]:
    """(learning rate, smoothed loss) of each step, up to the rate at which the loss runs away.

    Args:
        params: of the project; what learns is as in the last epoch.
        processed: what it learns from.
        lowest: learning rate of the first step.
        highest: of the last one.
        steps: of the optimizer.
    """
    learner = _Learner(params, processed)
    found: list[tuple[float, float]] = []
    mean = 0.0
    for step in console.track(range(steps), "learning rates", steps, "steps"):
        rate = lowest * (highest / lowest) ** (step / max(steps - 1, 1))
        mean = SMOOTHING * mean + (1 - SMOOTHING) * learner.learn(step, rate)
        found.append((rate, mean / (1 - SMOOTHING ** (step + 1))))
        if _has_diverged(found):
            break
    return found


class _Learner:
    """A fresh model, set up as for training."""

    def __init__(self, params: Params, processed: ProcessedSet) -> None:
        settings = params.train
        names, _ = split_validation(
            processed.volumes("train"),
            processed.findings,
            settings.validation_fraction,
            params.seed,
        )
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

    def learn(self, step: int, rate: float) -> float:
        """A step of the optimizer at this learning rate; the loss before it."""
        settings = self._params.train
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self._tuning.apply(settings.epochs)
        self._optimizer.zero_grad()
        losses = []
        for part in range(settings.accumulate):
            batch = on_device(next(self._batches), self._device)
            hu = self._model.windows.decode(batch["volume"])
            rng = generator(self._params.seed, "mix", part, step, 0)
            with self._mixed:
                hu, labels = augmented(hu, batch, settings, rng)
                logits = self._model.classify(hu, batch["height"]).logits
                loss = multilabel_loss(logits, labels, settings, self._weights)
            self._scaler.scale(loss / settings.accumulate).backward()
            losses.append(loss.item())
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), settings.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return sum(losses) / len(losses)


def suggest(found: list[tuple[float, float]]) -> float:
    """The learning rate at which the loss fell fastest, over the logarithm of the rate.

    Raises:
        InputError: the loss ran away before it could fall.
    """
    finite = [pair for pair in found if math.isfinite(pair[1])]
    if len(finite) < LEAST:
        raise InputError(
            f"--from: at {found[0][0]:.1e} and above the loss runs away within {len(found)} steps; "
            "choose a lower first rate"
        )
    rates, losses = np.array(finite).T
    skipped = min(len(rates) // 10, 10)  # the first smoothed losses are few losses' mean
    slopes = np.gradient(losses[skipped:], np.log(rates[skipped:]))
    return float(rates[skipped:][slopes.argmin()])


def _has_diverged(found: list[tuple[float, float]]) -> bool:
    last = found[-1][1]
    return not math.isfinite(last) or last > DIVERGED * min(loss for _, loss in found)


def endless(volumes: DrawnVolumes, batch_size: int) -> Iterator[Batch]:
    """Batches of drawn_loader, epoch after epoch."""
    for epoch in count():
        yield from drawn_loader(volumes, batch_size, 0, epoch, 0)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """As Lightning's own, which need not be loaded for it."""
    moved = {key: part.to(device) if hasattr(part, "to") else part for key, part in batch.items()}
    return cast(Batch, moved)
