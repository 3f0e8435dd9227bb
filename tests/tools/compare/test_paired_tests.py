"""Paired tests on cases with known results."""

import time

import numpy as np
import pytest
from scipy.stats import kstest, permutation_test, rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.metric_registry import METRICS
from multi_abnormality.tools.compare.paired_tests import (
    adjust,
    compare_models,
    p_value,
    permuted_differences,
)
from multi_abnormality.utils.rng import generator

DRAWS = ResamplingConfig(n_bootstrap=300, confidence=0.95, seed=0)


def made_up(
    scans: int, findings: int = 3, noise: tuple[float, float] = (1.0, 1.0), seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Labels, two models' probabilities, rounded for ties, and patients of two scans each."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((scans, findings)) < 0.35).astype(int)
    seen = 1.5 * labels + rng.normal(size=labels.shape)
    models = [
        np.round(1 / (1 + np.exp(0.8 - seen - own * rng.normal(size=labels.shape))), 2)
        for own in noise
    ]
    return labels, *models, [f"p{row // 2}" for row in range(scans)]


def names(labels: np.ndarray) -> list[str]:
    return [f"finding {column}" for column in range(labels.shape[1])]


def all_scores(comparison: dict) -> list[dict]:
    return [*comparison["macro"].values()] + [
        scores for own in comparison["per_pathology"].values() for scores in own.values()
    ]


def test_identical_models_have_no_difference():
    labels, first, _, patients = made_up(60)
    comparison = compare_models(labels, first, first, patients, names(labels), DRAWS)
    for scores in all_scores(comparison):
        assert scores["a"] == scores["b"]
        assert scores["difference"] == 0
        assert scores["interval"] == {"low": 0, "high": 0}
        assert scores["p"] == 1
        assert scores.get("q", 1) == 1


def test_clearly_better_model_is_significant_in_both_directions():
    labels, first, second, patients = made_up(300, noise=(2.5, 0.3))
    there = compare_models(labels, first, second, patients, names(labels), DRAWS)
    back = compare_models(labels, second, first, patients, names(labels), DRAWS)
    for comparison, sign in ((there, 1), (back, -1)):
        auroc = comparison["macro"]["auroc"]
        assert auroc["difference"] * sign > 0.1
        assert min(auroc["interval"]["low"] * sign, auroc["interval"]["high"] * sign) > 0
        assert auroc["p"] == pytest.approx(1 / 301)
        assert all(own["auroc"]["q"] < 0.01 for own in comparison["per_pathology"].values())
    assert there["macro"]["auroc"]["difference"] == -back["macro"]["auroc"]["difference"]


def test_permuted_differences_match_scores_of_swapped_arrays():
    labels, first, second, patients = made_up(40)
    draws = ResamplingConfig(n_bootstrap=6, confidence=0.95, seed=3)
    permuted = permuted_differences(labels, first, second, patients, draws)
    people, person_of_row = np.unique(patients, return_inverse=True)
    coins = generator(3, "swaps").integers(2, size=(6, len(people)), dtype=np.int32)
    for row, swapped in enumerate([np.zeros(len(people), int), *coins]):
        own = swapped[person_of_row][:, None] == 1
        ranks = [rankdata(chances, axis=0) for chances in (first, second)]
        models = np.where(own, *ranks[::-1]), np.where(own, *ranks)
        for measure, function in (
            ("auroc", roc_auc_score),
            ("average_precision", average_precision_score),
        ):
            one, other = (function(labels, chances, average=None) for chances in models)
            np.testing.assert_allclose(permuted[measure][row], other - one, atol=1e-12)
        models = np.where(own, second, first), np.where(own, first, second)
        one, other = (((chances >= 0.5) == labels).mean(axis=0) for chances in models)
        np.testing.assert_allclose(permuted["accuracy"][row], other - one, atol=1e-12)


def test_p_value_counts_differences_at_least_as_large():
    assert p_value(np.array([2.0, 1.0, -2.0, 0.5, -3.0])) == pytest.approx(3 / 5)
    assert p_value(np.array([0.0, 1.0, -1.0])) == 1
    assert p_value(np.array([np.nan, np.nan])) is None


def test_a_p_value_is_that_of_scipy():
    """Of accuracy, with one scan per patient and other random numbers."""
    labels, first, second, _ = made_up(150, findings=1, noise=(1.6, 0.8))
    patients = [str(row) for row in range(150)]
    draws = ResamplingConfig(n_bootstrap=2000, confidence=0.95, seed=0)
    found = p_value(permuted_differences(labels, first, second, patients, draws)["accuracy"][:, 0])
    correct = [((model >= 0.5) == labels)[:, 0].astype(float) for model in (first, second)]
    expected = permutation_test(
        correct, lambda one, other: one.mean() - other.mean(), permutation_type="samples", rng=1
    )
    assert 0.01 < expected.pvalue < 0.9
    assert found == pytest.approx(expected.pvalue, abs=0.03)


def null_p_values(measure: str) -> np.ndarray:
    """P-values of 240 pairs of equally good models."""
    draws = ResamplingConfig(n_bootstrap=99, confidence=0.95, seed=0)
    permuted = [
        permuted_differences(*made_up(120, findings=4, seed=seed), draws)[measure]
        for seed in range(60)
    ]
    return np.array([p_value(column) for columns in permuted for column in columns.T])


def test_p_values_are_uniform_under_the_null_hypothesis():
    found = null_p_values("auroc")
    assert kstest(found, "uniform").pvalue > 0.01
    assert 0.02 < (found <= 0.05).mean() < 0.09


def test_p_values_with_ties_are_conservative():
    found = null_p_values("accuracy")
    for level in (0.05, 0.1, 0.2, 0.5):
        assert (found <= level).mean() < level + 3 * np.sqrt(level * (1 - level) / len(found))


def test_ranking_measures_do_not_depend_on_the_scale_of_probabilities():
    labels, first, second, patients = made_up(120, noise=(1.5, 0.7))
    plain = compare_models(labels, first, second, patients, names(labels), DRAWS)
    faint = compare_models(labels, first, second / 9, patients, names(labels), DRAWS)
    for measure in ("auroc", "average_precision"):
        assert faint["macro"][measure] == plain["macro"][measure]
    assert faint["macro"]["recall"]["b"] < plain["macro"]["recall"]["b"]


def test_scans_of_one_patient_are_resampled_together():
    labels, first, second, patients = made_up(100, noise=(1.2, 0.8))
    copies = [np.tile(array, (4, 1)) for array in (labels, first, second)]
    once = compare_models(labels, first, second, patients, names(labels), DRAWS)
    together = compare_models(*copies, patients * 4, names(labels), DRAWS)
    apart = compare_models(*copies, [str(row) for row in range(400)], names(labels), DRAWS)
    assert together["macro"]["auroc"]["p"] == once["macro"]["auroc"]["p"]
    assert apart["macro"]["auroc"]["p"] < once["macro"]["auroc"]["p"]


def test_adjust_follows_benjamini_and_hochberg():
    """Sorted p_i * m / i, the smallest of it and all above: worked by hand."""
    given = [0.01, 0.04, 0.03, 0.005, None, 0.55]
    adjusted = [0.025, 0.05, 0.05, 0.025, None, 0.55]
    per_finding = {
        str(index): {measure: {"p": value} for measure in METRICS}
        for index, value in enumerate(given)
    }
    adjust(per_finding)
    for measure in METRICS:
        found = [own[measure]["q"] for own in per_finding.values()]
        assert found[4] is None
        assert found[:4] + found[5:] == pytest.approx(adjusted[:4] + adjusted[5:])


def test_finding_without_positives_is_undefined_and_not_adjusted():
    labels, first, second, patients = made_up(80, noise=(2.0, 0.5))
    labels[:, 1] = 0
    comparison = compare_models(labels, first, second, patients, names(labels), DRAWS)
    empty = comparison["per_pathology"]["finding 1"]["auroc"]
    assert empty == dict.fromkeys(("a", "b", "difference", "interval", "p", "q"))
    others = [comparison["per_pathology"][f"finding {column}"]["auroc"] for column in (0, 2)]
    smallest = min(one["p"] for one in others)
    assert min(one["q"] for one in others) <= 2 * smallest


def test_results_depend_on_the_seed_alone():
    arrays = made_up(60)
    first, again, other = (
        compare_models(*arrays, names(arrays[0]), ResamplingConfig(200, 0.95, seed))
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_compare_on_the_whole_test_split_is_fast():
    labels, first, second, patients = made_up(3039, findings=18)
    start = time.process_time()
    compare_models(labels, first, second, patients, names(labels), ResamplingConfig(200, 0.95, 0))
    assert time.process_time() - start < 6  # a tenth of 2,000 draws
