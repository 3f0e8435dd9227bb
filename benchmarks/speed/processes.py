"""Measurement of programs in processes of their own, pinned to cores.

Only Linux can pin a process to cores.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_NUM_THREADS")


def measure(module: str, arguments: Sequence[object], folder: Path, cores: int = 1) -> Any:
    """Run `python -m module` in `folder` with one thread per process; return its JSON output.

    Args:
        module: module below benchmarks/.
        arguments: command line arguments.
        folder: working directory.
        cores: number of cores; the last ones, since the first serves interrupts on many machines.
    """
    environment = {
        **os.environ,
        **dict.fromkeys(_THREADS, "1"),
        "PYTHONPATH": _search_path(),
    }
    allowed = sorted(os.sched_getaffinity(0))[-cores:]
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    return json.loads(done.stdout)


def _search_path() -> str:
    return os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])


@dataclass(frozen=True)
class Cost:
    """Wall and CPU time in seconds, with children, and peak memory in GB of a process."""

    seconds: float
    peak: float
    cpu: float


def whole_process(command: Sequence[str], cores: int = 2, folder: Path | None = None) -> Cost:
    """Run a process and its children on `cores` cores, in `folder`.

    Bytecode is cached, as for any installed package: a first run compiles it.
    """
    allowed = sorted(os.sched_getaffinity(0))[-cores:]
    environment = {key: os.environ[key] for key in os.environ.keys() - {"PYTHONDONTWRITEBYTECODE"}}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(BENCHMARKS), environment.get("PYTHONPATH", "")]
    )
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9, cpu)


def predict(*scans: Path) -> Cost:
    """Run `multi-abnormality predict` with the model of the working directory."""
    program = [sys.executable, "-m", "multi_abnormality", "predict", "--csv"]
    return whole_process([*program, *map(str, scans)])
