"""Paired tests of two models on the same scans: differences, confidence intervals and p-values.

Intervals: paired bootstrap over patients. p-values: permutation test; under the null hypothesis the
two predictions of a patient are exchangeable, so they are swapped at random. For measures that
depend on the order of scans alone (AUROC, average precision), ranks are swapped instead of
probabilities, since the models may have different scales (E. S. Venkatraman, C. B. Begg, "A
distribution-free procedure for comparing receiver operating characteristic curves from a paired
experiment", 1996). The p-values of the findings are also adjusted for the false discovery rate (Y.
Benjamini, Y. Hochberg, "Controlling the false discovery rate", 1995).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, rankdata

from multi_abnormality.evaluation.bootstrap import CHUNK, bootstrap, encode_patients, percentiles
from multi_abnormality.evaluation.challenge_scores import OfficialScores, official_scores
from multi_abnormality.evaluation.thresholds import CHALLENGE_THRESHOLD
from multi_abnormality.evaluation.weighted_metrics import (
    MEASURES,
    defined_mean,
    rankings_of,
    weighted_scores,
)
from multi_abnormality.utils.rng import generator

ROUNDING = 1e-12  # tolerance for equal differences: sums of floats depend on their order


@dataclass(frozen=True)
class ResamplingConfig:
    """Resampling settings.

    Attributes:
        n_bootstrap: number of bootstrap resamples, and of permutations.
        confidence: confidence level of the intervals.
        seed: random seed.
    """

    n_bootstrap: int
    confidence: float
    seed: int


def compare_models(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    resampling: ResamplingConfig,
) -> dict[str, dict[str, Any]]:
    """Compute every score of both models and the difference, second minus first.

    Args:
        labels: (N, F) labels, 0 or 1, one row per scan.
        first: (N, F) probabilities of the first model.
        second: (N, F) probabilities of the second model.
        patients: N ids; a patient's scans are resampled and swapped together.
        findings: F names.
        resampling: resampling settings.

    Returns:
        `macro` by measure, including CRG, and `per_pathology` by finding and measure: `a`, `b`,
        `difference`, `interval`, `p`, and for findings `q`, the p-value adjusted within a measure.
        Undefined values are None.
    """
    scores = [official_scores(labels, probs, findings) for probs in (first, second)]
    first_samples, second_samples = (
        bootstrap(labels, probs, patients, n_bootstrap=resampling.n_bootstrap, seed=resampling.seed)
        for probs in (first, second)
    )
    resampled = _with_macro(_subtract(second_samples, first_samples))
    permuted = _with_macro(permuted_differences(labels, first, second, patients, resampling))

    def compared(values: list[float | None], measure: str, column: int) -> dict[str, Any]:
        return {
            **_difference(*values),
            "interval": percentiles(resampled[measure][:, column], resampling.confidence),
            "p": p_value(permuted[measure][:, column]),
        }

    columns = len(findings)
    macro = {
        measure: compared([_macro_of(own, measure) for own in scores], measure, columns)
        for measure in MEASURES
    }
    macro["crg"] = compared([own["crg"]["CRG"] for own in scores], "crg", 0)
    per_finding = {
        finding: {
            measure: compared([_value_of(own, finding, measure) for own in scores], measure, column)
            for measure in MEASURES
        }
        for column, finding in enumerate(findings)
    }
    adjust(per_finding)
    return {"macro": macro, "per_pathology": per_finding}


def permuted_differences(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str],
    resampling: ResamplingConfig,
) -> dict[str, np.ndarray]:
    """Differences, second minus first, of the original and the permuted predictions.

    Both models' scans are ranked together once. A permutation then selects one of every scan's two
    rows by weights of 0 and 1.

    Returns:
        (1 + R, F) per measure, (1 + R, 1) for crg; row 0 is the original.
    """
    count, patient_of_row = encode_patients(patients, len(labels))
    y_true = np.concatenate([labels, labels])
    pred = np.concatenate([first, second]) >= CHALLENGE_THRESHOLD
    ranks = [rankdata(probs, axis=0) for probs in (first, second)]
    rankings = rankings_of(y_true, np.concatenate(ranks))
    parts = []
    for permutation in _permutations(count, resampling):
        swapped = permutation[patient_of_row]
        first_weights = np.concatenate([1 - swapped, swapped])
        second_weights = np.concatenate([swapped, 1 - swapped])
        first_scores, second_scores = (
            weighted_scores(y_true, pred, rankings, weights)
            for weights in (first_weights, second_weights)
        )
        parts.append(_subtract(second_scores, first_scores))
    return {measure: np.concatenate([part[measure] for part in parts]) for measure in parts[0]}


def p_value(differences: np.ndarray) -> float | None:
    """Two-sided p-value, at least 1 / (1 + R), of (1 + R,) differences; the first is observed."""
    if np.isnan(differences).any():
        return None
    return float(np.mean(np.abs(differences) >= abs(differences[0]) - ROUNDING))


def adjust(per_finding: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Add `q`, the p-value adjusted over the findings that have one, to each measure's scores."""
    for measure in MEASURES:
        tests = [scores[measure] for scores in per_finding.values()]
        defined = [test for test in tests if test["p"] is not None]
        adjusted = false_discovery_control([test["p"] for test in defined]) if defined else []
        for test in tests:
            test["q"] = None
        for test, q in zip(defined, adjusted, strict=True):
            test["q"] = float(q)


def _permutations(patients: int, resampling: ResamplingConfig) -> Iterator[np.ndarray]:
    """Yield (patients, R) chunks of 0 and 1 (swapped); the first is the identity."""
    rng = generator(resampling.seed, "swaps")
    yield np.zeros((patients, 1), np.int32)
    for start in range(0, resampling.n_bootstrap, CHUNK):
        count = min(CHUNK, resampling.n_bootstrap - start)
        yield rng.integers(2, size=(count, patients), dtype=np.int32).T


def _subtract(second: dict[str, np.ndarray], first: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    differences = {measure: second[measure] - first[measure] for measure in first}
    differences["crg"] = differences["crg"][:, None]
    return differences


def _with_macro(differences: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Append the mean over findings as a column: (R, F) to (R, F + 1)."""
    means = {
        measure: np.column_stack([differences[measure], defined_mean(differences[measure])])
        for measure in MEASURES
    }
    return differences | means


def _difference(first: float | None, second: float | None) -> dict[str, float | None]:
    difference = None if first is None or second is None else second - first
    return {"a": first, "b": second, "difference": difference}


def _macro_of(scores: OfficialScores, measure: str) -> float | None:
    if measure == "average_precision":
        return scores["average_precision"]["macro"]
    return scores["classification"]["macro"][measure]


def _value_of(scores: OfficialScores, finding: str, measure: str) -> float | None:
    if measure == "average_precision":
        return scores["average_precision"]["per_pathology"][finding]
    return scores["classification"]["per_pathology"][finding][measure]
