"""Tuning of malloc, and available memory."""

import ctypes
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def tune_malloc() -> None:
    """Have glibc keep freed memory for the next training step.

    By default it returns large blocks to the system at once, and the next step faults every page in
    again: a third of the time of EfficientNet-B0's steps on a CPU. No-op on other systems.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 1 << 28)


def available_bytes() -> int:
    """Bytes available to new processes: free memory, or less if a cgroup limits it."""
    import psutil  # imported here: it takes 20 ms, which predict does not need

    available: int = psutil.virtual_memory().available
    return min([available, *_limits()])


def _limits(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Memory limits of containers and batch systems in bytes, by cgroups v1 and v2."""
    limits = []
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        top = root / kinds
        folder = top / path.strip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(top):
                for name in ("memory.max", "memory.limit_in_bytes"):
                    file = group / name
                    text = file.read_text().strip() if file.exists() else "max"
                    limits += [int(text)] if text != "max" else []
    return limits
