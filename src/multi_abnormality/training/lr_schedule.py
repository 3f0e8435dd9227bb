"""Learning rate of each step: the base rate, times the schedule, times the layer's scale.

TrainingStep sets it before each batch.
"""

import math

from torch.optim import Optimizer

from multi_abnormality.config.schema import Train


def learning_rate(settings: Train, epoch: float) -> float:
    """Return the learning rate of the head, after `epoch` epochs, a fraction included."""
    factor = schedule_factor(epoch, settings.warmup_epochs, settings.schedule_epochs)
    return settings.learning_rate * factor


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the head; each layer of the backbone has a scale of its own."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def schedule_factor(epoch: float, warmup_epochs: float, schedule_epochs: float) -> float:
    """Return the factor in linear warm-up, cosine decay to 0.01, and a constant tail.

    A pure function of the epoch, so that raising the number of epochs later does not change
    earlier epochs. The decay ends after `schedule_epochs`, warm-up included.
    """
    if epoch < warmup_epochs:
        return max(epoch / warmup_epochs, 0.01)
    progress = (epoch - warmup_epochs) / (schedule_epochs - warmup_epochs)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
