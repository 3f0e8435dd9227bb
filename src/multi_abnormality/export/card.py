"""model_info.json as a page for people: MODEL_CARD.md."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from multi_abnormality.data.patients import FEW
from multi_abnormality.export.schema import Interval, ModelInfo

UNDEFINED = "\N{EN DASH}"


def model_card(info: ModelInfo) -> str:
    """Markdown; equal infos give equal bytes."""
    environment = Environment(
        loader=PackageLoader("multi_abnormality.export"),
        autoescape=False,  # Markdown, of this project's own words and numbers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = _number
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    environment.filters["span"] = _span
    return environment.get_template("MODEL_CARD.md").render(info=info, few=FEW)


def _number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def _span(interval: Interval | None) -> str:
    if interval is None:
        return UNDEFINED
    text = f"{interval.low:.3f} to {interval.high:.3f}"
    return text if interval.reliable else rf"{text} \*"
