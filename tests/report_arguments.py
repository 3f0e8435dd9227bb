"""Arguments of reports on random predictions, also of unusual runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from compared_models import comparison_of
from multi_abnormality.config.findings import FINDINGS
from multi_abnormality.data.catalog.label_checks import describe_validation
from multi_abnormality.evaluation.confidence_intervals import ResamplingConfig
from multi_abnormality.evaluation.example_scans import Case
from multi_abnormality.evaluation.inference_cache import View
from multi_abnormality.evaluation.operating_points import operating_points
from multi_abnormality.evaluation.scores import evaluate
from multi_abnormality.tools.compare.comparison_tables import describe_comparison

VIEW = View(
    attention=np.array([0.0, 0.2, 0.7, 0.1]),
    slice=2,
    padding=0.0,
    outside=0.0,
    lowest=1,
    slices=3,
    first=1,
    pictures=(b"no", b"real", b"image"),
    heat=b"no heat",
)
CASE = Case("valid_1_a_1 & more", 0.91, VIEW, ("Atelectasis",))
CASES = {"Emphysema": {"hits": [CASE], "misses": [], "false_alarms": [CASE]}}
HISTORY = pd.DataFrame(
    {
        "epoch": [0, 1, 2],
        "train_loss": [0.3, 0.2, 0.15],
        "val_loss": [0.32, 0.25, np.nan],
        "val_auroc": [0.6, 0.71, np.nan],
        "learning_rate": [2e-3, 1e-3, 1e-4],
    }
)
PATIENTS = [str(row // 2) for row in range(80)]


def report_arguments(empty: tuple[int, ...] = ()) -> dict:
    """Arguments of a report on random predictions; the columns in `empty` have no positives."""
    generator = np.random.default_rng(0)
    labels = (generator.random((80, len(FINDINGS))) < 0.3).astype(int)
    labels[:, list(empty)] = 0
    probabilities = generator.beta(1 + 2 * labels, 3)
    scores = evaluate(
        labels,
        probabilities,
        PATIENTS,
        FINDINGS,
        ResamplingConfig(50, 0.95, seed=0),
        uncalibrated=probabilities**2,
    )
    thresholds = np.ones(len(FINDINGS)) / 3
    scores["operating_points"] = operating_points(
        labels, probabilities, thresholds, PATIENTS, FINDINGS, ResamplingConfig(50, 0.95, seed=0)
    )
    return {
        "run": "0123456789ab",
        "slice_mm": 2.5,
        "parameters": {"train.epochs": 3},
        "patients": PATIENTS,
        "groups": pd.DataFrame({"Sex": ["F", "M"] * 40}),
        "synthetic": False,
        "debug": "none",
        "thresholds": thresholds,
        "undecided": [],
        "threshold_metric": "crg",
        "facts": {"Backbone": "efficientnet_b0", "Notes": "<script>alert(1)</script>"},
        "scores": scores,
        "labels": labels,
        "probabilities": probabilities,
        "uncalibrated": probabilities**2,
        "findings": FINDINGS,
        "seed": 0,
        "history": HISTORY,
        "planned_epochs": 3,
        "chosen_on": "40 validation patients",
        "cases": CASES,
    }


def with_comparison(arguments: dict[str, Any], earlier: str = "f1b5246", **kept: Any) -> dict:
    """Arguments of a report that compares with worse predictions; `kept` replaces its content."""
    labels, probabilities = arguments["labels"], arguments["probabilities"]
    noise = np.random.default_rng(3).normal(scale=0.3, size=probabilities.shape)
    first = (probabilities + noise).clip(0, 1)
    comparison = comparison_of(labels, first, probabilities, tuple(arguments["findings"]))
    names = {"a": {"name": earlier, "commit": None}, "b": {"name": "this run", "commit": None}}
    parameters = {"train.epochs": {"a": 2, "b": 3}, "train.average_best": {"b": 1}}
    parameters |= {"model.global_pool": {"a": None, "b": "avg"}}
    content = comparison | {"revisions": names, "parameters": parameters} | kept
    return arguments | {"comparison": describe_comparison(content)}


NAMES = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "datum.x + alert(1)",
    "{signal: 'width'}",
    "**bold** [link](https://example.org)",
    "{{ 7 * 7 }}",
    "A finding whose name is far longer than any column of a table would like it to be",
)


def arguments_with_names(names: Sequence[str], count: int = len(FINDINGS)) -> dict[str, Any]:
    """Arguments of a report on `count` findings, of which the first have these names."""
    columns = np.arange(count) % len(FINDINGS)
    findings = (*names, *(f"Finding {column}" for column in range(len(names), count)))[:count]
    arguments = report_arguments()
    labels, probabilities = (arguments[key][:, columns] for key in ("labels", "probabilities"))
    return arguments | {
        "labels": labels,
        "probabilities": probabilities,
        "uncalibrated": probabilities**2,
        "findings": findings,
        "thresholds": np.ones(count) / 3,
        "cases": {findings[0]: CASES["Emphysema"]},
        "scores": evaluate(
            labels, probabilities, PATIENTS, findings, ResamplingConfig(20, 0.95, seed=0),
            uncalibrated=probabilities**2,
        ),
    }  # fmt: skip


def arguments_of_one_patient(scans: int) -> dict[str, Any]:
    """Arguments of a report on one finding in the scans, at most two, of one patient."""
    labels, probabilities = np.array([[1.0], [0.0]])[:scans], np.array([[0.7], [0.2]])[:scans]
    return report_arguments() | {
        "scores": evaluate(
            labels, probabilities, ["p"] * scans, ["Cyst"], ResamplingConfig(20, 0.95, 0),
            probabilities,
        ),
        "labels": labels,
        "probabilities": probabilities,
        "uncalibrated": probabilities,
        "patients": ["p"] * scans,
        "findings": ["Cyst"],
        "groups": pd.DataFrame({"Sex": ["F"] * scans}),
        "thresholds": np.ones(1) / 2,
        "undecided": ["Cyst"],
        "threshold_metric": "none",
        "cases": {},
        "history": HISTORY[:0],
    }  # fmt: skip


def arguments_without_validation() -> dict[str, Any]:
    """Arguments of a report on a run without validation patients."""
    return report_arguments() | {
        "undecided": FINDINGS,
        "thresholds": np.ones(len(FINDINGS)) / 2,
        "threshold_metric": "none",
        "history": HISTORY.assign(val_loss=np.nan, val_auroc=np.nan),
        "chosen_on": describe_validation(np.ones((0, len(FINDINGS))), []),
    }
