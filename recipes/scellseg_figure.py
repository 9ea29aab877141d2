"""The figure of a shot experiment as SVG: mean and standard deviation against shots, a line per method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scellseg_rows import Row
from scellseg_tables import Estimate, base_of, by_shots, estimate, methods_of

from cellkit.reports import plotting as p
from cellkit.reports.markup import Html, join, number, tag

HEADING, LEGEND, MARGIN = 26, 22, 10  # heights of a panel's heading and of a row of the legend, and the edge, in units
DODGE = 3.5  # units between methods, so that their bars do not hide each other
CAP = 2.5  # half the width of the end of a bar
STYLE = """
svg { font: 12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
text { fill: #5b646d; } .key, .label, .heading { fill: #1c2126; } .heading { font-weight: 600; font-size: 14px; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: #eceff1; } .zero { stroke: #5b646d; }
.s1 { --c: #0072b2; } .s2 { --c: #d55e00; } .s3 { --c: #00855f; } .s4 { --c: #b8508e; } .s5 { --c: #7a6a00; }
.s6 { --c: #55606a; }
.line, .bar { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; } .bar { stroke-width: 1.2; }
.dot { fill: var(--c); }
"""


def figure(rows: Sequence[Row]) -> str:
    """An SVG document: a column per dataset, a row per metric; the base stands at 0 shots.

    Args:
        rows: at least one.
    """
    datasets, metrics = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("dataset", "metric"))
    methods = methods_of(rows)
    width = len(datasets) * p.WIDTH
    legend, top = _legend(methods, width)
    panels = [
        _panel([r for r in rows if (r.dataset, r.metric) == (dataset, metric)], methods, x * p.WIDTH, top + y * _tall())
        for y, metric in enumerate(metrics)
        for x, dataset in enumerate(datasets)
    ]
    height = top + len(metrics) * _tall() + MARGIN
    page = tag("rect", width="100%", height="100%", fill="#fff")
    return tag(
        "svg",
        tag("style", Html(STYLE)),
        page,
        legend,
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
    )


def _tall() -> int:
    return p.HEIGHT + HEADING


def _legend(methods: Sequence[str], width: int) -> tuple[Html, int]:
    """Signs and names in rows, and the height they take."""
    parts, x, y = [], float(MARGIN), MARGIN + LEGEND // 2
    for index, name in enumerate(methods):
        room = p.SWATCH + p.LETTER * len(name)
        if x > MARGIN and x + room > width:
            x, y = float(MARGIN), y + LEGEND
        parts += [
            tag("path", d=f"M{number(x)} {y}h18", class_=f"line {_series(index)}"),
            p.marker(x + 9, y, index),
            tag("text", name, x=x + 23, y=y + 4, class_="key"),
        ]
        x += room
    return join(parts), y + LEGEND


def _series(index: int) -> str:
    return f"s{index % p.COLOURS + 1}"


def _panel(rows: Sequence[Row], methods: Sequence[str], x: int, y: int) -> Html:
    """One chart under its heading; nothing where the metric is undefined."""
    if not rows:
        return Html("")
    points = {method: _points(rows, method) for method in methods_of(rows)}
    every = [point for found in points.values() for point in found.values()]
    frame = p.Frame(_shots_axis(rows), _score_axis(rows[0].metric, every))
    marks = [_drawn(frame, found, method, methods.index(method), len(methods)) for method, found in points.items()]
    chart = p.chart(f"{rows[0].metric} on {rows[0].dataset} against shots", frame, marks)
    placed = tag("svg", chart, x=x, y=y + HEADING, width=p.WIDTH, height=p.HEIGHT)
    middle = x + (p.LEFT + p.WIDTH - p.RIGHT) / 2
    return join([tag("text", rows[0].dataset, x=middle, y=y + HEADING - 4, class_="heading middle"), placed])


def _points(rows: Sequence[Row], method: str) -> dict[int, Estimate]:
    found = {count: estimate(list(draws.values())) for count, draws in by_shots(rows, method).items()}
    return {0: estimate([base_of(rows, method)])} | found


def _shots_axis(rows: Sequence[Row]) -> p.Axis:
    """By log(1 + n): the first shots, which matter most, get the most room, and the base its place at 0."""
    counts = [0, *sorted({row.shots for row in rows})]
    return p.Axis("shots", -0.15, counts[-1] * 1.12, tuple((float(count), str(count)) for count in counts), np.log1p)


def _score_axis(metric: str, points: Iterable[Estimate]) -> p.Axis:
    """From 0 to the next tenth (or fifth) above all bars, at most to 1."""
    most = max(point.mean + _spread(point) for point in points)
    step = 0.1 if most <= 0.5 else 0.2
    steps = min(max(1, math.ceil(most / step - 1e-9)), round(1 / step))
    return p.Axis(metric, 0.0, steps * step, tuple((i * step, f"{i * step:.1f}") for i in range(steps + 1)))


def _spread(point: Estimate) -> float:
    return 0.0 if math.isnan(point.sd) else point.sd


def _drawn(frame: p.Frame, points: dict[int, Estimate], method: str, index: int, count: int) -> Html:
    """Line, bars of one standard deviation and marks of one method."""
    across = frame.across(np.array(list(points), np.float64)) + DODGE * (index - (count - 1) / 2)
    means = frame.down(np.array([point.mean for point in points.values()]))
    lows, highs = (
        frame.down(np.array([point.mean + sign * _spread(point) for point in points.values()])) for sign in (-1, 1)
    )
    path = " ".join(f"{number(x)},{number(y)}" for x, y in zip(across.tolist(), means.tolist(), strict=True))
    parts = [tag("path", d=f"M{path}", class_=f"line {_series(index)}")]
    for x, low, high in zip(across.tolist(), lows.tolist(), highs.tolist(), strict=True):
        if low > high:  # downwards: the lower end has the larger coordinate
            parts.append(tag("path", d=_bar(x, low, high), class_=f"bar {_series(index)}"))
    for (shots, point), x, y in zip(points.items(), across.tolist(), means.tolist(), strict=True):
        parts.append(p.marker(x, y, index, f"{method}, {shots} shots: {point}"))
    return join(parts)


def _bar(x: float, low: float, high: float) -> str:
    left = number(x - CAP)
    return f"M{left} {number(low)}h{2 * CAP}M{number(x)} {number(low)}V{number(high)}M{left} {number(high)}h{2 * CAP}"
