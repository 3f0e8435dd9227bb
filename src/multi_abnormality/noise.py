"""Warnings of libraries that a user can do nothing about: each by its words and where it arises."""

import logging
import warnings
from collections.abc import Callable

_NOISE: tuple[tuple[str, type[Warning], str], ...] = (
    (  # Processes that load for a CPU would hold its steps up.
        r"The '(train|val)_dataloader' does not have many workers",
        UserWarning,
        r"lightning\.pytorch\.trainer\.connectors\.data_connector$",
    ),
    (  # The sampler itself begins at the batch where training goes on.
        r"You're resuming from a checkpoint that ended before the epoch ended and your dataloader",
        UserWarning,
        r"lightning\.pytorch\.loops\.training_epoch_loop$",
    ),
    (  # Lightning asks torch so at each fit, and torch itself as it copies an exported program.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        FutureWarning,
        r"(lightning\.pytorch\.utilities\._pytree|copyreg)$",
    ),
)
_LOGGED = (
    # Of a weights file's classifier, which is left out; what it lacks is an error of our own.
    ("timm.models._builder", "Unexpected keys ("),
    # The exported model's thresholds are an output without being computed.
    ("onnx_ir.passes.common.initializer_deduplication", "Skipped deduplication of initializer"),
)


def silence_noise() -> None:
    """Show none of them in this process."""
    for message, category, module in _NOISE:
        warnings.filterwarnings("ignore", message, category, module)
    for name, start in _LOGGED:
        logging.getLogger(name).addFilter(_without(start))


def _without(start: str) -> Callable[[logging.LogRecord], bool]:
    return lambda record: not record.getMessage().startswith(start)
