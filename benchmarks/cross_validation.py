"""Out-of-fold scores of five folds of the train split, beside the scores of the test split.

python benchmarks/cross_validation.py   # after `dvc repro`; six trainings by default
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from multi_abnormality.config.schema import Params, load_params
from multi_abnormality.data.catalog.catalog import FOLD
from multi_abnormality.data.catalog.splits import assign_folds
from multi_abnormality.data.storage.processed_dataset import MANIFEST, ProcessedDataset
from multi_abnormality.evaluation.scores import macro_intervals, macro_score
from multi_abnormality.runtime.checkpoint_archive import CheckpointArchive
from multi_abnormality.runtime.training_run import RunPaths
from multi_abnormality.stages import evaluate, train
from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.tools.out_of_fold import check_folds, read_fold, score_folds
from multi_abnormality.utils import console

PROCESSED = Path("processed")
METRICS = ("auroc", "average_precision", "f1", "accuracy", "crg")


def add_folds(params: Params, folds: int, out: Path) -> None:
    """Copy the tables of the processed set, with a column of folds; link its volumes."""
    out.mkdir(parents=True, exist_ok=True)
    for path in PROCESSED.iterdir():
        if path.is_dir() and not (out / path.name).exists():
            (out / path.name).symlink_to(path.absolute())
        elif path.is_file():
            shutil.copy(path, out)
    rows = ProcessedDataset(PROCESSED).volumes("train")
    fold_of = assign_folds(rows, params.data.names, folds, params.data.split_seed)
    patients = dict(zip(rows["name"], rows["patient_id"], strict=True))
    manifest = pd.read_csv(PROCESSED / MANIFEST, dtype=str, keep_default_na=False)
    manifest[FOLD] = [str(fold_of.get(patients.get(name, ""), "")) for name in manifest["name"]]
    manifest.to_csv(out / MANIFEST, index=False, lineterminator="\n")


def run(params: Params, processed: Path, folder: Path) -> dict[str, Any]:
    """Train and evaluate in a folder, unless that is done; return the content of evaluate.json."""
    metrics = folder / "metrics"
    if (done := metrics / "evaluate.json").exists():
        content: dict[str, Any] = json.loads(done.read_text())
        return content
    paths = RunPaths(
        checkpoints=folder / "checkpoints",
        logs=folder / "logs",
        history=metrics / "history.csv",
        archive=CheckpointArchive(folder / "archive", folder / "cache"),
    )
    train.run(params, processed, paths, metrics / "train.json")
    return evaluate.run(params, paths.checkpoints, processed, metrics)


def with_fold(params: Params, folds: int, fold: int) -> Params:
    data = params.data.model_copy(update={"folds": folds, "fold": fold})
    return params.model_copy(update={"data": data})


def read_file(folder: Path, processed: Path, name: str) -> bytes:
    """Read a file of a project of which a run has its own metrics."""
    path = Path(name)
    if path.parts[0] == PROCESSED.name:
        return (processed / path.name).read_bytes()
    return (path if name == "params.yaml" else folder / path).read_bytes()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for shorter trainings, and for the folder of the runs."""
    parser.add_argument("--epochs", type=int, help="of each training; train.epochs if not given")
    parser.add_argument("--slices", type=int, help="of a volume; or train.slices_per_volume")
    parser.add_argument(
        "--folder", type=Path, help="of the runs; the next call does not repeat finished ones"
    )


def shortened(params: Params, given: argparse.Namespace) -> Params:
    """Return parameters with the epochs and slices of the options in `add_options`."""
    changes = {
        "epochs": given.epochs or params.train.epochs,
        "schedule_epochs": given.epochs or params.train.schedule_epochs,
        "slices_per_volume": given.slices or params.train.slices_per_volume,
    }
    return params.model_copy(update={"train": params.train.model_copy(update=changes)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folds", type=int, default=5)
    add_options(parser)
    given = parser.parse_args()
    params = shortened(load_params(), given)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        held_out = run(params, PROCESSED, folder / "held out")
        processed = folder / "processed"
        add_folds(params, given.folds, processed)
        runs = []
        for fold in range(given.folds):
            own = folder / f"fold {fold}"
            run(with_fold(params, given.folds, fold), processed, own)
            read = functools.partial(read_file, own, processed)
            runs.append(read_fold(Revision(own.name, None), read))
        scores = score_folds(check_folds(runs))
    by_fold = ", ".join(f"{each['auroc']:.3f}" for each in scores["folds"])
    console.log.info("macro AUROC by fold: %s", by_fold)
    table = Table("metric", *(describe(each) for each in (scores, held_out)), "interval", "inside")
    for metric in METRICS:
        score, ends = macro_score(scores, metric), macro_intervals(held_out)[metric]
        interval = f"{ends['low']:.3f} to {ends['high']:.3f}"
        inside = "yes" if ends["low"] <= score <= ends["high"] else "no"
        test = macro_score(held_out, metric)
        table.add_row(metric, f"{score:.3f}", f"{test:.3f}", interval, inside)
    Console(file=sys.stdout, width=120).print(table)


def describe(scores: dict[str, Any]) -> str:
    """Return the title of a column, from the content of evaluate.json or of out-of-fold scores."""
    kind = "out-of-fold" if "folds" in scores else "test split"
    return f"{kind}, {scores['counts']['scans']} scans of {scores['counts']['patients']} patients"


if __name__ == "__main__":
    console.run(main)
