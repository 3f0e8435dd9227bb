"""Report of a trained model and its scores: metrics/report.html, a self-contained page."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from multi_abnormality.config.yaml_reader import in_yaml
from multi_abnormality.data.catalog.label_checks import is_labeled
from multi_abnormality.evaluation import report_charts
from multi_abnormality.evaluation.confidence_intervals import (
    NOT_ESTIMABLE,
    UNRELIABLE,
    ResamplingConfig,
)
from multi_abnormality.evaluation.interval_bands import Weights, group_differences
from multi_abnormality.evaluation.metric_registry import CRG_HEADLINE, METRICS
from multi_abnormality.evaluation.mistake_patterns import SIGNIFICANT, mistake_patterns
from multi_abnormality.evaluation.report_data import (
    finding_data,
    history_data,
    pooled_calibration,
)
from multi_abnormality.evaluation.scores import finding_score, macro_intervals, macro_score
from multi_abnormality.evaluation.slice_rendering import HEAT_FROM, describe_window
from multi_abnormality.evaluation.subgroups import MIN_SCANS
from multi_abnormality.evaluation.template_environment import template_environment
from multi_abnormality.utils.atomic_io import atomic_write

if TYPE_CHECKING:
    from multi_abnormality.evaluation.example_scans import Case
    from multi_abnormality.evaluation.inference_cache import View

NO_HISTORY = pd.DataFrame(columns=["epoch", "train_loss", "val_loss", "val_auroc"])
MISTAKES = 12  # patterns in the table
CASE_BYTES = 2_200_000  # of all pictures of cases; with the library and base64 the page is < 5 MB


def write_report(
    path: Path,
    *,
    synthetic: bool,
    debug: str,
    facts: Mapping[str, object],
    scores: dict[str, Any],
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    thresholds: np.ndarray,
    undecided: Sequence[str],
    threshold_metric: str,
    uncalibrated: np.ndarray | None,
    findings: Sequence[str],
    groups: pd.DataFrame,
    chosen_on: str,
    seed: int,
    run: str | None = None,
    parameters: Mapping[str, object] = {},
    history: pd.DataFrame = NO_HISTORY,
    planned_epochs: int = 0,
    cases: Mapping[str, Mapping[str, list["Case"]]] = {},
    slice_mm: float = 1.0,
    ct_rate_names: bool = False,
    recipe: tuple[str, Mapping[str, tuple[object, object]]] | None = None,
    comparison: Mapping[str, Any] | None = None,
    weights_warnings: Sequence[str] = (),
    average: Mapping[str, Any] | None = None,
) -> None:
    """Write the report; equal input gives equal bytes.

    The page makes no request to the network.

    Args:
        synthetic: whether the model was trained on synthetic phantoms.
        debug: value of `train.debug`.
        facts: properties of model and data by name, listed in this order.
        scores: result of `score_scans`; with the key "external" it is of an external test set.
        labels: (N, F), 0, 1 or NaN for a missing one.
        probabilities: (N, F), calibrated.
        patients: N ids; a patient's scans are resampled together.
        thresholds: (F,) calibrated probability from which a scan is positive.
        undecided: findings that could not be calibrated, and so have no decision.
        threshold_metric: metric that the thresholds maximize.
        uncalibrated: (N, F) probabilities before calibration; None if `scores` has only those
            after it.
        findings: F names.
        groups: N rows, from `subgroup_columns`.
        chosen_on: result of `describe_validation`.
        seed: random seed of the bands and of the test of groups.
        run: fingerprint of the run; None if it is not known.
        parameters: parameters of the run by name, listed in this order.
        history: one row per epoch with epoch, train_loss, val_loss, val_auroc and, if known,
            learning_rate; NaN where an epoch was not validated.
        planned_epochs: value of `train.epochs`; a shorter history means early stopping.
        cases: result of `draw_cases`.
        slice_mm: distance of the slices of `cases`.
        ct_rate_names: whether the names of `cases` are those of CT-RATE's test scans.
        recipe: name of the closest recipe, and by parameter the values of the run and of the recipe
            that differ; None if no recipe is known.
        comparison: result of `describe_comparison`; None without another model to compare with.
        weights_warnings: about the pretrained weights, shown at the top.
        average: which epochs' weights were averaged, and their score on val; None: none.
    """
    environment = template_environment("multi_abnormality.evaluation", autoescape=True)
    environment.filters["yaml"] = lambda value: value if isinstance(value, str) else in_yaml(value)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    level = scores["intervals"]["confidence"]
    resampling = ResamplingConfig(scores["intervals"]["n_bootstrap"], level, seed)
    weights = Weights(patients, len(labels), resampling)
    by_finding = dict(zip(findings, thresholds.tolist(), strict=True))
    rows = _rows(scores, labels, by_finding, undecided)
    shown_groups = _groups(
        scores.get("groups", {}), group_differences(groups, labels, probabilities, weights)
    )
    mistakes = mistake_patterns(
        labels, probabilities, thresholds, findings, undecided, groups, weights
    )
    start = _bar_start(
        [(row["auroc"], row["interval"]) for row in rows]
        + [
            (row["auroc"], row["auroc_interval"])
            for kinds in shown_groups.values()
            for row in kinds
        ]
    )
    environment.globals["window"] = describe_window
    environment.globals["case_slices"] = lambda case: _case_slices(case, slice_mm)
    environment.globals["percent"] = lambda value: f"{100 * (value - start) / (1 - start):.1f}"
    trained = history_data(history, planned_epochs)
    data = {
        "specifications": report_charts.specifications(),
        "findings": [
            finding_data(
                labels[:, column],
                probabilities[:, column],
                None if uncalibrated is None else uncalibrated[:, column],
                float(thresholds[column]),
                weights,
            )
            for column in range(len(findings))
        ],
        "calibration": pooled_calibration(labels, probabilities, uncalibrated),
        "training": trained["charts"] if trained else {},
    }
    for row, of_finding in zip(rows, data["findings"], strict=True):
        row["data"] = of_finding
    page = environment.get_template("report.html").render(
        run=run,
        synthetic=synthetic,
        debug_notice=debug_notice(debug),
        weights_warnings=weights_warnings,
        facts=facts,
        parameters=parameters,
        recipe=recipe,
        comparison=comparison,
        counts=scores["counts"],
        confidence=f"{100 * level:g}\N{NO-BREAK SPACE}%",
        n_bootstrap=resampling.n_bootstrap,
        headline=_headline(scores),
        rows=rows,
        thresholds=by_finding,
        uncalibrated=undecided,
        threshold_metric=threshold_metric,
        external=scores.get("external"),
        columns={name: metric for name, metric in METRICS.items() if name != "auroc"},
        groups=shown_groups,
        mistakes=mistakes,
        mistakes_shown=MISTAKES,
        weakest=min(
            (row for row in rows if row["auroc"] is not None),
            key=lambda row: row["auroc"],
            default=None,
        ),
        **_group_summary(shown_groups),
        heat_from=HEAT_FROM,
        min_group=MIN_SCANS,
        ct_rate_names=ct_rate_names,
        significant=SIGNIFICANT,
        finding_numbers={row["finding"]: number for number, row in enumerate(rows, start=1)},
        operating_points=scores.get("operating_points", {}),
        start=start,
        calibration=scores["calibration"],
        history=trained,
        planned_epochs=planned_epochs,
        chosen_on=chosen_on,
        average=average,
        unreliable=UNRELIABLE,
        not_estimable=NOT_ESTIMABLE,
        cases=_fit(cases),
        case_titles={
            finding: {
                kind: [
                    _decision(kind, case.probability >= threshold, finding not in undecided)
                    for case in of_kind
                ]
                for kind, of_kind in cases.get(finding, {}).items()
            }
            for finding, threshold in by_finding.items()
        },
        label_counts=_label_counts(scores["counts"], findings),
        library=Markup(report_charts.library()),
        data=_script_json(data),
    )
    atomic_write(page.encode(), path)


def _decision(kind: str, positive: bool, calibrated: bool) -> str:
    """Name the decision on a case.

    Args:
        kind: key of the result of `choose_cases`; all but false alarms have the finding.
        positive: whether the probability reaches the threshold.
        calibrated: whether the finding has a threshold of its own.
    """
    present = kind != "false_alarms"
    if not calibrated:
        return f"{'has' if present else 'lacks'} the finding; no decision"
    return f"{'true' if positive == present else 'false'} {'positive' if positive else 'negative'}"


def _fit(cases: Mapping[str, Mapping[str, list["Case"]]]) -> dict[str, dict[str, list["Case"]]]:
    """Leave out neighbouring slices, then cases, as far as CASE_BYTES demands."""
    shown: dict[str, dict[str, list[Case]]] = {}
    fits = ((3, 3, 3), (2, 3, 3), (1, 3, 3), (0, 3, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2), (0, 1, 1))
    for radius, count, kinds_shown in fits:
        kept = ("misses", "false_alarms", "hits")[:kinds_shown]
        shown = {
            finding: {
                kind: [
                    replace(case, view=_near(case.view, radius))
                    for case in (of_kind[:count] if kind in kept else ())
                ]
                for kind, of_kind in kinds.items()
            }
            for finding, kinds in cases.items()
        }
        views = [case.view for kinds in shown.values() for each in kinds.values() for case in each]
        if sum(len(file) for view in views for file in (*view.pictures, view.heat)) <= CASE_BYTES:
            break
    return shown


def _near(view: "View", radius: int) -> "View":
    """Leave out pictures of slices that are further from the one with the heat map."""
    first = max(view.first, view.slice - radius)
    last = view.slice + radius
    return replace(
        view, first=first, pictures=view.pictures[first - view.first : last + 1 - view.first]
    )


def _case_slices(case: "Case", slice_mm: float) -> list[dict[str, str]]:
    """Return the slices of a case for slice_viewer.html."""
    view = case.view
    slices = []
    for index, picture in enumerate(view.pictures, start=view.first):
        above = index - view.lowest
        slices.append(
            {
                "src": f"data:image/webp;base64,{base64.b64encode(picture).decode()}",
                "alt": f"{case.name}, slice {above + 1}",
                "position": f"slice {above + 1} of {view.slices}, {above * slice_mm:g} mm above "
                f"the lowest; attention {view.attention[index]:.3f}",
            }
        )
    return slices


def _script_json(data: object) -> Markup:
    """Format data as JSON within a script element, which no value can end."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


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


