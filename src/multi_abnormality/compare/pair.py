"""The scans that two revisions have in common, row by row."""

import numpy as np

from multi_abnormality.compare.scored import Scored
from multi_abnormality.console import log
from multi_abnormality.errors import InputError


def pair(first: Scored, second: Scored) -> tuple[Scored, Scored]:
    """Both on the scans that both were scored on; what is left out is told.

    Raises:
        InputError: they have other findings or no scan in common, or a scan has other labels at
            one than at the other.
    """
    if lacking := sorted(set(first.findings) ^ set(second.findings)):
        raise InputError(
            f"{first.revision} and {second.revision} are of other findings: only one of them has "
            f"{', '.join(lacking)}; run both with the same data.findings"
        )
    second = second.in_order_of(first.findings)
    _, ours, theirs = np.intersect1d(first.scans, second.scans, return_indices=True)
    if not len(ours):
        raise InputError(
            f"{first.revision} and {second.revision} were scored on other scans: none of "
            f"{len(first.scans)} is among {len(second.scans)}; run both on the same data/"
        )
    for one, other in ((first, second), (second, first)):
        if left := len(one.scans) - len(ours):
            log.warning(
                "%d scans that %s was scored on, and %s was not, are left out",
                left, one.revision, other.revision,
            )  # fmt: skip
    in_order = np.argsort(ours)  # as the first one's predictions stand
    first, second = first.rows(ours[in_order]), second.rows(theirs[in_order])
    _refuse_other_labels(first, second)
    if others := _of_other_content(first, second):
        log.warning(
            "%d of the %d scans have other files and other voxels at %s than at %s",
            others, len(first.scans), first.revision, second.revision,
        )  # fmt: skip
    return first, second


def _of_other_content(first: Scored, second: Scored) -> int:
    """How many scans differ in their files and also in what was made of them.

    Voxels that were packed anew are the same scan; another recipe makes others of the same file.
    """
    return int(((first.sources != second.sources) & (first.voxels != second.voxels)).sum())


def _refuse_other_labels(first: Scored, second: Scored) -> None:
    differs = first.labels != second.labels
    if not differs.any():
        return
    row, column = np.argwhere(differs)[0]
    values = first.labels[row, column], second.labels[row, column]
    raise InputError(
        f"{first.revision} and {second.revision} were scored on other labels: {differs.sum()} in "
        f"{differs.any(axis=1).sum()} of {len(differs)} scans differ, the first of them "
        f"{first.findings[column]} of {first.scans[row]}, {values[0]} and {values[1]}. Only "
        "models on the same labels can be compared: take one's data.dvc to the other (`git "
        "checkout REV -- data.dvc`, `dvc checkout data.dvc`) and run `dvc repro` there"
    )
