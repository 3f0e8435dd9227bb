"""Bootstrap over patients: weights, scores under weights, and width of intervals."""

import time

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from multi_abnormality.evaluation.confidence_intervals import (
    ResamplingConfig,
    bootstrap,
    bootstrap_intervals,
)
from multi_abnormality.evaluation.resampled_counts import Ranking

FINDINGS = ("one", "two", "three")


def made_up(scans: int, findings: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (generator.random((scans, findings)) < 0.25).astype(int)
    return labels, np.round(generator.beta(1 + 2 * labels, 3), 2)  # rounded: many ties


def test_ranked_scores_under_weights_equal_those_of_repeated_rows():
    labels, probabilities = made_up(60)
    generator = np.random.default_rng(1)
    weights = generator.integers(0, 4, size=(60, 25)).astype(np.int32)
    area, precision = Ranking(labels[:, 0], probabilities[:, 0]).scores(weights)
    for resample in range(weights.shape[1]):
        rows = np.repeat(np.arange(60), weights[:, resample])
        truth, chances = labels[rows, 0], probabilities[rows, 0]
        assert area[resample] == pytest.approx(metrics.roc_auc_score(truth, chances), abs=1e-12)
        assert precision[resample] == pytest.approx(
            metrics.average_precision_score(truth, chances), abs=1e-12
        )


def test_a_resample_equals_scores_of_the_sampled_patients():
    labels, probabilities = made_up(50)
    patients = [f"p{row // 3:02d}" for row in range(50)]
    drawn = bootstrap(labels, probabilities, patients, ResamplingConfig(5, 0.95, seed=4))
    names, patient_of_row = np.unique(patients, return_inverse=True)
    choice = np.random.default_rng(4).integers(len(names), size=(5, len(names)))
    for resample in range(5):
        rows = np.concatenate([np.flatnonzero(patient_of_row == p) for p in choice[resample]])
        truth, predicted = labels[rows], (probabilities[rows] >= 0.5).astype(int)
        options = {"average": None, "zero_division": 0}
        for measure, function in (
            ("precision", metrics.precision_score),
            ("recall", metrics.recall_score),
            ("f1", metrics.f1_score),
        ):
            np.testing.assert_allclose(
                drawn[measure][resample], function(truth, predicted, **options), atol=1e-12
            )
        np.testing.assert_allclose(
            drawn["accuracy"][resample], (truth == predicted).mean(axis=0), atol=1e-12
        )
        np.testing.assert_allclose(
            drawn["auroc"][resample],
            metrics.roc_auc_score(truth, probabilities[rows], average=None),
            atol=1e-12,
        )
        hits = (truth & predicted).sum() / truth.sum()
        alarms = ((1 - truth) & predicted).sum() / (1 - truth).sum()
        assert drawn["crg"][resample] == pytest.approx(1 / (3 - 2 * (hits - alarms)), abs=1e-12)


def test_intervals_depend_on_the_seed_but_not_on_the_order_of_rows():
    labels, probabilities = made_up(80)
    patients = [f"p{row // 2}" for row in range(80)]
    first = bootstrap_intervals(
        labels, probabilities, patients, FINDINGS, ResamplingConfig(300, 0.95, seed=1)
    )
    order = np.random.default_rng(0).permutation(80)
    shuffled = [patients[row] for row in order]
    second = bootstrap_intervals(
        labels[order], probabilities[order], shuffled, FINDINGS, ResamplingConfig(300, 0.95, seed=1)
    )
    third = bootstrap_intervals(
        labels, probabilities, patients, FINDINGS, ResamplingConfig(300, 0.95, seed=2)
    )
    assert first == second
    assert first != third


def test_interval_width_is_that_of_the_normal_approximation():
    generator = np.random.default_rng(0)
    labels = np.ones((400, 1), int)
    labels[:10] = 0
    probabilities = (generator.random((400, 1)) < 0.8).astype(float)
    patients = [str(row) for row in range(400)]
    recall = bootstrap_intervals(
        labels, probabilities, patients, ["one"], ResamplingConfig(2000, 0.95, seed=0)
    )["per_pathology"]["one"]["recall"]
    assert recall["high"] - recall["low"] == pytest.approx(2 * 1.96 * 0.4 / 390**0.5, rel=0.1)


def test_an_interval_is_that_of_scipy():
    """Percentile bootstrap of independent scans, with other random numbers."""
    labels, probabilities = made_up(200, 1)
    patients = [str(row) for row in range(200)]
    expected = scipy.stats.bootstrap(
        (labels[:, 0], probabilities[:, 0]), metrics.roc_auc_score, paired=True, vectorized=False,
        n_resamples=2000, method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    interval = bootstrap_intervals(
        labels, probabilities, patients, ["one"], ResamplingConfig(2000, 0.95, seed=0)
    )["per_pathology"]["one"]["auroc"]
    assert interval["low"] == pytest.approx(expected.low, abs=0.01)
    assert interval["high"] == pytest.approx(expected.high, abs=0.01)


def test_scans_of_one_patient_are_not_independent():
    labels, probabilities = made_up(150, 1)
    alone = [str(row) for row in range(150)]
    copies = (np.tile(labels, (4, 1)), np.tile(probabilities, (4, 1)))

    def width(*arguments) -> float:
        drawn = bootstrap_intervals(*arguments, ["one"], ResamplingConfig(1000, 0.95, seed=0))
        return drawn["macro"]["auroc"]["high"] - drawn["macro"]["auroc"]["low"]

    once = width(labels, probabilities, alone)
    assert width(*copies, alone * 4) == pytest.approx(once, rel=1e-9)
    assert width(*copies, [str(row) for row in range(600)]) < 0.7 * once


def test_one_positive_patient_gives_no_interval_for_auroc():
    labels = np.zeros((30, 1), int)
    labels[4] = 1
    probabilities = np.linspace(0, 1, 30)[:, None]
    patients = [str(row) for row in range(30)]
    drawn = bootstrap_intervals(
        labels, probabilities, patients, ["one"], ResamplingConfig(500, 0.95, seed=0)
    )
    assert drawn["per_pathology"]["one"]["auroc"] is None
    assert drawn["per_pathology"]["one"]["accuracy"] is not None


def test_the_whole_valid_split_takes_seconds():
    labels, probabilities = made_up(3039, 18)
    patients = [str(row // 2) for row in range(3039)]
    start = time.process_time()
    bootstrap(labels, probabilities, patients, ResamplingConfig(500, 0.95, seed=0))
    assert time.process_time() - start < 5


def test_an_interval_is_unreliable_with_few_patients_of_a_class():
    """Patients are counted, not scans: finding two has 20 positive scans of 5 patients."""
    patients = [f"p{row // 4}" for row in range(160)]
    labels = np.zeros((160, 3), int)
    labels[:80, 0] = 1
    labels[:20, 1] = 1
    probabilities = np.random.default_rng(0).random((160, 3))
    resampling = ResamplingConfig(100, 0.95, seed=0)
    found = bootstrap_intervals(labels, probabilities, patients, FINDINGS, resampling)
    per_finding = found["per_pathology"]
    assert per_finding["one"]["auroc"]["reliable"] is True
    assert per_finding["two"]["auroc"]["reliable"] is False
    assert per_finding["three"]["auroc"] is None
    assert found["macro"]["auroc"]["reliable"] is False
    assert found["crg"]["CRG"]["reliable"] is True
    alone = bootstrap_intervals(
        labels[:, ::2], probabilities[:, ::2], patients, FINDINGS[::2], resampling
    )
    assert alone["macro"]["auroc"]["reliable"] is True  # finding three has no AUROC
    assert alone["macro"]["f1"]["reliable"] is False  # but an F1
