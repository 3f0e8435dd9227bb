"""Report of a trained model and its scores: metrics/report.html, a self-contained page."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from multi_abnormality.data.catalog.missing_labels import is_labeled, labeled_cells
from multi_abnormality.evaluation import charts
from multi_abnormality.evaluation.bootstrap import NOT_ESTIMABLE, UNRELIABLE
from multi_abnormality.evaluation.curves import Curve, precision_recall, reliability_bins, roc
from multi_abnormality.evaluation.metrics import CRG_HEADLINE, METRICS
from multi_abnormality.evaluation.scores import finding_score, macro_intervals, macro_score
from multi_abnormality.utils.atomic_io import atomic_write

if TYPE_CHECKING:
    from multi_abnormality.evaluation.example_scans import Case

UNDEFINED = "\N{EN DASH}"


def write_report(
    path: Path,
    *,
    synthetic: bool,
    debug: str,
    facts: Mapping[str, object],
    scores: dict[str, Any],
    labels: np.ndarray,
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    undecided: Sequence[str],
    threshold_metric: str,
    uncalibrated: np.ndarray | None,
    findings: Sequence[str],
    history: pd.DataFrame,
    planned_epochs: int,
    chosen_on: str,
    cases: Mapping[str, Mapping[str, list["Case"]]],
    weights_warnings: Sequence[str] = (),
) -> None:
    """Write the report; equal input gives equal bytes.

    The page makes no request to the network.

    Args:
        synthetic: whether the model was trained on synthetic phantoms.
        debug: value of `train.debug`.
        facts: properties of model and data by name, listed in this order.
        scores: content of evaluate.json; with the key "external" it is of an external test set.
        labels: (N, F), 0, 1 or NaN for a missing one.
        probabilities: (N, F), calibrated.
        thresholds: (F,) calibrated probability from which a scan is positive.
        undecided: findings that could not be calibrated, and so have no decision.
        threshold_metric: metric that the thresholds maximize.
        uncalibrated: (N, F) probabilities before calibration; None if `scores` has only those
            after it.
        findings: F names.
        history: one row per epoch with epoch, train_loss, val_loss, val_auroc; NaN where an epoch
            was not validated.
        planned_epochs: value of `train.epochs`; a shorter history means early stopping.
        chosen_on: result of `describe_validation`.
        cases: result of `draw_cases`.
        weights_warnings: about the pretrained weights, shown at the top.
    """
    environment = template_environment("multi_abnormality.evaluation", autoescape=True)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.globals["attention_strip"] = charts.attention_strip
    environment.globals["interval_bar"] = charts.interval_bar
    by_finding = dict(zip(findings, thresholds.tolist(), strict=True))
    rows = _rows(scores, labels, by_finding, undecided)
    groups = _groups(scores.get("groups", {}))
    page = environment.get_template("report.html").render(
        synthetic=synthetic,
        debug_notice=debug_notice(debug),
        weights_warnings=weights_warnings,
        facts=facts,
        counts=scores["counts"],
        confidence=f"{100 * scores['intervals']['confidence']:g}\N{NO-BREAK SPACE}%",
        n_bootstrap=scores["intervals"]["n_bootstrap"],
        headline=_headline(scores),
        rows=rows,
        thresholds=by_finding,
        uncalibrated=undecided,
        threshold_metric=threshold_metric,
        external=scores.get("external"),
        columns=_columns(),
        curves=_curves(scores, labels, probabilities, findings),
        groups=groups,
        operating_points=scores.get("operating_points"),
        start=charts.bar_start(
            [(row["auroc"], row["interval"]) for row in rows]
            + [(row["auroc"], row["auroc_interval"]) for kinds in groups.values() for row in kinds]
        ),
        calibration=scores["calibration"],
        reliability=charts.reliability_chart(
            reliability_bins(labels, probabilities),
            None if uncalibrated is None else reliability_bins(labels, uncalibrated),
        ),
        history=_history(history),
        planned_epochs=planned_epochs,
        chosen_on=chosen_on,
        unreliable=UNRELIABLE,
        not_estimable=NOT_ESTIMABLE,
        cases=cases,
        label_counts=_label_counts(scores["counts"], findings),
    )
    atomic_write(page.encode(), path)


def template_environment(package: str, **options: Any) -> Environment:
    """Return Jinja's environment for the templates of a package, with a filter for scores."""
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters["number"] = number
    return environment


