"""Objects that were found in overlapping tiles, put together to those of the image.

Where tiles overlap, each object is seen by several of them. It belongs to the tile in whose inner part its centre
lies: inner parts end half way through what two tiles share, so that an object no longer than that is whole there. One
that the edge of a tile cuts is dropped where a neighbour has room for all that is seen of it. Two tiles do not agree on
an object to the pixel: what lies near the end of an inner part is kept by both, and the lesser of two that are the same
is dropped afterwards. An object longer than what tiles share may be cut in all of them; then its largest piece is
taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cellkit.ops.boxes_nms import nms_by_class
from cellkit.ops.detections import Detections
from cellkit.ops.run_lengths import Indices, MaskRuns
from cellkit.ops.run_lengths_moved import moved, resized

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

AT_EDGE = 2.0  # px; a box that ends so near to the edge of its tile is cut
DOUBT = 8.0  # px; how far apart two tiles may see the same edge or centre
HIDDEN = 0.5  # part of a cut box within another, above which both are of one object
PAIRS = 1 << 22  # of boxes compared at once


@dataclass(frozen=True, eq=False)
class Spans:
    """Tiles along one axis of an image.

    Attributes:
        starts: (T,) first pixel of each, ascending.
        stops: (T,) pixel after the last.
    """

    starts: Indices
    stops: Indices

    @classmethod
    def of(cls, starts: Sequence[int], size: int, length: int) -> Spans:
        """Tiles of one size; the last may be longer than what the axis has left."""
        begins = np.array(starts, np.int64)
        return cls(begins, np.minimum(begins + size, length))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def shared(self) -> tuple[Indices, Indices]:
        """Starts and stops (T - 1,) of what neighbours share."""
        return self.starts[1:], self.stops[:-1]

    def cut(self, tile: int, low: Floats, high: Floats) -> Flags:
        """Which intervals (N,) from ``low`` to ``high`` end at an edge of a tile that is not one of the image."""
        cut: Flags = ~self._holds(low, high, AT_EDGE)[:, tile]
        return cut

    def owned(self, tile: int, low: Floats, high: Floats) -> Flags:
        """Which intervals (N,) seen in a tile are to be kept of it."""
        depth = self._outside(low, high)
        own = depth[:, [tile]]
        roomy = self._holds(low, high, DOUBT)
        roomy[:, tile] = False
        cut = self.cut(tile, low, high)
        nearer = (roomy & (depth + DOUBT < own)).any(1)
        kept: Flags = np.where(cut, ~roomy.any(1) & (own[:, 0] <= DOUBT), ~nearer)
        return kept

    def _holds(self, low: Floats, high: Floats, clearance: float) -> Flags:
        """(N, T): whether a tile shows all of an interval, and so much around it where the image goes on."""
        before = (low[:, None] >= self.starts + clearance) | (self.starts == self.starts[0])
        after = (high[:, None] <= self.stops - clearance) | (self.stops == self.stops[-1])
        held: Flags = before & after
        return held

    def _outside(self, low: Floats, high: Floats) -> Floats:
        """(N, T): pixels from the centre of an interval to the inner part of a tile; 0 within."""
        middles = (self.starts[1:] + self.stops[:-1]) / 2
        first, last = np.concatenate([[-np.inf], middles]), np.concatenate([middles, [np.inf]])
        centre = ((low + high) / 2)[:, None]
        outside: Floats = np.maximum(np.maximum(first - centre, centre - last), 0)
        return outside


@dataclass(frozen=True, eq=False)
class Piece:
    """Objects of a tile that are kept, where they are in the image.

    Attributes:
        detections: of them, with the shape of the image.
        cut: (N,) whether the edge of the tile cuts it.
        tile: (N,) number of the tile.
    """

    detections: Detections
    cut: Flags
    tile: Indices


def owned(found: Detections, rows: Spans, columns: Spans, place: tuple[int, int], shape: tuple[int, int]) -> Piece:
    """What a tile contributes.

    Args:
        found: objects of the tile.
        rows: tiles down the image.
        columns: tiles across it.
        place: row and column of the tile among them.
        shape: (H, W) of the image.
    """
    corner = int(rows.starts[place[0]]), int(columns.starts[place[1]])
    boxes = found.boxes.astype(np.float64) + np.array([corner[1], corner[0]] * 2)
    across, down = (columns, place[1], boxes[:, 0], boxes[:, 2]), (rows, place[0], boxes[:, 1], boxes[:, 3])
    kept = np.ones(len(found), bool)
    cut = np.zeros(len(found), bool)
    for spans, tile, low, high in (across, down):
        kept &= spans.owned(tile, low, high)
        cut |= spans.cut(tile, low, high)
    placed = replace(
        found,
        shape=shape,
        boxes=boxes.astype(np.float32),
        masks=moved(found.masks, found.shape[0], corner, shape),
    )
    chosen = np.flatnonzero(kept)
    number = np.full(len(chosen), place[0] * len(columns) + place[1])
    return Piece(take(placed, chosen), cut[chosen], number)


def put_together(pieces: Sequence[Piece], rows: Spans, columns: Spans, overlap: float) -> Detections:
    """All objects of an image, best first, each once.

    Args:
        pieces: of its tiles; at least one.
        rows: tiles down the image.
        columns: tiles across it.
        overlap: intersection over union of boxes above which two of one category are the same.
    """
    whole = concatenated([piece.detections for piece in pieces])
    cut, tile = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("cut", "tile"))
    if len(pieces) > 1:
        near = np.flatnonzero(_shared(whole.boxes, rows, columns))
        dropped = np.zeros(len(whole), bool)
        dropped[near] = _dropped(take(whole, near), cut[near], tile[near], overlap)
        whole = take(whole, np.flatnonzero(~dropped))
    return take(whole, np.argsort(-whole.scores, kind="stable"))


def _shared(boxes: NDArray[np.float32], rows: Spans, columns: Spans) -> Flags:
    """Which boxes (N, 4) reach into what several tiles show."""
    found = np.zeros(len(boxes), bool)
    for spans, (low, high) in ((columns, boxes[:, [0, 2]].T), (rows, boxes[:, [1, 3]].T)):
        starts, stops = spans.shared
        found |= ((low[:, None] < stops) & (high[:, None] > starts)).any(1)
    return found


def _dropped(found: Detections, cut: Flags, tile: Indices, overlap: float) -> Flags:
    """Which (N,) are the same as another that is whole; or of two whole ones better, of two that are cut larger."""
    area = _areas(found)
    rank = torch.from_numpy(np.where(cut, area / max(area.max(initial=0), 1), 1 + found.scores))
    boxes, categories = torch.from_numpy(found.boxes), torch.from_numpy(found.categories.astype(np.int64))
    dropped = np.ones(len(found), bool)
    dropped[nms_by_class(boxes, rank, categories, overlap).numpy()] = False
    pieces = np.flatnonzero(cut & ~dropped)
    step = max(1, PAIRS // max(len(found), 1))
    for begin in range(0, len(pieces), step):
        some = pieces[begin : begin + step]
        dropped[some] = _within(found, cut, tile, some, ~dropped)
    return dropped


def _within(found: Detections, cut: Flags, tile: Indices, some: Indices, alive: Flags) -> Flags:
    """Which of some (C,) cut objects lie for the most part within one of another tile that shows more of it."""
    boxes, area = found.boxes.astype(np.float64), _areas(found)
    low = np.maximum(boxes[some, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[some, None, 2:], boxes[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2) > HIDDEN * area[some, None]
    more = ~cut | (area > area[some, None])
    other = (tile != tile[some, None]) & (found.categories == found.categories[some, None])
    within: Flags = (common & more & other & alive).any(1)
    return within


def _areas(found: Detections) -> Floats:
    boxes = found.boxes.astype(np.float64)
    areas: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def take(found: Detections, chosen: Indices) -> Detections:
    """The objects of these numbers, each at most once, in that order."""
    place = np.full(len(found), -1, np.int64)
    place[chosen] = np.arange(len(chosen))
    owners = place[found.masks.owners]
    kept = owners >= 0
    masks = MaskRuns(owners=owners[kept], starts=found.masks.starts[kept], lengths=found.masks.lengths[kept])
    return replace(
        found,
        boxes=found.boxes[chosen],
        scores=found.scores[chosen],
        categories=found.categories[chosen],
        masks=masks,
    )


def concatenated(found: Sequence[Detections]) -> Detections:
    """Objects of one image after another; at least one, all of the same shape."""
    before = np.cumsum([0, *(len(one) for one in found)])
    return Detections(
        shape=found[0].shape,
        boxes=np.concatenate([one.boxes for one in found]),
        scores=np.concatenate([one.scores for one in found]),
        categories=np.concatenate([one.categories for one in found]),
        masks=MaskRuns(
            owners=np.concatenate([one.masks.owners + first for one, first in zip(found, before, strict=False)]),
            starts=np.concatenate([one.masks.starts for one in found]),
            lengths=np.concatenate([one.masks.lengths for one in found]),
        ),
    )


def scaled(found: Detections, size: tuple[int, int]) -> Detections:
    """The same objects in the image at another size (H, W); masks by nearest neighbours."""
    if found.shape == size:
        return found
    factors = np.array([size[1] / found.shape[1], size[0] / found.shape[0]] * 2)
    boxes = (found.boxes * factors).astype(np.float32)
    return replace(found, shape=size, boxes=boxes, masks=resized(found.masks, found.shape, size))
