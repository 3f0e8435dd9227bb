"""Scores of model_info.json, from those of evaluate.json."""

from typing import Any

from multi_abnormality.evaluation.metrics import metric_names
from multi_abnormality.evaluation.scores import finding_score, macro_intervals, macro_score
from multi_abnormality.export.model_info_schema import Evaluation, FindingScore


def described_scores(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Select the scores of model_info.json, with counts and intervals.

    Args:
        evaluation: content of metrics/evaluate.json.

    Raises:
        KeyError, TypeError, ValueError: `evaluation` has another format.
    """
    counts = evaluation["counts"]
    per_finding = evaluation["intervals"]["per_pathology"]
    details = Evaluation(
        scans=counts["scans"],
        patients=counts["patients"],
        manufacturers={
            maker: group["scans"]
            for maker, group in evaluation["groups"].get("Manufacturer", {}).items()
        },
        confidence=evaluation["intervals"]["confidence"],
        intervals=macro_intervals(evaluation),
        findings={
            finding: FindingScore(
                positives=positives,
                auroc=finding_score(evaluation, finding, "auroc"),
                interval=per_finding[finding]["auroc"],
            )
            for finding, positives in counts["positives"].items()
        },
        labels=counts.get("labels", {}),
        untrained=counts.get("untrained", []),
    )
    metrics = {name: macro_score(evaluation, name) for name in (*metric_names(), "crg")}
    return {"eval_metrics": metrics, "evaluation": details}
