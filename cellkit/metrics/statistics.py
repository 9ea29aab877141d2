"""How sure a mean over images is: spread, and bootstrap intervals over images.

Images are drawn with replacement, since images are what a new experiment would draw anew; cells of one image are alike.
All metrics share the same draws, so that the intervals of several metrics belong to the same imagined experiments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.metrics.reports import ImageReport, SetReport

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 2000  # an end of the interval then moves by about 1.5 % of its width from seed to seed
LEVEL = 0.95
BLOCK = 1 << 21  # draws held at once: 16 MiB of numbers, and as much of weights


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric over the images of a set.

    Attributes:
        n: images where the metric is defined; the others are left out of everything below.
        undefined: images where it is not defined (NaN).
        mean: mean over the n images; NaN where there is none.
        median: median over the n images; NaN where there is none.
        std: standard deviation over the n images, divided by n - 1; NaN where n < 2.
        low: lower end of the bootstrap interval of the mean; NaN where n < 2.
        high: upper end.
    """

    n: int
    undefined: int
    mean: float
    median: float
    std: float
    low: float
    high: float


def summarise_values(
    report: SetReport, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Summary]:
    """Mean, median, standard deviation and interval of each metric that images have, in the order of the report.

    The order of the images changes nothing.

    Args:
        report: the images; values of the set alone are left out.
        resamples: how often as many images as there are, are drawn with replacement.
        level: the part of the resampled means that lies within the interval.
        seed: of the draws.
    """
    images = ordered(report.images)
    names = names_of(report)
    table = value_table(images, names)
    lows, highs = mean_intervals(table, resamples=resamples, level=level, seed=seed)
    return {
        name: _summary(column, report.mean[name], float(low), float(high))
        for name, column, low, high in zip(names, table.T, lows, highs, strict=True)
    }


def _summary(column: Floats, mean: float, low: float, high: float) -> Summary:
    known = column[~np.isnan(column)]
    return Summary(
        n=known.size,
        undefined=column.size - known.size,
        mean=mean,
        median=float(np.median(known)) if known.size else math.nan,
        std=float(np.std(known, ddof=1)) if known.size > 1 else math.nan,
        low=low,
        high=high,
    )


def mean_intervals(
    table: Floats, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[Floats, Floats]:
    """Percentile bootstrap intervals of the means of columns, all from the same draws of rows.

    A draw's mean is over the drawn rows that are defined. With few rows a percentile interval is too narrow: of
    normal samples it holds the true mean in 0.84 of cases at 5 rows, 0.89 at 10, 0.92 at 20, 0.94 at 40.

    Args:
        table: (N, M) one row per image, one column per metric; NaN is undefined.
        resamples: number of draws.
        level: part of the draws within the interval.
        seed: of the draws.

    Returns:
        (M,) lower and (M,) upper ends, NaN where a column has fewer than two defined rows.

    Source: Efron and Tibshirani 1993, An introduction to the bootstrap, chapter 13.
    """
    defined = ~np.isnan(table)
    filled, ones = np.where(defined, table, 0.0), defined.astype(np.float64)
    means = np.empty((resamples, table.shape[1]))
    done = 0
    for weights in _draws(len(table), resamples, seed):
        numbers = weights @ ones
        block = means[done : done + len(weights)]
        block[:] = np.nan
        np.divide(weights @ filled, numbers, out=block, where=numbers > 0)
        done += len(weights)
    ends = [_interval(column, int(n), level) for column, n in zip(means.T, defined.sum(axis=0), strict=True)]
    lows, highs = np.array(ends, np.float64).reshape(-1, 2).T
    return lows, highs


def ordered(images: Sequence[ImageReport]) -> list[ImageReport]:
    """The images by their names, so that a seed draws the same ones in whatever order they came."""
    return sorted(images, key=lambda image: image.key)


def names_of(report: SetReport) -> list[str]:
    """The names of values that images have, in the order of the report; those of the set alone are left out."""
    known = {name for image in report.images for name in image.values}
    return [name for name in report.mean if name in known]


def value_table(images: Sequence[ImageReport], names: Sequence[str]) -> Floats:
    """(N, M) values of images; NaN where a metric is not defined."""
    rows = [[image.values.get(name, math.nan) for name in names] for image in images]
    return np.array(rows, np.float64).reshape(len(images), len(names))


def _draws(number: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of (B, N) weights: how often each of N images was drawn in each of B resamples."""
    generator = np.random.default_rng(seed)
    size = max(1, BLOCK // max(1, number))
    for start in range(0, resamples if number else 0, size):
        rows = min(size, resamples - start)
        drawn = generator.integers(0, number, (rows, number)) + np.arange(rows)[:, None] * number
        counts = np.bincount(drawn.ravel(), minlength=rows * number)
        yield counts.reshape(rows, number).astype(np.float64)


def _interval(draws: Floats, n: int, level: float) -> tuple[float, float]:
    """Percentiles of the defined draws; two images are the least that vary."""
    known = draws[~np.isnan(draws)]
    if n < 2 or not known.size:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
