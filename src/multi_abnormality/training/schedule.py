"""The learning rate, as a function of where training stands."""

import math


def learning_rate_factor(position: float, warmup_epochs: float, schedule_epochs: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth, then constant.

    A pure function of the position, so that raising the number of epochs later changes nothing
    that was done before.

    Args:
        position: epochs done, with the share of the current one.
        warmup_epochs: over which the rate rises.
        schedule_epochs: over which it rises and falls.
    """
    if position < warmup_epochs:
        return max(position / warmup_epochs, 0.01)
    share = (position - warmup_epochs) / (schedule_epochs - warmup_epochs)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(share, 1.0))) / 2
