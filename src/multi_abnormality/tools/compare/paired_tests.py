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
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, rankdata

from multi_abnormality.evaluation.confidence_intervals import (
    CHUNK,
    Resampler,
    ResamplingConfig,
    bootstrap,
    concatenate,
    encode_patients,
    percentiles,
)
from multi_abnormality.evaluation.metric_registry import METRICS
from multi_abnormality.evaluation.resampled_counts import defined_mean
from multi_abnormality.evaluation.scores import finding_score, macro_score, official_scores
from multi_abnormality.utils.rng import generator

ROUNDING = 1e-12  # tolerance for equal differences: sums of floats depend on their order


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
        bootstrap(labels, probs, patients, resampling) for probs in (first, second)
    )
    resampled = _with_macro(_subtract(second_samples, first_samples))
    permuted = _with_macro(permuted_differences(labels, first, second, patients, resampling))

    def compared(values: list[float | None], measure: str, column: int) -> dict[str, Any]:
        return {
            **_difference(*values),
            "interval": percentiles(resampled[measure][:, column], resampling.confidence),
            "p": p_value(permuted[measure][:, column]),
        }

    macro = {
        name: compared([macro_score(own, name) for own in scores], name, column)
        for name, column in (dict.fromkeys(METRICS, len(findings)) | {"crg": 0}).items()
    }
    per_finding = {
        finding: {
            name: compared([finding_score(own, finding, name) for own in scores], name, column)
            for name in METRICS
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
    ranks = [rankdata(probs, axis=0) for probs in (first, second)]
    resampler = Resampler(*map(np.concatenate, ([labels] * 2, [first, second], ranks)))

    def differences(permutation: np.ndarray) -> dict[str, np.ndarray]:
        swapped = permutation[patient_of_row]
        first_scores = resampler.scores(np.concatenate([1 - swapped, swapped]))
        return _subtract(resampler.scores(np.concatenate([swapped, 1 - swapped])), first_scores)

    return concatenate(map(differences, _permutations(count, resampling)))


def p_value(differences: np.ndarray) -> float | None:
    """Two-sided p-value, at least 1 / (1 + R), of (1 + R,) differences; the first is observed."""
    if np.isnan(differences).any():
        return None
    return float(np.mean(np.abs(differences) >= abs(differences[0]) - ROUNDING))


def adjust(per_finding: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Add `q`, the p-value adjusted over the findings that have one, to each measure's scores."""
    for measure in METRICS:
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
        for measure in METRICS
    }
    return differences | means


def _difference(first: float | None, second: float | None) -> dict[str, float | None]:
    difference = None if first is None or second is None else second - first
    return {"a": first, "b": second, "difference": difference}
