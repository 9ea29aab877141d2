"""The figure of a few-shot experiment with detectors as SVG: scores in the course of fine-tuning (CUPre, Figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from cupre_rows import METRICS, NAMES, Point
from scellseg_figure import HEADING, LEGEND, MARGIN, STYLE

from cellkit.reports import plotting as p
from cellkit.reports.markup import Html, join, number, tag

COLOURS = {  # that differ for colour-blind eyes, too (Okabe and Ito 2008)
    "scratch": "#6b6b6b",
    "cells-moco": "#e69f00",
    "coco": "#0072b2",
    "coco++": "#56b4e9",
    "cupre--": "#cc79a7",
    "cupre": "#d55e00",
    "cupre++": "#009e73",
}
OWN_STYLE = "".join(f" .s{place} {{ --c: {colour}; }}" for place, colour in enumerate(COLOURS.values(), 1))
OWN_STYLE += " .band { fill: var(--c); opacity: .1; }"
CAPITAL = 1.35  # width of a letter of the legend's names, most of them capital, over that of others


def figure(points: Sequence[Point]) -> str:
    """An SVG document: a column per fraction, a row per metric, in each a line per baseline.

    Lines are means over draws, where all draws of a baseline were validated; bands are one standard deviation.

    Args:
        points: at least one.
    """
    fractions, baselines = sorted({point.fraction for point in points}), dict.fromkeys(NAMES)
    known = [name for name in baselines if any(point.baseline == name for point in points)]
    width = len(fractions) * p.WIDTH
    legend, top = _legend(known, width)
    panels = []
    for y, metric in enumerate(METRICS):
        for x, fraction in enumerate(fractions):
            some = [point for point in points if (point.fraction, point.metric) == (fraction, metric)]
            panels.append(_panel(some, known, f"{fraction:.0%}", (x * p.WIDTH, top + y * (p.HEIGHT + HEADING))))
    height = top + len(METRICS) * (p.HEIGHT + HEADING) + MARGIN
    return tag(
        "svg",
        tag("style", Html(STYLE + OWN_STYLE)),
        tag("rect", width="100%", height="100%", fill="#fff"),
        legend,
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
    )


def _legend(known: Sequence[str], width: int) -> tuple[Html, int]:
    """Lines and names in rows, and the height they take."""
    parts, x, y = [], float(MARGIN), MARGIN + LEGEND // 2
    for name in known:
        room = p.SWATCH + CAPITAL * p.LETTER * len(NAMES[name])
        if x > MARGIN and x + room > width:
            x, y = float(MARGIN), y + LEGEND
        parts.append(tag("path", d=f"M{number(x)} {y}h18", class_=f"line {_series(name)}"))
        parts.append(tag("text", NAMES[name], x=x + 23, y=y + 4, class_="key"))
        x += room
    return join(parts), y + LEGEND


def _series(baseline: str) -> str:
    return f"s{list(COLOURS).index(baseline) + 1}"


def _panel(points: Sequence[Point], known: Sequence[str], heading: str, at: tuple[int, int]) -> Html:
    """One chart under its heading; nothing where nothing was validated."""
    if not points:
        return Html("")
    courses = {name: _course([point for point in points if point.baseline == name]) for name in known}
    steps = p.count_axis("steps", max(point.step for point in points))
    frame = p.Frame(steps, _score_axis(points[0].metric, max(point.score for point in points)))
    marks = [_drawn(frame, found, name) for name, found in courses.items() if found]
    chart = p.chart(f"AP_{points[0].metric} with {heading} of the images", frame, marks)
    x, y = at
    placed = tag("svg", chart, x=x, y=y + HEADING, width=p.WIDTH, height=p.HEIGHT)
    middle = x + (p.LEFT + p.WIDTH - p.RIGHT) / 2
    return join([tag("text", heading, x=middle, y=y + HEADING - 4, class_="heading middle"), placed])


def _course(points: Sequence[Point]) -> dict[int, list[float]]:
    """Scores of all draws by step, of steps that all draws have."""
    draws = {point.draw for point in points}
    found: dict[int, list[float]] = {}
    for point in points:
        found.setdefault(point.step, []).append(point.score)
    return {step: scores for step, scores in sorted(found.items()) if len(scores) == len(draws)}


def _score_axis(metric: str, most: float) -> p.Axis:
    """From 0 to the next tenth above all, at most to 1."""
    steps = min(max(1, math.ceil(most / 0.1 - 1e-9)), 10)
    every = 1 if steps <= 5 else 2
    ticks = tuple((i * 0.1, f"{10 * i}") for i in range(0, steps + 1, every))
    return p.Axis(f"AP_{metric} (%)", 0.0, steps * 0.1, ticks)


def _drawn(frame: p.Frame, found: dict[int, list[float]], baseline: str) -> Html:
    across = frame.across(np.array(list(found), np.float64)).tolist()
    mean = np.array([np.mean(scores) for scores in found.values()])
    spread = np.array([np.std(scores, ddof=1) if len(scores) > 1 else 0.0 for scores in found.values()])
    parts = []
    if spread.any():
        low, high = frame.down(mean - spread).tolist(), frame.down(np.minimum(mean + spread, 1)).tolist()
        around = [*zip(across, low, strict=True), *list(zip(across, high, strict=True))[::-1]]
        parts.append(tag("path", d=f"M{_path(around)}Z", class_=f"band {_series(baseline)}"))
    line = _path(list(zip(across, frame.down(mean).tolist(), strict=True)))
    parts.append(tag("path", d=f"M{line}", class_=f"line {_series(baseline)}"))
    return join(parts)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)
