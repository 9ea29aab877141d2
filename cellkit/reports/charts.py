"""The charts of a report, as SVG: what a table of scores does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from cellkit.metrics import THRESHOLDS, SetReport
from cellkit.metrics.statistics import Summary
from cellkit.reports import plotting as p
from cellkit.reports.definitions import counted
from cellkit.reports.markup import Html, tag
from cellkit.reports.plotting import Floats, Frame

FAMILIES = ("ap_dsb", "f1", "precision", "recall")  # the metrics that have a value at each threshold
MOST_CURVES = 5
MOST_POINTS = 400  # of one curve: more than the pixels that show it
MOST_IMAGES = 2_000  # dots of one chart
AREA_BINS = 30
SHARE_BINS = 20
HEADROOM = 1.08  # of histograms, for the text at the top


def threshold_chart(report: SetReport, summaries: Mapping[str, Summary] | None = None) -> Html:
    """Means of ap_dsb, F1, precision and recall against the IoU threshold, with the interval of ap_dsb."""
    frame = Frame(_threshold_axis(), p.share_axis("mean over images"), FAMILIES)
    x = np.array(THRESHOLDS)
    marks = [_interval(frame, x, summaries)] if summaries else []
    for index, family in enumerate(FAMILIES):
        y = np.array([report.mean.get(f"{family}@{t:g}", math.nan) for t in THRESHOLDS])
        if np.isnan(y).any():
            continue
        texts = [f"{family}@{t:g}: {value:.3f}" for t, value in zip(THRESHOLDS, y.tolist(), strict=True)]
        marks += [p.line(frame, x, y, index), *_dots(frame, x, y, index, texts)]
    return p.chart("Score against IoU threshold", frame, marks)


def _threshold_axis() -> p.Axis:
    ticks = tuple((t, f"{t:g}") for t in THRESHOLDS[::2])
    return p.Axis("IoU threshold t", THRESHOLDS[0] - 0.015, THRESHOLDS[-1] + 0.015, ticks)


def _interval(frame: Frame, x: Floats, summaries: Mapping[str, Summary]) -> Html:
    found = [summaries.get(f"{FAMILIES[0]}@{t:g}") for t in THRESHOLDS]
    low = np.array([summary.low if summary else math.nan for summary in found])
    high = np.array([summary.high if summary else math.nan for summary in found])
    return Html("") if np.isnan(low + high).any() else p.band(frame, x, low, high, 0)


def _dots(frame: Frame, x: Floats, y: Floats, series: int, texts: list[str]) -> list[Html]:
    places = zip(frame.across(x).tolist(), frame.down(y).tolist(), texts, strict=True)
    return [p.marker(across, down, series, text) for across, down, text in places]


def precision_recall_chart(curves: Mapping[str, tuple[Floats, Floats]]) -> Html:
    """Precision against recall; of many curves five, evenly chosen; a curve of one point is a dot."""
    names = list(curves)
    if len(names) > MOST_CURVES:
        names = [names[i] for i in np.linspace(0, len(names) - 1, MOST_CURVES).round().astype(int)]
    frame = Frame(p.share_axis("recall"), p.share_axis("precision"), tuple(names))
    marks = []
    for index, name in enumerate(names):
        recall, precision = _thinned(*curves[name])
        if recall.size > 1:
            marks.append(p.line(frame, recall, precision, index))
        if recall.size:
            end = f"{name}: precision {precision[-1]:.3f}, recall {recall[-1]:.3f}"
            marks += _dots(frame, recall[-1:], precision[-1:], index, [end])
    return p.chart("Precision against recall", frame, marks)


def _thinned(recall: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """At most ``MOST_POINTS`` defined points, the first and the last among them."""
    recall, precision = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    defined = ~(np.isnan(recall) | np.isnan(precision))
    recall, precision = recall[defined], precision[defined]
    kept = np.unique(np.linspace(0, max(0, recall.size - 1), min(recall.size, MOST_POINTS)).round().astype(np.intp))
    return recall[kept], precision[kept]


def area_chart(true_areas: Floats, predicted_areas: Floats, unit: str) -> Html:
    """How many true and predicted cells there are of each size, on a logarithmic axis."""
    samples = {"true": _positive(true_areas), "predicted": _positive(predicted_areas)}
    together = np.concatenate(list(samples.values()))
    low, high = (float(together.min()), float(together.max())) if together.size else (1.0, 10.0)
    axis = p.log_axis(f"cell area ({unit}, logarithmic)", low, high)
    edges = np.geomspace(axis.low, axis.high, AREA_BINS + 1)
    return _histogram("Cell areas", samples, edges, axis, "cells")


def _positive(areas: Floats) -> Floats:
    values = np.asarray(areas, np.float64)
    return values[np.isfinite(values) & (values > 0)]


def iou_chart(matched_ious: Floats) -> Html:
    """How well the matched cells fit."""
    values = np.asarray(matched_ious, np.float64)
    low = 0.5 if values.size == 0 or values.min() >= THRESHOLDS[0] else 0.0
    axis = p.share_axis("IoU of matched cells", low)
    return _histogram("IoU of matched cells", {"": values}, np.linspace(low, 1, SHARE_BINS + 1), axis, "cells")


def score_chart(report: SetReport, metric: str = "ap_dsb") -> Html:
    """How many images have which score."""
    values = np.array([image.values.get(metric, math.nan) for image in report.images])
    values = values[~np.isnan(values)]
    axis = p.share_axis(f"{metric} of an image")
    return _histogram("Score per image", {"": values}, np.linspace(0, 1, SHARE_BINS + 1), axis, "images")


def _histogram(title: str, samples: Mapping[str, Floats], edges: Floats, axis: p.Axis, things: str) -> Html:
    """Samples by name; a sample without a name stands alone and shows its median."""
    inside = {name: np.clip(values, edges[0], edges[-1]) for name, values in samples.items()}  # rounding at the ends
    counts = {name: np.histogram(values, edges)[0].astype(np.float64) for name, values in inside.items()}
    most = max(float(column.max()) for column in counts.values())
    frame = Frame(axis, p.count_axis(things, most * HEADROOM), tuple(name for name in samples if name))
    marks = [p.bars(frame, edges, column, index) for index, column in enumerate(counts.values())]
    for values in (values for name, values in samples.items() if not name and values.size):
        marks.append(p.rule(frame, float(np.median(values)), f"median {np.median(values):.3f}"))
    return p.chart(title, frame, marks, filled=True)


def count_chart(report: SetReport) -> Html:
    """Predicted against true number of cells, a dot per image: above the line too many, below it too few."""
    images = report.images[:MOST_IMAGES]
    true = np.array([image.values["n_true"] for image in images])
    predicted = np.array([image.values["n_predicted"] for image in images])
    most = float(max(true.max(initial=1), predicted.max(initial=1)))
    frame = Frame(p.log1p_axis("true cells of an image", most), p.log1p_axis("predicted cells", most))
    counts = zip(images, true.tolist(), predicted.tolist(), strict=True)
    texts = [f"{image.key}: {counted(t)} true, {counted(q)} predicted" for image, t, q in counts]
    dots = tag("g", *_dots(frame, true, predicted, 0, texts), class_="cloud")
    return p.chart("Cells per image", frame, [p.diagonal(frame), dots])
