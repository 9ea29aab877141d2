"""All that a report shows of one evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cellkit.metrics import SetReport
from cellkit.metrics.statistics import Summary

PERCENTILES = (0, 100, 50, 25, 75)  # the most telling first: where images are few, the later ones fall away


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One image, drawn.

    Attributes:
        key: name of the image.
        percentile: which of all images it is in the order of the score: 0 is the lowest, 100 the highest.
        score_name: the metric that orders the images.
        score: its value of this image.
        picture: (H, W, 3) uint8 with the cells drawn in.
        plain: (H, W, 3) uint8, the same without any drawing, or None.
    """

    key: str
    percentile: int
    score_name: str
    score: float
    picture: NDArray[np.uint8]
    plain: NDArray[np.uint8] | None = None


def _nothing() -> NDArray[np.float64]:
    return np.zeros(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Everything that a report shows; what is empty or None is left out of it.

    Attributes:
        title: heading of the report.
        truth: where the truth came from, as the user wrote it.
        prediction: where the prediction came from.
        report: scores of the images and of the set.
        written: which command of which version wrote this and when, in one line.
        summaries: spread and interval of each metric, by its name.
        precision_recall: curves by name, such as ``IoU 0.5``: (P,) recall and (P,) precision in [0, 1].
        true_areas: (N,) areas of all true cells.
        predicted_areas: (M,) areas of all predicted cells.
        area_unit: unit of both.
        matched_ious: (K,) IoU of the pairs matched at IoU >= 0.5.
        groups: scores of groups of images, by the name of the group.
        problems: what kept images from being scored, a line each.
        examples: drawn images, from the lowest score to the highest.
    """

    title: str
    truth: str
    prediction: str
    report: SetReport
    written: str = ""
    summaries: Mapping[str, Summary] | None = None
    precision_recall: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)
    true_areas: NDArray[np.float64] = field(default_factory=_nothing)
    predicted_areas: NDArray[np.float64] = field(default_factory=_nothing)
    area_unit: str = "px"
    matched_ious: NDArray[np.float64] = field(default_factory=_nothing)
    groups: Mapping[str, SetReport] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()


def choose_examples(report: SetReport, metric: str = "ap_dsb") -> list[tuple[int, str, float]]:
    """The images at the 0th, 25th, 50th, 75th and 100th percentile of a metric, each image once.

    Images that do not define the metric are left out; of equal scores the image given first comes first.

    Returns:
        Percentile, key and score of at most five images, ascending.
    """
    scored = [(image.values.get(metric, math.nan), image.key) for image in report.images]
    ordered = sorted((pair for pair in scored if not math.isnan(pair[0])), key=lambda pair: pair[0])
    if not ordered:
        return []
    chosen: dict[int, int] = {}
    for percentile in PERCENTILES:
        chosen.setdefault(round(percentile / 100 * (len(ordered) - 1)), percentile)
    return [(percentile, ordered[place][1], ordered[place][0]) for place, percentile in sorted(chosen.items())]
