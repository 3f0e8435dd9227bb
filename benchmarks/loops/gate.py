"""Gate that pauses a training loop between blocks of steps.

Compared loops run in processes of their own and take turns, so that other load on the machine
affects them equally.
"""

import json
import sys
import time
from collections.abc import Callable

import psutil
import torch


class Gate:
    """Writes timings to stdout as JSON lines: of the first step, then of each block.

    A line on stdin starts a block.

    Args:
        steps: number of steps per block.
        is_open: whether it never pauses and writes nothing, for all ranks but 0; these wait for
            rank 0 anyway.
    """

    def __init__(self, steps: int, is_open: bool = False) -> None:
        self.steps = steps
        self.is_open = is_open
        self.marks: dict[str, float] = {}
        self.save: Callable[[], object] = lambda: None  # no-op by default
        self._born = psutil.Process().create_time()
        self._left = 1
        self._waited = self._released = 0.0
        self._began = (0.0, 0.0)

    def mark(self, name: str) -> None:
        """Record the time since the process started, for the first line."""
        self.marks[name] = time.time() - self._born

    def data_ready(self) -> None:
        """Called when a step's batch is loaded."""
        if not self._released:
            self.mark("model and trainer")
        self._waited += time.perf_counter() - self._released

    def step_done(self) -> None:
        """Called after each step."""
        if self.is_open:
            return
        self._left -= 1
        if self._left == 0:
            self._report()
            sys.stdin.readline()
            self._left, self._waited = self.steps, 0.0
            self._began = time.perf_counter(), time.process_time()
        self._released = time.perf_counter()

    def _report(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if not self._released:
            self.mark("first step")
            found = {"marks": self.marks, "cpu_seconds": time.process_time()}
            began = time.perf_counter(), time.process_time()
            self.save()
            found["save"] = time.perf_counter() - began[0], time.process_time() - began[1]
        else:
            found = {
                "seconds": time.perf_counter() - self._began[0],
                "cpu_seconds": time.process_time() - self._began[1],
                "waited": self._waited,
                "peak_memory": torch.cuda.max_memory_allocated()
                if torch.cuda.is_available()
                else 0,
            }
        sys.stdout.write(f"{json.dumps(found)}\n")
        sys.stdout.flush()
