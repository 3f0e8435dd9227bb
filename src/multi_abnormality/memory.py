"""How the process takes memory from the system, and how much there is."""

import ctypes
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep what a step of training frees for the next one.

    By default it gives large blocks back at once, and the next step pays for each page again: on a
    CPU, a third of the time of EfficientNet-B0's steps. Other systems are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 1 << 28)


def free() -> int:
    """Bytes that new processes can have: what the machine has left, or the job's share of it."""
    import psutil  # 20 ms that predict need not wait for

    available: int = psutil.virtual_memory().available
    return min([available, *_limits()])


def _limits(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Bytes that containers and batch systems allow, by control groups of version 1 and 2."""
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
