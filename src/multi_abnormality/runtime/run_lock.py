"""Lock against concurrent training runs in one checkout."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multi_abnormality.utils.errors import InputError


@contextmanager
def training_lock(path: Path) -> Iterator[None]:
    """Hold the lock file; the operating system releases it when this process ends for any reason.

    Uses a record lock: unlike flock's, it is not inherited by loader workers that outlive a kill.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{path}: process {file.read().strip()} is training in this folder; wait for it, "
                "or stop it with `kill`, after which it saves and exits"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
