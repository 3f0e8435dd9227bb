"""Warnings about findings with only one class among the scans."""

import logging
import re

import numpy as np

from multi_abnormality.data.catalog.single_class_findings import single_class_warnings
from multi_abnormality.data.storage.processed_dataset import LABELS, ProcessedDataset

FINDINGS = ("Cyst", "Mass", "Scar")


def test_no_warning_with_both_classes():
    assert single_class_warnings(FINDINGS, np.eye(3), 1 - np.eye(3)) == []


def test_warning_names_the_finding_the_split_and_the_fix():
    train, val = np.eye(3)[[0, 1]][:, [2, 0, 1]], np.eye(3)[[0, 1, 2, 2]]
    val[:, 1] = 1
    rare, common = single_class_warnings(FINDINGS, train, val)
    assert rare.startswith("'Cyst': no positive among the 2 training volumes, so it is neither ")
    assert "Add positive scans, or remove it from data.findings" in rare
    assert common.startswith("'Mass': no negative among the 4 validation volumes, so it can ")
    assert "Use more validation patients, add negative scans" in common


def test_missing_labels_are_of_neither_class():
    train = np.array([[1, np.nan, np.nan], [1, np.nan, 0], [np.nan, np.nan, 1]])
    unknown, common = single_class_warnings(FINDINGS, train, np.eye(3)[[0, 1, 2, 2]])
    assert unknown.startswith("'Mass': no label among the 3 training volumes, so it is neither ")
    assert "Add scans with a label, or remove it from data.findings" in unknown
    assert common.startswith("'Cyst': no negative among the 3 training volumes")


def test_single_class_warnings_are_logged_before_training(runner, small_set, tmp_path, caplog):
    """Once per split for a dataset without positives of one finding; not for the original one."""
    for name in ("whole", "lacking"):
        folder = tmp_path / name
        folder.mkdir()
        for path in small_set.root.iterdir():
            (folder / path.name).symlink_to(path)
    labels = tmp_path / "lacking" / LABELS
    content = small_set.labels.assign(Emphysema=0).to_csv(index=False)
    labels.unlink()
    labels.write_text(content)
    warnings = {}
    for name in ("whole", "lacking"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
            type(runner)(runner.params, ProcessedDataset(tmp_path / name)).run(
                tmp_path / f"of {name}", epochs=1
            )
        warnings[name] = [line for line in caplog.messages if "'Emphysema'" in line]
    assert warnings["whole"] == []
    assert [re.findall(r"(\w+) volumes", line) for line in warnings["lacking"]] == [
        ["training"],
        ["validation"],
    ]
