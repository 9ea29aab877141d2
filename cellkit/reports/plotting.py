"""Axes and marks as SVG; colours and fonts are the page's, by class (see ``page.css``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.reports.definitions import counted
from cellkit.reports.markup import Html, join, number, tag

Floats: TypeAlias = NDArray[np.float64]
Scale: TypeAlias = Callable[[Floats], Floats]

WIDTH, HEIGHT = 380, 280  # units of the view box: at this size one unit is one pixel
LEFT, RIGHT, BOTTOM = 62, 18, 46
LEGEND_ROW = 20
LETTER = 7.2  # mean width of a letter of the 12 px text, for the legend
SWATCH = 32  # width of a legend's sign, with the gaps around it
TICKS = {0.9: (1, 2, 3, 5, 7), 2.2: (1, 2, 5), 4.0: (1, 3)}  # of a logarithmic axis up to so many decades, in each
NARROWEST = 4.0  # from one end of a logarithmic axis to the other: holds two ticks wherever it lies
COLOURS = 6  # series that stay apart; see page.css
MARKERS = (  # one per series: colour is never the only difference
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "M-3-3h6v6h-6z",
    "M0-3.9L3.7 2.8H-3.7z",
    "M0-4.2L4.2 0L0 4.2L-4.2 0z",
    "M0 3.9L3.7-2.8H-3.7z",
    "M-3.4-1.1h2.3v-2.3h2.2v2.3h2.3v2.2h-2.3v2.3h-2.2v-2.3h-2.3z",
)


def _linear(values: Floats) -> Floats:
    return values


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: what it measures, with the unit.
        low: value at its beginning.
        high: value at its end.
        ticks: values and their texts.
        scale: monotonous function whose values are spaced evenly.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    scale: Scale = _linear

    def fractions(self, values: Floats) -> Floats:
        """Where values (N,) lie, (N,): 0 at the beginning of the axis, 1 at its end, nothing beyond."""
        low, high = self.scale(np.array([self.low, self.high], np.float64))
        places: Floats = np.clip((self.scale(np.asarray(values, np.float64)) - low) / (high - low), 0.0, 1.0)
        return places


def share_axis(label: str, low: float = 0.0) -> Axis:
    """From ``low`` to 1 in fifths or tenths."""
    step = 0.2 if low == 0 else 0.1
    values = np.arange(round((1 - low) / step) + 1) * step + low
    return Axis(label, low, 1.0, tuple((float(value), f"{value:.1f}") for value in values))


def count_axis(label: str, most: float) -> Axis:
    """From 0 to a round number not below ``most``, in at most five steps of 1, 2 or 5 times a power of ten."""
    step = max(1.0, _round_step(most / 5))
    steps = max(1, math.ceil(most / step))
    return Axis(label, 0.0, steps * step, tuple((i * step, _short(i * step)) for i in range(steps + 1)))


def _short(value: float) -> str:
    """A number for which there is little room."""
    for least, unit, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / unit:g}{letter}"
    return counted(value) if value == round(value) else f"{value:g}"


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below ``least``."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= least * (1 - 1e-9)), 10 * power)


def log_axis(label: str, low: float, high: float) -> Axis:
    """Logarithmic from ``low`` > 0 to ``high`` or a little beyond; ticks at round numbers."""
    beyond = max(1.0, math.sqrt(NARROWEST * low / high))
    low, high = low / beyond, high * beyond
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = next((ticks for width, ticks in TICKS.items() if math.log10(high / low) < width), (1,))
    values = [factor * 10.0**decade for decade in decades for factor in factors]
    inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
    return Axis(label, low, high, tuple((value, _short(value)) for value in inside), np.log10)


def log1p_axis(label: str, most: float) -> Axis:
    """Counts from 0, spaced by log(1 + n): nothing and thousands fit on one axis."""
    powers = range(max(1, math.ceil(math.log10(most + 1))))
    ticks = [0.0, *(10.0**power for power in powers)]
    factors = [factor * tick for tick in ticks[1:] for factor in (1, 3)] if len(ticks) < 5 else ticks[1:]
    high = max(most * 1.15, 3.0)
    return Axis(label, 0.0, high, tuple((tick, _short(tick)) for tick in [0.0, *factors] if tick <= high), np.log1p)


@dataclass(frozen=True)
class Frame:
    """The area between two axes, under a legend."""

    x: Axis
    y: Axis
    names: tuple[str, ...] = ()

    @property
    def rows(self) -> list[list[tuple[int, str]]]:
        """The legend's names with their numbers, broken into rows."""
        rows: list[list[tuple[int, str]]] = [[]] if self.names else []
        used = 0.0
        for index, name in enumerate(self.names):
            width = SWATCH + LETTER * len(name)
            if rows[-1] and used + width > WIDTH - LEFT - RIGHT:
                rows.append([])
                used = 0.0
            rows[-1].append((index, name))
            used += width
        return rows

    @property
    def top(self) -> float:
        """Upper edge, below the legend."""
        return 12.0 + LEGEND_ROW * len(self.rows)

    def across(self, values: Floats) -> Floats:
        """Horizontal coordinates of values (N,)."""
        return LEFT + self.x.fractions(values) * (WIDTH - LEFT - RIGHT)

    def down(self, values: Floats) -> Floats:
        """Vertical coordinates of values (N,)."""
        return HEIGHT - BOTTOM - self.y.fractions(values) * (HEIGHT - BOTTOM - self.top)


