"""How fast all of CT-RATE is catalogued and split, and how alike the two parts are.

    python benchmarks/catalogue.py --tables FOLDER      # half a minute

FOLDER holds CT-RATE's own {train,valid}_predicted_labels.csv and, where there are any,
{train,validation}_metadata.csv. The volumes are empty files.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from multi_abnormality.data.ct_rate import read_ct_rate
from multi_abnormality.data.names import VolumeName
from multi_abnormality.data.splits import split_validation
from multi_abnormality.findings import FINDINGS
from multi_abnormality.params import load_params

ROUNDS = 3
TABLES = {"multi_abnormality_labels": "predicted_labels", "metadata": "metadata"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", type=Path, required=True, help="folder of CT-RATE's tables")
    tables = parser.parse_args().tables
    train = load_params().train
    out = Console(file=sys.stdout)
    with tempfile.TemporaryDirectory() as folder:
        root = lay_out(tables, Path(folder) / "data")
        seconds = {"ours": [], "floor": []}
        for _ in range(ROUNDS):
            seconds["floor"].append(timed(lambda: walk_and_read(root)))
            seconds["ours"].append(
                timed(lambda: catalogue_and_split(root, train.validation_fraction))
            )
        volumes, parts = catalogue_and_split(root, train.validation_fraction)
    table = Table(f"{len(volumes)} volumes", "seconds", "of the processor", "wanted")
    rows = {"ours": ("catalogue and split", "at most 5"), "floor": ("walk and read_csv", "")}
    for kind, (row, wanted) in rows.items():
        medians = (f"{statistics.median(times):.2f}" for times in zip(*seconds[kind], strict=True))
        table.add_row(row, *medians, wanted)
    out.print(table)
    out.print(compare_parts(volumes, *parts))


def lay_out(tables: Path, root: Path) -> Path:
    """CT-RATE's folders with an empty file a row."""
    for folder, kind in TABLES.items():
        (root / "dataset" / folder).mkdir(parents=True)
        for table in tables.glob(f"*_{kind}.csv"):
            shutil.copy(table, root / "dataset" / folder)
    for table in tables.glob("*_predicted_labels.csv"):
        for text in pd.read_csv(table)["VolumeName"]:
            name = VolumeName.parse(text)
            patient = root / "dataset" / f"{name.split}_fixed" / name.patient_id
            (patient / name.scan_id).mkdir(parents=True, exist_ok=True)
            (patient / name.scan_id / text).touch()
    return root


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor: others may share the machine."""
    start, started = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - started


def walk_and_read(root: Path) -> None:
    """As little as a catalogue can do."""
    count = sum(len(files) for _, _, files in os.walk(root))
    tables = [pd.read_csv(path) for path in root.glob("dataset/*/*.csv")]
    assert count == len(tables) + sum(
        len(table) for table in tables if list(table.columns[1:]) == list(FINDINGS)
    )


def catalogue_and_split(
    root: Path, fraction: float
) -> tuple[pd.DataFrame, tuple[list[str], list[str]]]:
    volumes = read_ct_rate(root).volumes
    known = volumes[volumes["split"] == "train"]
    return volumes, split_validation(known, FINDINGS, fraction, seed=0)


def compare_parts(volumes: pd.DataFrame, train: list[str], validation: list[str]) -> Table:
    """How often each finding is positive in the volumes of both parts."""
    labels = volumes.set_index("name")[list(FINDINGS)]
    share, held_out = labels.loc[train].mean(), labels.loc[validation].mean()
    table = Table("prevalence by volume", "train", "validation", "difference", "wanted")
    for finding in FINDINGS:
        difference = held_out[finding] / share[finding] - 1
        row = f"{share[finding]:.4f}", f"{held_out[finding]:.4f}", f"{difference:+.1%}"
        table.add_row(finding, *row, "at most 10 %")
    return table


if __name__ == "__main__":
    main()
