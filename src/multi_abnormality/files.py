"""Files that are whole or absent, on a machine that may vanish."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from multi_abnormality.errors import InputError


def write_durably(content: bytes | memoryview, path: Path, keep: Path | None = None) -> None:
    """Replace a file's content; after this returns it survives a power cut.

    Written beside its place and renamed, so that a kill leaves the old file or the new one. What
    a kill leaves beside them has one name, so that the next try takes it away: a folder that was
    gone on with holds no more than any other. Two writers of one file must take turns.

    Args:
        content: all of it.
        path: the file.
        keep: where in the same folder the old file goes; None: nowhere. A kill may leave no file
            at `path` then, but always one of them.

    Raises:
        InputError: the disk is full or read-only. What was there before is whole.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            path.replace(keep)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # where the disk is at fault this may fail as well
            temporary.unlink()
        if isinstance(error, OSError):
            raise InputError(
                f"{path}: cannot be written ({error.strerror}); what was there before is whole"
            ) from error
        raise


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(content: Any, path: Path) -> None:
    """Write JSON that people can read and diff. NaN and infinity are refused: JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    write_durably(f"{text}\n".encode(), path)
