"""A comparison as a picture: the tables beside a plot of the differences and their intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from multi_abnormality.evaluation.report_charts import VEGA_LITE
from multi_abnormality.tools.compare.comparison_tables import (
    MINUS,
    RANKED_BY,
    TITLES,
    Comparison,
    alpha,
    describe_revisions,
    describe_scans,
    finding_rows,
    macro_rows,
    verdict,
)

if TYPE_CHECKING:
    import altair

# Altair and vl-convert are imported where they are used: they take seconds.
PLOT_WIDTH, ROW_HEIGHT, NAME_WIDTH = 300, 20, 320  # pixels
INK, GRAY, GRID = "#1d2327", "#5d676e", "#dedbd3"
# Of rows, by the sign of a significant difference; shapes, so that colours are not needed.
RESULTS = {1: "B is better", -1: "B is worse", 0: "no difference shown"}
COLOURS = {1: "#0d6675", -1: "#a05010", 0: GRAY}
SHAPES = {1: "triangle-up", -1: "triangle-down", 0: "circle"}
# Right ends of the columns, in pixels from the plot's left end.
COLUMNS = {"count": 370, "a": 420, "b": 470, "change": 530, "span": 665, "p": 715, "q": 765}
MIN_REACH = 0.01  # smallest half of the plot's axis


def draw_svg(comparison: Comparison) -> str:
    """Draw the scores with a plot of the differences and their intervals.

    Equal numbers give equal bytes, and nothing is loaded from the network.
    """
    import altair as alt
    import vl_convert

    reach = _reach(comparison)
    level = f"{100 * comparison['settings']['confidence']:g} %"
    headers = {"a": "A", "b": "B", "change": f"B {MINUS} A", "span": f"{level} interval", "p": "p"}
    macro, findings = _rows(macro_rows(comparison)), _rows(finding_rows(comparison))
    of_findings = {"count": "Positives", **headers, "q": "q"}
    chart = alt.vconcat(
        _plot("All findings", headers, macro, reach),
        _plot(f"{TITLES[RANKED_BY]} by finding", of_findings, findings, reach),
        title=alt.TitleParams(
            describe_revisions(comparison), anchor="start", color=INK, fontSize=15, offset=16,
            subtitle=[describe_scans(comparison), *verdict(comparison), _legend(comparison, level)],
            subtitleColor=INK, subtitlePadding=8, subtitleFontSize=12, subtitleLineHeight=18,
        ),
        background="white", padding=16, description=" ".join(verdict(comparison)),
    )  # fmt: skip
    content = _configured(chart).to_dict()
    svg: str = vl_convert.vegalite_to_svg(content, vl_version=VEGA_LITE)
    return svg


def _configured(chart: "altair.VConcatChart") -> "altair.VConcatChart":
    configured: altair.VConcatChart = chart.configure_view(stroke=None).configure_axis(
        domainColor=GRID, gridColor=GRID, tickColor=GRID, labelColor=GRAY, labelFontSize=12
    )
    return configured


def _legend(comparison: Comparison, level: str) -> str:
    """Explain the marks and their highlighting."""
    limit = f"{alpha(comparison):.2g}"
    return (
        f"Mark: B {MINUS} A; line: its {level} interval. A coloured row and triangle, up if B is "
        f"better: p ≤ {limit} over all findings, q ≤ {limit} by finding."
    )


def _rows(described: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a plot shows of each row."""
    rows = []
    for order, row in enumerate(described):
        texts = {key: row[key] for key in ("name", "count", "a", "b", "change", "span", "p", "q")}
        ends = row["scores"]["interval"] or {"low": None, "high": None}
        rows.append(
            {
                "order": order,
                **texts,
                "difference": row["scores"]["difference"],
                "low": ends["low"],
                "high": ends["high"],
                "result": RESULTS[row["sign"]],
            }
        )
    return rows


def _plot(
    title: str, headers: dict[str, str], rows: list[dict[str, Any]], reach: float
) -> "altair.LayerChart":
    """Return a plot with a row per name, the name on its left and the columns on its right."""
    import altair as alt

    def x(field: str) -> alt.X:
        return alt.X(
            f"{field}:Q", title=None, scale=alt.Scale(domain=[-reach, reach]),
            axis=alt.Axis(
                tickCount=4, labelExpr="datum.value ? format(datum.value, '+.3~f') : '0'"
            ),
        )  # fmt: skip

    y = alt.Y("order:O", axis=None)
    results, colours = list(RESULTS.values()), list(COLOURS.values())
    color = alt.Color("result:N", scale=alt.Scale(domain=results, range=colours), legend=None)
    shapes = alt.Scale(domain=results, range=list(SHAPES.values()))
    chart = alt.Chart(alt.InlineData(values=rows)).encode(y=y, color=color)
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(color=GRAY).encode(x=x("zero"))
    span = chart.mark_rule(strokeWidth=2).encode(x=x("low"), x2="high:Q")
    mark = chart.mark_point(filled=True, size=70, opacity=1).encode(
        x=x("difference"), shape=alt.Shape("result:N", scale=shapes, legend=None)
    )
    names = chart.mark_text(align="left", limit=NAME_WIDTH - 10, fontSize=12).encode(
        x=alt.value(-NAME_WIDTH), text="name:N"
    )
    texts = [
        chart.mark_text(align="right", fontSize=12).encode(
            x=alt.value(COLUMNS[column]), text=f"{column}:N"
        )
        for column in headers
    ]
    heads = [
        alt.Chart(alt.InlineData(values=[{"text": text}]))
        .mark_text(align="right" if place > 0 else "left", fontWeight="bold", fontSize=12)
        .encode(x=alt.value(place), y=alt.value(-12), text="text:N", color=alt.value(INK))
        for place, text in [
            (-NAME_WIDTH, title),
            *((COLUMNS[column], text) for column, text in headers.items()),
        ]
    ]
    layers: Any = alt.layer(zero, span, mark, names, *texts, *heads)
    plot: altair.LayerChart = layers.properties(width=PLOT_WIDTH, height=ROW_HEIGHT * len(rows))
    return plot


def _reach(comparison: Comparison) -> float:
    """Half of an axis around zero that all differences and intervals fit on."""
    shown = [*comparison["macro"].values()]
    shown += [scores[RANKED_BY] for scores in comparison["per_pathology"].values()]
    ends = [abs(end) for scores in shown for end in (scores["interval"] or {}).values()]
    ends += [abs(scores["difference"] or 0) for scores in shown]
    return float(max(MIN_REACH, *ends))
