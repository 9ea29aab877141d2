"""Boxes along the axes of an image: areas, overlaps, and how a detector codes one box relative to another.

A box is x0, y0, x1, y1 in pixels with x0 <= x1 and y0 <= y1, where pixel i covers the places from i to i + 1: the box
of the first pixel alone is 0, 0, 1, 1.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

Weights: TypeAlias = tuple[float, float, float, float]

SCALE_CLAMP = math.log(1000 / 16)  # of the log of a side: a new box is at most 62.5 times its reference (Girshick 2014)


def check(boxes: Tensor) -> None:
    """Refuse what are no boxes.

    Raises:
        ValueError: they are not (N, 4) floating-point numbers, or some are not finite.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f"boxes must be (N, 4) floating-point numbers, not {tuple(boxes.shape)} {boxes.dtype}")
    if not torch.isfinite(boxes).all():
        raise ValueError("boxes must be finite")


def area(boxes: Tensor) -> Tensor:
    """Square pixels (N,) of boxes (N, 4); 0 of those whose sides are below 0."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def intersection(ours: Tensor, theirs: Tensor) -> Tensor:
    """Square pixels (...) that boxes (..., 4) share with others (..., 4); the shapes broadcast."""
    sides = torch.minimum(ours[..., 2:], theirs[..., 2:]) - torch.maximum(ours[..., :2], theirs[..., :2])
    sides = sides.clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """Intersection over union (N, M) of each of boxes (N, 4) with each of others (M, 4); 0 of two without area."""
    one = ours[:, :, None].unbind(1)
    other = theirs.T.contiguous().unbind(0)  # coordinate by coordinate: faster than pair by pair
    width = (torch.minimum(one[2], other[2]) - torch.maximum(one[0], other[0])).clamp(min=0)
    height = (torch.minimum(one[3], other[3]) - torch.maximum(one[1], other[1])).clamp(min=0)
    shared = width * height
    union = area(ours)[:, None] + area(theirs) - shared
    return torch.where(union > 0, shared / union, 0)


def clip(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) within an image (H, W): what lies outside is moved to the edge and has no area."""
    height, width = shape
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def nonempty(boxes: Tensor, side: float = 0.0) -> Tensor:
    """Which (N,) of boxes (N, 4) have both sides longer than ``side`` pixels."""
    return (boxes[:, 2:] - boxes[:, :2] > side).all(1)


def encode(references: Tensor, boxes: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes relative to references (Girshick 2014, eq. 6-9): the shift of the centre and the logs of the sides.

    Args:
        references: (N, 4) with sides above 0, for example anchors.
        boxes: (N, 4) with sides above 0.
        weights: factors of the shifts along x and y and of the logs of width and height.

    Returns:
        (N, 4) shift along x and y in sides of the reference, log of the ratio of widths and of heights, times weights.
    """
    sides, new_sides = references[:, 2:] - references[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - references[:, :2] - references[:, 2:]) / (2 * sides)
    return torch.cat([shift, torch.log(new_sides / sides)], 1) * references.new_tensor(weights)


def decode(references: Tensor, deltas: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The boxes that :func:`encode` gave as deltas, in float32 at least; sides grow to 62.5 times at most.

    Args:
        references: (N, 4).
        deltas: (N, 4) or, K boxes for each reference, (N, 4 K).
        weights: those of the encoding.

    Returns:
        Boxes, shaped as the deltas.
    """
    exact = torch.promote_types(torch.promote_types(references.dtype, deltas.dtype), torch.float32)
    start, stop = references.to(exact).reshape(-1, 1, 4).chunk(2, 2)
    coded = deltas.to(exact).reshape(len(deltas), deltas.shape[1] // 4, 4) / references.new_tensor(weights, dtype=exact)
    sides = stop - start
    centres = start + 0.5 * sides + coded[..., :2] * sides
    halves = 0.5 * sides * torch.exp(coded[..., 2:].clamp(max=SCALE_CLAMP))
    return torch.cat([centres - halves, centres + halves], 2).reshape(deltas.shape)
