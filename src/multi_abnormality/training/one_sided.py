"""Findings that the scans of a training tell nothing of: none has them, or all."""

from collections.abc import Sequence

import numpy as np

from multi_abnormality.errors import first_few


def told_one_sided(
    findings: Sequence[str], learned: np.ndarray, validated: np.ndarray
) -> list[str]:
    """What a user is told before hours are spent on it.

    Args:
        findings: F names.
        learned: (N, F) labels, 0 or 1, of the volumes to learn from.
        validated: (M, F), of the volumes to validate on.
    """
    return [
        *_told(findings, learned, "learn from", "nothing can be learned of it", ""),
        *_told(
            findings,
            validated,
            "validate on",
            "its probabilities cannot be calibrated, and it counts for nothing where the best "
            "epoch is chosen",
            "raise train.validation_fraction, ",
        ),
    ]


def _told(
    findings: Sequence[str], labels: np.ndarray, purpose: str, follows: str, way_out: str
) -> list[str]:
    lines = []
    for value, have, lacking in ((0, "none has", "with"), (1, "all have", "without")):
        alike = (labels == value).all(axis=0)
        names = [repr(finding) for finding, told in zip(findings, alike, strict=True) if told]
        if names:
            lines.append(
                f"of the {len(labels)} volumes to {purpose} {have} {first_few(names)}: {follows}; "
                f"{way_out}add scans of patients {lacking} it, or leave it out of data.findings"
            )
    return lines
