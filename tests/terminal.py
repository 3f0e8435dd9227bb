"""Output of a program that runs in a terminal."""

import contextlib
import os


def read_all(terminal: int) -> bytes:
    """Read a pseudo-terminal until its other end is closed, and close it."""
    content = b""
    with contextlib.suppress(OSError):  # raised by Linux if the other end is closed
        while piece := os.read(terminal, 1 << 16):
            content += piece
    os.close(terminal)
    return content
