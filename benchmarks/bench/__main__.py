"""Run the benchmarks: one table, and one JSON file with the machine and the commit.

    PYTHONPATH=benchmarks python -m bench               # all; after `dvc repro`, in its directory
    PYTHONPATH=benchmarks python -m bench store predict # some

Measurements that are compared take turns, each in a process of its own where memory or imports
count. A benchmark that fails does not end the others; the exit code is then 1.
"""

import argparse
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from bench.rows import Settings
from multi_abnormality.utils import console
from multi_abnormality.utils.atomic_io import write_json
from speed.phantom import CACHE

NAMES = (
    "preprocess", "store", "growth", "catalogue", "predict", "ensemble", "evaluate", "reading",
    "index", "training", "two_processes",
)  # fmt: skip
RESULTS = Path(__file__).parents[1] / "results.json"
DONE, FAILED, SKIPPED = "done", "failed", "skipped"


def run_benchmark(name: str, settings: Settings) -> dict[str, Any]:
    """Status, seconds and rows of one benchmark; its error where it fails."""
    if name == "catalogue" and settings.tables is None:
        return {"status": SKIPPED, "error": "it takes --tables, a directory", "rows": []}
    console.log.info("benchmark %s", name)
    start = time.perf_counter()
    try:
        rows = importlib.import_module(f"bench.{name}").run(settings)
        found = {"status": DONE, "rows": [asdict(row) for row in rows]}
    except Exception as error:  # whatever it is, the others run
        traceback.print_exc()
        found = {"status": FAILED, "error": f"{type(error).__name__}: {error}", "rows": []}
    return found | {"seconds": time.perf_counter() - start}


def environment() -> dict[str, Any]:
    """The machine and the code that is measured."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return {
        "machine": {
            "cpu": models[0] if models else platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "os": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "commit": _git("rev-parse", "HEAD"),
        "clean": not _git("status", "--porcelain", "--untracked-files=no"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.check_output(command, cwd=RESULTS.parent, text=True).strip()


def table(results: dict[str, Any]) -> Table:
    machine, state = results["machine"], "" if results["clean"] else ", with changes"
    shown = Table(
        "benchmark", "measurement", "value", "beside", "its value", "ratio", "target",
        title=f"{machine['cpu']}, {machine['cores']} cores; commit {results['commit'][:7]}{state}",
    )  # fmt: skip
    for name, found in results["benchmarks"].items():
        if found["status"] != DONE:
            reason = found["error"].partition("\n")[0][:80]
            shown.add_row(name, f"{found['status']}: {reason}", style="red")
        for number, row in enumerate(found["rows"]):
            value, peer = (_number(row[key], row["unit"]) for key in ("value", "peer_value"))
            if row["peer"] and row["peer_value"] is None:
                peer = "not installed"
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            measurement = row["name"], value, row["peer"], peer, ratio, row["target"]
            shown.add_row("" if number else name, *measurement)
        shown.add_section()
    return shown


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"benchmarks: {', '.join(NAMES)}; all by default")
    add("--out", type=Path, default=RESULTS, help="JSON file for the results")
    add("--rounds", type=int, default=3, help="repetitions, of which the median counts")
    add("--quick", action="store_true", help="one round of small sizes: does everything run?")
    add("--scan", type=Path, help=".nii.gz of a real chest instead of a phantom, for reading")
    add("--tables", type=Path, help="directory with CT-RATE's tables, for catalogue")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    CACHE.mkdir(exist_ok=True)
    results = environment() | {"quick": given.quick, "benchmarks": {}}
    for name in given.names or NAMES:
        with tempfile.TemporaryDirectory(dir=CACHE, ignore_cleanup_errors=True) as folder:
            rounds = 1 if given.quick else given.rounds
            settings = Settings(Path(folder), rounds, given.quick, given.scan, given.tables)
            results["benchmarks"][name] = run_benchmark(name, settings)
        write_json(results, given.out)
    Console(file=sys.stdout, width=180).print(table(results))
    console.log.info("all figures are in %s", given.out)
    if any(found["status"] == FAILED for found in results["benchmarks"].values()):
        sys.exit(1)


if __name__ == "__main__":
    console.run(main)
