"""Star-convex polygons: which of many that overlap are kept, and their pixels.

Polygons are compared by the pixels whose centres they hold, which are also those that a cell gets. A polygon is
given by its centre, a place in pixels where (0, 0) is the centre of the first pixel, and its length along each ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.polygons_grid import Neighbours
from cellkit.ops.runs import Indices, spread

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

RAYS = 32
CHUNK = 1 << 13  # polygons whose edges are in memory at once
SAME = 0.8  # of the pixels of a polygon and its label together that must be those of both
BLOCK = 1 << 15  # polygons whose pixels are in memory at once, beside those that survived


@dataclass(frozen=True)
class PolygonRuns:
    """Pixels of polygons as runs along rows, polygon by polygon and row by row; rows and columns may be negative.

    Attributes:
        tops: (N,) first row of each polygon.
        heights: (N,) rows of each polygon.
        offsets: (N + 1,) place of the first row of each polygon among the rows of all.
        firsts: (rows + 1,) place of the first run of each row among the runs of all.
        starts: (R,) int32 first column of each run.
        stops: (R,) int32 column after each run.
        areas: (N,) pixels of each polygon.
    """

    tops: Indices
    heights: Indices
    offsets: Indices
    firsts: Indices
    starts: NDArray[np.int32]
    stops: NDArray[np.int32]
    areas: Indices


def ray_angles() -> NDArray[np.float32]:
    """Angle (32,) of each ray in radians; the row offset is its sine, the column offset its cosine."""
    return np.arange(RAYS, dtype=np.float32) * np.float32(2 * np.pi / RAYS)


def ray_directions() -> NDArray[np.float32]:
    """Row and column offset (32, 2) of a step of one pixel along each ray."""
    angles = ray_angles()
    return np.stack([np.sin(angles), np.cos(angles)], 1)


def polygon_corners(centres: NDArray[Any], distances: NDArray[Any]) -> Floats:
    """Corners (N, K, 2), row and column, of polygons.

    Args:
        centres: (N, 2) row and column.
        distances: (N, K) pixels along each of the 32 rays; negative ones count as 0.
    """
    lengths = np.maximum(np.asarray(distances, np.float64), 0)
    corners: Floats = np.asarray(centres, np.float64)[:, None] + lengths[..., None] * ray_directions()
    return corners


def polygon_runs(corners: Floats) -> PolygonRuns:
    """Pixels whose centres lie inside of polygons (N, K, 2), by the even-odd rule.

    A centre on an edge belongs to the polygon below or right of it, so that two polygons with a common edge have no
    pixel in common.
    """
    first = np.ceil(corners[..., 0].min(1, initial=np.inf)).astype(np.int64)
    heights = np.maximum(np.ceil(corners[..., 0].max(1, initial=-np.inf)).astype(np.int64) - first, 0)
    offsets = np.concatenate([[0], np.cumsum(heights)])
    shifts = offsets[:-1] - first
    parts = [_runs(corners[i : i + CHUNK], shifts[i : i + CHUNK]) for i in range(0, len(corners), CHUNK)]
    rows, starts, stops = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    firsts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=int(offsets[-1])))])
    lengths = np.concatenate([[0], np.cumsum(stops - starts, dtype=np.int64)])
    areas = np.diff(lengths[firsts[offsets]])
    return PolygonRuns(first, heights, offsets, firsts, starts.astype(np.int32), stops.astype(np.int32), areas)


def _runs(corners: Floats, shifts: Indices) -> tuple[Indices, Indices, Indices]:
    """Row among the rows of all polygons, first column and column after, of each run."""
    begin = corners.reshape(-1, 2)
    end = np.roll(corners, -1, 1).reshape(-1, 2)
    low = np.ceil(np.minimum(begin[:, 0], end[:, 0])).astype(np.int64)
    counts = np.ceil(np.maximum(begin[:, 0], end[:, 0])).astype(np.int64) - low
    edge = np.repeat(np.arange(len(begin)), counts)
    row = spread(low, counts)
    slope = (end[:, 1] - begin[:, 1]) / np.where(counts > 0, end[:, 0] - begin[:, 0], 1)
    column = np.ceil(begin[edge, 1] + (row - begin[edge, 0]) * slope[edge]).astype(np.int64)
    least = int(column.min(initial=0))
    span = int(column.max(initial=0)) - least + 1
    keys = (row + shifts[edge // corners.shape[1]]) * span + (column - least)
    keys.sort()  # a closed line crosses a row an even number of times: columns pair up
    rows, columns = np.divmod(keys, span)
    some = columns[1::2] > columns[0::2]
    return rows[0::2][some], columns[0::2][some] + least, columns[1::2][some] + least


def suppressed(centres: NDArray[Any], distances: NDArray[Any], scores: NDArray[Any], overlap: float) -> Indices:
    """Polygons that survive non-maximum suppression, best first.

    By falling score (the first of equal ones first), a polygon survives unless it shares more than ``overlap`` of the
    smaller of both with one that survived: the measure of StarDist, here in pixels. Polygons without a pixel do not.

    The same as going through them one by one, but in rounds: what comes before all that it might touch survives for
    certain, wherever it is. Those of a block wait for the blocks of higher scores, so that memory is bounded.

    Args:
        centres: (N, 2) row and column in pixels.
        distances: (N, 32) pixels along the rays.
        scores: (N,), finite.
        overlap: fraction from 0 to 1.

    Returns:
        Indices (M,) of the survivors.
    """
    centres, distances = np.asarray(centres), np.asarray(distances)
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept = order[:0]
    for i in range(0, len(order), BLOCK):
        some = np.concatenate([kept, order[i : i + BLOCK]])
        kept = some[_survivors(centres[some], distances[some], len(kept), overlap)]
    return kept


def _survivors(centres: NDArray[Any], distances: NDArray[Any], certain: int, overlap: float) -> Indices:
    """Those of polygons, best first, that survive; the first ``certain`` ones do."""
    corners = polygon_corners(centres, distances)
    runs = polygon_runs(corners)
    left, right = corners[..., 1].min(1), corners[..., 1].max(1)
    boxes = np.stack([runs.tops, left, runs.tops + runs.heights, right], 1)
    neighbours = Neighbours(centres, np.maximum(distances, 0).max(1))
    survives = np.arange(len(centres)) < certain
    best, waiting = np.flatnonzero(survives), np.flatnonzero(~survives & (runs.areas > 0))
    while waiting.size:
        beaten = np.zeros(len(centres), bool)
        for ours, theirs in neighbours.pairs(best, waiting):
            near = (boxes[ours, :2] <= boxes[theirs, 2:]).all(1) & (boxes[theirs, :2] <= boxes[ours, 2:]).all(1)
            ours, theirs = ours[near], theirs[near]
            least = np.minimum(runs.areas[ours], runs.areas[theirs])
            beaten[theirs[shared_pixels(runs, ours, theirs) > overlap * least]] = True
        waiting = waiting[~beaten[waiting]]
        best = neighbours.best(waiting)
        survives[best] = True
        waiting = waiting[~survives[waiting]]
    return np.flatnonzero(survives)


def shared_pixels(runs: PolygonRuns, ours: Indices, theirs: Indices) -> Indices:
    """Pixels (P,) that polygons ``ours`` (P,) have in common with ``theirs`` (P,)."""
    top = np.maximum(runs.tops[ours], runs.tops[theirs])
    bottom = np.minimum(runs.tops[ours] + runs.heights[ours], runs.tops[theirs] + runs.heights[theirs])
    heights = np.maximum(bottom - top, 0)
    pair = np.repeat(np.arange(len(ours)), heights)
    mine = spread(runs.offsets[ours] + top - runs.tops[ours], heights)
    other = spread(runs.offsets[theirs] + top - runs.tops[theirs], heights)
    counts = runs.firsts[mine + 1] - runs.firsts[mine]  # runs of each row, mostly one
    pair, other = np.repeat(pair, counts), np.repeat(other, counts)
    mine = spread(runs.firsts[mine], counts)
    counts = runs.firsts[other + 1] - runs.firsts[other]
    pair, mine = np.repeat(pair, counts), np.repeat(mine, counts)
    other = spread(runs.firsts[other], counts)
    common = np.minimum(runs.stops[mine], runs.stops[other]) - np.maximum(runs.starts[mine], runs.starts[other])
    return np.bincount(pair, np.maximum(common, 0), len(ours)).astype(np.int64)


def still_drawn(corners: Floats, scores: NDArray[Any] | None, labels: NDArray[Any]) -> Mask:
    """Which polygons have the pixels that a label image gives them, or nearly: it may have been resized.

    Args:
        corners: (N, K, 2) of label 1 and those after it.
        scores: (N,), the higher is on top; None: the first is.
        labels: (H, W) integers.
    """
    order = np.arange(len(corners)) if scores is None else np.argsort(-scores, kind="stable")
    numbers = np.concatenate([[0], order + 1])
    painted = numbers[drawn(corners[order], (labels.shape[0], labels.shape[1]))]
    count = len(corners) + 1
    known = (labels > 0) & (labels < count)
    same = np.bincount(painted[known & (painted == labels)], minlength=count)
    either = np.bincount(painted.ravel(), minlength=count) + np.bincount(labels[known], minlength=count) - same
    still: Mask = ((same > 0) & (same >= SAME * either))[1:]
    return still


def drawn(corners: Floats, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Label image of polygons (N, K, 2): pixels of the first have 1; where polygons overlap the first is on top."""
    labels = np.zeros(shape, np.int32)
    if not len(corners):
        return labels
    runs = polygon_runs(corners)
    polygon = np.repeat(np.arange(len(corners)), runs.heights)
    row = spread(runs.tops, runs.heights)
    counts = np.diff(runs.firsts)
    polygon, row = np.repeat(polygon, counts), np.repeat(row, counts)
    starts, stops = (np.clip(columns, 0, shape[1]).astype(np.int64) for columns in (runs.starts, runs.stops))
    lengths = np.where((row >= 0) & (row < shape[0]), stops - starts, 0)
    pixels = spread(row * shape[1] + starts, lengths)
    owners = np.repeat(polygon, lengths)
    labels.ravel()[pixels[::-1]] = owners[::-1] + 1  # the last one written is on top
    return labels
