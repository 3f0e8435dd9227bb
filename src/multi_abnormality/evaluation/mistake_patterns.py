"""Mistakes that are more frequent among some scans: of a group, or with another finding."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from multi_abnormality.evaluation.interval_bands import Weights
from multi_abnormality.evaluation.subgroups import members

MIN_CASES = 10  # scans on each side of a comparison
SIGNIFICANT = 0.05


class Pattern(NamedTuple):
    """A mistake that is more frequent under a condition.

    Attributes:
        finding: name of the finding.
        kind: "missed", of its positives, or "false alarm", of its negatives.
        condition: the scans, such as "with Pleural effusion" or "kernel: B30f".
        mistakes, cases: numbers among these scans.
        other_mistakes, other_cases: numbers among the others.
        p: of a two-sided z test with a bootstrap over patients, adjusted for all comparisons.
    """

    finding: str
    kind: str
    condition: str
    mistakes: int
    cases: int
    other_mistakes: int
    other_cases: int
    p: float


def mistake_patterns(
    labels: np.ndarray,
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    findings: Sequence[str],
    undecided: Collection[str],
    groups: pd.DataFrame,
    weights: Weights,
) -> list[Pattern]:
    """Find the conditions under which a finding is missed, or a false alarm, more often.

    Args:
        labels: (N, F), 0, 1 or NaN for a missing one.
        probabilities: (N, F).
        thresholds: (F,) probability from which on a finding is positive.
        findings: F names.
        undecided: findings without a decision, which are left out.
        groups: N rows, from `subgroups.subgroup_columns`.
        weights: resamples of the N scans.

    Returns:
        Patterns with p below SIGNIFICANT, the smallest first.
    """
    rows = np.concatenate([np.ones((len(labels), 1)), weights.rows], axis=1)
    conditions = {
        f"{trait}: {kind}": inside
        for trait, kinds in members(groups).items()
        for kind, inside in kinds.items()
    } | {f"with {finding}": labels[:, column] == 1 for column, finding in enumerate(findings)}
    tested: list[Pattern] = []
    for column, finding in enumerate(findings):
        if finding in undecided:
            continue
        positive = probabilities[:, column] >= thresholds[column]
        others = {name: one for name, one in conditions.items() if name != f"with {finding}"}
        for kind, value in (("missed", 1), ("false alarm", 0)):
            cases = labels[:, column] == value
            mistakes = cases & (positive != bool(value))
            tested += _compare(finding, kind, cases, mistakes, others, rows)
    adjusted, largest = [], 0.0
    for rank, one in enumerate(sorted(tested, key=lambda one: one.p)):
        largest = max(largest, min(1.0, one.p * (len(tested) - rank)))
        adjusted.append(one._replace(p=largest))
    return [
        one
        for one in adjusted
        if one.p < SIGNIFICANT and one.mistakes / one.cases > one.other_mistakes / one.other_cases
    ]


def _compare(
    finding: str,
    kind: str,
    cases: np.ndarray,
    mistakes: np.ndarray,
    conditions: dict[str, np.ndarray],
    rows: np.ndarray,
) -> Iterator[Pattern]:
    """Yield the comparison for each condition that has enough cases, with p not adjusted.

    Sums of whole numbers are exact, so that p does not depend on the processor's order of sums.
    """
    all_cases, all_mistakes = cases @ rows, mistakes @ rows
    for condition, inside in conditions.items():
        count = (cases & inside) @ rows
        wrong = (mistakes & inside) @ rows
        rest, wrong_rest = all_cases - count, all_mistakes - wrong
        if min(count[0], rest[0]) < MIN_CASES:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            gaps = wrong / count - wrong_rest / rest
        resampled = gaps[1:][np.isfinite(gaps[1:])]
        error = float(resampled.std(ddof=1)) if len(resampled) > 1 else 0.0
        if error:
            p = float(2 * norm.sf(abs(gaps[0]) / error))
            yield Pattern(
                finding=finding,
                kind=kind,
                condition=condition,
                mistakes=int(wrong[0]),
                cases=int(count[0]),
                other_mistakes=int(wrong_rest[0]),
                other_cases=int(rest[0]),
                p=p,
            )
