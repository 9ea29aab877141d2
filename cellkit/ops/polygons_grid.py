"""Which polygons may touch: those of one size are kept in buckets so wide that what touches is in neighbouring ones.

Each size has a grid of its own, twice as wide as that of the next smaller one, so that one far-reaching polygon among
thousands of small ones costs no more than a grid of few buckets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from cellkit.ops.runs import Indices, spread

Pairs: TypeAlias = Iterator[tuple[Indices, Indices]]

SMALLEST = 1.0  # pixels; what reaches less far is in the finest grid
PAIRS = 1 << 15  # in memory at once


class Neighbours:
    """Polygons, best first, of which some wait to be judged."""

    def __init__(self, centres: NDArray[Any], reach: NDArray[Any]) -> None:
        """Centres (N, 2) and how far (N,) each polygon reaches from there, pixels."""
        self.sizes = np.ceil(np.log2(np.maximum(reach, SMALLEST) / SMALLEST)).astype(np.int64)
        self.grids = {
            size: _Grid(centres, float(reach[self.sizes <= size].max(initial=0))) for size in np.unique(self.sizes)
        }

    def best(self, waiting: Indices) -> Indices:
        """Those of the waiting (W,), ascending, before which none comes that they might touch."""
        sizes, good = self.sizes[waiting], np.ones(len(waiting), bool)
        for size, grid in self.grids.items():
            own, smaller = sizes == size, sizes < size
            good[own] &= grid.first_around(waiting[own | smaller], waiting[own]) == waiting[own]
            good[smaller] &= grid.first_around(waiting[own], waiting[smaller]) > waiting[smaller]
        return waiting[good]

    def pairs(self, ours: Indices, theirs: Indices) -> Pairs:
        """Each of ours with all of theirs that it might touch, and with some others; some pairs at a time."""
        for size, grid in self.grids.items():
            here, there = self.sizes[ours], self.sizes[theirs]
            yield from grid.pairs(ours[here == size], theirs[there <= size])
            yield from grid.pairs(ours[here < size], theirs[there == size])


class _Grid:
    """Buckets so wide that polygons that reach no further than ``reach`` touch none beyond the next bucket."""

    def __init__(self, centres: NDArray[Any], reach: float) -> None:
        places = ((centres - centres.min(0)) // (2 * reach + 1)).astype(np.int64) + 1  # a free bucket all around
        self.shape = tuple(places.max(0) + 2)
        self.buckets = places @ np.array([self.shape[1], 1])

    def first_around(self, members: Indices, places: Indices) -> Indices:
        """The first of the members (ascending) in the buckets around each of places; as many as there are if none."""
        first = np.full(self.shape, len(self.buckets), np.int64)
        first.ravel()[self.buckets[members[::-1]]] = members[::-1]  # the last one written is the first
        around: Indices = minimum_filter(first, 3, mode="nearest").ravel()[self.buckets[places]]
        return around

    def pairs(self, ours: Indices, theirs: Indices) -> Pairs:
        """Each of ours with those of theirs that are in the buckets around it."""
        if not (ours.size and theirs.size):
            return
        ours = ours[np.argsort(self.buckets[ours], kind="stable")]
        counts = np.bincount(self.buckets[ours], minlength=self.shape[0] * self.shape[1])
        begins = np.concatenate([[0], np.cumsum(counts)])  # of each bucket among ours
        for down in (-1, 0, 1):
            middle = self.buckets[theirs] + down * self.shape[1]
            first, count = (
                begins[middle - 1],
                begins[middle + 2] - begins[middle - 1],
            )  # three buckets beside each other
            cuts = np.flatnonzero(np.diff(np.cumsum(count) // PAIRS)) + 1
            for part in np.split(np.flatnonzero(count), np.searchsorted(np.flatnonzero(count), cuts)):
                yield ours[spread(first[part], count[part])], np.repeat(theirs[part], count[part])
