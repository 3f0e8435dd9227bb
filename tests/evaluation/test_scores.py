"""Challenge scores, compared with scikit-learn and with the definition of CRG."""

import json

import numpy as np
import pytest
from sklearn import metrics

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.metric_registry import crg
from multi_abnormality.evaluation.scores import evaluate, summary
from multi_abnormality.utils.errors import InputError

RESAMPLING = ResamplingConfig(40, 0.95, seed=0)


def made_up(scans: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities with ties and exact halves, and two scans per patient."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((scans, len(FINDINGS))) < 0.3).astype(int)
    noise = generator.normal(size=labels.shape)
    probabilities = np.round(1 / (1 + np.exp(-(noise + 1.5 * labels - 0.5))), 2)
    return labels, probabilities, [f"valid_{row // 2}" for row in range(scans)]


def test_equals_scikit_learn_on_thresholded_and_ranked_measures():
    labels, probabilities, patients = made_up()
    assert (probabilities == 0.5).any()
    scores = evaluate(labels, probabilities, patients, FINDINGS, RESAMPLING)
    predicted = (probabilities >= 0.5).astype(int)
    options = {"average": "macro", "zero_division": 0}
    expected = {
        "precision": metrics.precision_score(labels, predicted, **options),
        "recall": metrics.recall_score(labels, predicted, **options),
        "f1": metrics.f1_score(labels, predicted, **options),
        "accuracy": (labels == predicted).mean(),
        "auroc": metrics.roc_auc_score(labels, probabilities, average="macro"),
    }
    assert scores["classification"]["macro"] == pytest.approx(expected, abs=1e-12)
    assert scores["average_precision"]["macro"] == pytest.approx(
        metrics.average_precision_score(labels, probabilities, average="macro"), abs=1e-12
    )
    emphysema = scores["classification"]["per_pathology"]["Emphysema"]
    column = FINDINGS.index("Emphysema")
    assert emphysema["auroc"] == pytest.approx(
        metrics.roc_auc_score(labels[:, column], probabilities[:, column]), abs=1e-12
    )
    assert set(emphysema) == {"precision", "recall", "f1", "accuracy", "auroc"}


def test_exactly_one_half_is_positive():
    labels = np.array([[1], [0]])
    scores = evaluate(labels, np.array([[0.5], [0.49999]]), ["a", "b"], ["one"], RESAMPLING)
    assert scores["classification"]["macro"]["accuracy"] == 1.0


def test_crg_is_one_over_three_minus_twice_youden():
    labels, probabilities, _ = made_up()
    terms = crg(labels, probabilities >= 0.5)
    youden = terms["TP"] / terms["A"] - terms["FP"] / (terms["X"] - terms["A"])
    assert terms["CRG"] == pytest.approx(1 / (3 - 2 * youden), abs=1e-12)
    assert terms["U"] == pytest.approx(terms["A"] * terms["r"], abs=1e-9)
    assert terms["A"] == terms["TP"] + terms["FN"] == labels.sum()
    assert terms["X"] == labels.size


@pytest.mark.parametrize("called", [False, True])
def test_crg_of_all_or_nothing_is_a_third(called):
    labels, _, _ = made_up()
    assert crg(labels, np.full(labels.shape, called))["CRG"] == pytest.approx(1 / 3, abs=1e-12)


def test_crg_of_a_perfect_reader_is_one_and_without_positives_undefined():
    labels, _, _ = made_up()
    assert crg(labels, labels.astype(bool))["CRG"] == 1.0
    assert crg(np.zeros((3, 2), int), np.ones((3, 2), bool))["CRG"] is None


def test_a_finding_without_positives_is_null_in_json_and_left_out_of_macro_auroc():
    labels, probabilities, patients = made_up()
    labels[:, 3] = 0
    scores = evaluate(labels, probabilities, patients, FINDINGS, RESAMPLING)
    rest = [column for column in range(len(FINDINGS)) if column != 3]
    expected = metrics.roc_auc_score(labels[:, rest], probabilities[:, rest])
    assert scores["classification"]["macro"]["auroc"] == pytest.approx(expected, abs=1e-12)
    effusion = json.loads(json.dumps(scores, allow_nan=False))
    assert effusion["classification"]["per_pathology"]["Pericardial effusion"]["auroc"] is None
    assert effusion["classification"]["per_pathology"]["Pericardial effusion"]["f1"] == 0.0
    assert effusion["average_precision"]["per_pathology"]["Pericardial effusion"] is None
    assert effusion["intervals"]["per_pathology"]["Pericardial effusion"]["auroc"] is None


def test_no_scan_with_any_finding_still_gives_valid_json():
    scores = evaluate(np.zeros((4, 2)), np.full((4, 2), 0.1), list("abcd"), ["x", "y"], RESAMPLING)
    json.dumps(scores, allow_nan=False)
    assert scores["classification"]["macro"]["auroc"] is None
    assert summary(scores)["crg"] is None
    assert summary(scores)["auroc_low"] is None


def test_headline_is_six_short_plain_numbers():
    labels, probabilities, patients = made_up()
    scores = evaluate(labels, probabilities, patients, FINDINGS, RESAMPLING)
    numbers = summary(scores)
    assert len(numbers) == 6
    assert all(len(name) <= 9 and isinstance(value, float) for name, value in numbers.items())
    assert numbers["auroc_low"] < numbers["auroc"]


def test_too_many_patients_are_refused():
    labels, probabilities, patients = made_up()
    with pytest.raises(InputError, match="patients"):
        evaluate(labels, probabilities, [*patients, "valid_x"], FINDINGS, RESAMPLING)
