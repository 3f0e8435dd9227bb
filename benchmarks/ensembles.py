"""Ensembles of three seeds and of two spacings beside their members: gain, interval and p-value.

python benchmarks/ensembles.py   # after `dvc repro`; four trainings
"""

import argparse
import tempfile
from pathlib import Path

from cross_validation import PROCESSED, run
from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.stages import preprocess
from multi_abnormality.utils import console

SEEDS = (0, 1, 2)
COARSER = 4 / 3  # of the second spacing to the first


def with_spacing(params: Params, factor: float) -> Params:
    """Return parameters with voxels larger by a factor, of the same extent."""
    recipe = params.preprocess
    changes = {
        "spacing": tuple(round(mm * factor, 2) for mm in recipe.spacing),
        "shape": tuple(round(voxels / factor) for voxels in recipe.shape),
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
    parser.add_argument("--epochs", type=int, help="of each training; train.epochs if not given")
    parser.add_argument("--slices", type=int, help="of a volume; or train.slices_per_volume")
    parser.add_argument("--factor", type=float, default=1.0, help="of both spacings")
    parser.add_argument(
        "--folder", type=Path, help="of the runs; the next call does not repeat finished ones"
    )
    given = parser.parse_args()
    params = load_params()
    changes = {
        "epochs": given.epochs or params.train.epochs,
        "schedule_epochs": given.epochs or params.train.schedule_epochs,
        "slices_per_volume": given.slices or params.train.slices_per_volume,
    }
    params = params.model_copy(update={"train": params.train.model_copy(update=changes)})
    fine, coarse = (with_spacing(params, given.factor * factor) for factor in (1, COARSER))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        for spacing, seeds in ((fine, SEEDS), (coarse, SEEDS[:1])):
            name = "x".join(f"{mm:g}" for mm in spacing.preprocess.spacing)
            processed = process(spacing, folder / name)
            for seed in seeds:
                run(
                    spacing.model_copy(update={"seed": seed}),
                    processed,
                    folder / f"{name} seed {seed}",
                )


if __name__ == "__main__":
    console.run(main)
