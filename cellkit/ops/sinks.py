"""Sinks: the few places where the pixels of a cell come together, and so the cells (Stringer 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]

REACH = 5  # rounds of growth of a sink, pixels; also the margin of the histogram
SEED_HITS = 10  # a sink starts at a local maximum with more hits than this ...
GROWTH_HITS = 2  # ... and grows over places with more than this
NUDGE = 1 / 64  # px; many sinks lie exactly on a pixel: rounding errors must not spread their hits over two places
PEAK = 2  # a local maximum is the largest within so many pixels


def cells_from_ends(ends: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Which cell each particle belongs to, from where it came to rest.

    Args:
        ends: (2, N) final positions, 0 = y, 1 = x, inside the image.
        shape: (H, W).

    Returns:
        (N,) cell of each particle, from 1; 0 where it ended in no sink. Cells are numbered by rising size of their
        peak, some may be empty.
    """
    row = shape[1] + 2 * REACH
    y, x = (ends + np.float32(NUDGE)).astype(np.int64)
    place = (y + REACH) * row + x + REACH
    hits = np.bincount(place, minlength=(shape[0] + 2 * REACH) * row)
    seeds = _peaks(hits, row)
    cells: NDArray[np.int32] = np.zeros(len(hits), np.int32)
    grown = _grow(hits[_window(seeds, REACH, row)] > GROWTH_HITS)
    which, inside = np.nonzero(grown.reshape(len(seeds), (2 * REACH + 1) ** 2))
    # where sinks overlap the one with the higher peak, later in order, is written last
    cells[seeds[which] + _window(np.zeros(1, np.int64), REACH, row).ravel()[inside]] = which + 1
    of_particles: NDArray[np.int32] = cells[place]
    return of_particles


def _window(places: Integers, reach: int, row: int) -> Integers:
    """Flat indices of the square windows around places: (n, 2 reach + 1, 2 reach + 1)."""
    offset = np.arange(-reach, reach + 1)
    window: Integers = places[:, None, None] + offset[:, None] * row + offset
    return window


def _peaks(hits: Integers, row: int) -> Integers:
    """Places of local maxima, by rising number of hits."""
    places = np.flatnonzero(hits > SEED_HITS)
    highest = hits[_window(places, PEAK, row)].max(axis=(1, 2), initial=0)
    peaks = places[hits[places] == highest]
    rising: Integers = peaks[np.argsort(hits[peaks], kind="stable")]
    return rising


def _grow(allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow from the middle of each window (n, w, w) over the allowed places, by one 3 x 3 step a round."""
    grown = np.zeros_like(allowed)
    grown[:, REACH, REACH] = True
    for _ in range(REACH):
        wide = grown.copy()
        wide[:, 1:] |= grown[:, :-1]
        wide[:, :-1] |= grown[:, 1:]
        grown[:] = wide
        grown[:, :, 1:] |= wide[:, :, :-1]
        grown[:, :, :-1] |= wide[:, :, 1:]
        grown &= allowed
    return grown
