"""Filters for warnings of libraries that users cannot act on, each by its text and module."""

import logging
import warnings
from collections.abc import Callable

_NOISE: tuple[tuple[str, type[Warning], str], ...] = (
    (  # Loading processes would slow down training on a CPU.
        r"The '(train|val)_dataloader' does not have many workers",
        UserWarning,
        r"lightning\.pytorch\.trainer\.connectors\.data_connector$",
    ),
    (  # The sampler itself starts at the batch where training resumes.
        r"You're resuming from a checkpoint that ended before the epoch ended and your dataloader",
        UserWarning,
        r"lightning\.pytorch\.loops\.training_epoch_loop$",
    ),
    (  # Raised by Lightning at each fit, and by torch when it copies an exported program.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        FutureWarning,
        r"(lightning\.pytorch\.utilities\._pytree|copyreg)$",
    ),
)
_LOGGED = (
    # The classifier of a weights file is skipped; missing weights raise an error of this project.
    ("timm.models._builder", "Unexpected keys ("),
    # The exported model's thresholds are an output that is a constant.
    ("onnx_ir.passes.common.initializer_deduplication", "Skipped deduplication of initializer"),
)


def filter_warnings() -> None:
    """Suppress these warnings in this process."""
    for message, category, module in _NOISE:
        warnings.filterwarnings("ignore", message, category, module)
    for name, start in _LOGGED:
        logging.getLogger(name).addFilter(_without(start))


def _without(start: str) -> Callable[[logging.LogRecord], bool]:
    return lambda record: not record.getMessage().startswith(start)
