"""Warnings of libraries that a user can do nothing about: each by its text and where it arises."""

import warnings

_NOISE: tuple[tuple[str, type[Warning], str], ...] = (
    # On a CPU no worker processes is what is wanted.
    (".*does not have many workers.*", UserWarning, "lightning"),
    # The sampler skips what is done.
    (".*your dataloader is not resumable.*", UserWarning, "lightning"),
    # Of torch's own and of Lightning's code.
    (".*isinstance.treespec, LeafSpec.*", FutureWarning, "lightning"),
)


def silence_noise() -> None:
    """Show none of them in this process."""
    for message, category, module in _NOISE:
        warnings.filterwarnings("ignore", message, category, module)
