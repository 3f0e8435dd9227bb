"""Two models on the same scans: differences, their intervals, and how likely chance alone is.

Intervals: both are scored on the same bootstrap resamples of patients. p-values: if the models were
equal, whose prediction is whose would not matter, so the two predictions of every patient are
swapped or not, by a coin each, and the differences that arise so are what chance gives. Where only
the order of scans counts (AUROC, average precision), ranks are swapped, not probabilities: two
models of other scales would else drown each other's order (E. S. Venkatraman, C. B. Begg, "A
distribution-free procedure for comparing receiver operating characteristic curves from a paired
experiment", 1996). Many findings are tested at once, so theirs are also adjusted for the false
discovery rate (Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", 1995).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, rankdata

from multi_abnormality.data.randomness import generator
from multi_abnormality.evaluation.intervals import CHUNK, bootstrap, number_patients, percentiles
from multi_abnormality.evaluation.scores import OfficialScores, official_scores
from multi_abnormality.evaluation.thresholds import CHALLENGE_THRESHOLD
from multi_abnormality.evaluation.weighted import (
    MEASURES,
    defined_mean,
    rankings_of,
    weighted_scores,
)

ROUNDING = 1e-12  # differences that differ by less are equal: sums of floats depend on their order


@dataclass(frozen=True)
class Draws:
    """How often chance is tried, and with what."""

    resamples: int  # of the bootstrap, and as many permutations
    confidence: float  # of the intervals
    seed: int


def compare_models(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    draws: Draws,
) -> dict[str, dict[str, Any]]:
    """Every score of both models, and their difference: the second's less the first's.

    Args:
        labels: (N, F), 0 or 1; a row a scan.
        first: (N, F) probabilities of the first model.
        second: (N, F), of the second one.
        patients: N ids; a patient's scans are resampled and swapped together.
        findings: F names.
        draws: how many, and from which seed.

    Returns:
        `macro`, by measure, CRG among them, and `per_pathology`, by finding and measure: `a`, `b`,
        `difference`, `interval` and `p`, the findings' with `q` too, which is p adjusted within a
        measure. None stands where one is undefined.
    """
    scores = [official_scores(labels, chances, findings) for chances in (first, second)]
    drawn = [
        bootstrap(labels, chances, patients, resamples=draws.resamples, seed=draws.seed)
        for chances in (first, second)
    ]
    resampled = _with_macro(_minus(drawn[1], drawn[0]))
    permuted = _with_macro(permuted_differences(labels, first, second, patients, draws))

    def compared(values: list[float | None], measure: str, place: int) -> dict[str, Any]:
        return {
            **_difference(*values),
            "interval": percentiles(resampled[measure][:, place], draws.confidence),
            "p": p_value(permuted[measure][:, place]),
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
    draws: Draws,
) -> dict[str, np.ndarray]:
    """Second less first, (1 + R, F) a measure and (1 + R, 1) for crg: as they are, then swapped.

    Both models' scans are ranked together once. A permutation then is a choice of half of the
    rows, one of every scan's two: weights of 0 and 1.
    """
    count, patient_of_row = number_patients(patients, len(labels))
    truth = np.concatenate([labels, labels])
    called = np.concatenate([first, second]) >= CHALLENGE_THRESHOLD
    ranks = [rankdata(chances, axis=0) for chances in (first, second)]
    rankings = rankings_of(truth, np.concatenate(ranks))
    parts = []
    for swapped in _swaps(count, draws):
        chosen = swapped[patient_of_row]
        ours, theirs = np.concatenate([1 - chosen, chosen]), np.concatenate([chosen, 1 - chosen])
        own, other = (
            weighted_scores(truth, called, rankings, weights) for weights in (ours, theirs)
        )
        parts.append(_minus(other, own))
    return {measure: np.concatenate([part[measure] for part in parts]) for measure in parts[0]}


def p_value(differences: np.ndarray) -> float | None:
    """Two-sided, from (1 + R,) of which the first is the one observed; at least 1 / (1 + R)."""
    if np.isnan(differences).any():
        return None
    return float(np.mean(np.abs(differences) >= abs(differences[0]) - ROUNDING))


def adjust(per_finding: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Add `q` to each p: over the findings that have one, measure by measure."""
    for measure in MEASURES:
        tests = [scores[measure] for scores in per_finding.values()]
        defined = [test for test in tests if test["p"] is not None]
        adjusted = false_discovery_control([test["p"] for test in defined]) if defined else []
        for test in tests:
            test["q"] = None
        for test, q in zip(defined, adjusted, strict=True):
            test["q"] = float(q)


def _swaps(patients: int, draws: Draws) -> Iterator[np.ndarray]:
    """(patients, R) chunks of 0 and 1, the first of none: as they are."""
    coins = generator(draws.seed, "swaps")
    yield np.zeros((patients, 1), np.int32)
    for start in range(0, draws.resamples, CHUNK):
        count = min(CHUNK, draws.resamples - start)
        yield coins.integers(2, size=(count, patients), dtype=np.int32).T


def _minus(second: dict[str, np.ndarray], first: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    differences = {measure: second[measure] - first[measure] for measure in first}
    differences["crg"] = differences["crg"][:, None]
    return differences


def _with_macro(differences: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With the mean over findings as one more column: (R, F) -> (R, F + 1)."""
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
