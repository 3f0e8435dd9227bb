"""Comparison of two revisions by name, on the scans that both were scored on."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.tools.compare.paired_tests import compare_models
from multi_abnormality.tools.compare.revision_predictions import (
    RevisionPredictions,
    read_revision_predictions,
)
from multi_abnormality.tools.compare.revisions import WORKSPACE, reader, require_repository, resolve
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, plural


def compare_revisions(
    root: Path, names: tuple[str, str], resampling: ResamplingConfig
) -> dict[str, Any]:
    """Compare the predictions of two revisions of a project; the result holds plain values.

    Raises:
        InputError: a revision is unknown or has no scores, or both are the same, or their labels
            differ.
    """
    repo = require_repository(root)
    revisions = [resolve(repo, name) for name in names]
    if revisions[0].commit == revisions[1].commit:
        raise InputError(
            f"{revisions[0]} and {revisions[1]} are the same revision; name two, such as HEAD and "
            f"{WORKSPACE}, or an experiment of `dvc exp show`"
        )
    first, second = align(
        *(read_revision_predictions(revision, reader(repo, revision)) for revision in revisions)
    )
    return compare_predictions(first, second, resampling)


def compare_predictions(
    first: RevisionPredictions, second: RevisionPredictions, resampling: ResamplingConfig
) -> dict[str, Any]:
    """Compare predictions of the same scans, as `align` returns them; see compare_revisions."""
    log.info(
        "scoring both on %d bootstrap resamples of %s and as many permutations",
        resampling.n_bootstrap, plural(len(first.scans), "scan", "scans"),
    )  # fmt: skip
    compared = compare_models(
        first.labels.to_numpy(),
        first.probabilities.to_numpy(),
        second.probabilities.to_numpy(),
        first.scans["patient_id"].tolist(),
        tuple(first.labels.columns),
        resampling,
    )
    return {
        "revisions": {
            letter: asdict(one.revision) for letter, one in zip("ab", (first, second), strict=True)
        },
        "settings": asdict(resampling),
        "counts": {
            "scans": len(first.scans),
            "patients": first.scans["patient_id"].nunique(),
            "positives": (first.labels == 1).sum().to_dict(),
        },
        "same_predictions": first.probabilities.equals(second.probabilities),
        **compared,
    }


def align(
    first: RevisionPredictions, second: RevisionPredictions
) -> tuple[RevisionPredictions, RevisionPredictions]:
    """Restrict both to their common scans, in the order of `first`; other scans are logged.

    Raises:
        InputError: the findings or the labels of a scan differ, or no scan is common.
    """
    findings = first.labels.columns
    if different := sorted(findings.symmetric_difference(second.labels.columns)):
        raise InputError(
            f"{first.revision} and {second.revision} have different findings: only one of them has "
            f"{', '.join(different)}; run both with the same data.findings"
        )
    scans = first.scans.index[first.scans.index.isin(second.scans.index)]
    if scans.empty:
        raise InputError(
            f"{first.revision} and {second.revision} were scored on different scans: none of the "
            f"{len(first.scans)} is among the {len(second.scans)}; run both on the same data/"
        )
    for one, other in ((first, second), (second, first)):
        if unmatched := len(one.scans) - len(scans):
            log.warning(
                "left out: %s that %s was scored on, and %s was not",
                plural(unmatched, "scan", "scans"), one.revision, other.revision,
            )  # fmt: skip
    first, second = first.select(scans, findings), second.select(scans, findings)
    _check_same_labels(first, second)
    if changed := _count_changed(first, second):
        log.warning(
            "scans with different files and voxels in %s and %s: %d of %d",
            first.revision, second.revision, changed, len(scans),
        )  # fmt: skip
    return first, second


def _count_changed(first: RevisionPredictions, second: RevisionPredictions) -> int:
    """Count the scans whose files and processed voxels both differ.

    A recompressed file has the same voxels; other preprocessing changes the voxels of the same
    file. Neither is another scan.
    """
    hashes = ["source_sha256", "voxels_sha256"]
    return int((first.scans[hashes] != second.scans[hashes]).all(axis=1).sum())


def _check_same_labels(first: RevisionPredictions, second: RevisionPredictions) -> None:
    differs = first.labels.fillna(2) != second.labels.fillna(2)  # 2: missing
    if not differs.any(axis=None):
        return
    scan, finding = differs.stack().idxmax()
    values = first.labels.loc[scan, finding], second.labels.loc[scan, finding]
    raise InputError(
        f"{first.revision} and {second.revision} were scored on other labels: "
        f"{differs.to_numpy().sum()} in {differs.any(axis=1).sum()} of "
        f"{plural(len(differs), 'scan', 'scans')} differ, the first of them {finding} of "
        f"{scan}, {values[0]} and {values[1]}. Only "
        "models scored on the same labels can be compared: use one revision's data.dvc for the "
        "other (`git checkout REV -- data.dvc`, `dvc checkout data.dvc`) and run `dvc repro` there"
    )
