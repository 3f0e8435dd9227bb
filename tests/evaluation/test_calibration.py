"""Platt scaling: better probabilities, the same order, and a bounded slope with few positives."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.evaluation.calibration import Calibration, calibration_scores, platt, sigmoid
from multi_abnormality.evaluation.metric_registry import crg

COUNT = len(FINDINGS)


def made_up(scans: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too steep and shifted, with labels sampled from 0.5 * logit - 1."""
    generator = np.random.default_rng(seed)
    logits = 4 * generator.normal(size=(scans, COUNT))
    return logits, (generator.random(logits.shape) < sigmoid(0.5 * logits - 1)).astype(int)


def test_recovers_the_line_behind_the_labels():
    calibration = Calibration.fit(*made_up(4000), FINDINGS)
    np.testing.assert_allclose(calibration.slope, 0.5, atol=0.06)
    np.testing.assert_allclose(calibration.intercept, -1, atol=0.2)


def test_agrees_with_logistic_regression_on_plenty_of_data():
    logits, labels = made_up(5000)
    slope, intercept = platt(logits[:, 0], labels[:, 0].astype(bool))
    other = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, :1], labels[:, 0])
    assert slope == pytest.approx(other.coef_[0, 0], abs=0.005)
    assert intercept == pytest.approx(other.intercept_[0], abs=0.01)


def test_lowers_both_errors_on_other_patients_and_keeps_auroc():
    calibration = Calibration.fit(*made_up(400), FINDINGS)
    logits, labels = made_up(1000, seed=1)
    before, after = sigmoid(logits), calibration.calibrate(logits)
    errors = [calibration_scores(labels, p, FINDINGS)["macro"] for p in (before, after)]
    assert errors[1]["ece"] < 0.5 * errors[0]["ece"]
    assert errors[1]["brier"] < errors[0]["brier"]
    for column in range(COUNT):
        truth = labels[:, column]
        assert roc_auc_score(truth, after[:, column]) == roc_auc_score(truth, logits[:, column])


def test_an_inverted_finding_keeps_its_order():
    generator = np.random.default_rng(0)
    positive = generator.random(200) < 0.3
    logits = generator.normal(size=200) - 2 * positive
    slope, intercept = platt(logits, positive)
    assert slope > 0
    assert sigmoid(slope * logits + intercept).mean() == pytest.approx(positive.mean(), abs=0.02)


def test_the_slope_is_bounded_with_one_positive_or_separable_classes():
    logits = np.linspace(-1, 1, 50)
    one = platt(logits, np.arange(50) == 49)
    clean = platt(logits, np.arange(50) >= 25)
    assert 0 < one[0] < 10
    assert 0 < clean[0] < 20


def test_a_single_class_keeps_the_logit_and_is_marked(tmp_path):
    logits, labels = made_up(50)
    labels[:, 2] = 0
    calibration = Calibration.fit(logits, labels, FINDINGS)
    assert (calibration.slope[2], calibration.intercept[2]) == (1, 0)
    calibration.to_json(tmp_path / "calibration.json")
    written = json.loads((tmp_path / "calibration.json").read_text())
    assert written["findings"]["Cardiomegaly"]["fitted"] is False
    assert written["findings"]["Cardiomegaly"]["negatives"] == 50
    assert written["findings"]["Emphysema"]["fitted"] is True


def test_written_and_read_back_it_gives_the_same_probabilities(tmp_path):
    logits, labels = made_up(60)
    calibration = Calibration.fit(logits, labels, FINDINGS)
    path = tmp_path / "metrics" / "calibration.json"
    calibration.to_json(path)
    np.testing.assert_array_equal(
        Calibration.from_json(json.loads(path.read_text()), FINDINGS).calibrate(logits),
        calibration.calibrate(logits),
    )


def test_extreme_logits_stay_inside_zero_and_one():
    calibration = Calibration.fit(*made_up(60), FINDINGS)
    probabilities = calibration.calibrate(np.array([[1e6] * COUNT, [-1e6] * COUNT]))
    assert (probabilities > 0).all()
    assert (probabilities < 1).all()


