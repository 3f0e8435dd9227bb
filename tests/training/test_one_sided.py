"""What is told of findings that a training's scans tell nothing of."""

import logging
import re

import numpy as np

from multi_abnormality.data.store import LABELS, ProcessedSet
from multi_abnormality.training.one_sided import told_one_sided

FINDINGS = ("Cyst", "Mass", "Scar")


def test_both_classes_everywhere_are_told_nothing_of():
    assert told_one_sided(FINDINGS, np.eye(3), 1 - np.eye(3)) == []


def test_each_finding_of_one_class_is_named_with_its_part_and_a_way_out():
    learned, validated = np.eye(3)[[0, 1, 2, 2]], np.eye(3)[[0, 1]]
    learned[:, 1] = 1
    rare, everywhere = told_one_sided(FINDINGS, validated[:, [2, 0, 1]], learned)
    assert rare.startswith("of the 2 volumes to learn from none has 'Cyst': nothing can be learned")
    assert "add scans of patients with it" in rare
    assert everywhere.startswith("of the 4 volumes to validate on all have 'Mass': ")
    assert "raise train.validation_fraction, add scans of patients without it" in everywhere


def test_a_training_says_so_before_its_first_step(trainings, small_set, tmp_path, caplog):
    """Of a set in which no patient has one finding; and nothing of the untouched set."""
    for name in ("whole", "lacking"):
        folder = tmp_path / name
        folder.mkdir()
        for path in small_set.root.iterdir():
            (folder / path.name).symlink_to(path)
    labels = tmp_path / "lacking" / LABELS
    content = small_set.labels.assign(Emphysema=0).to_csv(index=False)
    labels.unlink()
    labels.write_text(content)
    told = {}
    for name in ("whole", "lacking"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="multi_abnormality"):
            type(trainings)(trainings.params, ProcessedSet(tmp_path / name)).run(
                tmp_path / f"of {name}", epochs=1
            )
        told[name] = [line for line in caplog.messages if "'Emphysema'" in line]
    assert told["whole"] == []
    assert [re.findall(r"volumes to (\w+)", line) for line in told["lacking"]] == [
        ["learn"],
        ["validate"],
    ]
