"""The preprocess stage with one worker on one core and with two on two.

python -m speed.two_workers WORKERS DATA PARAMS     # prints its seconds as JSON
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from multi_abnormality.params import Params
from speed.folder import ct_rate_names, write_ct_rate
from speed.processes import measure

VOLUMES = 40
ROUNDS = 3


def two_worker_gain(params: Params, scan: Path, folder: Path) -> tuple[float, dict[int, float]]:
    """One worker's time over two workers', and the medians of both in seconds."""
    data = write_ct_rate(folder / "data", dict.fromkeys(ct_rate_names(VOLUMES), scan))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for workers, times in seconds.items():
            arguments = workers, data, params.model_dump_json()
            times.append(measure("speed.two_workers", arguments, folder, cores=workers))
    median = {workers: statistics.median(times) for workers, times in seconds.items()}
    return median[1] / median[2], median


def main() -> None:
    from multi_abnormality.stages import preprocess

    workers, data, settings = sys.argv[1:]
    params = Params.model_validate_json(settings)
    machine = params.machine.model_copy(update={"workers": int(workers)})
    params = params.model_copy(update={"machine": machine})
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        start = time.perf_counter()
        preprocess.run(params, Path(data), Path(folder, "out"), Path(folder, "metrics.json"))
        seconds = time.perf_counter() - start
    sys.stdout.write(json.dumps(seconds))


if __name__ == "__main__":
    main()
