"""What a training's own code warns of, to be told in the doctor's rows."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """What this project warns of meanwhile, in place of log lines."""
    from multi_abnormality.console import log

    kept, propagates = _Kept(), log.propagate
    log.addHandler(kept)
    log.propagate = False
    try:
        yield kept.messages
    finally:
        log.removeHandler(kept)
        log.propagate = propagates
