"""Mistakes that cluster."""

import numpy as np
import pandas as pd

from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.interval_bands import Weights
from multi_abnormality.evaluation.mistake_patterns import Pattern, mistake_patterns

COUNT = 400
FINDINGS = ("Nodule", "Effusion")


def patterns(missed_at: str, undecided: tuple[str, ...] = ()) -> list[Pattern]:
    """Patterns of scans of two kernels; nodules are missed with the kernel `missed_at`."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (COUNT, 2)).astype(float)
    kernels = np.where(rng.random(COUNT) < 0.5, "sharp", "smooth")
    wrong = rng.random(labels.shape) < 0.1
    wrong[:, 0] |= (kernels == missed_at) & (labels[:, 0] == 1) & (rng.random(COUNT) < 0.6)
    probabilities = np.where(wrong, 1 - labels, labels) * 0.8 + 0.1
    weights = Weights([str(n) for n in range(COUNT)], COUNT, ResamplingConfig(200, 0.95, 0))
    halves = np.full(2, 0.5)
    groups = pd.DataFrame({"kernel": kernels})
    return mistake_patterns(labels, probabilities, halves, FINDINGS, undecided, groups, weights)


def test_a_kernel_at_which_a_finding_is_missed_is_found():
    (found,) = patterns("sharp")
    assert (found.finding, found.kind, found.condition) == ("Nodule", "missed", "kernel: sharp")
    assert found.mistakes / found.cases > 0.5
    assert found.other_mistakes / found.other_cases < 0.2
    assert found.p < 0.001


def test_random_mistakes_and_findings_without_a_decision_are_no_pattern():
    assert patterns("none") == []
    assert patterns("sharp", undecided=("Nodule",)) == []
