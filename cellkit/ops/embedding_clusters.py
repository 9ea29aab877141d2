"""From clusters of embeddings to cells: greedy clusters, halos, and the bright part of each cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from cellkit.ops.labelling import Labels
from cellkit.ops.mean_shift import check_bandwidth
from cellkit.ops.runs import Indices, Integers

Values = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

LEVELS = 256  # of a histogram for Otsu's threshold, as scikit-image
HALF = math.sqrt(2 * math.log(2))  # bandwidths from a seed to where exp(-d^2 / 2 bandwidth^2) is one half
FREE = 0.5  # part of a proposal that must be in no cluster yet


def greedy_clusters(
    points: Values, confidence: Values, bandwidth: float, *, min_size: int, lowest: float = 0.9
) -> Indices:
    """Clusters around the most confident points (as EmbedSeg, Lalit 2021, with one bandwidth for all).

    The most confident point that is in no proposal yet is the next seed. Its proposal is all points whose Gaussian
    around the seed is above one half. It becomes a cluster, and takes points from earlier ones, if it is large enough
    and more than half of it is free. The loop is over proposals, not over points.

    Args:
        points: (N, 2) finite places, in pixels.
        confidence: (N,) in [0, 1].
        bandwidth: standard deviation of the Gaussian in pixels.
        min_size: points; a proposal must have more.
        lowest: confidence of a seed.

    Returns:
        (N,) number of the cluster of each point, 0 for none.

    Raises:
        UsageError: a bandwidth that is not above 0.
    """
    check_bandwidth(bandwidth)
    cluster = np.zeros(len(points), np.int64)
    order = np.argsort(-confidence, kind="stable")
    seeds = order[confidence[order] >= lowest]
    if len(seeds) == 0:
        return cluster
    tree = cKDTree(points)
    place = np.full(len(points), len(seeds))  # of each point among the seeds
    place[seeds] = np.arange(len(seeds))
    taken, used = np.zeros(len(points), bool), np.zeros(len(seeds) + 1, bool)
    at = found = 0
    while at < len(seeds):
        proposal = np.array(tree.query_ball_point(points[seeds[at]], HALF * bandwidth))
        if len(proposal) > min_size and 1 - taken[proposal].mean() > FREE:
            found += 1
            cluster[proposal] = found
        taken[proposal] = True
        used[place[proposal]] = True
        used[-1] = False  # stands for all points that are no seeds
        at += int(used[at:].argmin())
    return cluster


def without_halo(labels: Integers, *, grow: float, shrink: float, touching: bool = False) -> Labels:
    """Cells (H, W) without the rim that patches half on the background add to them.

    As Cellulus: what is nearer than ``grow`` to a cell closes gaps, and what is then nearer than ``shrink`` to the
    background is cleared; in all the union of the cells loses ``shrink - grow`` pixels. Distances are between the
    centres of pixels; the edge of the image is no border.

    Args:
        labels: (H, W), 0 is background.
        grow: pixels.
        shrink: pixels.
        touching: clear as much along the borders between cells, which Cellulus leaves as they are.
    """
    mask = labels != 0
    grown = mask | ~is_uniform(mask, grow)
    kept = mask & is_uniform(grown, shrink)
    if touching and mask.any():
        rows, columns = distance_transform_edt(~mask, return_distances=False, return_indices=True)
        kept &= is_uniform(labels[rows, columns], shrink - grow)  # each cell with the background nearest to it
    shrunken: Labels = np.where(kept, labels, 0).astype(np.int32)
    return shrunken


def is_uniform(values: NDArray[Any], distance: float) -> Mask:
    """Where (H, W) all pixels that are nearer than ``distance`` have the same value; outside counts as the same.

    It is ``distance_transform_edt(values == value) >= distance`` for every value at once: a disc is so many rows of
    pixels, and a row is uniform if its middle is far enough from where the value changes.
    """
    height = values.shape[0]
    uniform = np.ones(values.shape, bool)
    reach = math.ceil(distance) - 1
    free = _free(values, max(reach, 0))
    for step in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        here = slice(max(0, -step), height - max(0, step))
        there = slice(max(0, step), height - max(0, -step))
        uniform[here] &= values[here] == values[there]
        uniform[here] &= free[there] >= math.ceil(math.sqrt(distance**2 - step**2)) - 1
    return uniform


def _free(values: NDArray[Any], most: int) -> NDArray[np.int32]:
    """Pixels (H, W) to the left and to the right, whichever are fewer, that have the value of the pixel."""
    width = values.shape[1]
    differs = values[:, 1:] != values[:, :-1]
    columns = np.arange(width, dtype=np.int32)
    first = np.full(values.shape, -most - 1, np.int32)  # column at which the value begins
    last = np.full(values.shape, width + most + 1, np.int32)
    first[:, 1:][differs] = np.broadcast_to(columns[1:], differs.shape)[differs]
    last[:, :-1][differs] = np.broadcast_to(columns[:-1], differs.shape)[differs]
    np.maximum.accumulate(first, 1, out=first)
    last = np.minimum.accumulate(last[:, ::-1], 1)[:, ::-1]
    free: NDArray[np.int32] = np.minimum(columns - first, last - columns)
    return free


def brighter_part(labels: Integers, image: Values) -> Labels:
    """Of each cell (H, W) the pixels above its own Otsu threshold; a cell of one brightness stays whole.

    This is Cellulus's way with nuclei; holes are left to whoever selects the cells.

    Args:
        labels: (H, W), 0 is background.
        image: (H, W) brightness; NaN is dark.
    """
    pixels = np.flatnonzero(labels)
    cells = labels.ravel()[pixels].astype(np.int64)
    brightness = image.ravel()[pixels].astype(np.float64)
    known = np.isfinite(brightness)
    thresholds = otsu_thresholds(brightness[known], cells[known], int(cells.max(initial=0)) + 1)
    part = np.zeros(labels.shape, np.int32)
    part.ravel()[pixels] = np.where(known & (brightness > thresholds[cells]), cells, 0)
    return part


def otsu_thresholds(values: Values, groups: Indices, count: int) -> Values:
    """Otsu's threshold of each group of values: above it is the brighter class.

    Histograms of 256 bins between the smallest and the largest value of the group, as scikit-image's
    ``threshold_otsu``, but for all groups at once.

    Args:
        values: (N,) finite.
        groups: (N,) from 0 to ``count`` - 1.
        count: groups.

    Returns:
        (count,) thresholds; minus infinity where all values are the same, or there are none.
    """
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    varied = low < high
    span = np.where(varied, high - low, 1.0)
    low[~varied] = 0.0
    chosen = varied[groups]
    values, groups = values[chosen], groups[chosen]
    level = np.minimum((values - low[groups]) / span[groups] * LEVELS, LEVELS - 1).astype(np.int64)
    counts = np.bincount(groups * LEVELS + level, minlength=count * LEVELS).reshape(count, LEVELS)
    middle = np.arange(LEVELS) + 0.5
    size, total = counts.cumsum(1)[:, :-1], (counts * middle).cumsum(1)
    others = np.maximum(counts.sum(1)[:, None] - size, 1)
    apart = total[:, :-1] / np.maximum(size, 1) - (total[:, -1:] - total[:, :-1]) / others
    best = (size * others * apart**2).argmax(1)
    return np.where(varied, low + middle[best] * span / LEVELS, -np.inf)
