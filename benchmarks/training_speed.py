"""What training costs: steps a second beside other loops, waiting, the start, and memory.

    python benchmarks/training_speed.py                 # after `dvc repro`; eight minutes
    python benchmarks/training_speed.py --plots docs    # and its two charts

The loops run in processes of their own and take turns, five steps each, so that what else the
machine does meets them alike; medians count. On a GPU the same command measures the GPU.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from loops import charts
from loops.turns import Blocks, Loop, take_turns
from multi_abnormality import console
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.errors import InputError
from multi_abnormality.params import Params, load_params
from speed.processes import measure

NAMES = {
    "ours": "this project",
    "bare": "a bare loop, batches in memory",
    "plain": "plain Lightning, float32, no channels-last",
}
STEPS, ROUNDS, STARTS = 5, 9, 3
SLICES = (9, 18, 27, 54)
CHUNK = 9
MIB = 1 << 20


def compare_loops(
    params: Params, processed: Path, folder: Path, threads: int | None
) -> tuple[dict[str, Blocks], list[dict]]:
    """Blocks of all loops, and what the starts of ours told. Ours bear their share of a save."""
    epoch = steps_of_epoch(params, processed)
    given = STEPS, processed, params, folder, threads
    starts = []
    for _ in range(STARTS - 1):
        loop = Loop("ours", *given)
        starts.append(loop.start)
        loop.stop()
    loops = {}
    try:
        for name in NAMES:
            loops[name] = Loop(name, *given)
        found = take_turns(loops, ROUNDS)
    finally:
        for loop in loops.values():
            loop.stop()
    starts.append(loops["ours"].start)
    share = STEPS / (epoch * params.train.save_every_n_epochs)
    save = [
        share * statistics.median(kind) for kind in zip(*(s["save"] for s in starts), strict=True)
    ]
    return found | {"ours": found["ours"].with_more(*save)}, starts


def steps_of_epoch(params: Params, processed: Path) -> int:
    """About, and enough that no validation falls into a measured block.

    Raises:
        InputError: there are fewer.
    """
    scans = ProcessedSet(processed).volumes("train")["scan_id"].nunique()
    steps = int((1 - params.train.validation_fraction) * scans / params.train.batch_size)
    if steps <= (needed := (ROUNDS + 1) * STEPS + 1):
        raise InputError(
            f"{processed}: an epoch has {steps} steps, and measuring takes more than {needed}; use "
            "more scans, or a smaller train.batch_size"
        )
    return steps


def tell_loops(found: dict[str, Blocks]) -> Table:
    columns = (
        "steps/s",
        "time over ours",
        "CPU s a step",
        "CPU over ours",
        "waits for data",
        "wanted",
    )
    title = f"blocks of {STEPS} steps in turns, median of {ROUNDS}; ours with its share of a save"
    table = Table("", *columns, title=title)
    wanted = {
        "ours": "waits at most 2 %",
        "bare": "at least 0.97",
        "plain": "at least 1.4; on a GPU 3",
    }
    ours = found["ours"]
    for name, blocks in found.items():
        waited = sum(blocks.waited) / sum(blocks.seconds)
        table.add_row(
            NAMES[name],
            f"{STEPS / statistics.median(blocks.seconds):.2f}",
            f"{ratio(blocks.seconds, ours.seconds):.3f}",
            f"{statistics.median(blocks.cpu_seconds) / STEPS:.3f}",
            f"{ratio(blocks.cpu_seconds, ours.cpu_seconds):.3f}",
            "" if name == "bare" else f"{waited:.2%}",
            wanted[name],
        )
    return table


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Median over rounds: neighbours in time had the same machine."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def start_parts(starts: list[dict]) -> dict[str, float]:
    """Seconds of each part of the median start."""
    middle = sorted(starts, key=lambda start: start["marks"]["first step"])[len(starts) // 2]
    names, ends = zip(*middle["marks"].items(), strict=True)
    return dict(zip(names, np.diff(ends, prepend=0).tolist(), strict=True))


def measure_memory(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """(slices of a step, peak MiB) of the default, and of transformers whole and in chunks."""
    default, large = load_params(), load_params(Path("recipes/challenge.yaml"))
    settings = {
        "params.yaml": default,
        "recipes/challenge.yaml, whole": with_model(large, slice_chunk=None),
        f"recipes/challenge.yaml, slice_chunk: {CHUNK}": with_model(large, slice_chunk=CHUNK),
    }
    return {
        name: [
            (slices, measure("loops.memory", [slices, params.model_dump_json()], folder) / MIB)
            for slices in SLICES
        ]
        for name, params in settings.items()
    }


def with_model(params: Params, **changes: object) -> Params:
    return params.model_copy(update={"model": params.model.model_copy(update=changes)})


def tell_memory(memory: dict[str, list[tuple[float, float]]]) -> Table:
    columns = [f"{slices} slices" for slices in SLICES]
    table = Table("peak of a step, MiB", *columns, "a slice", "off a line by")
    for name, points in memory.items():
        slices, peaks = np.array(points).T
        line = np.poly1d(np.polyfit(slices, peaks, 1))
        off = np.abs(line(slices) / peaks - 1).max()
        shown = [f"{peak:.0f}" for peak in peaks]
        table.add_row(name, *shown, f"{line.coeffs[0]:.1f} MiB", f"{off:.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--processed", type=Path, default=Path("processed"), help="processed set")
    parser.add_argument("--threads", type=int, help="of each loop; by itself torch's own number")
    parser.add_argument("--plots", type=Path, help="folder for the charts")
    given = parser.parse_args()
    out = Console(file=sys.stdout, width=140)
    out.print(torch.cuda.get_device_name() if torch.cuda.is_available() else "processor")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        found, starts = compare_loops(load_params(), given.processed, folder, given.threads)
        out.print(tell_loops(found))
        parts = start_parts(starts)
        out.print(f"a save: {statistics.median(start['save'][0] for start in starts):.2f} s")
        out.print(f"start to the end of the first step: {sum(parts.values()):.1f} s", parts)
        memory = measure_memory(folder)
    out.print(tell_memory(memory))
    if given.plots:
        charts.stack(parts, "s", given.plots / "training-start.svg")
        labels = "slices in a step", "MiB at the peak"
        charts.lines(memory, *labels, given.plots / "training-memory.svg")


if __name__ == "__main__":
    console.run(main)
