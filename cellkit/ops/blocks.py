"""Planes larger than memory: overlapping windows, each cell kept once, labels put together band by band.

Each window is a core with a halo around it; the cores tile the plane. A window's cells are right where they are far
from its outer edge, so a cell is taken from the window whose core holds its centre of mass. Two windows may see a cell
near the edge of their cores a little differently: both may offer it, and the second offer, which finds most of its
pixels taken, is dropped. Nothing is lost and nothing is kept twice, if the halo is at least as wide as a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.instances import Instances
from cellkit.ops.runs import Indices, runs_of

Labels = NDArray[np.int32]

SLACK = 8  # px outside the core that a centre may lie: two windows' views of one cell differ by less
TAKEN = 0.5  # a cell with more than this part of its pixels taken is one that is kept already


@dataclass(frozen=True)
class Window:
    """A part of a plane.

    Attributes:
        core: (rows, columns); the cores of all windows tile the plane.
        outer: (rows, columns); the core with its halo, inside the plane.
    """

    core: tuple[slice, slice]
    outer: tuple[slice, slice]

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the outer part."""
        rows, columns = self.outer
        return rows.stop - rows.start, columns.stop - columns.start


@dataclass(frozen=True)
class Band:
    """Finished rows of the labels of a plane.

    Attributes:
        top: row of the plane where the band begins.
        labels: (h, W) int32; identifiers that grow from window to window.
        cells: (k,) identifiers that this band is the first to hold, by their first pixel in raster order.
        scores: (k,) float32 scores of these cells.
    """

    top: int
    labels: Labels
    cells: Indices
    scores: NDArray[np.float32]


def windows(shape: tuple[int, int], core: int, halo: int) -> list[Window]:
    """Windows that cover a plane (H, W), row by row.

    Args:
        shape: of the plane.
        core: side of a core, pixels.
        halo: pixels around it; at least the diameter of a cell.
    """
    rows, columns = ([(begin, min(begin + core, size)) for begin in range(0, size, core)] for size in shape)
    return [
        Window(core=(slice(*row), slice(*column)), outer=(_wide(row, halo, shape[0]), _wide(column, halo, shape[1])))
        for row in rows
        for column in columns
    ]


def _wide(part: tuple[int, int], halo: int, size: int) -> slice:
    return slice(max(0, part[0] - halo), min(size, part[1] + halo))


def assemble(shape: tuple[int, int], parts: Iterable[tuple[Window, Instances]]) -> Iterator[Band]:
    """Labels of a plane from the cells of its windows, with no more in memory than one row of windows.

    Args:
        shape: (H, W) of the plane.
        parts: every window of :func:`windows`, in that order, with the cells of its outer part.

    Yields:
        Bands from top to bottom that tile the plane.
    """
    canvas = _Canvas(shape[1])
    for window, cells in parts:
        top = window.outer[0].start
        if top > canvas.top:
            yield canvas.finished(top)
        canvas.add(window, cells)
    if shape[0] > canvas.top:
        yield canvas.finished(shape[0])


def raster_table(bands: Sequence[Indices]) -> Labels:
    """Lookup table from identifiers to labels 1 to n in raster order: ``table[band.labels]``.

    Args:
        bands: ``Band.cells`` of all bands, in their order. The scores, joined in the same order, fit the new labels.
    """
    order = np.concatenate([np.zeros(0, np.int64), *bands])
    table = np.zeros(int(order.max(initial=0)) + 1, np.int32)
    table[order] = np.arange(1, len(order) + 1)
    return table


class _Canvas:
    """Rows of the plane that windows still write to.

    Attributes:
        top: row of the plane where the canvas begins.
        labels: (h, W) identifiers.
        scores: of the cells by identifier, from 1.
    """

    def __init__(self, width: int) -> None:
        self.top = 0
        self.labels: Labels = np.zeros((0, width), np.int32)
        self.scores: list[NDArray[np.float32]] = [np.zeros(1, np.float32)]
        self.count = 0
        self.seen = np.zeros(1, bool)

    def add(self, window: Window, cells: Instances) -> None:
        """Write the cells that belong to the window over what is background so far."""
        rows, columns = window.outer
        missing = rows.stop - self.top - len(self.labels)
        if missing > 0:
            self.labels = np.concatenate([self.labels, np.zeros((missing, self.labels.shape[1]), np.int32)])
        target = self.labels[rows.start - self.top : rows.stop - self.top, columns]
        free = target == 0
        area = np.bincount(cells.labels.ravel(), minlength=len(cells) + 1)
        left = np.bincount(cells.labels[free], minlength=len(cells) + 1)
        kept = _inside(window, cells) & (left >= TAKEN * area) & (left > 0)
        kept[0] = False
        number = np.where(kept, np.cumsum(kept) + self.count, 0).astype(np.int32)
        np.copyto(target, number[cells.labels], where=free)
        self.count += int(kept.sum())
        self.scores.append(cells.scores[kept[1:]])

    def finished(self, until: int) -> Band:
        """Take the rows above ``until`` away."""
        height = until - self.top
        rows, self.labels = self.labels[:height], self.labels[height:].copy()
        top, self.top = self.top, until
        self.seen = np.concatenate([self.seen, np.zeros(self.count + 1 - len(self.seen), bool)])
        self.seen[0] = True
        values = runs_of(rows).values
        fresh, first = np.unique(values[~self.seen[values]], return_index=True)
        cells: Indices = fresh[np.argsort(first)].astype(np.int64)
        self.seen[cells] = True
        scores = np.concatenate(self.scores)
        self.scores = [scores]
        return Band(top=top, labels=rows, cells=cells, scores=scores[cells])


def _inside(window: Window, cells: Instances) -> NDArray[np.bool_]:
    """(n + 1,) whether the centre of mass of each cell is in the core, or nearly."""
    runs = runs_of(cells.labels)
    area = np.maximum(np.bincount(runs.values, runs.lengths, len(cells) + 1), 1)
    middles = (runs.rows, runs.columns + (runs.lengths - 1) / 2)
    inside = np.ones(len(cells) + 1, bool)
    for middle, core, outer in zip(middles, window.core, window.outer, strict=True):
        centre = np.bincount(runs.values, runs.lengths * middle, len(cells) + 1) / area + outer.start
        inside &= (centre > core.start - 1 - SLACK) & (centre < core.stop + SLACK)
    return inside
