"""What ships, timed: the ONNX model, predict as a process, evaluate at full size.

python benchmarks/shipped_speed.py          # after `dvc repro`; five minutes
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.model.build import restore
from multi_abnormality.params import load_params
from multi_abnormality.predict.model import find_model, load
from multi_abnormality.training.checkpoints import BEST, load_complete
from speed.many_scans import write_many_scans
from speed.phantom import draw_phantom

CHECKPOINTS, PROCESSED, DATA = Path("checkpoints"), Path("processed"), Path("data")
SCANS = 20
VALID_SCANS = 3039  # of CT-RATE's valid split
TURNS = 4
BLOCK = 15  # calls


def main() -> None:
    table = Table("what", "found", "wanted", title=f"{os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        compare_runtimes(table)
        time_predict(table, Path(folder))
        time_evaluate(table, Path(folder))
    Console(file=sys.stdout, width=120).print(table)


def compare_runtimes(table: Table) -> None:
    """One volume through both, a block of calls at a time.

    A runtime's threads spin for a while after a call, to be there for the next, and hold the cores
    that another runtime would need. So the session ends before PyTorch has its turn: call by call,
    PyTorch took more than twice as long as by itself.
    """
    processed = ProcessedSet(PROCESSED)
    codes = processed.read(processed.names[0])[None]
    classifier = restore(load_complete(CHECKPOINTS / BEST))

    @torch.inference_mode()
    def eager() -> None:
        classifier.predict(torch.from_numpy(codes))

    of_eager: list[float] = []
    of_exported: list[float] = []
    for _ in range(TURNS):
        of_eager += time_block(eager)
        session = load(find_model()).session
        of_exported += time_block(partial(session.run, None, {"volume": codes}))
        del session
    slow, fast = statistics.median(of_eager), statistics.median(of_exported)
    table.add_row("a volume through PyTorch, eager", f"{1000 * slow:.0f} ms", "")
    table.add_row("a volume through the ONNX file", f"{1000 * fast:.0f} ms", "")
    table.add_row("times faster", f"{slow / fast:.2f}", "at least 3")


def time_block(call: Callable[[], object]) -> list[float]:
    """Seconds of each call, after some that are not counted."""
    taken = []
    for _ in range(BLOCK):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken[BLOCK // 3 :]


@dataclass(frozen=True)
class Cost:
    """Of a whole process."""

    seconds: float
    peak: float  # GB


def predict(*scans: Path) -> Cost:
    command = [sys.executable, "-m", "multi_abnormality.predict", "--csv", *map(str, scans)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9)


def time_predict(table: Table, folder: Path) -> None:
    full = predict(draw_phantom(512, 300))
    table.add_row("predict, 512 x 512 x 300, whole process", f"{full.seconds:.1f} s", "at most 8 s")
    table.add_row("its peak memory", f"{full.peak:.2f} GB", "at most 2.5 GB")
    scans = sorted((DATA / "dataset/valid_fixed").rglob("*.nii.gz"))[:SCANS]
    together = predict(*scans).seconds
    alone = sum(predict(scan).seconds for scan in scans)
    table.add_row(f"{SCANS} of the sample's scans in one call", f"{together:.1f} s", "")
    table.add_row(f"in {SCANS} calls", f"{alone:.1f} s", "")
    table.add_row("times faster", f"{alone / together:.1f}", "at least 3")
    copies = [folder / f"valid_{number}_a_1.nii.gz" for number in range(1, 5)]
    for copy in copies:
        copy.symlink_to(draw_phantom(512, 300))
    seconds = predict(*copies).seconds / len(copies)
    table.add_row("a full-size scan, of four in one call", f"{seconds:.1f} s", "")


def time_evaluate(table: Table, folder: Path) -> None:
    """The stage on as many scans as CT-RATE's valid split has: the sample's, over and over."""
    params = load_params()
    params = params.model_copy(
        update={"evaluate": params.evaluate.model_copy(update={"resamples": 2000})}
    )
    (folder / "params.yaml").write_text(params.model_dump_json())  # JSON is YAML
    (folder / CHECKPOINTS).symlink_to(CHECKPOINTS.resolve())
    write_many_scans(PROCESSED, folder / PROCESSED, VALID_SCANS)
    metrics = folder / "metrics"
    metrics.mkdir()
    (metrics / "history.csv").write_bytes(Path("metrics/history.csv").read_bytes())
    command = [sys.executable, "-m", "multi_abnormality.stages.evaluate"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    whole = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr}")
    told = re.findall(r"predict: \d+ batches in ([\d.]+) s", done.stderr)
    assert len(told) == 2, done.stderr  # of the validation patients, and of the valid split
    inference = sum(map(float, told))
    scans = f"{VALID_SCANS:,} scans"
    table.add_row(f"evaluate, {scans}, 2,000 resamples, whole process", f"{whole:.0f} s", "")
    table.add_row("inference alone", f"{inference:.0f} s", "")
    table.add_row("beyond inference", f"{whole - inference:.0f} s", "at most 60 s")
    size = (metrics / "report.html").stat().st_size / 1e6
    table.add_row("its report", f"{size:.1f} MB", "at most 5 MB")


if __name__ == "__main__":
    main()
