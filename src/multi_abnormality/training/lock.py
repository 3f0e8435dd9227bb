"""One training at a time in one checkout."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multi_abnormality.errors import InputError


@contextmanager
def sole_training(path: Path) -> Iterator[None]:
    """Hold the lock file, which the system lets go of when this process ends, however it ends.

    A record lock: unlike flock's, loader workers that outlive a killed training do not inherit it.

    Raises:
        InputError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{path}: process {file.read().strip()} is training in this folder; wait for it, "
                "or end it with `kill`: it saves before it goes"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
