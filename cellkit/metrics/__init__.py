"""Numbers from pairs of segmentations: from one sparse table of intersections per image, and from their outlines.

To add one: write its module with a function of counts (see :mod:`cellkit.metrics.counting`), add its line to
:data:`METRICS` (and to :data:`COUNTERS`, if it needs counts of its own), and a test.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np

from cellkit.metrics import aji, foreground, intersections, matching, mistakes, seg
from cellkit.metrics import surfaces as outlines
from cellkit.metrics.counting import Counter, Counts, Metric, Values
from cellkit.metrics.intersections import Intersections, Labels
from cellkit.metrics.matching import THRESHOLDS, match
from cellkit.metrics.reports import ImageReport, SetReport, known_name, set_report, value_named, values_of

__all__ = [
    "COUNTERS",
    "METRICS",
    "THRESHOLDS",
    "Counter",
    "Counts",
    "ImageReport",
    "Intersections",
    "Metric",
    "SetReport",
    "Values",
    "canonical_name",
    "find_metric",
    "match",
    "metric_names",
    "score",
    "score_intersections",
    "summarise",
]

COUNTERS: tuple[Counter, ...] = (
    matching.count_matches,
    seg.count_detections,
    aji.count_aji,
    foreground.count_foreground,
    mistakes.count_mistakes,
)

METRICS: dict[str, Metric] = {
    "n_true": matching.n_true,
    "n_predicted": matching.n_predicted,
    "ap_dsb": matching.ap_dsb,
    "precision": matching.precision,
    "recall": matching.recall,
    "f1": matching.f1,
    "pq": matching.panoptic,
    "ctc/SEG": seg.seg,
    "ctc/DET": seg.det,
    "aji": aji.aji,
    "aji_plus": aji.aji_plus,
    "maji": aji.maji,
    "iou": foreground.iou,
    "dice": foreground.dice,
    "splits": mistakes.splits,
    "merges": mistakes.merges,
    "count_error": mistakes.count_error,
    "area_error": mistakes.area_error,
}


def score(
    truth: Labels,
    prediction: Labels,
    key: str = "labels",
    *,
    pixel_size: float | None = None,
    surfaces: bool = True,
) -> ImageReport:
    """All metrics of one image.

    Args:
        truth: (H, W) label image of integers, 0 is background; ids may have gaps.
        prediction: (H, W) label image of integers, 0 is background.
        key: name of the image.
        pixel_size: micrometres per pixel, or None if that is not known.
        surfaces: whether the distances between the outlines are wanted, too; they take longer than all the rest.

    Raises:
        InputError: the shapes differ, or an array is no label image.
    """
    report = score_intersections(intersections.intersections(truth, prediction, key), key)
    if not surfaces:
        return report
    distances = outlines.surface_distances(truth, prediction, key)
    return replace(report, values=report.values | outlines.surface_values(distances, pixel_size))


def score_intersections(table: Intersections, key: str = "labels") -> ImageReport:
    """As :func:`score` without surfaces, from the table of :func:`cellkit.metrics.intersections.intersections`."""
    counts = {name: count for counter in COUNTERS for name, count in counter(table).items()}
    return ImageReport(key=key, values=values_of(counts, METRICS), counts=counts)


def summarise(images: Iterable[ImageReport]) -> SetReport:
    """Mean over images and pooled value of each metric; without images all but counts and foreground are NaN."""
    return set_report(tuple(images), METRICS, _empty_image().counts)


def metric_names() -> tuple[str, ...]:
    """The names of all values of images in reports, e.g. ``ap_dsb@0.5``, in the order of the tables."""
    return (*_empty_image().values, *outlines.SURFACES)


def canonical_name(name: str, others: Iterable[str] = ()) -> str:
    """The name as reports have it, e.g. ``f1@0.5`` for ``f1@0.50``; ``pooled/f1@0.5`` asks for the pooled value.

    Args:
        name: as somebody wrote it.
        others: names that a report has beside :func:`metric_names`, e.g. those of COCO.

    Raises:
        UsageError: no metric is called that; near names and all choices are listed.
    """
    return known_name(name, dict.fromkeys((*metric_names(), *others)), unpooled=outlines.SURFACES)


def find_metric(report: SetReport, name: str) -> float:
    """The value of a metric over a set: the mean over images, or after ``pooled/`` the pooled value.

    It is NaN where no image defines the metric, and NaN is neither above nor under a gate: test ``not value >= gate``.

    Raises:
        UsageError: no metric is called that.
    """
    return value_named(report, canonical_name(name, report.pooled))


@cache
def _empty_image() -> ImageReport:
    background = np.zeros((1, 1), np.int32)
    return score(background, background, surfaces=False)
