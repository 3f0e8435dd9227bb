"""How fast a scan becomes a stored volume, beside MONAI, CT-CLIP's way and bare decompression.

    pip install --no-deps --requirement benchmarks/requirements.txt
    python benchmarks/preprocess_speed.py           # four minutes

One core a side, a process of its own each, in turns; the median counts.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from multi_abnormality.params import load_params
from multi_abnormality.params_preprocess import Recipe
from speed.contenders import CONTENDERS
from speed.phantom import draw_phantom
from speed.processes import measure
from speed.recipes import full_size
from speed.two_workers import two_worker_gain

ROUNDS = 5
SIZE, SLICES = 512, 300
GIB = 1 << 30
NAMES = {
    "ours": "this project, every step",
    "monai": "MONAI",
    "ct_clip": "nibabel and torch, as CT-CLIP",
    "bare": "bare decompression",
}


def main() -> None:
    out = Console(file=sys.stdout)
    default = load_params()
    recipes = {
        "params.yaml": default.preprocess.recipe,
        "full size": full_size(default.preprocess).recipe,
    }
    scan = draw_phantom(SIZE, SLICES)
    with tempfile.TemporaryDirectory() as folder:
        for title, recipe in recipes.items():
            out.print(compare(title, scan, recipe, Path(folder)))
        gain, seconds = two_worker_gain(default, scan, Path(folder))
    table = Table("the preprocess stage", "seconds", "gain", "wanted")
    table.add_row("one worker on one core", f"{seconds[1]:.2f}", "", "")
    table.add_row("two workers on two cores", f"{seconds[2]:.2f}", f"{gain:.2f}", "at least 1.7")
    out.print(table)


def compare(title: str, scan: Path, recipe: Recipe, folder: Path) -> Table:
    """Every contender on one scan, in turns."""
    seconds = {name: [] for name in CONTENDERS}
    peak = dict.fromkeys(CONTENDERS, 0)
    for _ in range(ROUNDS):
        for name in CONTENDERS:
            arguments = name, scan, recipe.model_dump_json()
            measured = measure("speed.contenders", arguments, folder)
            seconds[name].append(measured["seconds"])
            peak[name] = max(peak[name], measured["peak_bytes"])
    median = {name: statistics.median(times) for name, times in seconds.items()}
    return _table(f"{SIZE}x{SIZE}x{SLICES} to {recipe.shape} ({title})", median, peak)


def _table(title: str, median: dict[str, float], peak: dict[str, int]) -> Table:
    ours = median["ours"]
    rows = {
        "ours": ("", "at most 1 GiB"),
        "monai": (f"{median['monai'] / ours:.1f} times ours", "at least 4"),
        "ct_clip": (f"{median['ct_clip'] / ours:.1f} times ours", "at least 4"),
        "bare": (f"ours is {ours / median['bare']:.1f} times this", "at most 4"),
    }
    table = Table("", "seconds", "peak memory", "", "wanted", title=title)
    for name, (found, wanted) in rows.items():
        memory = f"{peak[name] / GIB:.2f} GiB"
        table.add_row(NAMES[name], f"{median[name]:.2f}", memory, found, wanted)
    return table


if __name__ == "__main__":
    main()
