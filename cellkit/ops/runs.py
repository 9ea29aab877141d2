"""Label images as horizontal runs of equal value.

A cell of 350 pixels is some 20 runs: what is known per run (areas, boxes, neighbours, connected pieces) is cheaper to
compute there than per pixel, and ``np.repeat`` paints the result back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Integers = NDArray[np.integer[Any]]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Horizontal runs of a label image in raster order.

    Attributes:
        values: (R,) label of each run.
        starts: (R,) index of the first pixel in the flattened image.
        lengths: (R,) pixels.
        shape: (H, W) of the image.
    """

    values: Integers
    starts: Indices
    lengths: Indices
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def rows(self) -> Indices:
        """(R,) row of each run."""
        return self.starts // self.shape[1]

    @property
    def columns(self) -> Indices:
        """(R,) first column of each run."""
        return self.starts % self.shape[1]

    def take(self, chosen: NDArray[Any]) -> Runs:
        """The runs that a boolean mask or index array names."""
        return Runs(self.values[chosen], self.starts[chosen], self.lengths[chosen], self.shape)

    def pixels(self) -> Indices:
        """Flat indices of all pixels, run by run."""
        return spread(self.starts, self.lengths)


def spread(starts: Indices, lengths: Indices) -> Indices:
    """``concatenate([arange(s, s + n) for s, n in zip(starts, lengths)])`` in one pass."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def runs_of(labels: Integers) -> Runs:
    """Runs that tile the whole image (H, W), background included."""
    height, width = labels.shape
    if labels.size == 0:
        nothing = np.zeros(0, np.int64)
        return Runs(labels.ravel(), nothing, nothing, (height, width))
    flat = np.ascontiguousarray(labels).ravel()
    begins = np.empty(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[::width] = True
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=flat.size)
    return Runs(flat[starts], starts, lengths, (height, width))


def paint(runs: Runs, values: Integers) -> NDArray[Any]:
    """Image (H, W) from runs that tile it, with other values (R,)."""
    return np.repeat(values, runs.lengths).reshape(runs.shape)


class Neighbours:
    """Which runs of an image touch: found once, whatever values the runs take on later.

    Args:
        runs: runs that tile the image.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.after = np.flatnonzero(runs.columns)  # runs with another before them in their row
        self.upper, self.lower, self.side = _touching_rows(runs)

    def pieces(self, values: Integers) -> tuple[int, Indices]:
        """Connected pieces of equal value: cells by sides and corners, background by sides only.

        Args:
            values: (R,) values of the runs.

        Returns:
            Number of pieces, and the piece of each run (R,), from 0.
        """
        below = values[self.upper] == values[self.lower]
        below &= self.side | (values[self.upper] != 0)
        beside = self.after[values[self.after] == values[self.after - 1]]
        one = np.concatenate([self.upper[below], beside - 1])
        other = np.concatenate([self.lower[below], beside])
        shape = (len(self.runs), len(self.runs))
        graph = sparse.csr_array((np.ones(len(one), bool), (one, other)), shape=shape)
        count, piece = sparse.csgraph.connected_components(graph, directed=False)
        return int(count), piece.astype(np.int64)

    def sides(self) -> tuple[Indices, Indices]:
        """Pairs of runs that share a side, each pair both ways round."""
        upper, lower = self.upper[self.side], self.lower[self.side]
        one = np.concatenate([upper, self.after - 1])
        other = np.concatenate([lower, self.after])
        return np.concatenate([one, other]), np.concatenate([other, one])


def _touching_rows(runs: Runs) -> tuple[Indices, Indices, NDArray[np.bool_]]:
    """Pairs of runs in adjacent rows that touch: upper (P,), lower (P,), and whether they share a side (P,)."""
    width = runs.shape[1]
    upper = np.flatnonzero(runs.starts < (runs.shape[0] - 1) * width)
    first = runs.starts[upper] + width  # the pixels below the first and last one of each upper run
    last = first + runs.lengths[upper] - 1
    begin = np.searchsorted(runs.starts, first - (first % width > 0), side="right") - 1
    end = np.searchsorted(runs.starts, last + (last % width < width - 1), side="right")
    lower = spread(begin, end - begin)
    first, last, upper = (np.repeat(part, end - begin) for part in (first, last, upper))
    side = (runs.starts[lower] <= last) & (runs.starts[lower] + runs.lengths[lower] > first)
    return upper, lower, side
