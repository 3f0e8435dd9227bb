"""The report's charts as inline SVG, without a library or request.

Colours come from the page's CSS, so charts follow its light and dark mode: classes `main`,
`second` and `quiet` for lines, `frame` and `grid` for axes. Coordinates are rounded, so equal data
give equal bytes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from multi_abnormality.evaluation.curves import Bins, Curve

PANEL = 100  # size of a small panel, in SVG units
WIDTH, HEIGHT = 440, 300  # size of a chart with axes
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40  # margins of a chart with axes


def panel(curve: Curve, reference: Curve, label: str) -> Markup:
    """Draw a small square plot over 0 to 1 without numbers: a curve and a dashed reference."""
    scale = PANEL * np.array([1, -1])
    lines = [
        f'<path class="{kind}" d="{_path(np.stack(part, axis=1) * scale + [0, PANEL])}"/>'
        for kind, part in (("quiet dashed", reference), ("main", curve))
    ]
    return _svg(
        -1,
        PANEL + 2,
        PANEL + 2,
        f'<rect class="frame" width="{PANEL}" height="{PANEL}" rx="2"/>{"".join(lines)}',
        label,
    )


def bar_start(rows: Iterable[tuple[float | None, Mapping[str, float] | None]]) -> float:
    """Return the left end of the axis shared by all bars: 0.5, or the tenth below the lowest value.

    Args:
        rows: AUROC and its interval; without either of them no bar is drawn.
    """
    lows = [0.5]
    for value, interval in rows:
        if value is not None and interval:
            lows += [value, interval["low"]]
    return math.floor(10 * min(lows)) / 10


def interval_bar(value: float, interval: Mapping[str, float], start: float) -> Markup:
    """Draw a dot at `value` over a bar from the low to the high end of its interval.

    Args:
        value: AUROC.
        interval: its "low" and "high" end.
        start: left end of the axis, from `bar_start`; the right one is 1. A line marks 0.5.
    """

    def x_of(number: float) -> float:
        return 100 * (number - start) / (1 - start)

    low, high = x_of(interval["low"]), x_of(interval["high"])
    bar = f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="6" y2="6"/>'
    ticks = "".join(
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="1" y2="11"/>'
        for x in map(x_of, sorted({start, 0.5, 1.0}))
    )
    dot = f'<circle class="dot" cx="{x_of(value):.1f}" cy="6" r="3.2"/>'
    return Markup(
        f'<svg class="bar" viewBox="-4 0 108 12" aria-hidden="true">{ticks}{bar}{dot}</svg>'
    )


def attention_strip(attention: np.ndarray, chosen: int) -> Markup:
    """Draw the attention of each slice, the lowest at the bottom, and a line at the chosen one."""
    count = len(attention)
    lengths = 20 * attention / attention.max()
    heights = PANEL * (1 - (np.arange(count) + 0.5) / count)
    outline = np.stack([[0, *lengths, 0], [heights[0], *heights, heights[-1]]], axis=1)
    line = f'<path class="second" d="M0 {heights[chosen]:.1f}H24"/>'
    return Markup(
        f'<svg class="strip" viewBox="0 0 24 {PANEL}" preserveAspectRatio="none" '
        f'aria-hidden="true"><path class="main filled" d="{_path(outline)}"/>{line}</svg>'
    )


def reliability_chart(after: Bins, before: Bins | None) -> Markup:
    """Plot the fraction of positives over probability, before and after calibration."""
    axes = _Axes((0, 1), (0, 1), "predicted probability", "fraction of positives")
    parts = [axes.line([0, 1], [0, 1], "quiet dashed")]
    for bins, kind in ((before, "second"), (after, "main")):
        if bins is not None:
            parts += [axes.line(bins.predicted, bins.observed, kind), axes.dots(bins, kind)]
    return axes.draw(parts, "Reliability curve over all findings")


def history_chart(
    epochs: Sequence[float],
    series: Mapping[str, npt.ArrayLike],
    y_label: str,
    best: float | None,
    upper_bound: float = math.inf,
) -> Markup:
    """Plot one line per series over epochs.

    Args:
        epochs: epoch of each value.
        series: values by name.
        y_label: title of the y axis, which ends at 0 or `upper_bound` at the latest.
        best: epoch to mark with a vertical line.
        upper_bound: largest possible value.
    """
    values = np.concatenate([np.asarray(values, dtype=float) for values in series.values()])
    low, high = _padded(np.nanmin(values), np.nanmax(values))
    low, high = max(low, 0.0), min(high, upper_bound)
    first, last = float(min(epochs)), float(max(epochs))
    axes = _Axes((first, max(last, first + 1)), (low, high), "epoch", y_label, whole_x=True)
    parts = [axes.marker(best)] if best is not None else []
    for (name, heights), kind in zip(series.items(), ("main", "second"), strict=False):
        parts += [axes.line(epochs, heights, kind), axes.last_point(epochs, heights, name, kind)]
    return axes.draw(parts, f"{y_label} over epochs")


class _Axes:
    """Plot area with ticks, which converts data to SVG coordinates."""

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        x_label: str,
        y_label: str,
        whole_x: bool = False,
    ) -> None:
        self.x_range, self.y_range = x_range, y_range
        self.x_label, self.y_label = x_label, y_label
        self.x_ticks = ticks(*x_range, whole=whole_x)
        self.y_ticks = ticks(*y_range)

    def x(self, value: np.ndarray | float) -> np.ndarray | float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: np.ndarray | float) -> np.ndarray | float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(self, xs: npt.ArrayLike, ys: npt.ArrayLike, kind: str) -> str:
        points = np.stack([self.x(np.asarray(xs, float)), self.y(np.asarray(ys, float))], axis=1)
        return f'<path class="{kind}" d="{_path(points[np.isfinite(points).all(axis=1)])}"/>'

    def dots(self, bins: Bins, kind: str) -> str:
        """Draw dots whose area is proportional to the number of label cells in their bin."""
        radii = 2 + 7 * np.sqrt(bins.scans / bins.scans.sum())
        return "".join(
            f'<circle class="{kind} filled" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{r:.1f}"/>'
            for x, y, r in zip(bins.predicted, bins.observed, radii, strict=True)
        )

    def marker(self, value: float) -> str:
        """Draw a vertical line at an epoch, titled "best"."""
        x = self.x(value)
        return (
            f'<path class="quiet dashed" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{TOP - 3}" text-anchor="middle">best</text>'
        )

    def last_point(self, xs: Sequence[float], ys: npt.ArrayLike, name: str, kind: str) -> str:
        """Draw a dot at a line's last point, which also shows a line of one point."""
        defined = [(x, y) for x, y in zip(xs, np.asarray(ys), strict=True) if np.isfinite(y)]
        if not defined:
            return ""
        x, y = defined[-1]
        return (
            f'<circle class="{kind} filled" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3">'
            f"<title>{escape(name)}: {y:.4g}</title></circle>"
        )

    def draw(self, parts: list[str], label: str) -> Markup:
        bottom = HEIGHT - BOTTOM
        grid = []
        for tick, text in self.x_ticks:
            grid.append(f'<text x="{self.x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">')
            grid.append(f"{text}</text>")
        for tick, text in self.y_ticks:
            y = f"{self.y(tick):.1f}"
            grid.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            grid.append(f'<text x="{LEFT - 7}" y="{y}" dy="4" text-anchor="end">{text}</text>')
        middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
        titles = (
            f'<text x="{middle_x}" y="{HEIGHT - 5}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
            f'<text transform="translate(13 {middle_y}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y_label)}</text>"
        )
        return _svg(0, WIDTH, HEIGHT, "".join([*grid, *parts, titles]), label)


def _svg(origin: int, width: int, height: int, content: str, label: str) -> Markup:
    box = f"{origin} {origin} {width} {height}"
    return Markup(f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{content}</svg>')


def _path(points: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if len(points) else ""


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - pad, high + pad


def ticks(low: float, high: float, whole: bool = False) -> list[tuple[float, str]]:
    """Return about five round numbers from low to high, each with its text."""
    rough = (high - low) / 6
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    decimals = max(0, int(-np.floor(np.log10(step) + 1e-9)))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [(index * step, f"{index * step:.{decimals}f}") for index in range(first, last + 1)]
