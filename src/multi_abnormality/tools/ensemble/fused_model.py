"""Fusion of members: weights, calibration, thresholds, scores, and comparison with the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from multi_abnormality.evaluation.calibration import Calibration, sigmoid
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.evaluate_json import score_scans
from multi_abnormality.evaluation.fusion import MAX_LOGIT, equal_weights, fuse
from multi_abnormality.evaluation.scored_scans import Scans
from multi_abnormality.evaluation.subgroups import subgroup_columns
from multi_abnormality.evaluation.threshold_selection import submission_probabilities
from multi_abnormality.tools.compare.compare_run import align, compare_predictions
from multi_abnormality.tools.compare.revision_predictions import RevisionPredictions
from multi_abnormality.tools.compare.revisions import Revision
from multi_abnormality.tools.ensemble.members import Member
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError

MEAN, VAL = "mean", "val"  # choices of --weights
PRIOR_SD = 0.3  # of a weight from the equal ones, before any scan is seen
DIGITS = 3  # of a weight: the last digits of the minimizer differ between processors


@dataclass(frozen=True)
class FusedModel:
    """An ensemble with its scores.

    Attributes:
        name: name of the ensemble.
        weighting: MEAN or VAL.
        members: M members.
        weights: M weights, whose sum is 1.
        calibration: calibration of the fused logits, and the thresholds.
        val: common val scans, with the fused logits.
        test: test scans, with the fused logits.
        probabilities: (N, F) calibrated probabilities of the test scans.
        groups: N rows, from `subgroup_columns`.
        scores: content of evaluate.json.
        comparison: best member and ensemble, as compare_predictions returns them.
    """

    name: str
    weighting: str
    members: Sequence[Member]
    weights: list[float]
    calibration: Calibration
    val: Scans
    test: Scans
    probabilities: np.ndarray
    groups: pd.DataFrame
    scores: dict[str, Any]
    comparison: dict[str, Any]

    @property
    def findings(self) -> tuple[str, ...]:
        return self.calibration.findings

    @property
    def submitted(self) -> np.ndarray:
        """(N, F) probabilities as the challenge scores them."""
        return submission_probabilities(self.probabilities, self.calibration.thresholds)


def fuse_members(name: str, members: Sequence[Member], weighting: str) -> FusedModel:
    """Fuse members, fit all that is fitted on their common val scans, and score the test scans.

    Settings of thresholds, intervals and seed are those of the first member.

    Args:
        name: name of the ensemble.
        members: result of `check_members`.
        weighting: MEAN or VAL.
    """
    params, findings = members[0].params, tuple(members[0].test.columns)
    val_logits = np.stack([member.val.to_numpy() for member in members])
    val_labels = _merge([member.val_labels for member in members])
    labels = _merge([member.predictions.labels for member in members])
    weights = (
        equal_weights(len(members)) if weighting == MEAN else fit_weights(val_logits, val_labels)
    )
    val = _scans(members[0], members[0].val.index, fuse(val_logits, weights), val_labels)
    calibration = Calibration.fit(
        val.logits, val_labels, findings, params.evaluate.threshold_metric
    )
    fused = fuse(np.stack([member.test.to_numpy() for member in members]), weights)
    test = _scans(members[0], members[0].test.index, fused, labels)
    probabilities = calibration.calibrate(fused)
    groups = subgroup_columns(members[0].manifest.loc[test.names])
    resampling = ResamplingConfig(
        params.evaluate.n_bootstrap, params.evaluate.ci_level, params.seed
    )
    scores = score_scans(
        test, probabilities, calibration.thresholds, findings, groups, resampling, sigmoid(fused)
    )
    untrained = {name for member in members for name in member.untrained}
    if untrained:
        scores["counts"]["untrained"] = [name for name in findings if name in untrained]
    submitted = submission_probabilities(probabilities, calibration.thresholds)
    comparison = _compare(name, members, submitted, labels, resampling)
    return FusedModel(
        name, weighting, members, weights, calibration, val, test, probabilities, groups, scores,
        comparison,
    )  # fmt: skip


def best_member(members: Sequence[Member]) -> Member:
    """Return the member with the best test scores: the one that is hardest to be better than."""
    return max(members, key=lambda member: member.auroc or 0)


def _merge(labels: Sequence[pd.DataFrame]) -> np.ndarray:
    """Return the labels, without those of findings that a member was not trained on."""
    missing = np.any([each.isna().to_numpy() for each in labels], axis=0)
    merged: np.ndarray = np.where(missing, np.nan, labels[0].to_numpy(dtype=float))
    return merged


def _scans(member: Member, ids: pd.Index, logits: np.ndarray, labels: np.ndarray) -> Scans:
    """Return scans by the names of their first reconstructions."""
    rows = member.manifest.reset_index(names="name").drop_duplicates("scan_id")
    rows = rows.set_index("scan_id").loc[ids]
    return Scans(rows["name"].tolist(), logits, labels, rows["patient_id"].tolist())


def _compare(
    name: str,
    members: Sequence[Member],
    submitted: np.ndarray,
    labels: np.ndarray,
    resampling: ResamplingConfig,
) -> dict[str, Any]:
    best = best_member(members)
    log.info("comparing with the best member, %s", best.revision)
    index, findings = best.predictions.labels.index, best.predictions.labels.columns
    known = pd.DataFrame(labels, index, findings)
    first = RevisionPredictions(
        best.revision, best.predictions.scans, known, best.predictions.probabilities
    )
    second = RevisionPredictions(
        Revision(name, None), first.scans, known, pd.DataFrame(submitted, index, findings)
    )
    return compare_predictions(*align(first, second), resampling)


def fit_weights(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Fit a weight for each member: not negative, with the sum 1, each pulled to 1 / M.

    Minimizes the cross-entropy of the fused logits plus (w - 1 / M)^2 / (2 PRIOR_SD^2), over all
    findings together: val has too few scans to fit weights for each finding.

    Args:
        logits: (M, N, F), of M members on N val scans.
        labels: (N, F), 0, 1 or NaN for a missing one.

    Raises:
        InputError: no member is better than chance, so that all weights are 0.
    """
    known = ~np.isnan(labels)
    values, truth = logits.clip(-MAX_LOGIT, MAX_LOGIT)[:, known], labels[known]
    start = np.array(equal_weights(len(logits)))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        fused, excess = weights @ values, weights - start
        cross_entropy = np.logaddexp(0, fused).sum() - truth @ fused
        gradient = values @ (1 / (1 + np.exp(-fused)) - truth) + excess / PRIOR_SD**2
        return float(cross_entropy + excess @ excess / (2 * PRIOR_SD**2)), gradient

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
    if not found.x.sum() > 0:
        raise InputError(
            "--weights val: no member is better than chance on the val scans; use --weights mean"
        )
    weights = [round(float(weight), DIGITS) for weight in found.x / found.x.sum()]
    weights[int(np.argmax(weights))] += 1 - sum(weights)
    return weights
