"""Programs measured in processes of their own, on cores of their own, one after the other.

Only Linux can tie a process to cores.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_NUM_THREADS")


def measure(module: str, arguments: Sequence[object], folder: Path, cores: int = 1) -> Any:
    """What `python -m module` prints as JSON, run in `folder`, each process with one thread.

    Args:
        module: below benchmarks/.
        arguments: of the program.
        folder: where it runs and may write.
        cores: that it may use; the last ones, since the first serves interrupts on many machines.
    """
    environment = {
        **os.environ,
        **dict.fromkeys(_THREADS, "1"),
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]),
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
