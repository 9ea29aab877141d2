"""Figures of the Cellulus recipes as SVG: scores with bars against scale or against the part of the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cellulus_rows import METHODS, NO_RUN, RUNS, Run, Score
from cellulus_tables import by_fraction, percent
from scellseg_figure import CAP, DODGE, LEGEND, MARGIN, STYLE
from scellseg_tables import estimate

from cellkit.reports import plotting as p
from cellkit.reports.markup import Html, join, number, tag

NO_LABELS = 0.6  # decades between no labels and the smallest part of them, on the logarithmic axis
ROOM = 0.06  # of the axis, beyond the first and the last point


@dataclass(frozen=True, kw_only=True)
class Point:
    """A score with its bar, which is left out where it is NaN.

    Attributes:
        x: place on the axis.
        y: score.
        low: lower end of the bar.
        high: upper end.
        text: appears on hovering.
    """

    x: float
    y: float
    low: float
    high: float
    text: str


Series = Mapping[str, Sequence[Point]]


def scale_figure(rows: Sequence[Score]) -> str:
    """An SVG document: a panel per metric, a line per method against the scale factor; bars are the intervals."""
    scales = sorted({row.scale for row in rows})
    ticks = tuple((scale, f"{scale:g}") for scale in scales)
    panels = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        series: dict[str, list[Point]] = {}
        for row in sorted(rows, key=lambda row: row.scale):
            if row.metric == metric:
                text = f"{METHODS[row.method]}, x {row.scale:g}: {row.mean:.3f}"
                point = Point(x=row.scale, y=row.mean, low=row.low, high=row.high, text=text)
                series.setdefault(METHODS[row.method], []).append(point)
        panels[metric] = series
    return _document(panels, "scale factor", ticks)


def run_figure(rows: Sequence[Run]) -> str:
    """An SVG document as Figure 5 of the paper: a panel per metric, a line per method; bars are one deviation."""
    fractions = sorted({row.fraction for row in rows})
    places = _places(fractions)
    ticks = tuple((places[part], percent(part)) for part in fractions)
    panels = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        chosen = [row for row in rows if row.metric == metric]
        series = {}
        for method, name in (RUNS | NO_RUN).items():
            points = []
            for part, draws in by_fraction(chosen, method).items():
                found = estimate(list(draws.values()))
                text = f"{name}, {percent(part)}: {found}"
                low, high = found.mean - found.sd, found.mean + found.sd
                points.append(Point(x=places[part], y=found.mean, low=low, high=high, text=text))
            if points:
                series[name] = points
        panels[metric] = series
    return _document(panels, "labelled cells", ticks)


def _places(fractions: Sequence[float]) -> dict[float, float]:
    """Where no labels lie, at 0, and the decades of each part from a little beyond."""
    logs = {part: math.log10(part) for part in fractions if part > 0}
    lowest = min(logs.values(), default=0.0)
    return {0.0: 0.0} | {part: place - lowest + NO_LABELS for part, place in logs.items()}


def _document(panels: Mapping[str, Series], label: str, ticks: tuple[tuple[float, str], ...]) -> str:
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    width = len(panels) * p.WIDTH
    legend, top = _legend(names, width)
    drawn = []
    for index, (metric, series) in enumerate(panels.items()):
        chart = _panel(metric, series, names, label, ticks)
        drawn.append(tag("svg", chart, x=index * p.WIDTH, y=top, width=p.WIDTH, height=p.HEIGHT))
    height = top + p.HEIGHT + MARGIN
    page = tag("rect", width="100%", height="100%", fill="#fff")
    return tag(
        "svg",
        tag("style", Html(STYLE)),
        page,
        legend,
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
    )


def _legend(names: Sequence[str], width: int) -> tuple[Html, int]:
    """Signs and names in rows, and the height they take."""
    parts, x, y = [], float(MARGIN), MARGIN + LEGEND // 2
    for index, name in enumerate(names):
        room = p.SWATCH + p.LETTER * len(name)
        if x > MARGIN and x + room > width:
            x, y = float(MARGIN), y + LEGEND
        sign = tag("path", d=f"M{number(x)} {y}h18", class_=f"line s{index % p.COLOURS + 1}")
        parts += [sign, p.marker(x + 9, y, index), tag("text", name, x=x + 23, y=y + 4, class_="key")]
        x += room
    return join(parts), y + LEGEND


def _panel(metric: str, series: Series, names: Sequence[str], label: str, ticks: tuple[tuple[float, str], ...]) -> Html:
    lowest, highest = ticks[0][0], ticks[-1][0]
    room = ROOM * (highest - lowest) or 1.0
    frame = p.Frame(p.Axis(label, lowest - room, highest + room, ticks), _score_axis(metric, series))
    marks = [_drawn(frame, points, names.index(name), len(names)) for name, points in series.items()]
    return p.chart(f"{metric} against {label}", frame, marks)


def _score_axis(metric: str, series: Series) -> p.Axis:
    """From 0 to the next fifth above all bars, at most to 1."""
    most = max(max(point.y, _known(point.high, point.y)) for points in series.values() for point in points)
    steps = min(max(1, math.ceil(most / 0.2 - 1e-9)), 5)
    return p.Axis(metric, 0.0, steps * 0.2, tuple((i * 0.2, f"{i * 0.2:.1f}") for i in range(steps + 1)))


def _known(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _drawn(frame: p.Frame, points: Sequence[Point], index: int, count: int) -> Html:
    """Line, bars and marks of one method."""
    series = f"s{index % p.COLOURS + 1}"
    across = (frame.across(np.array([point.x for point in points])) + DODGE * (index - (count - 1) / 2)).tolist()
    middles, lows, highs = (
        frame.down(np.array([_known(getattr(point, name), point.y) for point in points])).tolist()
        for name in ("y", "low", "high")
    )
    path = " ".join(f"{number(x)},{number(y)}" for x, y in zip(across, middles, strict=True))
    parts = [tag("path", d=f"M{path}", class_=f"line {series}")]
    for x, low, high in zip(across, lows, highs, strict=True):
        if low > high:  # downwards: the lower end has the larger coordinate
            parts.append(tag("path", d=_bar(x, low, high), class_=f"bar {series}"))
    parts += [p.marker(x, y, index, point.text) for x, y, point in zip(across, middles, points, strict=True)]
    return join(parts)


def _bar(x: float, low: float, high: float) -> str:
    left = number(x - CAP)
    return f"M{left} {number(low)}h{2 * CAP}M{number(x)} {number(low)}V{number(high)}M{left} {number(high)}h{2 * CAP}"
