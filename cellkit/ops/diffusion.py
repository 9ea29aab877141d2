"""Flows from labels: heat diffuses from the centre of each object, the flow climbs it (Stringer 2021; Scellseg).

All objects are packed, box under box, into a few flat canvases of one width each. A 3 x 3 box sum on a canvas is then
four contiguous vector additions, whatever the sizes of the objects; the margins between boxes stay zero because each
step ends with a multiplication by the mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.runs import Indices, Integers, Neighbours, Runs, paint, runs_of, spread

Floats = NDArray[np.float32]

CANVAS = 1 << 15  # pixels of a canvas: four float32 arrays of this size stay in a second-level cache of 1 MB
SPARE = 1 << 13  # pixels that a canvas may waste on narrow boxes; as long to compute as the calls of one more canvas
FAINT = np.float32(1e-30)  # heat below this is near the end of float32: its differences mean nothing
NEIGHBOURS = np.array([[y, x] for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)], np.float32)


def flows_from_labels(labels: Integers) -> Floats:
    """Flow of every object pixel towards the centre of its object, all objects at once.

    Heat starts at the centre (the object's pixel nearest to the median of its rows and columns). At each of 2 (height
    + width - 2) steps one unit is added there and each object pixel takes the mean of its 3 x 3 neighbourhood, where
    pixels outside its own object count as zero. The flow is the central difference of log(1 + heat), made unit length.
    Where an object has several pieces, each piece that the heat does not reach is treated as an object of its own.

    Args:
        labels: (H, W) labels, 0 is background; any ids, in any order.

    Returns:
        (2, H, W) float32 unit vectors, 0 = y, 1 = x, in pixels; zero in the background and where heat has a summit or
        a saddle (the centre of a symmetric object, an object of one pixel).
    """
    flows = np.zeros((2, *labels.shape), np.float32)
    runs = runs_of(labels)
    while (runs.values != 0).any():
        cells = runs.take(runs.values != 0)
        pixels = cells.pixels()
        vectors, reached = diffused(cells)
        flows.reshape(2, -1)[:, pixels] = vectors
        if reached.all():
            break
        runs = _pieces_left(runs, pixels[~reached])
    return flows


def diffused(cells: Runs) -> tuple[Floats, NDArray[np.bool_]]:
    """Flows as :func:`flows_from_labels`, but zero where the heat of an object's centre does not come.

    Args:
        cells: runs of the objects, without background.

    Returns:
        (2, N) float32 flows of the pixels in the order of ``cells.pixels()``, and (N,) whether heat came there.
    """
    if len(cells) == 0:
        return np.zeros((2, 0), np.float32), np.zeros(0, bool)
    cells = dataclasses.replace(cells, values=_compact(cells.values))
    return _Canvas.pack(cells, _Boxes.around(cells)).flows()


def _pieces_left(runs: Runs, pixels: Indices) -> Runs:
    """Runs of the image with these pixels (n,) alone, each connected piece with a value of its own."""
    left = np.zeros(runs.shape, np.int64)
    left.ravel()[pixels] = paint(runs, runs.values).ravel()[pixels]
    runs = runs_of(left)
    _, pieces = Neighbours(runs).pieces(runs.values)
    return dataclasses.replace(runs, values=np.where(runs.values != 0, pieces + 1, 0))


def _compact(values: Integers) -> Indices:
    """Object numbers from 0 without gaps, for positive labels."""
    top = int(values.max())
    if top > 4 * len(values) + 1024:  # ids with huge gaps
        return np.unique(values, return_inverse=True)[1]
    number = np.zeros(top + 1, np.int64)
    number[values] = 1
    number = np.cumsum(number) - 1
    return number[values]


@dataclass(frozen=True)
class _Boxes:
    """Bounding box and centre of each object (n,), in pixels of the image."""

    top: Indices
    left: Indices
    heights: Indices
    widths: Indices
    centre_y: Indices
    centre_x: Indices

    @classmethod
    def around(cls, runs: Runs) -> _Boxes:
        count = int(runs.values.max()) + 1
        rows, columns = runs.rows, runs.columns
        top, left = np.full((2, count), np.iinfo(np.int64).max)
        bottom, right = np.zeros((2, count), np.int64)
        np.minimum.at(top, runs.values, rows)
        np.maximum.at(bottom, runs.values, rows + 1)
        np.minimum.at(left, runs.values, columns)
        np.maximum.at(right, runs.values, columns + runs.lengths)
        heights, widths = bottom - top, right - left
        areas = np.bincount(runs.values, runs.lengths, count).astype(np.int64)
        twice_y = _twice_median(_rows_filled(runs, top, heights), top, heights, areas)
        twice_x = _twice_median(_columns_filled(runs, left, widths), left, widths, areas)
        centre_y, centre_x = _nearest_pixels(runs, twice_y, twice_x)
        return cls(top, left, heights, widths, centre_y, centre_x)


def _rows_filled(runs: Runs, top: Indices, heights: Indices) -> Indices:
    """Pixels of each object in each row of its box, box after box."""
    begin = np.cumsum(heights) - heights
    place = begin[runs.values] + runs.rows - top[runs.values]
    return np.bincount(place, runs.lengths, int(heights.sum())).astype(np.int64)


def _columns_filled(runs: Runs, left: Indices, widths: Indices) -> Indices:
    """Pixels of each object in each column of its box, box after box."""
    begin = np.cumsum(widths) - widths
    place = begin[runs.values] + runs.columns - left[runs.values]
    total = int(widths.sum()) + 1
    # a run adds one from its first column on and takes it back behind its last
    steps = np.bincount(place, minlength=total) - np.bincount(place + runs.lengths, minlength=total)
    return np.cumsum(steps)[:-1]


def _twice_median(filled: Indices, offset: Indices, sizes: Indices, areas: Indices) -> Indices:
    """Twice the median coordinate of each object (twice: halves stay integers)."""
    begin = np.cumsum(sizes) - sizes
    below = np.cumsum(areas) - areas
    reached = np.cumsum(filled)
    low = np.searchsorted(reached, below + (areas - 1) // 2, side="right")
    high = np.searchsorted(reached, below + areas // 2, side="right")
    twice: Indices = low + high + 2 * (offset - begin)
    return twice


def _nearest_pixels(runs: Runs, twice_y: Indices, twice_x: Indices) -> tuple[Indices, Indices]:
    """The object's pixel nearest to its median; of equally near ones the first in raster order."""
    rows, columns, values = runs.rows, runs.columns, runs.values
    # within a run the nearest pixel is the median clipped to it (a half rounds down: the first in raster order)
    column = np.clip(twice_x[values] // 2, columns, columns + runs.lengths - 1)
    distance = (2 * rows - twice_y[values]) ** 2 + (2 * column - twice_x[values]) ** 2
    order = np.lexsort((runs.starts, distance, values))
    first = order[np.flatnonzero(np.diff(values[order], prepend=-1))]
    return rows[first], column[first]


@dataclass(frozen=True)
class _Strip:
    """A part of the canvas with one row width; its objects lie by falling number of steps.

    Attributes:
        begin, end: place in the canvas.
        width: pixels of a row, margin included.
        ends: (n,) where each object ends, from ``begin``.
        steps: (n,) falling.
        centres: (n,) places of the centres, from ``begin``.
    """

    begin: int
    end: int
    width: int
    ends: Indices
    steps: Indices
    centres: Indices


@dataclass(frozen=True)
class _Canvas:
    """All objects of an image in flat strips.

    Attributes:
        pixels: (N,) place of each object pixel, in the order of ``Runs.pixels``.
        rows: (N,) row width of the strip of each object pixel.
        strips: the strips.
        size: pixels of the canvas.
    """

    pixels: Indices
    rows: Indices
    strips: list[_Strip]
    size: int

    @classmethod
    def pack(cls, runs: Runs, boxes: _Boxes) -> _Canvas:
        place, row = np.empty((2, len(boxes.top)), np.int64)
        strips = []
        begin = 0
        for chosen in _shelves(boxes):
            strip = _strip(boxes, chosen, begin)
            place[chosen] = begin + strip.ends - (boxes.heights[chosen] + 1) * strip.width
            row[chosen] = strip.width
            strips.append(strip)
            begin = strip.end
        values = runs.values
        width = row[values]
        starts = place[values] + (runs.rows - boxes.top[values]) * width + runs.columns - boxes.left[values]
        return cls(spread(starts, runs.lengths), np.repeat(width, runs.lengths), strips, begin)

    def heat(self) -> Floats:
        """Heat of every place of the canvas after each object's own number of steps."""
        heat = np.zeros(self.size, np.float32)
        mask = np.zeros(self.size, np.float32)
        mask[self.pixels] = np.float32(1 / 9)
        for strip in self.strips:
            _diffuse(heat[strip.begin : strip.end], mask[strip.begin : strip.end], strip)
        return heat

    def flows(self) -> tuple[Floats, NDArray[np.bool_]]:
        """(2, N) flows of the object pixels, and (N,) whether heat came there."""
        heat = self.heat()
        climb = np.log1p(heat)
        here, rows = self.pixels, self.rows
        vectors = _unit(np.stack([climb[here + rows] - climb[here - rows], climb[here + 1] - climb[here - 1]]))
        known = heat >= FAINT
        known[np.concatenate([strip.begin + strip.centres for strip in self.strips])] = True
        reached = known[here]
        if not reached.all():
            _follow_known(vectors, self, known)
            reached = known[here]
        return vectors, reached


def _follow_known(vectors: Floats, canvas: _Canvas, known: NDArray[np.bool_]) -> None:
    """Flows where heat is too faint, in long thin objects: layer by layer towards the pixels that have one.

    Args:
        vectors: (2, N) flows of the object pixels; filled in.
        canvas: the packed objects.
        known: places of the canvas that have a flow; grows by all that are connected to them.
    """
    number = np.full(canvas.size, -1)
    number[canvas.pixels] = np.arange(len(canvas.pixels))
    layer = canvas.pixels[~known[canvas.pixels]]
    layer = layer[known[_around(layer, canvas.rows[number[layer]])].any(0)]
    while len(layer):
        pixels = number[layer]
        around = _around(layer, canvas.rows[pixels])
        towards = known[around]
        mean = NEIGHBOURS.T @ towards.astype(np.float32)
        first = NEIGHBOURS[towards.argmax(0)].T  # two opposite ways: either is good
        vectors[:, pixels] = _unit(np.where((mean == 0).all(0), first, mean))
        known[layer] = True
        layer = np.unique(around[(number[around] >= 0) & ~known[around]])


def _around(places: Indices, rows: Indices) -> Indices:
    """The eight neighbours (8, n) of places (n,) of the canvas."""
    offset_y, offset_x = NEIGHBOURS.astype(np.int64).T
    around: Indices = places + offset_y[:, None] * rows + offset_x[:, None]
    return around


def _shelves(boxes: _Boxes) -> Iterator[Indices]:
    """Objects that share a strip: of similar width, together about one canvas large, by falling number of steps."""
    steps = 2 * (boxes.heights + boxes.widths - 2)
    order = np.argsort(-boxes.widths, kind="stable")
    sizes = zip(boxes.widths[order].tolist(), boxes.heights[order].tolist(), strict=True)
    begin = width = filled = wasted = 0
    for i, (narrow, height) in enumerate(sizes):
        filled += (width + 1) * (height + 1)
        wasted += (width - narrow) * (height + 1)
        if i == 0 or filled > CANVAS or wasted > SPARE:
            if i:
                shelf = order[begin:i]
                yield shelf[np.argsort(-steps[shelf], kind="stable")]
            begin, width, filled, wasted = i, narrow, (narrow + 1) * (height + 1), 0
    shelf = order[begin:]
    yield shelf[np.argsort(-steps[shelf], kind="stable")]


def _strip(boxes: _Boxes, chosen: Indices, begin: int) -> _Strip:
    heights = boxes.heights[chosen]
    width = int(boxes.widths[chosen].max()) + 1
    ends = width + 1 + np.cumsum((heights + 1) * width)
    inside = (boxes.centre_y - boxes.top)[chosen] * width + (boxes.centre_x - boxes.left)[chosen]
    return _Strip(
        begin=begin,
        end=begin + int(ends[-1]) + 1,
        width=width,
        ends=ends,
        steps=2 * (heights + boxes.widths[chosen] - 2),
        centres=ends - (heights + 1) * width + inside,
    )


def _diffuse(heat: Floats, mask: Floats, strip: _Strip) -> None:
    """All steps of a strip, in place; objects that have done theirs lie at the end and are left alone."""
    width, lead = strip.width, strip.width + 1
    sums, boxes = np.empty((2, len(heat)), np.float32)
    done = 0
    for steps in np.unique(strip.steps):
        active = int(np.searchsorted(-strip.steps, -steps, side="right"))
        count = int(strip.ends[active - 1]) - width - lead
        three = count + 2 * width
        left, middle, right = (heat[k : k + three] for k in range(3))
        across, box = sums[:three], boxes[:count]
        above, here, below = (sums[k * width : k * width + count] for k in range(3))
        inside, centres = heat[lead : lead + count], strip.centres[:active]
        ninth = mask[lead : lead + count]
        for _ in range(done, steps):
            heat[centres] += 1
            np.add(left, middle, out=across)
            np.add(across, right, out=across)
            np.add(above, here, out=box)
            np.add(box, below, out=box)
            np.multiply(box, ninth, out=inside)
        done = steps


def _unit(vectors: Floats) -> Floats:
    """Unit length without underflow; zero vectors stay zero."""
    largest = np.maximum(np.abs(vectors[0]), np.abs(vectors[1]))
    vectors /= np.maximum(largest, np.finfo(np.float32).tiny)
    length = np.sqrt(vectors[0] ** 2 + vectors[1] ** 2)
    vectors /= np.where(length > 0, length, 1)
    return vectors
