from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.catalog.ct_rate_files import read_label_table
from multi_abnormality.data.catalog.label_checks import describe_validation, has_enough_patients
from multi_abnormality.data.catalog.splits import assert_disjoint_patients, split_validation
from multi_abnormality.data.catalog.volume_id import VolumeName
from multi_abnormality.utils.errors import InputError

REAL_TABLES = Path(__file__).parents[3] / "../shared/ct-rate"
needs_real_tables = pytest.mark.skipif(not REAL_TABLES.exists(), reason="no real tables here")


def made_up_labels(patients: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frequent = np.linspace(0.05, 0.5, len(FINDINGS))
    rows = []
    for patient in range(1, patients + 1):
        cells = (rng.random(len(FINDINGS)) < frequent).astype(int)
        for reconstruction in range(1, rng.integers(2, 4)):
            rows.append([f"train_{patient}_a_{reconstruction}", f"train_{patient}", *cells])
    return pd.DataFrame(rows, columns=["name", "patient_id", *FINDINGS])


def test_validation_has_whole_patients_and_every_finding_as_often():
    labels = made_up_labels(400)
    train, validation = split_validation(labels, FINDINGS, 0.15, seed=0)
    assert sorted(train + validation) == sorted(labels["name"])
    parts = labels.set_index("name").loc[train], labels.set_index("name").loc[validation]
    assert not set(parts[0]["patient_id"]) & set(parts[1]["patient_id"])
    assert parts[1]["patient_id"].nunique() == 60
    positive = [part.groupby("patient_id")[list(FINDINGS)].max().sum() for part in parts]
    due = 0.15 * (positive[0] + positive[1])
    assert (positive[1] - due).abs().max() < 1.5  # patients


def test_the_split_depends_on_seed_and_patients_alone():
    labels = made_up_labels(100)
    split = split_validation(labels, FINDINGS, 0.2, seed=0)
    assert split_validation(labels.sample(frac=1, random_state=1), FINDINGS, 0.2, seed=0) == split
    assert split_validation(labels, FINDINGS, 0.2, seed=1) != split
    assert split[0] == sorted(split[0], key=VolumeName.parse)


def test_the_smallest_splits_keep_a_patient_on_each_side():
    labels = made_up_labels(2)
    assert all(split_validation(labels, FINDINGS, 0.01, seed=0))
    with pytest.raises(InputError, match="at least 2"):
        split_validation(labels[labels["patient_id"] == "train_1"], FINDINGS, 0.5, seed=0)


def test_a_patient_in_both_parts_is_noticed():
    labels = made_up_labels(4)
    assert_disjoint_patients(labels[:2], labels[-2:])
    with pytest.raises(RuntimeError, match="train_1"):
        assert_disjoint_patients(labels, labels[:1])


@needs_real_tables
def test_the_real_tables_are_read_and_split():
    labels, errors = read_label_table(REAL_TABLES / "train_predicted_labels.csv", "train")
    labels["patient_id"] = [VolumeName.parse(name).patient_id for name in labels["name"]]
    train, validation = split_validation(labels, FINDINGS, 0.15, seed=0)
    assert errors == []
    assert len(labels) == 47_149
    assert len(train) + len(validation) == 47_149
    held_out = labels["name"].isin(validation)
    findings = list(FINDINGS)
    difference = labels.loc[held_out, findings].mean() - labels.loc[~held_out, findings].mean()
    assert difference.abs().max() < 0.01


def test_patients_with_a_label_are_as_frequent_in_validation():
    """Where labels are missing, both classes and what is missing have their share."""
    labels = made_up_labels(400)
    rng = np.random.default_rng(1)
    findings = list(FINDINGS)
    labels[findings] = labels[findings].mask(rng.random((len(labels), len(findings))) < 0.5)
    _, validation = split_validation(labels, FINDINGS, 0.15, seed=0)
    patients = labels.groupby("patient_id")[findings].max()
    held_out = labels.set_index("name").loc[validation, "patient_id"].unique()
    for counts in (patients == 1, patients == 0, patients.isna()):
        deviation = counts.loc[held_out].sum() - 0.15 * counts.sum()
        assert deviation.abs().max() < 5  # patients; at random 9


def test_patients_are_counted_on_both_sides_and_scans_are_not():
    patients = [f"p{row // 2}" for row in range(40)]
    labels = np.zeros((40, 3), int)
    labels[:20, 0] = 1  # 10 patients have it, 10 lack it
    labels[::2, 1] = 1  # in one scan of each patient
    labels[:18, 2] = 1
    assert has_enough_patients(labels, patients).tolist() == [True, True, False]


def test_few_validation_patients_make_an_uncertain_choice():
    def describe(patients: int, positives: int) -> str:
        labels = (np.arange(patients) < positives).astype(int)[:, None]
        return describe_validation(labels, [str(one) for one in range(patients)])

    assert describe(29, 12) == "29 validation patients: few, so the choice is uncertain"
    assert describe(30, 10) == "30 validation patients"
    assert "fewer than 10 lack 1 of 1 findings, so the choice is uncertain" in describe(30, 9)
