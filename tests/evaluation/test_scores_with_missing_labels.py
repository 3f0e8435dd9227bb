"""Scores, intervals, calibration and comparisons where labels are missing."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics

from multi_abnormality.evaluation.calibration import Calibration, calibration_scores
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig, bootstrap
from multi_abnormality.evaluation.dvc_plots import write_plots
from multi_abnormality.evaluation.metric_registry import CHALLENGE_METRICS, metric_names
from multi_abnormality.evaluation.scores import evaluate, official_scores
from multi_abnormality.tools.compare.paired_tests import compare_models

MANY = 197  # seed of a table with many labels of each class and finding


def made_up(
    seed: int, findings: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Labels with up to 60 % missing, probabilities with ties, patients and findings."""
    rng = np.random.default_rng(seed)
    scans, findings = int(rng.integers(5, 60)), findings or int(rng.integers(1, 3))
    labels = (rng.random((scans, findings)) < rng.random(findings)).astype(float)
    probabilities = np.round(rng.beta(1 + 2 * labels, 2), 2)
    labels[rng.random(labels.shape) < rng.uniform(0, 0.6)] = np.nan
    if seed % 4 == 0:
        labels[:, 0] = np.nan
    patients = [f"p{row // 2}" for row in range(scans)]
    return labels, probabilities, patients, [f"finding {column}" for column in range(findings)]


def by_scikit_learn(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """The challenge's scores of one finding, on the rows that have a label."""
    known = ~np.isnan(labels)
    truth, chances = labels[known].astype(int), probabilities[known]
    if not len(truth):
        return dict.fromkeys(CHALLENGE_METRICS)
    predicted = (chances >= 0.5).astype(int)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        truth, predicted, average="binary", zero_division=0
    )
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "accuracy": metrics.accuracy_score(truth, predicted),
        "auroc": metrics.roc_auc_score(truth, chances) if len(set(truth)) == 2 else None,
    }