def chart(title: str, frame: Frame, marks: Sequence[Html], *, filled: bool = False) -> Html:
    """A whole chart: axes, marks, and a legend where there are names; ``filled``: its signs are boxes."""
    return tag(
        "svg",
        tag("title", title),
        _axes(frame),
        *marks,
        _legend(frame, filled),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
    )


def _axes(frame: Frame) -> Html:
    left, right, top, bottom = LEFT, WIDTH - RIGHT, frame.top, HEIGHT - BOTTOM
    parts = []
    for (value, text), x in zip(frame.x.ticks, frame.across(np.array([t[0] for t in frame.x.ticks])), strict=True):
        grid = tag("path", d=f"M{number(x)} {number(top)}V{number(bottom)}", class_="grid" if value else "grid zero")
        parts += [grid, tag("text", text, x=float(x), y=bottom + 17, class_="tick middle")]
    for (value, text), y in zip(frame.y.ticks, frame.down(np.array([t[0] for t in frame.y.ticks])), strict=True):
        grid = tag("path", d=f"M{left} {number(y)}H{right}", class_="grid" if value else "grid zero")
        parts += [grid, tag("text", text, x=left - 7, y=float(y) + 4, class_="tick end")]
    middle = (top + bottom) / 2
    parts += [
        tag("text", frame.x.label, x=(left + right) / 2, y=HEIGHT - 8, class_="label middle"),
        tag("text", frame.y.label, transform=f"translate(12 {number(middle)}) rotate(-90)", class_="label middle"),
    ]
    return join(parts)


def _legend(frame: Frame, filled: bool) -> Html:
    parts = []
    for row, entries in enumerate(frame.rows):
        x, y = float(LEFT), 12.0 + LEGEND_ROW * row
        for index, name in entries:
            sign = tag("path", d=f"M{number(x)} {number(y - 5)}h18v10h-18z", class_=f"area s{index % COLOURS + 1}")
            if not filled:
                line = tag("path", d=f"M{number(x)} {number(y)}h18", class_=f"line s{index % COLOURS + 1}")
                sign = join([line, marker(x + 9, y, index)])
            parts += [sign, tag("text", name, x=x + 23, y=y + 4, class_="key")]
            x += SWATCH + LETTER * len(name)
    return join(parts)


def marker(x: float, y: float, series: int, text: str = "") -> Html:
    """The sign of a series at a coordinate; ``text`` appears on hovering."""
    children = (tag("title", text),) if text else ()
    shape = MARKERS[series % len(MARKERS)]
    place = f"translate({number(x)} {number(y)})"
    return tag("path", *children, d=shape, transform=place, class_=f"dot s{series % COLOURS + 1}")


def line(frame: Frame, x: Floats, y: Floats, series: int) -> Html:
    """A line through points (N,)."""
    points = _points(frame.across(x), frame.down(y))
    return tag("path", d=f"M{points}", class_=f"line s{series % COLOURS + 1}")


def band(frame: Frame, x: Floats, low: Floats, high: Floats, series: int) -> Html:
    """The area between two lines over the same x (N,)."""
    across = frame.across(x)
    there, back = _points(across, frame.down(high)), _points(across[::-1], frame.down(low)[::-1])
    return tag("path", d=f"M{there}L{back}z", class_=f"band s{series % COLOURS + 1}")


def bars(frame: Frame, edges: Floats, counts: Floats, series: int) -> Html:
    """A histogram: counts (N,) between edges (N + 1,), as one outlined area."""
    across, down = frame.across(np.repeat(edges, 2)), frame.down(np.concatenate(([0.0], np.repeat(counts, 2), [0.0])))
    return tag("path", d=f"M{_points(across, down)}z", class_=f"area s{series % COLOURS + 1}")


def rule(frame: Frame, x: float, text: str) -> Html:
    """A dashed line up from x, with its text beside it where there is more room."""
    place = float(frame.across(np.array([x]))[0])
    right = place < (LEFT + WIDTH) / 2
    return join(
        [
            tag("path", d=f"M{number(place)} {number(frame.top)}V{HEIGHT - BOTTOM}", class_="rule"),
            tag(
                "text",
                text,
                x=place + (5 if right else -5),
                y=frame.top + 11,
                class_="note start" if right else "note end",
            ),
        ]
    )


def diagonal(frame: Frame) -> Html:
    """A dashed line from corner to corner: equal values, where both axes are alike."""
    return tag("path", d=f"M{LEFT} {HEIGHT - BOTTOM}L{WIDTH - RIGHT} {number(frame.top)}", class_="rule")


def _points(across: Floats, down: Floats) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in zip(across.tolist(), down.tolist(), strict=True))
