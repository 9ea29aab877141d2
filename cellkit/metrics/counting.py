"""Counts that add up over images, and the quotients made of them.

A metric is a function of counts. Of the counts of one image it is that image's value; of the counts summed over a set
it is the pooled value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from cellkit.metrics.intersections import Intersections

Counts: TypeAlias = Mapping[str, float]
Values: TypeAlias = dict[str, float]
Counter: TypeAlias = Callable[[Intersections], Counts]
Metric: TypeAlias = Callable[[Counts], Values]


def quotient(numerator: float, denominator: float) -> float:
    """The quotient, NaN where there is nothing to divide by."""
    return numerator / denominator if denominator else math.nan


def summed(counts: Iterable[Counts]) -> Counts:
    """Sum of each count over images, rounded once (``math.fsum``), so that the order of images does not matter."""
    columns: dict[str, list[float]] = {}
    for image in counts:
        for name, count in image.items():
            columns.setdefault(name, []).append(count)
    return {name: math.fsum(column) for name, column in columns.items()}
