"""Filters for warnings of libraries that users cannot act on, each by its text and module."""

import logging
import warnings
from collections.abc import Callable

_NOISE: tuple[tuple[str, type[Warning], str], ...] = (
    (  # Raised by torch when it copies an exported program.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        FutureWarning,
        r"copyreg$",
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
