"""Time and memory by number of scans, and the cost of adding a few: time and bytes pushed.

The volumes are links to a full-size phantom and to copies of it. Scans are added twice, since the
upload depends on how full the last shard was: a shard of ten patients is rewritten as a whole.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.rows import Row, Settings
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.stages import preprocess
from speed.folder import ct_rate_names, write_ct_rate
from speed.phantom import draw_phantom
from speed.processes import measure

FIRST, MORE, STEPS = 400, 10, 2


def run(settings: Settings) -> list[Row]:
    params, work = load_params(), settings.folder
    total, more = settings.size(FIRST, 160), settings.size(MORE, 2)
    first, later = ct_rate_names(2 * total)[:total], ct_rate_names(2 * total)[total:]
    names = first + [name for name in later if name.startswith("train")]
    phantom = draw_phantom(*settings.size((512, 300), (128, 80)))
    counts = [total // 4, total, *(total + step * more for step in range(1, STEPS + 1))]
    set_up(work, params)
    scans: dict[str, Path] = {}
    grown = []
    for step, count in enumerate(counts):
        # A copy: linking a file changes its inode's times, which invalidates cached hashes.
        copy = Path(shutil.copy(phantom, work / f"scan{step}"))
        scans |= dict.fromkeys(names[len(scans) : count], copy)
        grown.append(grow(work, scans))
    nothing = grow(work, scans)
    files = sum(path.is_file() for path in (work / "processed").rglob("*"))
    quarter, rest, *steps = grown
    a_scan = (quarter["seconds"] / counts[0], rest["seconds"] / (total - counts[0]))
    whole = {key: quarter[key] + rest[key] for key in ("seconds", "uploaded")}
    rows = [
        _beside(f"a scan, from {counts[0]} to {total} scans", a_scan[1], "s",
                f"the first {counts[0]}", a_scan[0]),
        _beside(f"peak memory of the main process, {total} scans", rest["peak"], "GB",
                f"{counts[0]} scans", quarter["peak"]),
    ]  # fmt: skip
    target = f"at most {3 * more / total:.2f}"
    for each in steps:
        rows += [
            _beside(f"{more} more scans", each["seconds"], "s", f"all {total}", whole["seconds"],
                    target),
            _beside(f"{more} more scans, pushed", each["uploaded"], "MB", f"all {total}",
                    whole["uploaded"]),
        ]  # fmt: skip
    return [
        *rows,
        _beside("no new scan", nothing["seconds"], "s", f"all {total}", whole["seconds"]),
        Row("files of the processed set", files, "files", target="at most 50"),
    ]


def _beside(
    name: str, value: float, unit: str, peer: str, peer_value: float, target: str = ""
) -> Row:
    return Row(name, value, unit, peer, peer_value, value / peer_value, target)


def set_up(work: Path, params: Params) -> None:
    """Create a DVC repository with a remote."""
    (work / "params.json").write_text(params.model_dump_json())
    for command in ("init --no-scm --quiet", "remote add --quiet --default local remote"):
        dvc(work, *command.split())


def dvc(work: Path, *arguments: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=work, check=True, env=environment)


def grow(work: Path, scans: dict[str, Path]) -> dict[str, Any]:
    """Update the processed dataset to these scans; return seconds, peak memory and MB pushed."""
    write_ct_rate(work / "data", scans)
    before = size(work / "remote")
    found = measure("bench.growth", [], work, cores=os.cpu_count() or 1)
    dvc(work, "add", "--quiet", "processed")
    dvc(work, "push", "--quiet")
    return found | {"uploaded": size(work / "remote") - before}


def size(folder: Path) -> float:
    """Total size of all files in MB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def run_stage() -> None:
    """Run the preprocess stage in the current directory, as `dvc repro` does."""
    start = time.perf_counter()
    params = Params.model_validate_json(Path("params.json").read_text())
    memory = Path(".dvc/tmp/source_hashes.json")
    preprocess.run(params, Path("data"), Path("processed"), Path("metrics.json"), memory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - start, "peak": peak}))


if __name__ == "__main__":
    run_stage()
