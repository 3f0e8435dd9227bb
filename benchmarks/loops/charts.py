"""SVG charts for docs/, for light and dark mode; equal data give equal bytes."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from multi_abnormality.utils.atomic_io import atomic_write

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 20, 46
COLOURS = ("#2f6fb5", "#c2571a", "#2e8b57", "#8a4fa3")
STYLE = (
    "text{font:13px sans-serif;fill:#333}line{stroke:#999;stroke-width:.6}"
    "polyline{fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}line{stroke:#777}}"
)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, path: Path
) -> None:
    """Draw one line per series, both axes from 0."""
    points = [point for each in series.values() for point in each]
    right, top = (max(values) * 1.05 for values in zip(*points, strict=True))
    step = round_step(top / 4)

    def x(value: float) -> float:
        return LEFT + value / right * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        text(WIDTH / 2, HEIGHT - 8, x_label, "middle"),
        text(LEFT, TOP - 6, y_label, "start"),
    ]
    parts += [
        text(x(tick), HEIGHT - BOTTOM + 18, f"{tick:g}", "middle")
        for tick in sorted({point[0] for point in points})
    ]
    for value in range(0, int(top) + 1, step):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(text(LEFT - 6, y(value) + 4, f"{value}", "end"))
    for number, (name, each) in enumerate(series.items()):
        colour = COLOURS[number]
        coordinates = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in each)
        parts.append(f'<polyline stroke="{colour}" points="{coordinates}"/>')
        parts += [
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour}"/>' for a, b in each
        ]
        parts.append(key(LEFT + 12, TOP + 14 + 19 * number, colour, name))
    save(parts, HEIGHT, path)


def round_step(about: float) -> int:
    """Return the largest of 1, 2, 5, 10, 20, … that is at most `about`."""
    power = 10 ** int(math.log10(about))
    return max(power * factor for factor in (1, 2, 5) if power * factor <= about)


def stack(parts_of: Mapping[str, float], unit: str, path: Path) -> None:
    """Draw one stacked bar with its total."""
    total = sum(parts_of.values())
    parts, start = [], float(LEFT)
    for number, (name, value) in enumerate(parts_of.items()):
        colour, width = COLOURS[number], value / total * (WIDTH - LEFT - RIGHT)
        parts.append(
            f'<rect x="{start:.1f}" y="{TOP}" width="{width:.1f}" height="34" fill="{colour}"/>'
        )
        start += width
        parts.append(key(LEFT, TOP + 62 + 20 * number, colour, f"{name}: {value:.2f} {unit}"))
    height = TOP + 76 + 20 * len(parts_of)
    parts.append(text(LEFT, height - 8, f"together: {total:.2f} {unit}", "start"))
    save(parts, height + 6, path)


def key(x: float, y: float, colour: str, name: str) -> str:
    return f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>' + text(
        x + 18, y, name, "start"
    )


def text(x: float, y: float, content: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def save(parts: Sequence[str], height: int, path: Path) -> None:
    content = "\n".join(parts)
    atomic_write(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">'
        f"<style>{STYLE}</style>\n{content}\n</svg>\n".encode(),
        path,
    )
