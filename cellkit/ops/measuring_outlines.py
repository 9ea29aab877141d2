"""Perimeters and convex hulls of the cells of a label image, all cells at once.

Both are those of scikit-image's ``regionprops``, which the tests hold them against.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.measuring import Cells, Floats, Indices

BAND_PIXELS = 1 << 22  # of the label image looked at at once
REACH = 2  # pixels: a neighbour counts if it lies on the outline, which its own neighbours tell
SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0))
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
SIDE, CORNER = 2, 10  # what an outline pixel beside, or across a corner, adds to the code of a pixel of the outline


def _steps() -> Floats:
    """Length that a pixel of the outline stands for, by its code.

    K. Benkrid, D. Crookes, "Design and FPGA implementation of a perimeter estimator", 2000; also scikit-image's.
    """
    steps = np.zeros(1 + 4 * SIDE + 4 * CORNER + 1)
    steps[[5, 7, 15, 17, 25, 27]] = 1
    steps[[21, 33]] = np.sqrt(2)
    steps[[13, 23]] = (1 + np.sqrt(2)) / 2
    return steps


def perimeters(labels: NDArray[np.integer[Any]], cells: Cells) -> Floats:
    """(N,) length of the outline through the centres of the outermost pixels, in pixels.

    Pixels outside of the image belong to no cell.

    Args:
        labels: (H, W).
        cells: its cells.
    """
    height, width = labels.shape
    steps, found = _steps(), np.zeros(len(cells))
    rows = max(1, BAND_PIXELS // max(1, width))
    for first in range(0, height, rows):
        last = min(height, first + rows)
        before, after = max(0, first - REACH), min(height, last + REACH)
        margin = (REACH - (first - before), REACH - (after - last)), (REACH, REACH)
        ids, codes = _codes(np.pad(labels[before:after], margin))
        found += np.bincount(np.searchsorted(cells.ids, ids), steps[codes], len(cells))
    return found


def _codes(band: NDArray[np.integer[Any]]) -> tuple[NDArray[np.integer[Any]], Indices]:
    """Labels and codes of the pixels on outlines, but for those in the outermost :data:`REACH` rows and columns."""
    width = band.shape[1]
    inner = band[1:-1, 1:-1]
    is_edge = np.zeros(band.shape, bool)
    for y, x in SIDES:
        is_edge[1:-1, 1:-1] |= inner != band[1 + y : band.shape[0] - 1 + y, 1 + x : width - 1 + x]
    is_edge &= band != 0
    flat, on_edge = band.ravel(), is_edge.ravel()
    is_edge = is_edge.copy()
    is_edge[:REACH] = is_edge[-REACH:] = False
    is_edge[:, :REACH] = is_edge[:, -REACH:] = False
    places = np.flatnonzero(is_edge)
    ids, codes = flat[places], np.ones(places.size, np.int64)
    for offsets, weight in ((SIDES, SIDE), (CORNERS, CORNER)):
        for y, x in offsets:
            there = places + y * width + x
            codes += weight * (on_edge[there] & (flat[there] == ids))
    return ids, codes


def convex_areas(cells: Cells) -> Indices:
    """(N,) pixels whose centres lie in the convex hull of the cell, or on its edge.

    The hull is that of the middles of the sides of all pixels, as ``skimage.morphology.convex_hull_image`` has it. It
    is computed in whole numbers, half pixels being one, so that no centre is missed by rounding.
    """
    lines = _Lines(cells)
    left = lines.reach(cells.runs.columns, cells.owners, cells.runs.rows)
    right = lines.reach(-(cells.runs.columns + cells.runs.lengths - 1), cells.owners, cells.runs.rows)
    inside = 1 - left - right  # from column left to column -right
    return np.bincount(lines.owners, inside, len(cells)).astype(np.int64)


class _Lines:
    """The rows of the boxes of all cells, one cell after the other.

    Args:
        cells: of a label image.
    """

    def __init__(self, cells: Cells) -> None:
        heights = cells.boxes[:, 2] - cells.boxes[:, 0]
        begins = np.cumsum(heights) - heights
        self.owners = np.repeat(np.arange(len(cells)), heights)
        self._offset = begins - cells.boxes[:, 0]  # place of row y of a cell is offset + y
        self._count = int(heights.sum())

    def reach(self, columns: Indices, owners: Indices, rows: Indices) -> Indices:
        """(L,) in each row the first column of the convex hull.

        Args:
            columns: (R,) first pixel of each run.
            owners: (R,) cell of each run.
            rows: (R,) row of each run.
        """
        nobody = np.iinfo(np.int64).max
        first = np.full(self._count, nobody)
        np.minimum.at(first, self._offset[owners] + rows, columns)
        filled = np.flatnonzero(first != nobody)
        height = self._heights(filled)
        points = np.concatenate([height, height - 1, height + 1])
        values = np.concatenate([2 * first[filled] - 1, 2 * first[filled], 2 * first[filled]])
        cell = np.tile(self.owners[filled], 3)
        order = np.lexsort((values, points))
        points, values, cell = points[order], values[order], cell[order]
        is_first = np.append(True, points[1:] != points[:-1]) if points.size else np.zeros(0, bool)
        points, values = _hull(points[is_first], values[is_first], cell[is_first])
        return _crossings(self._heights(np.arange(self._count)), points, values)

    def _heights(self, places: Indices) -> Indices:
        """Places as heights in half pixels; a gap after each cell keeps the half rows of the next one apart."""
        return 2 * places + 4 * self.owners[places]


def _hull(points: Indices, values: Indices, cell: Indices) -> tuple[Indices, Indices]:
    """The corners of the lower convex hulls of the points of all cells.

    A point on or above the line between its neighbours is no corner, whatever becomes of these; so all such are taken
    away at once, until there are none.

    Args:
        points: (P,) ascending.
        values: (P,) at the points.
        cell: (P,) the cell that a point belongs to, ascending.
    """
    while True:
        before, after = np.diff(points[:-1]), np.diff(points[1:])
        above = np.diff(values[:-1]) * after >= np.diff(values[1:]) * before
        keep = np.ones(points.size, bool)
        keep[1:-1] = ~(above & (cell[:-2] == cell[2:]))
        if keep.all():
            return points, values
        points, values, cell = points[keep], values[keep], cell[keep]


def _crossings(heights: Indices, points: Indices, values: Indices) -> Indices:
    """The first whole pixel at or after the line through the corners, at each height; corners are in half pixels."""
    after = np.searchsorted(points, heights, side="right")
    before = after - 1
    run = points[after] - points[before]
    rise = (values[after] - values[before]) * (heights - points[before]) + values[before] * run
    columns: Indices = -(-rise // (2 * run))
    return columns
