"""Speed of the preprocess stage with one worker on one core, and two on two.

python -m speed.two_workers WORKERS DATA PARAMS     # prints its seconds as JSON
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from multi_abnormality.config.schema import Params
from speed.folder import ct_rate_names, write_ct_rate
from speed.processes import measure


def two_worker_gain(
    params: Params, scan: Path, folder: Path, volumes: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Time the stage with one worker and with two, in turns; return the seconds of both."""
    data = write_ct_rate(folder / "data", dict.fromkeys(ct_rate_names(volumes), scan))
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, seconds in found.items():
            arguments = workers, data, params.model_dump_json()
            seconds.append(measure("speed.two_workers", arguments, folder, cores=workers))
    return found[1], found[2]


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
