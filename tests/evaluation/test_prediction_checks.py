import numpy as np
import pytest

from multi_abnormality.evaluation.scored_scans import check_probabilities
from multi_abnormality.utils.errors import InputError


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, -0.1])
def test_an_invalid_probability_is_an_error_with_scan_and_finding(value: float):
    probabilities, labels = np.full((4, 2), 0.5), np.zeros((4, 2), int)
    check_probabilities(probabilities, labels, ["a", "b"], list("0123"))
    probabilities[3, 1] = value
    with pytest.raises(InputError, match=rf"3, b: {value}; "):
        check_probabilities(probabilities, labels, ["a", "b"], list("0123"))
    with pytest.raises(InputError, match="shape"):
        check_probabilities(probabilities, labels[:3], ["a", "b"], list("0123"))
