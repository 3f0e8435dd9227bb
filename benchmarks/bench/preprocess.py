"""Speed of preprocessing a scan, beside MONAI, CT-CLIP's method and bare decompression.

Each runs on one core in a process of its own, in turns.
"""

import importlib.util
import statistics
from functools import partial
from pathlib import Path

from bench.rows import Row, Settings, compared, in_turns
from multi_abnormality.config.schema import PreprocessSpec, load_params
from speed.contenders import CONTENDERS
from speed.phantom import draw_phantom
from speed.processes import measure
from speed.recipes import full_size
from speed.two_workers import two_worker_gain

SIZE, SLICES = 512, 300
GIB = 1 << 30
VOLUMES = 40  # of the preprocess stage with one and with two workers
PEERS = {
    "monai": ("MONAI", "at most 0.25"),
    "ct_clip": ("nibabel and torch, as CT-CLIP", "at most 0.25"),
    "bare": ("bare decompression", "at most 4"),
}


def run(settings: Settings) -> list[Row]:
    default = load_params()
    size, slices = settings.size((SIZE, SLICES), (128, 80))
    scan = draw_phantom(size, slices)
    rows = []
    for title, recipe in (
        ("params.yaml", default.preprocess.recipe),
        ("full size", full_size(default.preprocess).recipe),
    ):
        rows += compare(f"{size}x{size}x{slices} to {title}", scan, recipe, settings)
    volumes = VOLUMES
    one, two = two_worker_gain(default, scan, settings.folder, volumes, settings.rounds)
    name = f"stage, {volumes} volumes, two workers"
    return [*rows, compared(name, "s", two, "one worker", one, "at most 0.59")]


def compare(title: str, scan: Path, recipe: PreprocessSpec, settings: Settings) -> list[Row]:
    """Compare all contenders on one scan."""
    names = [name for name in CONTENDERS if name != "monai" or importlib.util.find_spec("monai")]
    calls = {
        name: partial(
            measure, "speed.contenders", (name, scan, recipe.model_dump_json()), settings.folder
        )
        for name in names
    }
    found = in_turns(settings.rounds, calls)

    def values(name: str, key: str, unit: float = 1) -> list[float]:
        return [each[key] / unit for each in found[name]]

    seconds, peak = values("ours", "seconds"), values("ours", "peak_bytes", GIB)
    rows = [
        compared(title, "s", seconds, peer, values(name, "seconds"), target)
        if name in found
        else Row(title, statistics.median(seconds), "s", peer)
        for name, (peer, target) in PEERS.items()
    ]
    return [*rows, Row(f"{title}: peak memory", max(peak), "GiB", target="at most 1 GiB")]
