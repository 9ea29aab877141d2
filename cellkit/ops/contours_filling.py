"""Polygons -> pixels, all objects of an image in one pass over their edges.

A pixel belongs to a polygon when its centre lies inside, by the even-odd rule: outlines along the edges of pixels give
exactly these pixels back, and hand-drawn ones the pixels that ImageJ and QuPath take. Two polygons with a common edge
have no pixel in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.run_lengths import MaskRuns
from cellkit.ops.runs import spread

Indices = NDArray[np.int64]

CENTRE = 0.5  # of a pixel, from its upper left corner


def filled(rings: Sequence[NDArray[Any]], owners: Sequence[int], shape: tuple[int, int]) -> tuple[Indices, Indices]:
    """The pixels inside of polygons.

    Args:
        rings: (V, 2) corners x, y of each ring, open or closed; x = 0 is the left edge of the image, y = 0 the upper
            one. Finite; parts beyond the image are cut.
        owners: object of each ring; the rings of one object (pieces, holes) are filled together, even-odd.
        shape: (H, W) of the image.

    Returns:
        (P,) object and (P,) index in the flattened image of each pixel inside, object by object and row by row; a
        pixel comes once for every object that it lies in.
    """
    sizes = np.array([len(ring) for ring in rings], np.int64)
    if not sizes.sum():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    points = np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings])
    ends = np.cumsum(sizes)
    following = np.arange(1, len(points) + 1)
    following[ends[sizes > 0] - 1] = (ends - sizes)[sizes > 0]
    owner, row, across = _crossings(points, points[following], np.repeat(np.asarray(owners, np.int64), sizes), shape[0])
    order = np.lexsort((across, row, owner))  # closed rings cross the middle of a row an even number of times
    columns = _first_centre(across[order], shape[1])
    starts, lengths = columns[0::2], columns[1::2] - columns[0::2]
    return (
        np.repeat(owner[order][0::2], lengths),
        spread(row[order][0::2] * shape[1] + starts, lengths),
    )


def _crossings(
    begin: NDArray[np.float64], end: NDArray[np.float64], owners: Indices, height: int
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Owner, row and x of each place where an edge crosses the middle of a row."""
    low, high = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
    first = _first_centre(low, height)
    counts = _first_centre(high, height) - first
    edge = np.repeat(np.arange(len(begin)), counts)
    row = spread(first, counts)
    (x0, y0), (x1, y1) = begin[edge].T, end[edge].T
    return owners[edge], row, x0 + (row + CENTRE - y0) * ((x1 - x0) / (y1 - y0))


def _first_centre(values: NDArray[np.float64], limit: int) -> Indices:
    """The first row or column whose centre is not before a coordinate, from 0 to ``limit``."""
    return np.clip(np.ceil(values - CENTRE), 0, limit).astype(np.int64)


def runs_of_pixels(owners: Indices, pixels: Indices, shape: tuple[int, int]) -> MaskRuns:
    """What :func:`filled` gives as runs down the columns, for masks that may overlap."""
    height, width = shape
    places = pixels % width * height + pixels // width
    order = np.lexsort((places, owners))
    owners, places = owners[order], places[order]
    begins = np.ones(places.size, bool)
    begins[1:] = (np.diff(places) != 1) | (np.diff(owners) != 0)
    firsts = np.flatnonzero(begins)
    return MaskRuns(owners=owners[firsts], starts=places[firsts], lengths=np.diff(firsts, append=places.size))
