"""Model cards: model_info.json of a model or an ensemble, rendered as MODEL_CARD.md."""

from typing import Any

from multi_abnormality.evaluation.confidence_intervals import NOT_ESTIMABLE, UNRELIABLE
from multi_abnormality.evaluation.html_report import debug_notice
from multi_abnormality.evaluation.metric_registry import METRICS
from multi_abnormality.evaluation.template_environment import UNDEFINED, template_environment
from multi_abnormality.export.model_info_schema import EnsembleInfo, Interval, ModelInfo


def model_card(info: ModelInfo) -> str:
    """Render the model card as Markdown; equal infos give equal bytes."""
    metrics = _defined_metrics(info)
    return _render("MODEL_CARD.md", info, metrics=metrics, span=_span, unreliable=UNRELIABLE)


def ensemble_card(info: EnsembleInfo) -> str:
    """Render the model card of an ensemble."""
    return _render("ENSEMBLE_CARD.md", info)


def _render(template: str, info: ModelInfo | EnsembleInfo, **values: Any) -> str:
    # Not escaped: Markdown from trusted values.
    environment = template_environment(
        "multi_abnormality.export", autoescape=False, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    notice = debug_notice(info.debug)
    return environment.get_template(template).render(info=info, debug_notice=notice, **values)


def _defined_metrics(info: ModelInfo) -> dict[str, tuple[float | None, Interval | None]]:
    """Value and interval of each macro score; None where no test scan is positive."""
    has_positives = any(score.positives for score in info.evaluation.findings.values())
    return {
        name: (value, info.evaluation.intervals[name])
        if has_positives or name == "crg" or not METRICS[name].needs_positives
        else (None, None)
        for name, value in info.eval_metrics.items()
    }


def _span(value: float | None, interval: Interval | None) -> str:
    if interval is None:
        return UNDEFINED if value is None else NOT_ESTIMABLE
    text = f"{interval.low:.3f} to {interval.high:.3f}"
    return text if interval.reliable else rf"{text} \*"
