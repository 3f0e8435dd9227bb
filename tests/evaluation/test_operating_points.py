import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.operating_points import OTHER_THRESHOLDS, operating_points
from multi_abnormality.evaluation.threshold_selection import optimal_thresholds

RESAMPLING = ResamplingConfig(500, 0.95, 0)


def made_up(scans: int = 400, findings: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities, and labels drawn from them."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.6, 1.4, (scans, findings))
    return (rng.random(probabilities.shape) < probabilities).astype(int), probabilities


def test_counts_and_ratios_are_those_of_the_confusion_matrix():
    labels, probabilities = made_up()
    thresholds = np.array([0.2, 0.5, 0.7])
    patients = [str(row // 2) for row in range(len(labels))]
    found = operating_points(labels, probabilities, thresholds, patients, "abc", RESAMPLING)
    for column, finding in enumerate("abc"):
        point = found[finding]
        others = zip(OTHER_THRESHOLDS, point["other_thresholds"], strict=True)
        for threshold, row in [*others, (thresholds[column], point)]:
            positive = probabilities[:, column] >= threshold
            tn, fp, fn, tp = confusion_matrix(labels[:, column], positive).ravel().tolist()
            assert row["threshold"] == threshold
            assert [row[name] for name in ("tn", "fp", "fn", "tp")] == [tn, fp, fn, tp]
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        expected = {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "lr_positive": sensitivity / (1 - specificity),
            "lr_negative": (1 - sensitivity) / specificity,
        }
        for name, value in expected.items():
            assert point[name]["value"] == pytest.approx(value)
            assert point[name]["low"] < value < point[name]["high"]


def test_patients_with_many_scans_widen_the_interval():
    labels, probabilities = made_up(80, 1)
    many = np.repeat(labels, 5, axis=0), np.repeat(probabilities, 5, axis=0)
    patients = [str(row // 5) for row in range(400)]
    by_patient, by_scan = (
        operating_points(*many, np.array([0.5]), ids, "a", RESAMPLING)["a"]["sensitivity"]
        for ids in (patients, [str(row) for row in range(400)])
    )
    assert by_patient["value"] == by_scan["value"]
    widths = [each["high"] - each["low"] for each in (by_patient, by_scan)]
    assert widths[0] > 1.5 * widths[1]


def test_ratios_without_a_denominator_are_undefined():
    labels, probabilities = np.zeros((30, 1), int), np.full((30, 1), 0.3)
    ids = [str(row) for row in range(30)]
    point = operating_points(labels, probabilities, np.array([0.5]), ids, "a", RESAMPLING)["a"]
    nothing = {"value": None, "low": None, "high": None}
    assert point["sensitivity"] == point["ppv"] == point["lr_positive"] == nothing
    assert point["specificity"] == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("target", [0.8, 0.95, 0.999])
def test_a_wanted_sensitivity_is_reached_by_the_highest_threshold(target: float):
    labels, probabilities = made_up(20_000)
    thresholds = optimal_thresholds(probabilities, f"sensitivity>={target}", np.full(3, True))
    reached = [
        probabilities[probabilities[:, column] >= threshold, column].sum()
        / probabilities[:, column].sum()
        for column, threshold in enumerate(thresholds)
    ]
    assert reached == pytest.approx([target] * 3, abs=2e-3)
    measured = ((probabilities >= thresholds) & (labels == 1)).sum(axis=0) / labels.sum(axis=0)
    assert measured == pytest.approx([target] * 3, abs=0.02)


@pytest.mark.parametrize("seed", range(50))
def test_a_sensitivity_of_nearly_all_positives_has_the_lowest_threshold(seed: int):
    """The sum of the probabilities rounds to less than their total in about every second case."""
    probabilities = np.random.default_rng(seed).uniform(0.01, 0.99, (59, 1))
    target = float(np.nextafter(1.0, 0.0))
    [threshold] = optimal_thresholds(probabilities, f"sensitivity>={target!r}", np.array([True]))
    assert threshold <= np.sort(probabilities[:, 0])[1]


def test_youdens_threshold_has_the_highest_sum_of_sensitivity_and_specificity():
    _, probabilities = made_up(2000, 1)
    [threshold] = optimal_thresholds(probabilities, "youden", np.array([True]))
    column = probabilities[:, 0]

    def youden(cut: float) -> float:
        positive = column >= cut
        return (
            column[positive].sum() / column.sum()
            - (1 - column)[positive].sum() / (1 - column).sum()
        )

    assert youden(threshold) == pytest.approx(max(map(youden, column.tolist())))
