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


def touching_rows(runs: Runs) -> tuple[Indices, Indices, NDArray[np.bool_]]:
    """Pairs of runs (upper, lower) in adjacent rows that touch, by side or by corner.

    Args:
        runs: runs that tile the image.

    Returns:
        Index of the upper run (P,), index of the lower run (P,), and whether they share a side (P,).
    """
    width = runs.shape[1]
    upper = np.flatnonzero(runs.starts < runs.starts[-1] // width * width if len(runs) else runs.starts)
    first, last = runs.starts[upper] + width, runs.starts[upper] + runs.lengths[upper] - 1 + width
    columns = first % width
    begin = _run_at(runs, first - (columns > 0))
    end = _run_at(runs, last + ((columns + last - first) < width - 1))
    lower = spread(begin, end - begin + 1)
    upper, first, last = (np.repeat(part, end - begin + 1) for part in (upper, first, last))
    side = (runs.starts[lower] <= last) & (runs.starts[lower] + runs.lengths[lower] > first)
    return upper, lower, side


def _run_at(runs: Runs, pixels: Indices) -> Indices:
    return np.searchsorted(runs.starts, pixels, side="right") - 1


def components(runs: Runs, upper: Indices, lower: Indices) -> tuple[int, Indices]:
    """Connected components of runs joined by pairs.

    Returns:
        Number of components, and the component of each run (R,), numbered from 0.
    """
    joined = sparse.coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(len(runs), len(runs)))
    count, component = sparse.csgraph.connected_components(joined.tocsr(), directed=False)
    return int(count), component.astype(np.int64)


def pieces_of(runs: Runs) -> tuple[int, Indices]:
    """Connected pieces of equal value: cells by sides and corners, background by sides only.

    Args:
        runs: runs that tile the image.

    Returns:
        Number of pieces, and the piece of each run (R,).
    """
    upper, lower, side = touching_rows(runs)
    values = runs.values
    same = (values[upper] == values[lower]) & (side | (values[upper] != 0))
    return components(runs, upper[same], lower[same])