def number(value: float | None, digits: int = 3) -> str:
    """Format a score, or a dash if it is undefined."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def debug_notice(mode: str) -> str | None:
    """Return the banner of a debug run, or None for a full one.

    Args:
        mode: value of `train.debug`.
    """
    return None if mode == "none" else f"Debug run (train.debug: {mode}): its scores mean nothing."


def _headline(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the scores at the top of the page; those that need positives are None without any."""
    intervals = macro_intervals(scores)
    has_positives = any(scores["counts"]["positives"].values())
    tiles = []
    for name, metric in METRICS.items():
        if metric.headline:
            shown = has_positives or not metric.needs_positives
            cell = (macro_score(scores, name), intervals[name]) if shown else (None, None)
            tiles.append((*metric.headline, *cell))
    tiles.append((*CRG_HEADLINE, macro_score(scores, "crg"), intervals["crg"]))
    return [
        dict(zip(("title", "meaning", "value", "interval"), tile, strict=True)) for tile in tiles
    ]


def _columns() -> dict[str, str]:
    """Return the titles of the table's columns after that of AUROC."""
    return {name: one.column or one.title for name, one in METRICS.items() if name != "auroc"}


def _rows(
    scores: dict[str, Any],
    labels: np.ndarray,
    thresholds: Mapping[str, float],
    undecided: Sequence[str],
) -> list[dict[str, Any]]:
    rows = []
    labeled = is_labeled(labels).sum(axis=0)
    for column, (finding, threshold) in enumerate(thresholds.items()):
        positives = scores["counts"]["positives"][finding]
        values = {
            name: None
            if metric.needs_positives and not positives
            else finding_score(scores, finding, name)
            for name, metric in METRICS.items()
        }
        rows.append(
            {
                **values,
                "finding": finding,
                "threshold": threshold,
                "calibrated": finding not in undecided,
                "positives": positives,
                "is_trained": finding not in scores["counts"].get("untrained", ()),
                "positive_share": positives / max(int(labeled[column]), 1),
                "interval": scores["intervals"]["per_pathology"][finding]["auroc"],
            }
        )
    return rows


def _label_counts(counts: dict[str, Any], findings: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the table of labels, where some are missing."""
    parts: dict[str, dict[str, dict[str, int]]] = counts.get("labels", {})
    return [
        {
            "finding": finding,
            "parts": {part: of_finding[finding] for part, of_finding in parts.items()},
            "is_trained": finding not in counts["untrained"],
        }
        for finding in (findings if parts else ())
    ]


def _groups(groups: dict[str, dict[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the table of subgroups, by trait."""
    unscored = dict.fromkeys(("auroc", "crg", "auroc_interval", "crg_interval"))
    return {
        trait: [{**unscored, **group, "kind": kind} for kind, group in kinds.items()]
        for trait, kinds in groups.items()
    }


def _curves(
    scores: dict[str, Any], labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]
) -> list[dict[str, Any]]:
    """Draw a pair of panels for each finding whose two curves are defined."""
    drawn = []
    for column, finding in enumerate(findings):
        y_true, probs = labeled_cells(labels[:, column], probabilities[:, column])
        roc_curve, precision_curve = roc(y_true, probs), precision_recall(y_true, probs)
        if roc_curve is None or precision_curve is None:
            continue
        ends, prevalence = np.array([0.0, 1.0]), np.full(2, y_true.mean())
        drawn.append(
            {
                "finding": finding,
                "auroc": finding_score(scores, finding, "auroc"),
                "average_precision": finding_score(scores, finding, "average_precision"),
                "roc": charts.panel(roc_curve, Curve(ends, ends), f"ROC curve, {finding}"),
                "precision_recall": charts.panel(
                    precision_curve, Curve(ends, prevalence), f"Precision-recall curve, {finding}"
                ),
            }
        )
    return drawn


def _history(history: pd.DataFrame) -> dict[str, Any] | None:
    if history.empty:
        return None
    epochs, auroc = history["epoch"].tolist(), history["val_auroc"]
    best = None if auroc.isna().all() else int(auroc.argmax())
    best_epoch = None if best is None else epochs[best]
    losses = {"training": history["train_loss"], "validation": history["val_loss"]}
    return {
        "losses": charts.history_chart(epochs, losses, "loss", best_epoch),
        "auroc": None
        if best is None
        else charts.history_chart(
            epochs, {"validation": auroc}, "macro AUROC", best_epoch, upper_bound=1
        ),
        "best_epoch": best_epoch,
        "best_auroc": None if best is None else auroc[best],
        "epochs": len(history),
    }
