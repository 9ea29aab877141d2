"""Pairs of truth and detection by IoU as COCO defines it, without the many pairs that do not meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from cellkit.errors import InputError
from cellkit.metrics.coco_settings import Kind
from cellkit.metrics.instances import Instances, check_shapes, meeting, shared_pixels
from cellkit.metrics.intersections import Floats, Integers
from cellkit.ops.runs import spread

Edges: TypeAlias = tuple[Floats, Floats, Floats, Floats]  # (N,) left, top, right and bottom of boxes
LAST_BAND = 2.0**30  # boxes beyond share the last band: their place among all fits into 64 bits


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Truth objects and detections that meet.

    Attributes:
        truth: (P,) truth object.
        predicted: (P,) detection.
        iou: (P,) intersection over union; of a crowd, over the area of the detection.
    """

    truth: Integers
    predicted: Integers
    iou: Floats


def find_pairs(truth: Instances, predicted: Instances, kind: Kind, key: str) -> Pairs:
    """All pairs of IoU > 0, in no particular order.

    The floating-point operations are those of pycocotools' maskApi.c: a quotient of whole numbers for masks; products,
    sums and one quotient of the coordinates for boxes.

    Raises:
        InputError: the shapes differ, masks are asked for where there are boxes alone, or a box is infinite.
    """
    check_shapes(truth, predicted, key)
    return _by_masks(truth, predicted, key) if kind == "segm" else _by_boxes(truth, predicted, key)


def _by_masks(truth: Instances, predicted: Instances, key: str) -> Pairs:
    if not len(truth) or not len(predicted):
        nothing = np.zeros(0, np.int64)
        return Pairs(truth=nothing, predicted=nothing, iou=np.zeros(0))  # whether there are masks or not
    one, other, pixels = shared_pixels(truth, predicted, key)
    area = predicted.pixels[other]
    union = np.where(truth.crowd[one], area, truth.pixels[one] + area - pixels)
    return Pairs(truth=one, predicted=other, iou=pixels / union)


def _by_boxes(truth: Instances, predicted: Instances, key: str) -> Pairs:
    for name, side in (("truth", truth), ("prediction", predicted)):
        if not np.isfinite(side.boxes).all():
            number = side.ids[np.flatnonzero(~np.isfinite(side.boxes).all(axis=1))[0]]
            raise InputError(
                key, f"the box of object {number} of the {name} is infinite", "boxes are x, y, width, height"
            )
    left, top, right, bottom = _edges(truth.boxes)
    other_left, other_top, other_right, other_bottom = _edges(predicted.boxes)
    one, other = _near((left, top, right, bottom), (other_left, other_top, other_right, other_bottom))
    width = np.minimum(other_right[other], right[one]) - np.maximum(other_left[other], left[one])
    height = np.minimum(other_bottom[other], bottom[one]) - np.maximum(other_top[other], top[one])
    shared = (width > 0) & (height > 0)
    one, other, intersection = one[shared], other[shared], width[shared] * height[shared]
    areas, other_areas = (side.boxes[:, 2] * side.boxes[:, 3] for side in (truth, predicted))
    union = np.where(truth.crowd[one], other_areas[other], other_areas[other] + areas[one] - intersection)
    return Pairs(truth=one, predicted=other, iou=intersection / union)


def _near(edges: Edges, others: Edges) -> tuple[Integers, Integers]:
    """Pairs of boxes that share a band of rows and meet in x: a few times those that meet, each once.

    Bands are as high as boxes are on average, so that all boxes together enter at most three times their number.
    """
    heights = np.concatenate([bottom - top for _, top, _, bottom in (edges, others)])
    band = float(heights.clip(0).mean()) if heights.size else 0.0
    ranks = np.unique(np.concatenate([edges[0], edges[2], others[0], others[2]]))  # comparing ranks is exact
    entries = [_entries(side, band or 1.0, ranks) for side in (edges, others)]
    (box, row, starts, ends, first), (other_box, _, other_starts, other_ends, other_first) = entries
    one, other = meeting(starts, ends, other_starts, other_ends)
    once = row[one] == np.maximum(first[box[one]], other_first[other_box[other]])
    return box[one[once]], other_box[other[once]]


def _entries(edges: Edges, band: float, ranks: Floats) -> tuple[Integers, Integers, Integers, Integers, Integers]:
    """Box and band of each entry, its begin and end in x among those of all bands, and the first band of each box."""
    left, top, right, bottom = edges
    first, last = (np.floor(np.clip(edge / band, -LAST_BAND, LAST_BAND)).astype(np.int64) for edge in (top, bottom))
    counts = np.maximum(last - first + 1, 0)
    box, row = np.repeat(np.arange(left.size), counts), spread(first, counts)
    begins, ends = (row * (ranks.size + 1) + np.searchsorted(ranks, edge)[box] for edge in (left, right))
    return box, row, begins, ends, first


def _edges(boxes: Floats) -> Edges:
    left, top, width, height = boxes.T
    return left, top, width + left, height + top
