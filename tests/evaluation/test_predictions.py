"""One row per scan, and a submission file that determines the scores."""

import json

import numpy as np
import pytest

from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.prediction_files import predictions_json, write_submission
from multi_abnormality.evaluation.scored_scans import (
    average_over_reconstructions,
    check_probabilities,
)
from multi_abnormality.evaluation.scores import evaluate
from multi_abnormality.utils.errors import InputError

NAMES = ["valid_10_a_1", "valid_2_a_2", "valid_2_a_1", "valid_2_b_1"]
SCANS = ["valid_10_a", "valid_2_a", "valid_2_a", "valid_2_b"]
PATIENTS = ["valid_10", "valid_2", "valid_2", "valid_2"]


def arrays() -> tuple[np.ndarray, np.ndarray]:
    logits = np.random.default_rng(0).normal(size=(4, len(FINDINGS)))
    labels = np.zeros((4, len(FINDINGS)), int)
    labels[1:3, 0] = 1
    return logits, labels


def test_reconstructions_are_averaged_and_scans_are_in_natural_order():
    logits, labels = arrays()
    scans = average_over_reconstructions(NAMES, logits, labels, SCANS, PATIENTS, FINDINGS)
    assert scans.names == ["valid_2_a_1", "valid_2_b_1", "valid_10_a_1"]
    assert scans.patients == ["valid_2", "valid_2", "valid_10"]
    np.testing.assert_allclose(scans.logits[0], (logits[1] + logits[2]) / 2)
    np.testing.assert_array_equal(scans.labels[:, 0], [1, 0, 0])
    assert scans.averaged == {"valid_2_a_1": ["valid_2_a_1", "valid_2_a_2"]}


def test_predictions_name_the_reconstructions_that_are_averaged():
    rows = [(name, {"Cyst": 0.5}) for name in ("valid_2_a_1", "valid_2_b_1")]
    averaged = {"valid_2_a_1": ["valid_2_a_1", "valid_2_a_2"]}
    text = predictions_json(rows, {"Cyst": 0.6}, [], synthetic=True, averaged=averaged)
    first, second = json.loads(text)["predictions"]
    assert first["reconstructions"] == ["valid_2_a_1", "valid_2_a_2"]
    assert "reconstructions" not in second


def test_the_order_of_rows_changes_no_bit():
    logits, labels = arrays()
    first = average_over_reconstructions(NAMES, logits, labels, SCANS, PATIENTS, FINDINGS)
    back = slice(None, None, -1)
    second = average_over_reconstructions(
        NAMES[back], logits[back], labels[back], SCANS[back], PATIENTS[back], FINDINGS
    )
    assert first.names == second.names
    np.testing.assert_array_equal(first.logits, second.logits)


def test_disagreeing_reconstructions_and_bad_logits_are_named():
    logits, labels = arrays()
    labels[1, 5] = 1
    with pytest.raises(InputError, match="valid_2_a_1 and valid_2_a_2: other labels"):
        average_over_reconstructions(NAMES, logits, labels, SCANS, PATIENTS, FINDINGS)
    logits, labels = arrays()
    logits[3, 7] = np.nan
    with pytest.raises(InputError, match="valid_2_b_1, Emphysema: nan"):
        average_over_reconstructions(NAMES, logits, labels, SCANS, PATIENTS, FINDINGS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_named(value: float):
    logits, labels = arrays()
    logits[2, 1] = logits[3, 1] = value
    with pytest.raises(InputError, match=r"valid_2_a_1, Arterial wall .*\(and 1 more\); .* finite"):
        average_over_reconstructions(NAMES, logits, labels, SCANS, PATIENTS, FINDINGS)


def test_wrong_labels_and_shapes_and_no_rows_are_refused():
    logits, labels = arrays()
    ids = SCANS, PATIENTS, FINDINGS
    with pytest.raises(InputError, match="no scan"):
        average_over_reconstructions([], logits[:0], labels[:0], [], [], FINDINGS)
    with pytest.raises(InputError, match="shape"):
        average_over_reconstructions(NAMES, logits[:-1], labels, *ids)
    with pytest.raises(InputError, match="shape"):
        average_over_reconstructions(NAMES, logits[:, :5], labels[:, :5], *ids)
    labels[0, 0] = 2
    with pytest.raises(InputError, match=r"valid_10_a_1, Medical material.*0 or 1"):
        average_over_reconstructions(NAMES, logits, labels, *ids)


def test_the_submission_file_determines_the_scores(tmp_path):
    generator = np.random.default_rng(2)
    labels = (generator.random((40, len(FINDINGS))) < 0.4).astype(int)
    probabilities = generator.random(labels.shape)
    names = [f"valid_{row}_a_1" for row in range(40)]
    path = tmp_path / "metrics" / "submission.json"
    write_submission(path, names, probabilities, FINDINGS)
    written = json.loads(path.read_text())
    assert written["name"]
    assert [item["input_image_name"] for item in written["predictions"]] == names
    read = np.array(
        [[item["probabilities"][f] for f in FINDINGS] for item in written["predictions"]]
    )
    settings = ResamplingConfig(10, 0.95, seed=0)
    assert evaluate(labels, read, names, FINDINGS, settings) == evaluate(
        labels, probabilities, names, FINDINGS, settings
    )


def test_predictions_state_threshold_and_decision():
    thresholds = {"Emphysema": 0.3, "Cyst": 0.6, "Nodule": 0.5}
    rows = [("a", {"Emphysema": 0.3, "Cyst": 0.59, "Nodule": 0.9})]
    assert json.loads(predictions_json(rows, thresholds, ["Nodule"], synthetic=True)) == {
        "synthetic": True,
        "thresholds": thresholds,
        "uncalibrated": ["Nodule"],
        "predictions": [
            {
                "input_image_name": "a",
                "probabilities": {"Emphysema": 0.3, "Cyst": 0.59, "Nodule": 0.9},
                "positive": {"Emphysema": True, "Cyst": False, "Nodule": None},
            }
        ],
    }


def test_a_duplicate_name_or_a_nan_is_an_error_and_nothing_is_written(tmp_path):
    path = tmp_path / "submission.json"
    with pytest.raises(InputError, match="valid_1_a_1 is duplicated"):
        write_submission(path, ["valid_1_a_1"] * 2, np.full((2, 1), 0.5), ["one"])
    with pytest.raises(InputError, match="not finite"):
        write_submission(path, ["valid_1_a_1"], np.full((1, 1), np.nan), ["one"])
    assert not path.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, -0.1])
def test_an_invalid_probability_is_an_error_with_scan_and_finding(value: float):
    probabilities, labels = np.full((4, 2), 0.5), np.zeros((4, 2), int)
    check_probabilities(probabilities, labels, ["a", "b"], list("0123"))
    probabilities[3, 1] = value
    with pytest.raises(InputError, match=rf"3, b: {value}; "):
        check_probabilities(probabilities, labels, ["a", "b"], list("0123"))
    with pytest.raises(InputError, match="shape"):
        check_probabilities(probabilities, labels[:3], ["a", "b"], list("0123"))