def expected_logits(mean, spread, scans: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a calibrated model, and labels sampled from them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(mean, spread, (scans, COUNT))
    return logits, (rng.random(logits.shape) < sigmoid(logits)).astype(int)


def test_the_thresholds_for_crg_are_the_best():
    """At the challenge's best AUROC and CT-RATE's fraction of positives."""
    logits, labels = expected_logits(-2.3, 1.9, 4000)
    assert labels.mean() == pytest.approx(0.19, abs=0.01)
    aurocs = [roc_auc_score(labels[:, f], logits[:, f]) for f in range(COUNT)]
    assert np.mean(aurocs) == pytest.approx(0.864, abs=0.01)
    calibration = Calibration.fit(logits, labels, FINDINGS, threshold_metric="crg")
    chances = calibration.calibrate(logits)
    best = crg(labels, chances >= calibration.thresholds)["CRG"]
    assert crg(labels, chances >= 0.5)["CRG"] < 0.46
    assert best >= 0.53
    grid = [crg(labels, chances >= cut)["CRG"] for cut in np.linspace(0.02, 0.98, 97)]
    assert best == pytest.approx(max(grid), abs=0.003)


def test_the_threshold_for_f1_is_each_findings_own():
    logits, labels = expected_logits(np.linspace(-3, 1, COUNT), 1.5, 6000)
    calibration = Calibration.fit(logits, labels, FINDINGS, threshold_metric="f1")
    positive = calibration.calibrate(logits) >= calibration.thresholds
    for finding in range(COUNT):
        truth, chances = labels[:, finding], sigmoid(logits[:, finding])
        best = max(f1_score(truth, chances >= cut) for cut in np.linspace(0.05, 0.6, 56))
        assert f1_score(truth, positive[:, finding]) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("metric", ["none", "accuracy"])
def test_the_threshold_for_accuracy_is_a_half(metric):
    calibration = Calibration.fit(*made_up(100), FINDINGS, threshold_metric=metric)
    np.testing.assert_array_equal(calibration.thresholds, 0.5)


def test_the_metric_does_not_change_the_probabilities():
    logits, labels = made_up(100)
    plain, other = (
        Calibration.fit(logits, labels, FINDINGS, threshold_metric=m) for m in ("none", "f1")
    )
    np.testing.assert_array_equal(plain.calibrate(logits), other.calibrate(logits))
    assert (other.thresholds != 0.5).all()


def test_without_a_positive_the_threshold_is_a_half():
    logits, labels = made_up(30)
    logits[:, 2], labels[:, 2] = -40, 0
    calibration = Calibration.fit(logits, labels, FINDINGS, threshold_metric="f1")
    assert calibration.thresholds[2] == 0.5
    assert calibration.uncalibrated == ["Cardiomegaly"]


@pytest.mark.parametrize("metric", ["crg", "f1", "accuracy", "none"])
@pytest.mark.parametrize("value", [0, 1])
def test_an_uncalibrated_finding_does_not_change_the_other_thresholds(metric: str, value: int):
    logits, labels = made_up(200)
    labels[:, 2], others = value, np.arange(COUNT) != 2
    without = Calibration.fit(
        logits[:, others], labels[:, others], np.array(FINDINGS)[others].tolist(), metric
    )
    for level in (-9, 9):
        logits[:, 2] = level
        calibration = Calibration.fit(logits, labels, FINDINGS, metric)
        np.testing.assert_array_equal(calibration.thresholds[others], without.thresholds)
        assert calibration.thresholds[2] == 0.5
    if metric == "crg":
        mean = without.calibrate(logits[:, others]).mean()
        np.testing.assert_allclose(without.thresholds, mean, rtol=1e-11)


def test_with_no_calibrated_finding_every_threshold_is_a_half():
    logits, labels = made_up(20)
    calibration = Calibration.fit(logits, 0 * labels, FINDINGS, "crg")
    np.testing.assert_array_equal(calibration.thresholds, 0.5)
    assert calibration.uncalibrated == list(FINDINGS)
