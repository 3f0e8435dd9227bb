"""Speed of cataloguing and splitting all of CT-RATE, and balance of the split.

The tables' directory holds CT-RATE's {train,valid}_predicted_labels.csv and, optionally,
{train,validation}_metadata.csv. The volumes are empty files.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from bench.rows import Row, Settings, compared, in_turns
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.config.schema import load_params
from multi_abnormality.data.catalog.ct_rate import read_ct_rate
from multi_abnormality.data.catalog.splits import split_validation
from multi_abnormality.data.catalog.volume_id import VolumeName

TABLES = {"multi_abnormality_labels": "predicted_labels", "metadata": "metadata"}


def run(settings: Settings) -> list[Row]:
    if settings.tables is None:
        raise ValueError("needs a directory with CT-RATE's tables")
    fraction = load_params().train.val_fraction
    root = lay_out(settings.tables, settings.folder / "data")
    found = in_turns(
        settings.rounds,
        {
            "floor": lambda: seconds(lambda: walk_and_read(root)),
            "ours": lambda: seconds(lambda: catalogue_and_split(root, fraction)),
        },
    )
    volumes, parts = catalogue_and_split(root, fraction)
    name = f"catalogue and split {len(volumes)} volumes"
    return [
        compared(
            name, "s", found["ours"], "walk and read_csv", found["floor"], "value at most 5 s"
        ),
        *compare_parts(volumes, *parts),
    ]


def lay_out(tables: Path, root: Path) -> Path:
    """Create CT-RATE's directories with an empty file per row."""
    for folder, kind in TABLES.items():
        (root / "dataset" / folder).mkdir(parents=True)
        for table in tables.glob(f"*_{kind}.csv"):
            shutil.copy(table, root / "dataset" / folder)
    for table in tables.glob("*_predicted_labels.csv"):
        for text in pd.read_csv(table)["VolumeName"]:
            name = VolumeName.parse(text)
            patient = root / "dataset" / f"{name.prefix}_fixed" / name.patient_id
            (patient / name.scan_id).mkdir(parents=True, exist_ok=True)
            (patient / name.scan_id / text).touch()
    return root


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def walk_and_read(root: Path) -> None:
    """Baseline: the least work that a catalogue needs."""
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


def compare_parts(volumes: pd.DataFrame, train: list[str], validation: list[str]) -> list[Row]:
    """Rows for the findings whose prevalence by volume differs most between the splits."""
    labels = volumes.set_index("name")[list(FINDINGS)]
    prevalence, held_out = labels.loc[train].mean(), labels.loc[validation].mean()
    ratio = held_out / prevalence
    return [
        Row(
            f"prevalence of {finding} in validation", held_out[finding], "", "in train",
            prevalence[finding], ratio[finding], "0.9 to 1.1",
        )
        for finding in {ratio.idxmin(): None, ratio.idxmax(): None}
    ]  # fmt: skip
