"""How bright the cells of an image are: all cells at once, in one pass over bands of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.measuring import Cells, Floats
from cellkit.ops.runs import Runs

BAND_PIXELS = 1 << 22  # of one channel in memory at once, as 8-byte numbers


class Channels(Protocol):
    """(C, H, W) pixels, in memory or read by windows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""

    def __getitem__(self, window: Any, /) -> NDArray[Any]:  # noqa: ANN401 - as numpy has it
        """The (c, h, w) window named by slices of channels, rows and columns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Intensities:
    """Pixel values of each cell in one channel.

    Attributes:
        mean: (N,) their mean.
        min: (N,) the least.
        max: (N,) the largest.
        std: (N,) their standard deviation, divided by the number of pixels as ``numpy.std`` has it.
    """

    mean: Floats
    min: Floats
    max: Floats
    std: Floats


def intensities(cells: Cells, pixels: Channels, channel: int) -> Intensities:
    """Measure one channel of an image, whose pixels are read by bands of rows.

    Args:
        cells: of a label image (H, W).
        pixels: (C, H, W).
        channel: which, from 0.
    """
    parts = [_of_runs(runs, pixels, channel, rows) for runs, rows in _bands(cells.runs)]
    sums, least, most, squares = np.concatenate(parts, axis=1) if parts else np.zeros((4, 0))
    owners, lengths, count = cells.owners, cells.runs.lengths, len(cells)
    mean = np.bincount(owners, sums, count) / cells.areas
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, owners, least)
    np.maximum.at(high, owners, most)
    apart = sums / lengths - mean[owners]  # squares about the mean of a run become squares about that of its cell
    squares = np.bincount(owners, squares + lengths * apart * apart, count)
    return Intensities(mean=mean, min=low, max=high, std=np.sqrt(squares / cells.areas))


def _bands(runs: Runs) -> Iterator[tuple[Runs, slice]]:
    """The runs by bands of rows, in order; bands without any are left out."""
    height, width = runs.shape
    step = max(1, BAND_PIXELS // max(1, width))
    for first in range(0, height, step):
        last = min(height, first + step)
        begin, end = np.searchsorted(runs.starts, [first * width, last * width])
        if begin < end:
            yield runs.take(np.arange(begin, end)), slice(first, last)


def _of_runs(runs: Runs, pixels: Channels, channel: int, rows: slice) -> Floats:
    """(4, R) of each run: sum, least, largest, and sum of the squared distances from its mean."""
    band = np.asarray(pixels[channel : channel + 1, rows, :])[0].ravel()
    values = band[runs.pixels() - rows.start * runs.shape[1]].astype(np.float64)
    begins = np.cumsum(runs.lengths) - runs.lengths
    sums = np.add.reduceat(values, begins)
    least, most = np.minimum.reduceat(values, begins), np.maximum.reduceat(values, begins)
    values -= np.repeat(sums / runs.lengths, runs.lengths)
    return np.stack([sums, least, most, np.add.reduceat(values * values, begins)])
