"""Charts of the report: Vega-Lite specifications by Altair, and the library that draws them.

The specifications have named, empty data sets; the page's script fills them in. All fields are
named here, so that names of findings and scans never become part of a specification. Colours are
custom properties of the page's CSS, so charts follow its light, dark and printed colours.
"""

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair

    Layers = altair.LayerChart | altair.FacetChart

# Altair and vl-convert are imported where they are used: they take seconds.
VEGA_LITE = "6.4"  # the newest version of both Altair and vl-convert
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
HEIGHT = 240  # pixels of a plot area
MAIN, SECOND, QUIET, GRID = "var(--main)", "var(--second)", "var(--soft)", "var(--line)"


@functools.cache
def library() -> str:
    """Return Vega, Vega-Lite and vega-embed as one JavaScript module, which sets `vegaEmbed`."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@functools.cache
def specifications() -> dict[str, dict[str, Any]]:
    """Return the charts by name: roc, precision_recall, calibration, losses, auroc and rate."""
    return {
        "roc": _specification(_curve("false positive rate", "sensitivity")),
        "precision_recall": _specification(_curve("recall (sensitivity)", "precision (PPV)")),
        "calibration": _specification(_calibration()),
        "losses": _specification(_history("loss", two_series=True)),
        "auroc": _specification(_history("macro AUROC")),
        "rate": _specification(_history("learning rate")),
    }


def _specification(chart: "Layers") -> dict[str, Any]:
    import altair as alt

    chart = (
        chart.properties(width="container", height=HEIGHT, background="transparent")
        .configure(font=FONT)
        .configure_view(stroke=GRID)
        .configure_axis(
            labelColor=QUIET, titleColor=QUIET, gridColor=GRID, domainColor=GRID, tickColor=GRID,
            labelFontSize=12, titleFontSize=12, labelFlush=False, titleFontWeight="normal",
        )
        .configure_legend(
            orient="bottom", title=None, labelColor=QUIET, labelFontSize=12, symbolType="stroke",
            symbolStrokeWidth=3,
        )
    )  # fmt: skip
    with alt.data_transformers.enable("default", consolidate_datasets=False):
        content: dict[str, Any] = chart.to_dict()
    return content


def _unit(field: str, title: str) -> dict[str, Any]:
    """Return arguments of a channel from 0 to 1."""
    import altair as alt

    return {
        "shorthand": f"{field}:Q",
        "title": title,
        "scale": alt.Scale(domain=[0, 1]),
        "axis": alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format=".1f"),
    }


def _curve(x_title: str, y_title: str) -> "Layers":
    """Return a curve over 0 to 1 with its interval, a reference and the operating point."""
    import altair as alt

    x, y = alt.X(**_unit("x", x_title)), alt.Y(**_unit("y", y_title))
    numbers = [
        alt.Tooltip("threshold:Q", title="threshold", format=".3f"),
        alt.Tooltip("x:Q", title=x_title, format=".3f"),
        alt.Tooltip("y:Q", title=y_title, format=".3f"),
    ]
    band = (
        alt.Chart(alt.NamedData("band"))
        .mark_area(color=MAIN, opacity=0.16)
        .encode(x=x, y=alt.Y(**_unit("low", y_title)), y2="high:Q")
    )
    reference = (
        alt.Chart(alt.NamedData("reference"))
        .mark_line(color=QUIET, strokeDash=[4, 4], strokeWidth=1)
        .encode(x=x, y=y)
    )
    line = (
        alt.Chart(alt.NamedData("curve"))
        .mark_line(color=MAIN, strokeWidth=2)
        .encode(x=x, y=y, order="order:Q")
    )
    hover = (
        alt.Chart(alt.NamedData("curve"))
        .mark_point(color=MAIN, filled=True, opacity=0, size=140)
        .encode(x=x, y=y, tooltip=numbers)
    )
    point = (
        alt.Chart(alt.NamedData("point"))
        .mark_point(color=SECOND, filled=True, opacity=1, size=110)
        .encode(x=x, y=y, tooltip=numbers)
    )
    return alt.layer(band, reference, line, hover, point)


def _calibration() -> "Layers":
    """Return the fraction of positives over probability, before and after calibration."""
    import altair as alt

    x = alt.X(**_unit("x", "predicted probability"))
    y = alt.Y(**_unit("y", "fraction of positives"))
    color = alt.Color("series:N", scale=alt.Scale(domain=["after", "before"], range=[MAIN, SECOND]))
    ideal = (
        alt.Chart(alt.NamedData("reference"))
        .mark_line(color=QUIET, strokeDash=[4, 4], strokeWidth=1)
        .encode(x=x, y=y)
    )
    range_ = (
        alt.Chart(alt.NamedData("bins"))
        .mark_rule(color=MAIN, opacity=0.5, strokeWidth=2)
        .encode(x=x, y=alt.Y(**_unit("low", "fraction of positives")), y2="high:Q")
    )
    line = alt.Chart(alt.NamedData("bins")).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=color)
    dots = (
        alt.Chart(alt.NamedData("bins"))
        .mark_point(filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            color=color,
            size=alt.Size("scans:Q", legend=None, scale=alt.Scale(range=[20, 160])),
            tooltip=[
                alt.Tooltip("series:N", title="calibration"),
                alt.Tooltip("x:Q", title="predicted", format=".3f"),
                alt.Tooltip("y:Q", title="observed", format=".3f"),
                alt.Tooltip("scans:Q", title="labels"),
            ],
        )
    )
    return alt.layer(ideal, range_, line, dots)


def _history(title: str, two_series: bool = False) -> "Layers":
    """Return values over epochs, with a line at the best epoch and where training stopped."""
    import altair as alt

    whole = "datum.value % 1 ? '' : datum.label"  # few epochs have ticks between them
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(labelExpr=whole, format="d", grid=False))
    y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=False))
    names = ["training", "validation"]
    color = (
        alt.Color("series:N", scale=alt.Scale(domain=names, range=[MAIN, SECOND]))
        if two_series
        else alt.value(MAIN)
    )
    marks = (
        alt.Chart(alt.NamedData("marks"))
        .mark_rule(color=QUIET, strokeDash=[4, 4])
        .encode(x=x, tooltip=[alt.Tooltip("name:N", title="event"), alt.Tooltip("epoch:Q")])
    )
    names_of_marks = (
        alt.Chart(alt.NamedData("marks"))
        .mark_text(color=QUIET, align="right", dx=-4, baseline="bottom")
        .encode(x=x, y=alt.value(HEIGHT - 4), text="name:N")
    )
    line = (
        alt.Chart(alt.NamedData("history"))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=36))
        .encode(
            x=x,
            y=y,
            color=color,
            tooltip=[
                alt.Tooltip("series:N", title="series"),
                alt.Tooltip("epoch:Q"),
                alt.Tooltip("y:Q", title=title, format=".4g"),
            ],
        )
    )
    return alt.layer(marks, names_of_marks, line)
