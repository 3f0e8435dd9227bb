"""Files that are whole or absent, on a machine that may vanish."""

import json
import os
from pathlib import Path
from typing import Any


def write_durably(content: bytes, path: Path) -> None:
    """Replace a file's content; after this returns it survives a power cut.

    Written beside its place and renamed, so that a kill leaves the old file or the new one. What
    a kill leaves beside them has one name, so that the next try takes it away: a folder that was
    gone on with holds no more than any other. Two writers of one file must take turns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(content: Any, path: Path) -> None:
    """Write JSON that people can read and diff. NaN and infinity are refused: JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    write_durably(f"{text}\n".encode(), path)
