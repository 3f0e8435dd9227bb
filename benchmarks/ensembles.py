"""Ensembles of seeds and of two slice spacings beside their members: gain, interval and p-value.

python benchmarks/ensembles.py   # after `dvc repro`; six trainings
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cross_validation import PROCESSED, add_options, read_file, run, shortened
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.stages import export, preprocess
from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.tools.ensemble.fused_model import MEAN, VAL, fuse_members
from multi_abnormality.tools.ensemble.members import INFO, MODEL, Member, read_member, select_common
from multi_abnormality.utils import console

SEEDS = (0, 1, 2)
COARSER = 4 / 3  # slice spacing of the second member to that of the first, as in winner-2026


def with_slice_spacing(params: Params, factor: float) -> Params:
    """Return parameters with a slice spacing larger by a factor, and volumes of the same height."""
    recipe = params.preprocess
    (mm, *in_plane), (slices, *rows_columns) = recipe.spacing, recipe.shape
    changes = {
        "spacing": (mm * factor, *in_plane),
        "shape": (round(slices / factor), *rows_columns),
    }
    return params.model_copy(update={"preprocess": recipe.model_copy(update=changes)})


def process(params: Params, folder: Path) -> Path:
    """Preprocess the scans in data/ to a folder; return it."""
    if params.preprocess == load_params().preprocess:
        return PROCESSED
    counts = folder / "preprocess.json"
    if not counts.exists():
        preprocess.run(params, Path("data"), folder / "processed", counts)
    return folder / "processed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_options(parser)
    given = parser.parse_args()
    params = shortened(load_params(), given)
    coarser = with_slice_spacing(params, COARSER)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        members = [[read(each, seed, folder) for each in (params, coarser)] for seed in SEEDS]
        ensembles = {"three seeds": [first for first, _ in members]}
        ensembles |= {
            f"two slice spacings, seed {seed}": pair
            for seed, pair in zip(SEEDS, members, strict=True)
        }
        every = [each for pair in members for each in pair]
        ensembles["three seeds, two slice spacings each"] = every
        fused = [
            fuse_members(f"{name}, {weights}", select_common(chosen), weights)
            for name, chosen in ensembles.items()
            for weights in (MEAN, VAL)
        ]
    table = Table("ensemble", "macro AUROC", "members", "best member", "gain", "interval", "p")
    for each in fused:
        auroc = each.comparison["macro"]["auroc"]
        low, high = auroc["interval"].values()
        table.add_row(
            each.name,
            f"{auroc['b']:.4f}",
            ", ".join(f"{member.auroc:.4f}" for member in each.members),
            f"{auroc['a']:.4f}",
            f"{auroc['difference']:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
            f"{auroc['p']:.4f}",
        )
    Console(file=sys.stdout, width=140).print(table)


def read(params: Params, seed: int, folder: Path) -> Member:
    """Train, evaluate and export a member, unless that is done; return it."""
    params = params.model_copy(update={"seed": seed})
    spacing = "x".join(f"{mm:g}" for mm in params.preprocess.spacing)
    processed, own = process(params, folder / spacing), folder / f"{spacing} seed {seed}"
    run(params, processed, own)
    if not (own / MODEL / INFO).exists():
        export.run(params, own / "checkpoints", processed, own / "metrics", own / MODEL)
    return read_member(Revision(own.name, None), functools.partial(read_file, own, processed))


if __name__ == "__main__":
    console.run(main)
