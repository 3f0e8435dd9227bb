"""Forest plot of the differences and their intervals.

A self-contained SVG for light and dark mode; equal numbers give equal bytes.
"""

import textwrap
from collections.abc import Sequence

from markupsafe import escape

from multi_abnormality.evaluation.charts import ticks
from multi_abnormality.tools.compare.formatting import (
    MINUS,
    RANKED_BY,
    TITLES,
    Comparison,
    Scores,
    format_p_value,
    format_score,
    format_signed,
    interval_title,
    ranked_findings,
    revision_names,
    significant_sign,
    verdict,
)

WIDTH, ROW = 840, 24
NAMES = 24  # left edge of the names; the axis lies between them and the numbers
LEFT, RIGHT = 256, 590
COLUMNS = (640, 690, 752, 816)  # right ends of A, B, B - A, and p or q
TOP = 100  # y of the first row
LINE = 110  # characters per line of text
MIN_HALF_RANGE = 0.01  # smallest half of the axis

STYLE = """
svg { --paper: #fbfaf7; --ink: #1d2327; --soft: #5d676e; --line: #dedbd3; --better: #0d6675;
  --worse: #b8621b; }
@media (prefers-color-scheme: dark) { svg { --paper: #14181b; --ink: #e7e5df; --soft: #9aa5ab;
  --line: #333b41; --better: #67c3d0; --worse: #e5a15f; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif;
  fill: var(--ink); font-variant-numeric: tabular-nums; }
.title { font-size: 17px; } .title, .head { font-weight: 600; }
.soft { fill: var(--soft); } .end { text-anchor: end; } .middle { text-anchor: middle; }
.paper { fill: var(--paper); } .grid { stroke: var(--line); } .zero { stroke: var(--soft); }
.range { stroke: var(--soft); stroke-width: 5; stroke-linecap: round; opacity: 0.4; }
.dot { fill: var(--soft); }
.better .range { stroke: var(--better); } .better .dot, .better .label { fill: var(--better); }
.worse .range { stroke: var(--worse); } .worse .dot, .worse .label { fill: var(--worse); }
.better .label, .worse .label { font-weight: 600; }
"""


def draw_differences(comparison: Comparison) -> str:
    """Draw second minus first revision: the scores over all findings, then each finding's AUROC."""
    macro = [(title, comparison["macro"][measure]) for measure, title in TITLES.items()]
    findings = [
        (finding, comparison["per_pathology"][finding][RANKED_BY])
        for finding in ranked_findings(comparison)
    ]
    axis = _Axis([scores for _, scores in macro + findings])
    parts, y = [], TOP
    for title, test, rows in (
        ("All findings", "p", macro),
        (f"{TITLES[RANKED_BY]} by finding", "q", findings),
    ):
        parts.append(_head(y, title, test))
        for name, scores in rows:
            y += ROW
            parts.append(_row(y, name, scores, test, axis, significant_sign(scores, comparison)))
        y += 2 * ROW
    bottom = y - 1.5 * ROW
    sentences = [
        _text(NAMES, bottom + 62 + 20 * line, text)
        for line, text in enumerate(_lines(verdict(comparison)))
    ]
    height = bottom + 62 + 20 * len(sentences)
    return _page(height, [_title(comparison), axis.draw(bottom), *parts, *sentences])


class _Axis:
    """Maps differences to x coordinates, symmetrically about zero."""

    def __init__(self, rows: Sequence[Scores]) -> None:
        ends = [abs(end) for row in rows for end in (row["interval"] or {}).values()]
        ends += [abs(row["difference"]) for row in rows if row["difference"] is not None]
        self.reach: float = min(1.05 * max([MIN_HALF_RANGE, *ends]), 1.0)  # scores are in [0, 1]

    def x(self, value: float) -> float:
        return (LEFT + RIGHT) / 2 + value / self.reach * (RIGHT - LEFT) / 2

    def draw(self, bottom: float) -> str:
        lines = []
        for tick, text in ticks(-self.reach, self.reach):
            x, kind = f"{self.x(tick):.1f}", "grid" if round(tick, 9) else "zero"
            lines.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{TOP + 8}" y2="{bottom}"/>')
            label = text.replace("-", MINUS) if round(tick, 9) else "0"
            lines.append(_text(self.x(tick), bottom + 17, label, "soft middle"))
        lines.append(_text(LEFT, bottom + 36, "\N{LEFTWARDS ARROW} A is better", "soft"))
        lines.append(_text(RIGHT, bottom + 36, "B is better \N{RIGHTWARDS ARROW}", "soft end"))
        return "".join(lines)


def _row(y: float, name: str, scores: Scores, test: str, axis: _Axis, sign: int) -> str:
    values = (
        format_score(scores["a"]),
        format_score(scores["b"]),
        format_signed(scores["difference"]),
    )
    parts = [_text(NAMES, y, name, "label")]
    if interval := scores["interval"]:
        low, high = axis.x(interval["low"]), axis.x(interval["high"])
        parts.append(
            f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{y - 4}" y2="{y - 4}"/>'
        )
    if scores["difference"] is not None:
        x = axis.x(scores["difference"])
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y - 4}" r="4"/>')
    for x, text in zip(COLUMNS, (*values, format_p_value(scores[test])), strict=True):
        parts.append(_text(x, y, text, "end"))
    kind = {1: ' class="better"', -1: ' class="worse"', 0: ""}[sign]
    return f"<g{kind}>{''.join(parts)}</g>"


def _head(y: float, title: str, test: str) -> str:
    heads = zip(COLUMNS, ("A", "B", f"B {MINUS} A", test), strict=True)
    return _text(NAMES, y, title, "head") + "".join(_text(x, y, t, "head end") for x, t in heads)


def _title(comparison: Comparison) -> str:
    counts, settings = comparison["counts"], comparison["settings"]
    subtitle = (
        f"{counts['scans']} scans of {counts['patients']} patients; "
        f"{interval_title(comparison)}s by {settings['n_bootstrap']} paired resamples of patients; "
        "p by as many swaps, q for all findings"
    )
    return _text(NAMES, 36, revision_names(comparison), "title") + _text(
        NAMES, 60, subtitle, "soft"
    )


def _lines(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in textwrap.wrap(sentence, LINE)]


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _page(height: float, parts: Sequence[str]) -> str:
    box = f"0 0 {WIDTH} {height:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{WIDTH}" role="img" '
        f'aria-label="Differences of two models\' scores">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="100%" height="100%"/>\n{"".join(parts)}\n</svg>\n'
    )