def crg_of(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    known = ~np.isnan(labels)
    truth, predicted = labels[known].astype(int), probabilities[known] >= 0.5
    if not truth.any():
        return None
    if truth.all():
        return 0.0
    hits = metrics.recall_score(truth, predicted)
    return 1 / (3 - 2 * (hits - (1 - metrics.recall_score(1 - truth, ~predicted))))


def test_challenge_scores_are_scikit_learns_on_the_rows_with_a_label():
    """200 random tables."""
    unscored = 0
    for seed in range(200):
        labels, probabilities, _, findings = made_up(seed)
        scores = official_scores(labels, probabilities, findings)
        expected = [by_scikit_learn(*columns) for columns in zip(labels.T, probabilities.T)]  # noqa: B905
        for finding, one in zip(findings, expected, strict=True):
            found = scores["classification"]["per_pathology"][finding]
            assert found == pytest.approx(one, abs=1e-12), (seed, finding)
            unscored += found["accuracy"] is None
        for name in CHALLENGE_METRICS:
            defined = [one[name] for one in expected if one[name] is not None]
            macro = scores["classification"]["macro"][name]
            assert macro == (pytest.approx(np.mean(defined), abs=1e-12) if defined else None)
        assert scores["crg"]["X"] == (~np.isnan(labels)).sum()
        crg = crg_of(labels, probabilities)
        assert scores["crg"]["CRG"] == (crg if crg is None else pytest.approx(crg, abs=1e-12))
    assert unscored >= 50


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_is_scored_as_its_rows(seed: int):
    labels, probabilities, patients, findings = made_up(seed)
    resampling = ResamplingConfig(20, 0.95, seed)
    drawn = bootstrap(labels, probabilities, patients, resampling)
    names, patient_of_row = np.unique(patients, return_inverse=True)
    choice = np.random.default_rng(seed).integers(len(names), size=(20, len(names)))
    for resample, chosen in enumerate(choice):
        rows = np.concatenate([np.flatnonzero(patient_of_row == patient) for patient in chosen])
        scores = official_scores(labels[rows], probabilities[rows], findings)
        for column, finding in enumerate(findings):
            own = scores["classification"]["per_pathology"][finding]
            own = own | {"average_precision": scores["average_precision"]["per_pathology"][finding]}
            for name in metric_names():
                expected = np.nan if own[name] is None else own[name]
                assert drawn[name][resample, column] == pytest.approx(
                    expected, abs=1e-12, nan_ok=True
                )
        crg = scores["crg"]["CRG"]
        expected = np.nan if crg is None else crg
        assert drawn["crg"][resample] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_scores_are_plain_numbers_and_null_without_a_label(tmp_path):
    labels, probabilities, patients, findings = made_up(MANY, 3)
    labels[:, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = evaluate(
            labels, probabilities, patients, findings, ResamplingConfig(50, 0.95, 0),
            probabilities**2,
        )  # fmt: skip
        write_plots(tmp_path, labels, probabilities, findings)
    json.dumps(scores, allow_nan=False)
    empty = findings[0]
    assert set(scores["classification"]["per_pathology"][empty].values()) == {None}
    assert scores["average_precision"]["per_pathology"][empty] is None
    assert set(scores["intervals"]["per_pathology"][empty].values()) == {None}
    assert scores["calibration"]["after"]["per_pathology"][empty] == {"ece": None, "brier": None}
    assert scores["counts"]["positives"][empty] == 0
    others = evaluate(
        labels[:, 1:], probabilities[:, 1:], patients, findings[1:], ResamplingConfig(50, 0.95, 0)
    )
    assert scores["classification"]["macro"] == others["classification"]["macro"]
    assert scores["intervals"]["macro"] == others["intervals"]["macro"]
    assert scores["crg"] == others["crg"]
    assert scores["calibration"]["after"]["macro"] == others["calibration"]["after"]["macro"]
    for path in tmp_path.iterdir():
        assert empty not in path.read_text()


@pytest.mark.parametrize("metric", ["crg", "f1", "accuracy", "none"])
def test_calibration_and_thresholds_use_the_scans_with_a_label(metric: str):
    labels, probabilities, _, findings = made_up(MANY, 3)
    logits = np.log((probabilities + 0.01) / (1.01 - probabilities))
    labels[:, 1] = np.nan
    calibration = Calibration.fit(logits, labels, findings, metric)
    assert calibration.uncalibrated == [findings[1]]
    assert (calibration.slope[1], calibration.thresholds[1]) == (1, 0.5)
    for column, finding in enumerate(findings):
        known = ~np.isnan(labels[:, column])
        if not known.any():
            continue
        rows = np.ix_(known, [column])
        alone = Calibration.fit(logits[rows], labels[rows].astype(int), [finding], metric)
        assert alone.slope[0] == calibration.slope[column]
        assert alone.intercept[0] == calibration.intercept[column]
        assert (alone.positives[0], alone.negatives[0]) == (
            calibration.positives[column], calibration.negatives[column],
        )  # fmt: skip
        if metric == "f1":
            assert alone.thresholds[0] == calibration.thresholds[column]
    if metric == "crg":
        after = calibration.calibrate(logits)[~np.isnan(labels)]
        assert calibration.thresholds[0] == pytest.approx(after.mean(), abs=1e-11)
    scores = calibration_scores(labels, calibration.calibrate(logits), findings)
    known = ~np.isnan(labels[:, 0])
    assert scores["per_pathology"][findings[0]]["brier"] == pytest.approx(
        metrics.brier_score_loss(
            labels[known, 0].astype(int), calibration.calibrate(logits)[known, 0]
        ),
        abs=1e-12,
    )


def test_models_are_compared_on_the_scans_with_a_label():
    labels, first, patients, findings = made_up(MANY, 3)
    second = np.clip(first + np.random.default_rng(0).normal(size=first.shape) / 5, 0, 1).round(2)
    labels[:, -1] = np.nan
    resampling = ResamplingConfig(60, 0.95, 0)
    compared = compare_models(labels, first, second, patients, findings, resampling)
    json.dumps(compared, allow_nan=False)
    assert set(compared["per_pathology"][findings[-1]]["auroc"].values()) == {None}
    some = labels[:, :-1], first[:, :-1], second[:, :-1]
    others = compare_models(*some, patients, findings[:-1], resampling)
    assert compared["macro"] == others["macro"]
    known = ~np.isnan(labels[:, 0])
    one = [part[known][:, :1] for part in (labels, first, second)]
    alone = compare_models(
        one[0].astype(int), *one[1:], np.array(patients)[known].tolist(), findings[:1], resampling
    )
    for key in ("a", "b", "difference"):
        assert compared["per_pathology"][findings[0]]["auroc"][key] == pytest.approx(
            alone["per_pathology"][findings[0]]["auroc"][key], abs=1e-12
        )
