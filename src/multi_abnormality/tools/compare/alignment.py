"""Alignment of two revisions' predictions by scan."""

import numpy as np

from multi_abnormality.tools.compare.revision_predictions import RevisionPredictions
from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError


def align(
    first: RevisionPredictions, second: RevisionPredictions
) -> tuple[RevisionPredictions, RevisionPredictions]:
    """Restrict both to their common scans, in the order of `first`; other scans are logged.

    Raises:
        InputError: the findings or the labels of a scan differ, or no scan is common.
    """
    if different := sorted(set(first.findings) ^ set(second.findings)):
        raise InputError(
            f"{first.revision} and {second.revision} have different findings: only one of them has "
            f"{', '.join(different)}; run both with the same data.findings"
        )
    second = second.in_order_of(first.findings)
    _, ours, theirs = np.intersect1d(first.scans, second.scans, return_indices=True)
    if not len(ours):
        raise InputError(
            f"{first.revision} and {second.revision} were scored on different scans: none of the "
            f"{len(first.scans)} is among the {len(second.scans)}; run both on the same data/"
        )
    for one, other in ((first, second), (second, first)):
        if unmatched := len(one.scans) - len(ours):
            log.warning(
                "%d scans that %s was scored on, and %s was not, are left out",
                unmatched, one.revision, other.revision,
            )  # fmt: skip
    in_order = np.argsort(ours)  # the order of the first one's predictions
    first, second = first.rows(ours[in_order]), second.rows(theirs[in_order])
    _check_same_labels(first, second)
    if changed := _count_changed(first, second):
        log.warning(
            "%d of the %d scans have different files and voxels in %s and %s",
            changed, len(first.scans), first.revision, second.revision,
        )  # fmt: skip
    return first, second


def _count_changed(first: RevisionPredictions, second: RevisionPredictions) -> int:
    """Count the scans whose files and processed voxels both differ.

    A recompressed file has the same voxels; other preprocessing changes the voxels of the same
    file. Neither is another scan.
    """
    return int(((first.sources != second.sources) & (first.voxels != second.voxels)).sum())


def _check_same_labels(first: RevisionPredictions, second: RevisionPredictions) -> None:
    differs = first.labels != second.labels
    if not differs.any():
        return
    row, column = np.argwhere(differs)[0]
    values = first.labels[row, column], second.labels[row, column]
    raise InputError(
        f"{first.revision} and {second.revision} were scored on other labels: {differs.sum()} in "
        f"{differs.any(axis=1).sum()} of {len(differs)} scans differ, the first of them "
        f"{first.findings[column]} of {first.scans[row]}, {values[0]} and {values[1]}. Only "
        "models scored on the same labels can be compared: use one revision's data.dvc for the "
        "other (`git checkout REV -- data.dvc`, `dvc checkout data.dvc`) and run `dvc repro` there"
    )
