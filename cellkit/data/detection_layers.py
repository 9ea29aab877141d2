"""Objects of one image, which may overlap, packed on few label images: on each layer no two of them share a pixel.

A stack of masks, one per object, would need objects x pixels; a COCO image of a crowd, or a field of crossing worms,
needs three or four layers, and where nothing overlaps one is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.run_lengths import Indices, RunLength, runs_of_labels, runs_of_masks
from cellkit.ops.runs import spread

SMALL = np.iinfo(np.int16).max  # objects up to this many are numbered in 16 bits


class Packed(NamedTuple):
    """The objects of one image.

    Attributes:
        layers: (L, H, W) int16 or int32, L >= 1; object i has the number i + 1 on the layer where it lies, 0 is
            background.
        layer: (N,) int64, the layer of each object.
        areas: (N,) int64, pixels of each object.
        boxes: (N, 4) float32 x0, y0, x1, y1 of their pixels, as ``ops.boxes`` has them.
    """

    layers: NDArray[Any]
    layer: Indices
    areas: Indices
    boxes: NDArray[np.float32]


def pack_labels(labels: NDArray[Any]) -> Packed:
    """The objects of a label image (H, W) >= 0, by ascending label, on the one layer that they need."""
    ids, runs = runs_of_labels(labels)
    pixels, owners = spread(runs.starts, runs.lengths), np.repeat(runs.owners, runs.lengths)
    shape = (int(labels.shape[0]), int(labels.shape[1]))
    return _painted(pixels, owners, np.zeros(ids.size, np.int64), shape)


def pack_masks(masks: Sequence[RunLength], shape: tuple[int, int]) -> Packed:
    """The objects of masks that may overlap each other, none of them empty.

    Each object comes to lie on the first layer that is free of those it shares a pixel with; the large ones first, so
    that most lie on the first layer.

    Args:
        masks: N masks of this shape.
        shape: (H, W).
    """
    if not masks:
        nothing = np.zeros(0, np.int64)
        return _painted(nothing, nothing, nothing, shape)
    runs = runs_of_masks(masks)
    pixels, owners = spread(runs.starts, runs.lengths), np.repeat(runs.owners, runs.lengths)
    areas = np.bincount(owners, minlength=len(masks))
    return _painted(pixels, owners, _layers_of(overlapping(pixels, owners), areas), shape)


def overlapping(pixels: Indices, owners: Indices) -> Indices:
    """Pairs (P, 2) of objects that share a pixel, the smaller number first, each once.

    Args:
        pixels: (S,) index of each pixel of each object.
        owners: (S,) the object.
    """
    counts = np.bincount(pixels)
    contested = counts[pixels] > 1
    pixels, owners = pixels[contested], owners[contested]
    order = np.lexsort((owners, pixels))
    pixels, owners = pixels[order], owners[order]
    found = [np.zeros((0, 2), np.int64)]
    for step in range(1, int(counts.max(initial=0))):  # as often as objects lie on top of each other at most
        same = pixels[step:] == pixels[:-step]
        found.append(np.unique(np.stack([owners[:-step][same], owners[step:][same]], 1), axis=0))
    pairs: Indices = np.unique(np.concatenate(found), axis=0)
    return pairs


def _layers_of(pairs: Indices, areas: Indices) -> Indices:
    """(N,) the first layer that no overlapping object has taken, for each object; the large ones choose first."""
    layer = np.zeros(areas.size, np.int64)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    begins = np.searchsorted(both[:, 0], np.arange(areas.size + 1))
    placed = np.zeros(areas.size, bool)
    crowded = np.unique(pairs)
    for index in crowded[np.lexsort((crowded, -areas[crowded]))]:
        others = both[begins[index] : begins[index + 1], 1]
        taken = set(layer[others[placed[others]]].tolist())
        layer[index] = next(free for free in range(len(taken) + 1) if free not in taken)
        placed[index] = True
    return layer


def _painted(pixels: Indices, owners: Indices, layer: Indices, shape: tuple[int, int]) -> Packed:
    """Layers, areas and boxes from all pixels, which are numbered down the columns of (H, W)."""
    height, width = shape
    count = int(layer.max(initial=0)) + 1
    kind = np.int16 if layer.size <= SMALL else np.int32
    flat = np.zeros((count, width * height), kind)
    flat[layer[owners], pixels] = owners + 1
    boxes = np.empty((layer.size, 4), np.float32)
    for axis, place in enumerate((pixels // height, pixels % height)):
        low, high = np.full(layer.size, max(shape)), np.zeros(layer.size, np.int64)
        np.minimum.at(low, owners, place)
        np.maximum.at(high, owners, place + 1)
        boxes[:, axis], boxes[:, 2 + axis] = low, high
    return Packed(
        layers=np.ascontiguousarray(flat.reshape(count, width, height).transpose(0, 2, 1)),
        layer=layer,
        areas=np.bincount(owners, minlength=layer.size),
        boxes=boxes,
    )
