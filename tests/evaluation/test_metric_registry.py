"""A metric is defined once, in METRICS, for scores, intervals, model card, comparison and report
(tests/evaluation/test_html_report.py)."""

import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from multi_abnormality.evaluation.confidence_intervals import Resampler, ResamplingConfig
from multi_abnormality.evaluation.metric_registry import METRICS, Metric
from multi_abnormality.evaluation.scores import evaluate
from multi_abnormality.export.model_info_schema import described_scores
from multi_abnormality.tools.compare.paired_tests import compare_models


def agreement(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return 1 - brier_score_loss(labels, probabilities)


@pytest.fixture
def new_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "agreement", Metric("Agreement", agreement))


@pytest.mark.usefixtures("new_metric")
def test_a_new_metric_is_scored_bootstrapped_and_described():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 2)) < 0.4).astype(int)
    probabilities = rng.beta(1 + labels, 2)
    patients = [str(row // 2) for row in range(60)]
    scores = evaluate(labels, probabilities, patients, ["x", "y"], ResamplingConfig(30, 0.95, 0))
    expected = [agreement(labels[:, column], probabilities[:, column]) for column in (0, 1)]
    assert scores["agreement"]["per_pathology"] == dict(zip(("x", "y"), expected, strict=True))
    assert scores["agreement"]["macro"] == pytest.approx(np.mean(expected))
    interval = scores["intervals"]["macro"]["agreement"]
    assert interval["low"] < scores["agreement"]["macro"] < interval["high"]
    described = described_scores({**json.loads(json.dumps(scores)), "groups": {}})
    assert described["eval_metrics"]["agreement"] == scores["agreement"]["macro"]


@pytest.mark.usefixtures("new_metric")
def test_a_new_metric_is_compared():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 2)) < 0.4).astype(int)
    better, worse = rng.beta(1 + 5 * labels, 4), rng.random((60, 2))
    patients = [str(row) for row in range(60)]
    cells = labels, worse, better, patients, ["x", "y"], ResamplingConfig(40, 0.95, 0)
    compared = compare_models(*cells)["macro"]["agreement"]
    assert compared["difference"] > 0
    assert compared["interval"]["low"] > 0
    assert compared["p"] == pytest.approx(1 / 41)


@pytest.mark.parametrize("name", METRICS)
def test_both_versions_of_a_metric_agree(name: str, monkeypatch: pytest.MonkeyPatch):
    """Of resamples with and without positives, and with ties."""
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 3)) < 0.2).astype(int)
    probabilities = np.round(rng.random((30, 3)), 1)
    weights = rng.integers(0, 3, size=(30, 20)).astype(np.int32)
    weights[:, 0] = labels[:, 0] == 0
    weights[:, 1] = labels[:, 1] == 1
    fast = Resampler(labels, probabilities).scores(weights)[name]
    monkeypatch.setitem(METRICS, name, Metric(name, METRICS[name].score))
    slow = Resampler(labels, probabilities).scores(weights)[name]
    np.testing.assert_allclose(fast, slow, rtol=1e-12)


def test_metrics_of_ranks_get_ranks_and_others_probabilities(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    labels, probabilities = np.array([[0], [1], [0], [1]]), rng.random((4, 1))
    monkeypatch.setitem(METRICS, "a", Metric("A", roc_auc_score, rank_based=True))
    monkeypatch.setitem(METRICS, "b", Metric("B", roc_auc_score))
    ranks = np.array([[1], [2], [3], [4]])
    scores = Resampler(labels, probabilities, ranks).scores(np.ones((4, 1), np.int32))
    assert scores["a"] == roc_auc_score(labels, ranks)
    assert scores["b"] == roc_auc_score(labels, probabilities)
