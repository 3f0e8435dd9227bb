"""Shift of probabilities that moves each finding's threshold to the challenge's 0.5."""

import numpy as np
import pytest
from scipy.special import expit, logit

from multi_abnormality.evaluation.threshold_selection import submission_probabilities


def test_thresholds_become_a_half_and_logits_shift_by_a_constant():
    chances = np.random.default_rng(0).random((200, 3))
    thresholds = np.array([0.19, 0.5, 0.9])
    shifted = submission_probabilities(chances, thresholds)
    np.testing.assert_allclose(shifted, expit(logit(chances) - logit(thresholds)), rtol=1e-12)
    np.testing.assert_array_equal(np.argsort(shifted, axis=0), np.argsort(chances, axis=0))


@pytest.mark.parametrize("threshold", [0.001, 0.1, 0.19123456789, 1 / 3, 0.5, 0.7, 0.999])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decisions_do_not_change_next_to_the_threshold(threshold, dtype):
    at = dtype(threshold)
    near = [np.nextafter(at, dtype(0)), at, np.nextafter(at, dtype(1)), dtype(0), dtype(1)]
    chances = np.array(near, dtype)[:, None]
    shifted = submission_probabilities(chances, np.array([threshold]))
    np.testing.assert_array_equal(shifted >= 0.5, chances.astype(np.float64) >= threshold)
    assert ((shifted >= 0) & (shifted <= 1)).all()
