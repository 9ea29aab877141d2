"""Operations on label images: sizes, holes, pieces, borders, order, outlines.

Labels are (H, W) integers, 0 is background. Each operation works on runs (see ``ops.runs``) and returns a new image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.runs import Indices, Integers, Neighbours, Runs, paint, runs_of

Labels = NDArray[np.int32]


def areas(labels: Integers) -> Indices:
    """Pixels of each label from 1 to the largest, (n,); 0 for a label that does not occur."""
    runs = runs_of(labels)
    return run_areas(runs.values, runs)[1:]


def bounding_boxes(labels: Integers) -> Indices:
    """Boxes (n, 4) as top, left, bottom, right (ends excluded) of labels 1 to n; zeros for a label that is absent."""
    runs = runs_of(labels)
    runs = runs.take(runs.values != 0)
    count = int(runs.values.max(initial=0))
    boxes = np.zeros((count, 4), np.int64)
    if len(runs):
        low = np.full((count, 2), np.iinfo(np.int64).max)
        cell, rows, columns = runs.values - 1, runs.rows, runs.columns
        np.minimum.at(low[:, 0], cell, rows)
        np.minimum.at(low[:, 1], cell, columns)
        np.maximum.at(boxes[:, 2], cell, rows + 1)
        np.maximum.at(boxes[:, 3], cell, columns + runs.lengths)
        boxes[:, :2] = np.where(boxes[:, 2:] > 0, low, 0)
    return boxes


def relabel_in_raster_order(labels: Integers) -> tuple[Labels, Indices]:
    """Number the cells 1 to n by their first pixel in raster order.

    Returns:
        The labels (H, W) int32, and the label (n,) that each cell had before.
    """
    runs = runs_of(labels)
    values, former = in_raster_order(runs.values)
    return paint(runs, values), former


def remove_small(labels: Integers, min_area: int) -> Labels:
    """Without cells of fewer pixels than ``min_area``."""
    runs = runs_of(labels)
    return paint(runs, without_small(runs.values, runs, min_area).astype(np.int32))


def clear_border(labels: Integers) -> Labels:
    """Without cells that touch the edge of the image."""
    runs = runs_of(labels)
    return paint(runs, without_border(runs.values, runs).astype(np.int32))


def fill_holes(labels: Integers) -> Labels:
    """With each hole given to the cell around it.

    A hole is a piece of background (connected by sides) that touches one cell only and not the edge of the image.
    """
    runs = runs_of(labels)
    return paint(runs, with_filled_holes(runs.values, Neighbours(runs)).astype(np.int32))


def keep_largest_pieces(labels: Integers) -> Labels:
    """Only the largest connected piece (by sides and corners) of each cell; of equal ones the first."""
    runs = runs_of(labels)
    return paint(runs, only_largest_pieces(runs.values, Neighbours(runs)).astype(np.int32))


def resize_labels(labels: Integers, shape: tuple[int, int]) -> NDArray[Any]:
    """Nearest-neighbour resize to (H, W): each new pixel takes the old pixel that holds its centre."""
    if labels.shape == shape:
        return labels
    sizes = zip(shape, labels.shape, strict=True)
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in sizes)
    resized: NDArray[Any] = labels[rows[:, None], columns]
    return resized


def outlines(labels: Integers) -> NDArray[np.bool_]:
    """Cell pixels (H, W) that have a side neighbour of another value inside the image."""
    edge = np.zeros(labels.shape, bool)
    vertical = labels[1:] != labels[:-1]
    horizontal = labels[:, 1:] != labels[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    edge &= labels != 0
    return edge


def run_areas(values: Integers, runs: Runs) -> Indices:
    """Pixels of each value from 0 on, when the runs have these values."""
    return np.bincount(values, runs.lengths, int(values.max(initial=0)) + 1).astype(np.int64)


def without(values: Integers, removed: NDArray[np.bool_]) -> Integers:
    """Values with those that ``removed`` (n + 1,) marks set to background."""
    return np.where(removed[values], 0, values)


def without_small(values: Integers, runs: Runs, min_area: int) -> Integers:
    """Values of runs without small cells."""
    return without(values, run_areas(values, runs) < min_area)


def without_border(values: Integers, runs: Runs) -> Integers:
    """Values of runs without cells at the edge."""
    removed = np.zeros(int(values.max(initial=0)) + 1, bool)
    removed[values[_at_edge(runs)]] = True
    return without(values, removed)


def in_raster_order(values: Integers) -> tuple[Labels, Indices]:
    """Values of runs numbered by first occurrence, and the former value of each (n,)."""
    top = int(values.max(initial=0))
    first = np.full(top + 1, len(values))
    cells = np.flatnonzero(values)[::-1]
    first[values[cells]] = cells  # backwards: the first occurrence is written last
    former = np.argsort(first, kind="stable")[: int((first < len(values)).sum())]
    number = np.zeros(top + 1, np.int32)
    number[former] = np.arange(1, len(former) + 1)
    return number[values], former


def _at_edge(runs: Runs) -> NDArray[np.bool_]:
    height, width = runs.shape
    rows, columns = runs.rows, runs.columns
    at_edge: NDArray[np.bool_] = (rows == 0) | (rows == height - 1)
    at_edge |= (columns == 0) | (columns + runs.lengths == width)
    return at_edge


def only_largest_pieces(values: Integers, neighbours: Neighbours) -> Integers:
    """Values of runs with all but the largest piece of each cell set to background."""
    count, piece = neighbours.pieces(values)
    size = np.bincount(piece, neighbours.runs.lengths, count)
    owner = np.zeros(count, np.int64)
    owner[piece] = values
    largest = np.zeros(int(values.max(initial=0)) + 1, np.int64)
    order = np.lexsort((-np.arange(count), size))
    largest[owner[order]] = order  # by rising size, of equal ones the first piece last: it stays
    return np.where(largest[values] == piece, values, 0)


def with_filled_holes(values: Integers, neighbours: Neighbours) -> Integers:
    """Values of runs with the holes given to the cells around them."""
    count, piece = neighbours.pieces(values)
    low, high = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    one, other = neighbours.sides()
    border = (values[one] == 0) & (values[other] != 0)
    around, cell = piece[one[border]], values[other[border]]
    np.minimum.at(low, around, cell)
    np.maximum.at(high, around, cell)
    hole = low == high
    hole[piece[_at_edge(neighbours.runs)]] = False
    return np.where((values == 0) & hole[piece], high[piece], values)
