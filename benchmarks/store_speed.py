"""How fast and how small the processed set is at full size, beside raw uint8 files.

    python benchmarks/store_speed.py [--scans FOLDER]       # a minute

Without scans of real chests only the phantom's size is told, which says little: its noise is
simpler than a scanner's.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from multi_abnormality.data.io.read import read_volume
from multi_abnormality.data.io.reader_registry import scan_name
from multi_abnormality.data.resample import standardize
from multi_abnormality.data.shards import encode
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import Params, load_params
from multi_abnormality.params_preprocess import Recipe
from multi_abnormality.stages import preprocess
from speed.folder import ct_rate_names, write_ct_rate
from speed.phantom import draw_phantom
from speed.processes import measure
from speed.recipes import full_size

VOLUMES = 120
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scans", type=Path, help="folder of .nii.gz of real chests")
    given = parser.parse_args()
    params = load_params()
    params = params.model_copy(update={"preprocess": full_size(params.preprocess)})
    out = Console(file=sys.stdout)
    with tempfile.TemporaryDirectory() as folder:
        out.print(compare_reading(params, Path(folder)))
    scans = [draw_phantom(512, 300), *(sorted(given.scans.glob("*.nii.gz")) if given.scans else [])]
    out.print(compare_sizes(scans, params.preprocess.recipe))


def compare_reading(params: Params, folder: Path) -> Table:
    """A set as the preprocess stage makes it, and the same volumes as raw files."""
    phantom = draw_phantom(512, 300)
    data = write_ct_rate(folder / "data", dict.fromkeys(ct_rate_names(VOLUMES), phantom))
    preprocess.run(params, data, folder / "set", folder / "metrics.json")
    processed = ProcessedSet(folder / "set")
    (folder / "raw").mkdir()
    for name in processed.names:
        np.save(folder / "raw" / f"{name}.npy", processed.read(name))
    rates = {"set": [], "raw": []}
    for _ in range(ROUNDS):
        for kind, found in rates.items():
            found.append(measure("speed.reading", (kind, folder / kind), folder))
    shape = "x".join(map(str, params.preprocess.shape))
    table = Table(f"{VOLUMES} volumes of {shape}, read at random", "volumes/s", "wanted")
    table.add_row("processed set", f"{statistics.median(rates['set']):.0f}", "at least 100")
    table.add_row("raw .npy files, not compressed", f"{statistics.median(rates['raw']):.0f}", "")
    return table


def compare_sizes(scans: list[Path], recipe: Recipe) -> Table:
    table = Table("raw uint8 bytes over stored ones", "times smaller", "wanted")
    for scan in scans:
        codes = standardize(read_volume(scan), recipe)
        table.add_row(scan_name(scan), f"{codes.nbytes / len(encode(codes)):.2f}", "at least 1.5")
    return table


if __name__ == "__main__":
    main()
