"""Charts of the startup of a run by part, and of the memory of a step by slices.

PYTHONPATH=benchmarks python benchmarks/training_charts.py --plots docs/images  # after `dvc repro`
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.training import STARTS, measure_starts, start_parts
from loops import charts
from multi_abnormality.config.schema import Params, load_params, parse_params
from multi_abnormality.tools.recipe import merge_recipe
from multi_abnormality.utils import console
from speed.processes import measure

SLICES = (9, 18, 27, 54)
CHUNK = 9
MIB = 1 << 20


def measure_memory(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Measure (slices of a step, peak MiB) of the default and of a chunked transformer."""
    default = load_params()
    large = parse_params(merge_recipe("challenge").text, Path("params.yaml"))
    settings = {
        "params.yaml": default,
        "recipes/challenge.yaml, whole": with_model(large, encoder_chunk_size=None),
        f"recipes/challenge.yaml, encoder_chunk_size: {CHUNK}": with_model(
            large, encoder_chunk_size=CHUNK
        ),
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


def memory_table(memory: dict[str, list[tuple[float, float]]]) -> Table:
    columns = [f"{slices} slices" for slices in SLICES]
    table = Table("peak of a step, MiB", *columns, "per slice", "deviation from a line")
    for name, points in memory.items():
        slices, peaks = np.array(points).T
        line = np.poly1d(np.polyfit(slices, peaks, 1))
        off = np.abs(line(slices) / peaks - 1).max()
        shown = [f"{peak:.0f}" for peak in peaks]
        table.add_row(name, *shown, f"{line.coeffs[0]:.1f} MiB", f"{off:.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--plots", type=Path, help="directory for the charts")
    given = parser.parse_args()
    out = Console(file=sys.stdout, width=140)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        folder = Path(directory)
        parts = start_parts(measure_starts(load_params(), Path("processed"), folder, STARTS))
        out.print(f"start to the end of the first step: {sum(parts.values()):.1f} s", parts)
        memory = measure_memory(folder)
    out.print(memory_table(memory))
    if given.plots:
        charts.stack(parts, "s", given.plots / "training-start.svg")
        labels = "slices in a step", "MiB at the peak"
        charts.lines(memory, *labels, given.plots / "training-memory.svg")


if __name__ == "__main__":
    console.run(main)
