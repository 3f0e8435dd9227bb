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
from multi_abnormality.model.build import build
from multi_abnormality.model.device import choose_device
from multi_abnormality.model.losses import multilabel_loss, positive_weights
from multi_abnormality.params import Params
from multi_abnormality.training.finetuning import FineTuning, parameter_groups
from multi_abnormality.training.precision import resolve_precision

SMOOTHING = 0.95  # of the loss, per step
DIVERGED = 1.5  # times the lowest loss


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
    names, _ = split_validation(
        processed.volumes("train"),
        processed.findings,
        params.train.validation_fraction,
        params.seed,
    )
    volumes = DrawnVolumes(
        processed, names, params.train, params.seed, params.model.adjacent_slices
    )
    about = {
        "findings": list(processed.findings),
        "preprocess": processed.recipe,
        "model": params.model.model_dump(mode="json"),
    }
    torch.manual_seed(derived_seed(params.seed, "weights"))
    device = choose_device(params.machine.accelerator)
    model = build(about, params.model.pretrained).to(device).train()
    settings = params.train
    groups = parameter_groups(model, params.model, settings.weight_decay, settings.layer_decay)
    weights = positive_weights(torch.from_numpy(volumes.labels), settings.positive_weight_limit)
    optimizer = torch.optim.AdamW(groups, lr=lowest, fused=True)
    precision = resolve_precision(settings.precision, device)
    mixed = torch.autocast(device.type, getattr(torch, precision), precision != "float32")
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    tuning = FineTuning(model, params.model)
    found: list[tuple[float, float]] = []
    mean = 0.0
    batches = endless(volumes, settings.batch_size)
    for step in console.track(range(steps), "learning rates", steps, "steps"):
        rate = lowest * (highest / lowest) ** (step / max(steps - 1, 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        tuning.apply(settings.epochs)
        optimizer.zero_grad()
        losses = []
        for part in range(settings.accumulate):
            batch = on_device(next(batches), device)
            hu = model.windows.decode(batch["volume"])
            rng = generator(params.seed, "mix", part, step, 0)
            with mixed:
                hu, labels = augmented(hu, batch, settings, rng)
                logits = model.classify(hu, batch["height"]).logits
                loss = multilabel_loss(logits, labels, settings, weights.to(device))
            scaler.scale(loss / settings.accumulate).backward()
            losses.append(loss.item())
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        mean = SMOOTHING * mean + (1 - SMOOTHING) * sum(losses) / len(losses)
        found.append((rate, mean / (1 - SMOOTHING ** (step + 1))))
        if _has_diverged(found):
            break
    return found


def suggest(found: list[tuple[float, float]]) -> float:
    """The learning rate at which the loss fell fastest, over the logarithm of the rate."""
    rates, losses = np.array(found).T
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
    """Lightning has such a function; to import it before the model's packages fails."""
    moved = {key: part.to(device) if hasattr(part, "to") else part for key, part in batch.items()}
    return cast(Batch, moved)
