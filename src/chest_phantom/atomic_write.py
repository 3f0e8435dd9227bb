"""Atomic file writes: after a kill, the file is the old one or the new one."""

import os
from pathlib import Path


def atomic_write(content: bytes, path: Path) -> None:
    """Write `content` to a temporary file beside `path`, sync it, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
