"""Training loops in processes of their own that take turns, one block of steps at a time."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multi_abnormality.config.schema import Params
from speed.processes import BENCHMARKS


class Loop:
    """A loop of `loops.contenders`, started and paused after its first step.

    Args:
        name: name of the loop.
        steps: number of steps per block.
        processed: directory of the processed dataset.
        params: parameters of the project.
        folder: directory for its log.
        threads: number of threads per process; None for torch's default.
        ranks: number of processes; only rank 0 is paused and timed.

    Attributes:
        start: seconds from the start to each mark, processor time so far, and duration of a save.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        processed: Path,
        params: Params,
        folder: Path,
        threads: int | None,
        ranks: int = 1,
    ) -> None:
        self.log = folder / f"{name}.log"
        paths = str(BENCHMARKS), os.environ.get("PYTHONPATH", "")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        program = [sys.executable, "-m", "loops.contenders"]
        given = [name, str(steps), str(processed.resolve()), params.model_dump_json()]
        with self.log.open("w") as log:
            self.process, *self._others = (
                subprocess.Popen(
                    [*program, *given],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    env=environment | variables,
                )
                for variables in _rank_variables(ranks)
            )  # fmt: skip
        self.start = self._read()

    def block(self) -> dict[str, float]:
        """Run a block; return wall time, processor time, time waiting for data, and memory."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        for process in (self.process, *self._others):
            process.kill()
            process.wait()

    def _read(self) -> dict[str, Any]:
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(self.log.read_text())


def _rank_variables(ranks: int) -> list[dict[str, str]]:
    """Return torchrun's environment variables of each rank; none for a single process."""
    if ranks == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    size = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [size | meeting | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(ranks)]


@dataclass
class Blocks:
    """Timings of a loop's blocks."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    peak_memory: list[int] = field(default_factory=list)  # bytes on the GPU; 0 without one

    def add(self, block: dict[str, float]) -> None:
        for name, value in block.items():
            getattr(self, name).append(value)

    def with_more(self, seconds: float, cpu_seconds: float) -> "Blocks":
        """Return a copy with time added to each block."""
        return Blocks(
            [each + seconds for each in self.seconds],
            [each + cpu_seconds for each in self.cpu_seconds],
            self.waited,
            self.peak_memory,
        )


def take_turns(loops: dict[str, Loop], rounds: int) -> dict[str, Blocks]:
    """Run the loops' blocks in turns; the first round is a warm-up."""
    found = {name: Blocks() for name in loops}
    for number in range(rounds + 1):
        for name, loop in loops.items():
            block = loop.block()
            if number:
                found[name].add(block)
    return found