def _groups(
    groups: dict[str, dict[str, dict[str, Any]]],
    differences: dict[str, dict[str, dict[str, Any]]],
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the table of subgroups, by trait."""
    unscored = dict.fromkeys(("auroc", "crg", "auroc_interval", "crg_interval"))
    return {
        trait: [
            {**unscored, **group, "kind": kind, "test": differences.get(trait, {}).get(kind)}
            for kind, group in kinds.items()
        ]
        for trait, kinds in groups.items()
    }


def _group_summary(groups: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the number of subgroups that were tested, and the names of those that differ."""
    tested = [
        (f"{trait} {row['kind']}", row["test"]["p"])
        for trait, rows in groups.items()
        for row in rows
        if row["test"]
    ]
    return {
        "tested_groups": len(tested),
        "different_groups": [name for name, p in tested if p < SIGNIFICANT],
    }


def _bar_start(rows: Iterable[tuple[float | None, Mapping[str, float] | None]]) -> float:
    """Return the left end of the axis shared by all bars: 0.5, or the tenth below the lowest value.

    Args:
        rows: AUROC and its interval; without either of them no bar is drawn.
    """
    lows = [0.5]
    for value, interval in rows:
        if value is not None and interval:
            lows += [value, interval["low"]]
    return math.floor(10 * min(lows)) / 10
