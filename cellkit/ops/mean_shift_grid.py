"""Hill climbing on a grid: from bins instead of points, sums over discs as differences of prefix sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.runs import Indices

Points = NDArray[np.float64]

PARTS = 4  # bins along a bandwidth: finer ones cost more and find the same clusters
DOUBLINGS = 8  # of the way that is looked ahead: 256 steps
LARGEST = 1 << 24  # bins: points scattered so far apart are few on each, and climb by themselves


def summits(points: Points, bandwidth: float) -> Points:
    """Where points climb to when all points of a bin stand at its centre: starts (M, 2) of an exact climb.

    The mean of the points of a disc of bins is that of the points themselves; only which bins are in the disc, and
    that the climb goes on from the centre of a bin, is coarse.

    Args:
        points: (N, 2) finite places.
        bandwidth: radius of the discs.

    Returns:
        The means that were reached last, or all points where they are too far apart for a grid.
    """
    low = points.min(0)
    side = bandwidth / PARTS
    extent = np.floor((points.max(0) - low) / side) + 1
    if extent.prod() > LARGEST:
        return points
    shape = (int(extent[0]), int(extent[1]))
    offsets = points - low
    bins = np.floor(offsets / side).astype(np.int64)
    flat = np.ravel_multi_index((bins[:, 0], bins[:, 1]), shape)
    count, y, x = (disc_sums(_histogram(flat, shape, w), PARTS) for w in (None, offsets[:, 0], offsets[:, 1]))
    means = np.stack([y, x]).reshape(2, -1) / np.maximum(count.ravel(), 1)
    ends = np.unique(_ahead(means / side, shape)[np.unique(flat)])
    reached: Points = np.ascontiguousarray(means[:, ends].T) + low
    return reached


def disc_sums(values: Points, radius: int) -> Points:
    """Sums (H, W) of values over the bins whose centres are within so many bins; outside is 0."""
    height, width = values.shape
    before = np.zeros((height + 2 * radius, width + 2 * radius + 1))  # columns: sum of what is left of them
    inside = before[radius : radius + height]
    np.cumsum(values, 1, out=inside[:, radius + 1 : radius + 1 + width])
    inside[:, radius + 1 + width :] = inside[:, radius + width, None]
    sums = np.zeros((height, width))
    for step in range(-radius, radius + 1):
        reach = int(np.sqrt(radius**2 - step**2))
        rows = before[radius + step : radius + step + height]
        sums += rows[:, radius + reach + 1 : radius + reach + 1 + width]
        sums -= rows[:, radius - reach : radius - reach + width]
    return sums


def _histogram(flat: Indices, shape: tuple[int, int], weights: Points | None) -> Points:
    return np.bincount(flat, weights, shape[0] * shape[1]).astype(np.float64).reshape(shape)


def _ahead(means: Points, shape: tuple[int, int]) -> Indices:
    """Bin (H * W,) that is reached from each after many steps, each to the bin of the mean (2, H * W).

    Steps are doubled: who knows where everyone is after n knows where everyone is after 2 n.
    """
    rows, columns = (np.clip(means[k].astype(np.int64), 0, shape[k] - 1) for k in (0, 1))
    reached: Indices = rows * shape[1] + columns
    for _ in range(DOUBLINGS):
        reached = reached[reached]
    return reached
