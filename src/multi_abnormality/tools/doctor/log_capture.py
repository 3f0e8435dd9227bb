"""Warnings of the training code, captured to be printed as results of checks."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _CaptureHandler(logging.Handler):
    """Handler that stores messages of level WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """Collect this project's warnings in a list instead of logging them."""
    from multi_abnormality.utils.console import log

    handler, propagates = _CaptureHandler(), log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield handler.messages
    finally:
        log.removeHandler(handler)
        log.propagate = propagates
