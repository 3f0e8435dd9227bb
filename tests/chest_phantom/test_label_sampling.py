from itertools import pairwise

import numpy as np
import pytest

from chest_phantom.cohort import plan_cohort
from chest_phantom.label_sampling import CORRELATIONS, LASTING
from chest_phantom.settings import DEFAULT_PATIENTS
from multi_abnormality.config.findings import FINDINGS


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """(scans, 18) labels of a large cohort."""
    return np.array([scan.labels for scan in plan_cohort(4500, seed=1)])


def test_findings_go_together_as_in_ct_rate(many):
    drawn = np.corrcoef(many.T)
    pairs = [(i, j) for i in range(len(FINDINGS)) for j in range(i)]
    real = [CORRELATIONS[i][j] for i, j in pairs]
    found = [drawn[i, j] for i, j in pairs]
    assert np.corrcoef(real, found)[0, 1] > 0.95
    assert np.abs(np.subtract(real, found)).max() < 0.1


def test_every_finding_is_frequent_enough_to_train_on(many):
    prevalences = many.mean(axis=0)
    assert prevalences.min() > 0.22
    assert prevalences.max() < 0.47


def test_the_default_sample_can_be_scored():
    scans = plan_cohort(DEFAULT_PATIENTS, seed=0)
    valid = np.array([scan.labels for scan in scans if scan.split == "valid"])
    assert len(scans) - len(valid) >= 500
    assert len(valid) >= 110
    assert valid.sum(axis=0).min() >= 15
    assert (len(valid) - valid.sum(axis=0)).min() >= 15


def test_lasting_findings_stay_and_others_come_and_go():
    scans = plan_cohort(600, seed=0)
    pairs = [(a, b) for a, b in pairwise(scans) if b.visit == "b"]
    lasting = [FINDINGS.index(finding) for finding in LASTING]
    assert all(b.labels[i] >= a.labels[i] for a, b in pairs for i in lasting)
    assert any(a.labels != b.labels for a, b in pairs)


def test_a_patient_does_not_depend_on_the_others():
    few, more = plan_cohort(22, seed=3), plan_cohort(220, seed=3)
    assert more[: len(few)] == few


def test_some_scans_are_repeated_and_some_reconstructed_twice():
    scans = plan_cohort(DEFAULT_PATIENTS, seed=0)
    assert sum(scan.visit == "b" for scan in scans) > 40
    assert sum(scan.reconstructions == 2 for scan in scans) > 40
