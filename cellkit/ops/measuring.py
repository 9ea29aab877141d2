"""Where the cells of a label image lie, and their shapes: all cells at once, by sums over runs of pixels.

A loop over the cells, as scikit-image's ``regionprops`` has one, takes most of its time to begin with each cell. The
values are those of ``regionprops``, which the tests hold them against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.runs import Runs, runs_of

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """The cells of a label image, by ascending label.

    Attributes:
        ids: (N,) their labels.
        runs: the horizontal runs of their pixels, in raster order, without background.
        owners: (R,) position in ``ids`` of the cell of each run.
        areas: (N,) pixels.
        boxes: (N, 4) first row, first column, row after the last, column after the last.
    """

    ids: Indices
    runs: Runs
    owners: Indices
    areas: Indices
    boxes: Indices

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def touches_border(self) -> NDArray[np.bool_]:
        """(N,) whether a pixel lies in the first or last row or column of the image."""
        height, width = self.runs.shape
        first = (self.boxes[:, :2] == 0).any(axis=1)
        touching: NDArray[np.bool_] = first | (self.boxes[:, 2:] == (height, width)).any(axis=1)
        return touching


def cells_of(labels: NDArray[np.integer[Any]]) -> Cells:
    """Find the cells of a label image (H, W), 0 being background; labels may have gaps."""
    every = runs_of(labels)
    runs = every.take(every.values != 0)
    ids, owners = np.unique(runs.values, return_inverse=True)
    owners = owners.astype(np.int64).ravel()
    return Cells(
        ids=ids.astype(np.int64),
        runs=runs,
        owners=owners,
        areas=np.rint(np.bincount(owners, runs.lengths, ids.size)).astype(np.int64),
        boxes=_boxes(runs, owners, ids.size),
    )


def _boxes(runs: Runs, owners: Indices, count: int) -> Indices:
    largest = np.iinfo(np.int64).max
    first, last = np.full((count, 2), largest), np.zeros((count, 2), np.int64)
    for axis, (begin, end) in enumerate(((runs.rows, runs.rows + 1), (runs.columns, runs.columns + runs.lengths))):
        np.minimum.at(first[:, axis], owners, begin)
        np.maximum.at(last[:, axis], owners, end)
    return np.concatenate([first, last], axis=1)


def centroids(cells: Cells) -> Floats:
    """(N, 2) mean row and column of the pixels."""
    first, _ = _moments(cells)
    return first + cells.boxes[:, :2]


def eccentricities(cells: Cells) -> Floats:
    """(N,) of the ellipse that has the second central moments of the cell: 0 is a circle, near 1 a line."""
    _, (yy, yx, xx) = _moments(cells)
    spread = np.hypot(yy - xx, 2 * yx)  # difference of the eigenvalues of [[yy, yx], [yx, xx]]
    major = (yy + xx + spread) / 2
    share = np.divide(spread, major, out=np.zeros_like(major), where=major > 0)
    eccentricity: Floats = np.sqrt(np.clip(share, 0, 1))
    return eccentricity


def _moments(cells: Cells) -> tuple[Floats, tuple[Floats, Floats, Floats]]:
    """(N, 2) mean y and x within the box, and the second central moments yy, yx, xx, each (N,).

    Sums over the pixels x, x + 1 ... of a run are those of arithmetic series; within the box they stay exact.
    """
    count, lengths = len(cells), cells.runs.lengths
    y = (cells.runs.rows - cells.boxes[cells.owners, 0]).astype(np.float64)
    x = (cells.runs.columns - cells.boxes[cells.owners, 1]).astype(np.float64)
    sum_x = lengths * x + lengths * (lengths - 1) / 2
    sum_xx = lengths * x * x + x * lengths * (lengths - 1) + (lengths - 1) * lengths * (2 * lengths - 1) / 6

    def mean(sums: Floats) -> Floats:
        means: Floats = np.bincount(cells.owners, sums, count) / cells.areas
        return means

    mean_y, mean_x = mean(lengths * y), mean(sum_x)
    second = (
        mean(lengths * y * y) - mean_y * mean_y,
        mean(y * sum_x) - mean_y * mean_x,
        mean(sum_xx) - mean_x * mean_x,
    )
    return np.stack([mean_y, mean_x], axis=1), second


def equivalent_diameters(cells: Cells) -> Floats:
    """(N,) diameter in pixels of the circle of the same area."""
    return np.sqrt(4 * cells.areas / np.pi)
