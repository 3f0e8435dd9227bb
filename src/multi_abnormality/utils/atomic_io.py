"""Atomic writing of files."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from multi_abnormality.utils.errors import InputError


def atomic_write(content: bytes | memoryview, path: Path, keep: Path | None = None) -> None:
    """Replace a file atomically; when this returns, the content survives a power cut.

    The content is written to a temporary file in the same directory, which is then renamed, so that
    a kill leaves the old file or the new one. The temporary name is always the same, so that the
    next write removes what a kill has left. Concurrent writers of one file must take turns.

    Args:
        keep: path in the same directory that the old file is renamed to; None to discard it. A kill
            may then leave no file at `path`, but always one of the two.

    Raises:
        InputError: the disk is full or read-only. The old file is intact.
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
        with suppress(OSError):  # fails as well if the disk has an error
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
    """Write indented JSON. NaN and infinity raise ValueError, since JSON has neither."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    atomic_write(f"{text}\n".encode(), path)
