"""Checks whether a score rests on enough patients."""

import numpy as np

from multi_abnormality.data.catalog.label_checks import describe_validation, has_enough_patients


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
