"""Learning rate schedule, as a function of the position in training."""

import math


def learning_rate_factor(position: float, warmup_epochs: float, schedule_epochs: int) -> float:
    """Return the factor after linear warm-up, cosine decay to 0.01, and a constant tail.

    A pure function of the position, so that raising the number of epochs later does not change
    earlier epochs.

    Args:
        position: number of epochs done, with the fraction of the current one.
        warmup_epochs: duration of the warm-up.
        schedule_epochs: duration of warm-up and decay.
    """
    if position < warmup_epochs:
        return max(position / warmup_epochs, 0.01)
    progress = (position - warmup_epochs) / (schedule_epochs - warmup_epochs)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
