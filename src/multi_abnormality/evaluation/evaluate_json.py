"""All scores of a set of scans: those of `scores.evaluate`, operating points, and subgroups."""

from typing import Any

import numpy as np
import pandas as pd

from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.operating_points import operating_points
from multi_abnormality.evaluation.scored_scans import Scans
from multi_abnormality.evaluation.scores import evaluate
from multi_abnormality.evaluation.subgroups import score_groups
from multi_abnormality.evaluation.threshold_selection import submission_probabilities
from multi_abnormality.utils.console import log


def score_scans(
    scans: Scans,
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    findings: tuple[str, ...],
    groups: pd.DataFrame,
    resampling: ResamplingConfig,
    uncalibrated: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compute the content of evaluate.json.

    Args:
        scans: N scans with their labels.
        probabilities: (N, F), calibrated.
        thresholds: (F,); a scan is positive from its finding's threshold on.
        findings: F names.
        groups: N rows, from `subgroup_columns`.
        resampling: settings of the intervals.
        uncalibrated: (N, F) probabilities before calibration, to report its effect.
    """
    log.info("bootstrap of the scores: %d resamples", resampling.n_bootstrap)
    submitted = submission_probabilities(probabilities, thresholds)
    predictions = scans.labels, submitted, scans.patients, findings
    scores = evaluate(*predictions, resampling, uncalibrated, probabilities)
    points = operating_points(
        scans.labels, probabilities, thresholds, scans.patients, findings, resampling
    )
    return scores | {
        "operating_points": points,
        "groups": score_groups(groups, *predictions, resampling),
    }
