"""Comparisons of made-up models."""

import numpy as np

from multi_abnormality.tools.compare.paired_tests import ResamplingConfig, compare_models

FINDINGS = ("Emphysema", "Consolidation")


def comparison_of(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    findings: tuple[str, ...] = FINDINGS,
) -> dict:
    patients = [str(row) for row in range(len(labels))]
    draws = ResamplingConfig(100, 0.95, 0)
    return {
        "revisions": {letter: {"name": letter, "commit": None} for letter in "ab"},
        "settings": {"n_bootstrap": 100, "confidence": 0.95, "seed": 0},
        "counts": {
            "scans": len(labels),
            "patients": len(labels),
            "positives": dict(zip(findings, labels.sum(axis=0).tolist(), strict=True)),
        },
        "same_predictions": bool((first == second).all()),
        **compare_models(labels, first, second, patients, findings, draws),
    }
