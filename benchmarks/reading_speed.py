"""How fast scans of every format become voxels and probabilities, beside decoding alone.

    python benchmarks/reading_speed.py          # after `dvc repro`; three minutes

Whole processes on two cores, in turns with their floor; the median counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from multi_abnormality.predict.model import find_model
from speed import scan_files
from speed.processes import BENCHMARKS, measure

ROUNDS = 5
CORES = 2
READ = """import sys
from pathlib import Path
from multi_abnormality.data.io.read import read_volume
read_volume(Path(sys.argv[1]))"""
UNCOMPRESSED, JPEG_LOSSLESS, MANY = 275, 248, 1200  # slices of 512 x 512


@dataclass(frozen=True)
class Cost:
    """What a whole process took."""

    seconds: float
    peak: float  # GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: the one in model_weights/")
    model = (parser.parse_args().model or find_model()).resolve()
    table = Table("what", "found", "wanted", title=f"{CORES} of {os.cpu_count()} cores")
    time_series(table, "uncompressed", scan_files.dicom_series(UNCOMPRESSED), model, 2.5)
    time_series(table, "jpeg_lossless", scan_files.jpeg_lossless_series(JPEG_LOSSLESS), model, 4.0)
    many = run_predict(scan_files.nifti(MANY), model)
    table.add_row(f"predict, 512 x 512 x {MANY} NIfTI", f"{many.seconds:.1f} s", "")
    table.add_row("its peak memory", f"{many.peak:.2f} GB", "at most 1 GB")
    for write in (scan_files.nifti, scan_files.metaimage, scan_files.nrrd):
        time_reading(table, write(UNCOMPRESSED))
    Console(file=sys.stdout, width=120).print(table)


def time_series(table: Table, kind: str, folder: Path, model: Path, limit: float) -> None:
    """predict on a series, and a program that only reads it, in turns with decoding alone."""
    slices = len(list(folder.iterdir()))
    alone = [sys.executable, "-m", "speed.decoding_alone", kind, str(folder)]
    reads = [sys.executable, "-c", READ, str(folder)]
    ours, reading, floor = in_turns(
        lambda: run_predict(folder, model).seconds,
        lambda: run(reads).seconds,
        lambda: run(alone).seconds,
    )
    name = f"{slices} slices, {kind.replace('_', ' ')}"
    table.add_row(f"predict, {name}, whole process", f"{ours:.2f} s", f"at most {limit} s")
    table.add_row("decoding alone, whole process", f"{floor:.2f} s", "")
    table.add_row("reading as HU, whole process", f"{reading:.2f} s", "")
    table.add_row("times decoding alone", f"{reading / floor:.2f}", "at most 1.5")
    table.add_row("predict, times decoding alone", f"{ours / floor:.2f}", "at most 1.5")


def time_reading(table: Table, path: Path) -> None:
    """The reader on one core, in turns with bare decompression."""

    def seconds(way: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure("speed.scan_reading", (way, path), Path(folder))
        return float(measured["seconds"])

    ours, bare = in_turns(lambda: seconds("ours"), lambda: seconds("bare"))
    name = path.name.partition(".")[2]
    table.add_row(f"reading a .{name} of {UNCOMPRESSED} slices, one core", f"{ours:.2f} s", "")
    table.add_row("times bare decompression", f"{ours / bare:.2f}", "about 1.6")


def in_turns(*measurements: Callable[[], float]) -> list[float]:
    """The median of each, measured in turns; a first turn fills the cache of files."""
    found = [[call() for call in measurements] for _ in range(ROUNDS + 1)]
    return [statistics.median(values) for values in zip(*found[1:], strict=True)]


def run_predict(scan: Path, model: Path) -> Cost:
    command = [sys.executable, "-m", "multi_abnormality.predict", "--csv", str(scan)]
    return run([*command, "--model", str(model)])


def run(command: Sequence[str]) -> Cost:
    """A process and those that it starts, on two cores.

    Like every installed package, this one may keep its bytecode: the first turn compiles it.
    """
    cores = sorted(os.sched_getaffinity(0))[-CORES:]
    environment = {key: os.environ[key] for key in os.environ.keys() - {"PYTHONDONTWRITEBYTECODE"}}
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=BENCHMARKS,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9)


if __name__ == "__main__":
    main()
