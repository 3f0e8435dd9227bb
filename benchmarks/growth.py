"""What ten more volumes cost where a thousand are done: time, and bytes that `dvc push` uploads.

    python benchmarks/growth.py                 # ten minutes

The volumes are links to a full-size phantom and to copies of it. Ten of the train split are added
three times, since the upload depends on how full the last shard was: of ten patients, a shard is
written anew whole.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from multi_abnormality.params import Params, load_params
from multi_abnormality.stages import preprocess
from speed.folder import ct_rate_names, write_ct_rate
from speed.phantom import draw_phantom
from speed.processes import measure

FIRST, MORE, STEPS = 1000, 10, 3


def main() -> None:
    params = load_params()
    first, later = ct_rate_names(2 * FIRST)[:FIRST], ct_rate_names(2 * FIRST)[FIRST:]
    names = first + [name for name in later if name.startswith("train")]
    phantom = draw_phantom(512, 300)
    growth = []
    with tempfile.TemporaryDirectory(dir=phantom.parent) as folder:
        work = Path(folder)
        set_up(work, params)
        scans: dict[str, Path] = {}
        for step in range(STEPS + 1):
            # A copy: linking a file changes its inode's times, and so all that was known of it.
            copy = Path(shutil.copy(phantom, work / f"scan{step}"))
            scans |= dict.fromkeys(names[len(scans) : FIRST + step * MORE], copy)
            growth.append(grow(work, scans))
            if step == 0:
                files = sum(path.is_file() for path in (work / "processed").rglob("*"))
        growth.append(grow(work, scans))
    Console(file=sys.stdout).print(tell(growth, files))


def set_up(work: Path, params: Params) -> None:
    """A DVC repository with a remote of its own."""
    (work / "params.json").write_text(params.model_dump_json())
    for command in ("init --no-scm --quiet", "remote add --quiet --default local remote"):
        dvc(work, *command.split())


def dvc(work: Path, *arguments: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    subprocess.run(["dvc", *arguments], cwd=work, check=True, env=environment)


def grow(work: Path, scans: dict[str, Path]) -> tuple[float, int]:
    """Bring the processed set up to these scans: seconds, and bytes that went to the remote."""
    write_ct_rate(work / "data", scans)
    before = size(work / "remote")
    seconds = measure("growth", ["stage"], work, cores=os.cpu_count() or 1)
    dvc(work, "add", "--quiet", "processed")
    dvc(work, "push", "--quiet")
    return seconds, size(work / "remote") - before


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tell(growth: list[tuple[float, int]], files: int) -> Table:
    table = Table("default recipe", "seconds", "share", "uploaded", "share", "wanted")
    more = [f"{MORE} more of the next patients"] * STEPS
    rows = [f"the first {FIRST} volumes", *more, "nothing new"]
    for row, (seconds, uploaded) in zip(rows, growth, strict=True):
        table.add_row(
            row,
            f"{seconds:.2f}",
            f"{seconds / growth[0][0]:.1%}",
            f"{uploaded / 1e6:.1f} MB",
            f"{uploaded / growth[0][1]:.1%}",
            "at most 3 %" if row in more else "",
        )
    table.add_row("files", "", "", "", str(files), "at most 50")
    return table


def run_stage() -> None:
    """In the folder of the data, from the start of a process on as `dvc repro` runs it."""
    start = time.perf_counter()
    params = Params.model_validate_json(Path("params.json").read_text())
    memory = Path(".dvc/tmp/source_hashes.json")
    preprocess.run(params, Path("data"), Path("processed"), Path("metrics.json"), memory)
    sys.stdout.write(json.dumps(time.perf_counter() - start))


if __name__ == "__main__":
    run_stage() if sys.argv[1:] == ["stage"] else main()
