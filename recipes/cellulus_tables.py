"""Tables of the Cellulus recipes in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cellulus_rows import METHODS, NO_RUN, RUNS, Run, Score
from scellseg_tables import estimate

METHODS_NOTE = (
    "Mean over images [95 % bootstrap interval over images]; pooled: over all cells at once, as in the paper. The "
    "bundled model learned from labels, of dsb2018 (train.txt); the others never saw one. Differences are paired by "
    "image; with few images an interval says little."
)
SCALES_NOTE = (
    "The images are magnified by the factor before they are looked at: patches, bandwidth and smallest area are as "
    "for objects of the size divided by it. Scores are against the labels at the images' own scale; mean over images "
    "[95 % bootstrap interval], and pooled over all cells."
)
RUNS_NOTE = (
    "Mean over images; of it mean ± standard deviation over draws [95 % interval of the mean: Student's t]. All draws "
    "are scored on the same images: this speaks of the choice of labelled cells and the seed, not of other images."
)


def method_table(rows: Sequence[Score], differences: Mapping[str, Mapping[str, Any]]) -> str:
    """A line per method, and differences to the first of them.

    Args:
        rows: at least one.
        differences: by method, the ``metrics`` of ``cellkit evaluate --compare METHOD oce --json``.
    """
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines = _head("method", "images", *(name for metric in metrics for name in (metric, "pooled")))
    for method in dict.fromkeys(row.method for row in rows):
        found = {row.metric: row for row in rows if row.method == method}
        images = max(row.images for row in found.values())
        cells = [text for metric in metrics for text in _score_cells(found.get(metric))]
        lines.append(_line(METHODS[method], str(images), *cells))
    parts = [METHODS_NOTE, "", *lines, ""]
    if differences:
        parts += [*_head("difference", *metrics), *_difference_lines(differences, metrics), ""]
    return "\n".join(parts)


def _score_cells(row: Score | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    return f"{row.mean:.3f}{_interval(row.low, row.high)}", f"{row.pooled:.3f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low + high) else f" [{low:.3f}, {high:.3f}]"


def _difference_lines(differences: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[str]:
    lines = []
    for method, found in differences.items():
        cells = []
        for metric in metrics:
            entry = found.get(metric) or {}
            known = {
                name: math.nan if entry.get(name) is None else entry[name] for name in ("difference", "low", "high")
            }
            text = "" if math.isnan(known["difference"]) else f"{known['difference']:+.3f}"
            cells.append(text + (_interval(known["low"], known["high"]) if text else ""))
        lines.append(_line(f"{METHODS['oce']} - {METHODS[method]}", *cells))
    return lines


def scale_table(rows: Sequence[Score], size: float) -> str:
    """A line per metric and method, a column per factor.

    Args:
        rows: at least one.
        size: of an object in pixels at factor 1.
    """
    scales = sorted({row.scale for row in rows})
    lines = _head("metric", "method", "", *(f"x {scale:g}" for scale in scales))
    for metric, method in dict.fromkeys((row.metric, row.method) for row in rows):
        found = {row.scale: row for row in rows if (row.metric, row.method) == (metric, method)}
        cells = [_score_cells(found.get(scale)) for scale in scales]
        lines.append(_line(metric, METHODS[method], "mean", *(mean for mean, _ in cells)))
        lines.append(_line("", "", "pooled", *(pooled for _, pooled in cells)))
    sizes = ", ".join(f"{size / scale:.1f}" for scale in scales)
    return "\n".join([SCALES_NOTE, f"Sizes of objects that were told: {sizes} px.", "", *lines, ""])


def run_tables(rows: Sequence[Run]) -> str:
    """Per metric a line per method and a column per part of the labels, and what pseudo labels add.

    Args:
        rows: at least one.
    """
    parts = [RUNS_NOTE, ""]
    for metric in dict.fromkeys(row.metric for row in rows):
        chosen = [row for row in rows if row.metric == metric]
        parts += [f"## {metric}", "", *_run_lines(chosen), "", *_gain_lines(chosen), ""]
    return "\n".join(parts)


def by_fraction(rows: Sequence[Run], method: str) -> dict[float, dict[int, float]]:
    """Means of a method, of one metric, by fraction and draw."""
    found: dict[float, dict[int, float]] = {}
    for row in rows:
        if row.method == method:
            found.setdefault(row.fraction, {})[row.draw] = row.mean
    return dict(sorted(found.items()))


def percent(fraction: float) -> str:
    """0.05 is 5 %."""
    return f"{100 * fraction:g} %"


def _run_lines(rows: Sequence[Run]) -> list[str]:
    fractions = sorted({row.fraction for row in rows})
    lines = _head("learned from", *map(percent, fractions))
    for method, name in (NO_RUN | RUNS).items():
        found = by_fraction(rows, method)
        if found:
            cells = [str(estimate(list(found[part].values()))) if part in found else "" for part in fractions]
            lines.append(_line(name, *cells))
    return lines


def gains(rows: Sequence[Run], more: str = "supported", less: str = "sparse") -> dict[float, list[float]]:
    """One method less another, of runs with the same fraction and draw, by fraction."""
    one, other = by_fraction(rows, more), by_fraction(rows, less)
    found = {
        part: [values[draw] - other[part][draw] for draw in sorted(set(values) & set(other.get(part, {})))]
        for part, values in one.items()
    }
    return {part: values for part, values in found.items() if values}


def _gain_lines(rows: Sequence[Run]) -> list[str]:
    lines = _head(f"{RUNS['supported']} - {RUNS['sparse']}, paired by draw", "mean", "above 0")
    for part, values in gains(rows).items():
        above = f"{sum(value > 0 for value in values)} of {len(values)}"
        lines.append(_line(percent(part), str(estimate(values)), above))
    return lines if len(lines) > 2 else []


def _head(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
