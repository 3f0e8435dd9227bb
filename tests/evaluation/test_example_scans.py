"""Choice of the report's example scans."""

import numpy as np

from multi_abnormality.evaluation.body_mask import body
from multi_abnormality.evaluation.example_scans import choose_cases


def test_the_most_confident_are_chosen_and_none_twice():
    labels = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    probabilities = np.array([0.1, 0.9, 0.5, 0.8, 0.2, 0.3, 0.7, 0.0])
    chosen = choose_cases(labels, probabilities)
    assert chosen == {"hits": [1, 3], "misses": [0, 4, 2], "false_alarms": [6]}


def test_few_positives_are_split_between_hits_and_misses():
    probabilities = np.array([0.1, 0.9, 0.5])
    assert choose_cases(np.array([1, 1, 0]), probabilities) == {
        "hits": [1], "misses": [0], "false_alarms": [2],
    }  # fmt: skip
    assert choose_cases(np.array([1, 0, 0]), probabilities)["misses"] == []
    negatives = choose_cases(np.zeros(3, int), probabilities)
    assert negatives == {"hits": [], "misses": [], "false_alarms": [1]}


def test_lungs_belong_to_the_body_and_the_table_does_not():
    hu = np.full((40, 40), -1000.0)
    hu[5:30, 5:35] = 40
    hu[10:25, 10:18] = -850  # a lung
    hu[35:37, 2:38] = 100  # the table
    inside = body(hu)
    assert inside[5:30, 5:35].all()
    assert inside.sum() == 25 * 30
    assert not body(np.full((4, 4), -1000.0)).any()
