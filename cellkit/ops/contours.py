"""Outlines of objects as polygons along the edges of their pixels: filling them gives the same pixels again.

Every 4-connected piece of an object becomes one polygon: an outer ring and one ring per hole. No ring touches itself
and all corners are whole numbers, so the polygons are valid simple features (OGC 06-103r4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected

Corners = NDArray[np.int64]  # (V, 2) x and y of the corners of a ring, open; x = 0 is the left edge of the image
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """One 4-connected piece of an object.

    Attributes:
        outer: (V, 2) corners x, y; the sum of x[i] * y[i+1] - x[i+1] * y[i] is positive.
        holes: the same of each hole, the other way round.
        area: pixels.
    """

    outer: Corners
    holes: tuple[Corners, ...]
    area: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Segments:
    """Straight stretches of outlines; the piece is on the right-hand side as one goes (rows grow downwards).

    Attributes:
        owners: (S,) piece of each.
        starts: (S,) number of the corner where it begins: y * (W + 1) + x.
        ends: (S,) where it ends.
        forward: (S,) whether x or y grows.
    """

    owners: Indices
    starts: Indices
    ends: Indices
    forward: NDArray[np.bool_]


def outlines(labels: NDArray[Any]) -> dict[int, list[Piece]]:
    """The outlines of all objects of a label image.

    Args:
        labels: (H, W) integers >= 0, 0 is background.

    Returns:
        by label, ascending: its pieces, the largest first.
    """
    if not labels.any():
        return {}
    found, tangled = _pieces(labels, np.arange(0))
    if tangled.size:  # rare, and connected pieces of a whole image take as long as all the rest
        parts, count = connected(np.where(np.isin(labels, tangled), labels, 0), connectivity=1, return_num=True)
        owner = np.zeros(count + 1, np.int64)
        owner[parts.ravel()] = labels.ravel()
        found |= _pieces(parts, owner)[0]
    for group in found.values():
        group.sort(key=lambda piece: -piece.area)
    return dict(sorted(found.items()))


def _pieces(parts: NDArray[Any], label_of: Indices) -> tuple[dict[int, list[Piece]], Indices]:
    """The pieces by label of an image of parts, and the parts that are several pieces with holes: whose are these?

    Args:
        parts: (H, W) integers >= 0, 0 is background.
        label_of: (N,) label of each part; empty: its own number.
    """
    corners, sizes, owners = _rings(parts)
    points = np.stack([corners % (parts.shape[1] + 1), corners // (parts.shape[1] + 1)], axis=1)
    areas = _areas(points, sizes)
    order = np.lexsort((-areas, owners))  # ring by ring of a part, the outer ones first: holes are negative
    edges = np.concatenate([[0], np.cumsum(sizes)])
    begins, ends = edges[order].tolist(), edges[order + 1].tolist()
    area, outer = areas[order].tolist(), areas[order] > 0
    numbers, firsts = np.unique(owners[order], return_index=True)
    outers = np.add.reduceat(outer, firsts, dtype=np.int64)
    rings = np.diff(firsts, append=len(order))
    tangled = (outers > 1) & (rings > outers)
    labels = label_of[numbers] if label_of.size else numbers
    found: dict[int, list[Piece]] = {}
    whole = zip(labels.tolist(), firsts.tolist(), outers.tolist(), rings.tolist(), tangled.tolist(), strict=True)
    for label, first, several, count, is_tangled in whole:
        if is_tangled:
            continue
        inner = tuple(points[begins[i] : ends[i]] for i in range(first + several, first + count))
        group = found.setdefault(label, [])
        if inner:
            group.append(
                Piece(outer=points[begins[first] : ends[first]], holes=inner, area=sum(area[first : first + count]))
            )
            continue
        group += [
            Piece(outer=points[begins[i] : ends[i]], holes=(), area=area[i]) for i in range(first, first + several)
        ]
    return found, numbers[tangled]


def inner_boundary(labels: NDArray[Any]) -> NDArray[Any]:
    """The labels of the pixels that have a side in common with another object, the background or the frame; else 0."""
    around = np.pad(labels, 1)
    inside = np.ones(labels.shape, bool)
    for rows, columns in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1))):
        inside &= (around[rows, columns] == labels) & (around[columns, rows] == labels)
    return np.where(inside, 0, labels)


def _rings(pieces: NDArray[Any]) -> tuple[Indices, Indices, Indices]:
    """Corner numbers of all rings one after another (V,), the number of corners (R,) and the piece (R,) of each."""
    across = _segments(pieces, clockwise=True)
    down = _segments(pieces.T, clockwise=False)
    height, width = pieces.shape
    down = _Segments(
        owners=down.owners,
        starts=_turned(down.starts, height + 1, width + 1),
        ends=_turned(down.ends, height + 1, width + 1),
        forward=down.forward,
    )
    # where two pixels of one piece touch by a corner, each way turns right: it stays with its own pixel
    to_down = _followers(across, down, across.forward, down.forward)
    to_across = _followers(down, across, ~down.forward, across.forward)
    order, sizes = _cycles(to_across[to_down])
    corners = np.stack([across.starts[order], across.ends[order]], axis=1).ravel()
    first = np.cumsum(sizes) - sizes
    return _simple(corners, 2 * sizes, across.owners[order][first])


def _turned(corners: Indices, width: int, new_width: int) -> Indices:
    """Numbers of the corners of a transposed image in the image itself."""
    return (corners % width) * new_width + corners // width


def _segments(pieces: NDArray[Any], *, clockwise: bool) -> _Segments:
    """The horizontal segments of an image of pieces (H, W).

    Args:
        pieces: 0 is background.
        clockwise: upper edges go to the right; False for a transposed image, whose ways are mirrored.
    """
    height, width = pieces.shape
    edge = np.empty((height + 1, width), bool)
    edge[1:-1] = pieces[1:] != pieces[:-1]
    edge[0], edge[-1] = pieces[0] > 0, pieces[-1] > 0
    places = np.flatnonzero(edge)
    rows, columns = places // width, places % width
    above = np.where(rows > 0, pieces[np.maximum(rows - 1, 0), columns], 0)
    below = np.where(rows < height, pieces[np.minimum(rows, height - 1), columns], 0)
    upper, lower = (_stretches(places, columns, side, width) for side in (below, above))
    forward = np.repeat([clockwise, not clockwise], [upper[0].size, lower[0].size])
    owners, lefts, rights = (np.concatenate(both) for both in zip(upper, lower, strict=True))
    return _Segments(
        owners=owners, starts=np.where(forward, lefts, rights), ends=np.where(forward, rights, lefts), forward=forward
    )


def _stretches(places: Indices, columns: Indices, values: NDArray[Any], width: int) -> tuple[Indices, Indices, Indices]:
    """Value, first corner and last corner of the runs of equal values > 0 among edges of pixels.

    Args:
        places: (E,) ascending, row * width + column.
        columns: (E,) column of each.
        values: (E,) piece of each, or 0.
        width: edges in a row.
    """
    inside = values > 0
    places, columns, values = places[inside], columns[inside], values[inside]
    begins = np.ones(places.size, bool)
    begins[1:] = (np.diff(places) != 1) | (values[1:] != values[:-1]) | (columns[1:] == 0)
    firsts = np.flatnonzero(begins)
    lengths = np.diff(firsts, append=places.size)
    lefts = places[firsts] + places[firsts] // width  # a row has one corner more than edges
    return values[firsts].astype(np.int64), lefts, lefts + lengths


def _followers(ending: _Segments, beginning: _Segments, wish: NDArray[np.bool_], way: NDArray[np.bool_]) -> Indices:
    """Which segment follows on each: at its end, of the same piece; of two, the one whose way is as wished."""
    ends = np.lexsort((wish, ending.owners, ending.ends))
    begins = np.lexsort((way, beginning.owners, beginning.starts))
    following = np.empty(ends.size, np.int64)
    following[ends] = begins
    return following


def _cycles(following: Indices) -> tuple[Indices, Indices]:
    """The cycles of a permutation, one after another, and their lengths."""
    after = following.tolist()
    seen = bytearray(len(after))
    order: list[int] = []
    sizes: list[int] = []
    for first in range(len(after)):
        if seen[first]:
            continue
        before, place = len(order), first
        while not seen[place]:
            seen[place] = 1
            order.append(place)
            place = after[place]
        sizes.append(len(order) - before)
    return np.array(order, np.int64), np.array(sizes, np.int64)


def _simple(corners: Indices, sizes: Indices, owners: Indices) -> tuple[Indices, Indices, Indices]:
    """Rings that pass a corner twice become several that do not; see :func:`_rings`."""
    ring = np.repeat(np.arange(sizes.size), sizes)
    order = np.lexsort((corners, ring))
    same = (np.diff(corners[order]) == 0) & (np.diff(ring[order]) == 0)
    touching = np.unique(ring[order][1:][same])
    if not touching.size:
        return corners, sizes, owners
    edges = np.concatenate([[0], np.cumsum(sizes)])
    parts = [(part, owners[i]) for i in touching for part in _split(corners[edges[i] : edges[i + 1]].tolist())]
    whole = np.ones(sizes.size, bool)
    whole[touching] = False
    return (
        np.concatenate([corners[whole[ring]], *(np.array(part, np.int64) for part, _ in parts)]),
        np.concatenate([sizes[whole], [len(part) for part, _ in parts]]),
        np.concatenate([owners[whole], [owner for _, owner in parts]]),
    )


def _split(corners: Sequence[int]) -> list[list[int]]:
    """The loops of a closed way, each without a corner that comes twice."""
    loops: list[list[int]] = []
    way: list[int] = []
    places: dict[int, int] = {}
    for corner in corners:
        if corner in places:
            start = places[corner]
            loops.append(way[start:])
            for passed in way[start:]:
                del places[passed]
            del way[start:]
        places[corner] = len(way)
        way.append(corner)
    return [*loops, way]


def _areas(points: Corners, sizes: Indices) -> Indices:
    """Signed area of each ring, in pixels."""
    ends = np.cumsum(sizes)
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = ends - sizes
    x, y = points.T
    areas: Indices = np.add.reduceat(x * y[following] - x[following] * y, ends - sizes) // 2
    return areas
