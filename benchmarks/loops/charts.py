"""Charts for docs/ as SVG files, by Altair; equal data give equal bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import vl_convert

from multi_abnormality.evaluation.report_charts import VEGA_LITE
from multi_abnormality.utils.atomic_io import atomic_write

WIDTH, HEIGHT = 560, 260  # pixels of a plot area


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, path: Path
) -> None:
    """Draw one line per series, both axes from 0."""
    rows = [{"series": name, "x": x, "y": y} for name, points in series.items() for x, y in points]
    chart = alt.Chart(alt.InlineData(values=rows), width=WIDTH, height=HEIGHT)
    _save(
        chart.mark_line(point=True).encode(
            x=alt.X("x:Q", title=x_label, scale=alt.Scale(zero=True)),
            y=alt.Y("y:Q", title=y_label),
            color=alt.Color("series:N", sort=list(series), legend=_legend()),
        ),
        path,
    )


def stack(parts_of: Mapping[str, float], unit: str, path: Path) -> None:
    """Draw one stacked bar with its total."""
    names = {name: f"{name}: {value:.2f} {unit}" for name, value in parts_of.items()}
    rows = [
        {"part": names[name], "order": order, "value": value}
        for order, (name, value) in enumerate(parts_of.items())
    ]
    total = f"together: {sum(parts_of.values()):.2f} {unit}"
    chart = alt.Chart(alt.InlineData(values=rows), width=WIDTH, height=40, title=total)
    _save(
        chart.mark_bar().encode(
            x=alt.X("value:Q", title=unit, scale=alt.Scale(nice=False)),
            order="order:Q",
            color=alt.Color("part:N", sort=list(names.values()), legend=_legend()),
        ),
        path,
    )


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", direction="vertical", labelLimit=WIDTH)


def _save(chart: alt.Chart, path: Path) -> None:
    svg = vl_convert.vegalite_to_svg(
        chart.properties(background="white", padding=12).to_dict(), vl_version=VEGA_LITE
    )
    atomic_write(svg.encode(), path)
