"""Mean shift with a flat kernel in the plane (Comaniciu and Meer 2002), many points at once.

Every point climbs: it moves to the mean of the points within the bandwidth until it moves no more. Where it ends is a
mode; of modes nearer than the bandwidth the one with most points stays. The results are those of scikit-learn's
``MeanShift(bandwidth)`` with every point as a seed, which climbs with one seed at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cellkit.errors import UsageError
from cellkit.ops.mean_shift_grid import summits
from cellkit.ops.runs import Indices

Points = NDArray[np.float64]
Places = NDArray[np.complex128]  # real part y, imaginary part x: one number to sort and compare

STEPS = 300  # at most, as scikit-learn; a dozen is common
REST = 1e-3  # of the bandwidth: who moves no further has arrived, as in scikit-learn
DIGITS = 9  # of pixels: places that agree up to rounding are one, and go on as one
FIRST = 16  # places of the first chunk, when it is not known how many points are near
PAIRS = 1 << 16  # of place and point looked at together: few enough to stay in the cache
CROWD = 128  # points within the bandwidth of a point: so many that a grid of a quarter of it sees the same hills
MANY = 1 << 21  # pairs of the first step; fewer are quickly done without a grid
PROBES = 256  # points at which the crowd is counted


def mean_shift(points: Points, bandwidth: float, *, exact: bool = False) -> Points:
    """Centres of the clusters of points, the one with most points near first.

    Where points are many and dense, as all pixels of an image are, they climb on a grid first, and only the summits
    that they reach there are climbed on exactly. That gives the same clusters where there are hills; on a plateau
    (an embedding that has learnt nothing) every place is a mode, and which are kept is left to chance.

    Args:
        points: (N, 2) finite places, in pixels.
        bandwidth: radius of the kernel in pixels.
        exact: climb from every point, whatever it costs.

    Returns:
        (K, 2) centres; none where there are no points.

    Raises:
        UsageError: a bandwidth that is not above 0.
    """
    check_bandwidth(bandwidth)
    if len(points) == 0:
        return np.zeros((0, 2))
    tree = cKDTree(points)
    seeds = points if exact or not _is_crowded(tree, bandwidth) else summits(points, bandwidth)
    return merged(climbed(tree, bandwidth, seeds), bandwidth)


def nearest(points: Points, centres: Points) -> Indices:
    """Index (N,) of the centre (K, 2) that is nearest to each point (N, 2); there must be one."""
    found: Indices = cKDTree(centres).query(points)[1]
    return found


def check_bandwidth(bandwidth: float) -> None:
    """Refuse a bandwidth that is no radius.

    Raises:
        UsageError: it is 0, negative or not finite.
    """
    if not 0 < bandwidth < math.inf:
        raise UsageError(
            "bandwidth", f"cannot be {bandwidth}", "give a number of pixels above 0, about half the size of an object"
        )


def climbed(tree: cKDTree, bandwidth: float, seeds: Points) -> Points:
    """Where seeds (N, 2) come to rest: distinct (M, 3) of y, x and the number of points of the last mean.

    Seeds that meet have the same way before them and go on as one.
    """
    places = np.ascontiguousarray(seeds).view(np.complex128)[:, 0]
    ends = []
    for _ in range(STEPS + 1):
        places = _distinct(places)
        means, counts = _means(tree, bandwidth, places)
        # where no point is near (a summit of the grid in a gap) there is no mean, and no cluster
        rests = (np.abs(means - places) <= REST * bandwidth) & (counts > 0)
        ends.append(np.column_stack([means[rests].real, means[rests].imag, counts[rests]]))
        places = means[~rests & (counts > 0)]
        if len(places) == 0:
            break
    return np.concatenate(ends)


def merged(ends: Points, bandwidth: float) -> Points:
    """Those ends (M, 3) that stay, (K, 2): by falling number of points, each removes what is within the bandwidth.

    The loop is over the centres that stay, not over the ends.
    """
    ends = ends[np.lexsort((ends[:, 1], ends[:, 0], ends[:, 2]))[::-1]]
    tree = cKDTree(ends[:, :2])
    removed = np.zeros(len(ends) + 1, bool)
    kept, at = [], 0
    while at < len(ends):
        kept.append(at)
        removed[tree.query_ball_point(ends[at, :2], bandwidth)] = True
        removed[at] = True
        at += int(removed[at:].argmin())  # the last entry is of no end, and never removed
    return ends[kept, :2]


def _is_crowded(tree: cKDTree, bandwidth: float) -> bool:
    """Whether points are many and dense; counted at some of them, evenly taken."""
    probes = tree.data[:: -(-tree.n // PROBES)]
    near = float(np.mean(tree.query_ball_point(probes, bandwidth, return_length=True)))
    return near > CROWD and near * tree.n > MANY


def _distinct(places: Places) -> Places:
    """Places (N,) without those that are equal up to rounding."""
    return places[np.unique(np.round(places, DIGITS), return_index=True)[1]]


def _means(tree: cKDTree, bandwidth: float, places: Places) -> tuple[Places, Indices]:
    """Mean of the points within the bandwidth of each place (N,), and their number."""
    points = np.ascontiguousarray(tree.data)
    means, counts = np.zeros(len(places), np.complex128), np.zeros(len(places), np.int64)
    for chunk, of, point in _neighbours(tree, bandwidth, places):
        size = chunk.stop - chunk.start
        counts[chunk] = np.bincount(of, minlength=size)
        near = np.maximum(counts[chunk], 1)
        means.real[chunk] = np.bincount(of, points[point, 0], size) / near
        means.imag[chunk] = np.bincount(of, points[point, 1], size) / near
    return means, counts


def _neighbours(tree: cKDTree, bandwidth: float, places: Places) -> Iterator[tuple[slice, Indices, Indices]]:
    """Chunk after chunk of places: where it is, and pairs of place (counted from there) and point that are near."""
    begin, size = 0, FIRST
    while begin < len(places):
        part = places[begin : begin + size]
        near = cKDTree(part.view(np.float64).reshape(-1, 2)).sparse_distance_matrix(
            tree, bandwidth, output_type="ndarray"
        )
        yield slice(begin, begin + len(part)), near["i"], near["j"]
        begin += len(part)
        size = max(1, PAIRS * len(part) // max(len(near), 1))
