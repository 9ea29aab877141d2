"""Star-convex targets from labels: how far each pixel sees within its cell, and how deep it lies in it (StarDist).

All crops of a batch at once and on the device of the labels: loops run over rays and steps, not over pixels or cells.
"""

from __future__ import annotations

import itertools
import math
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellkit.ops.polygons import RAYS, ray_directions

BITS = 8  # of a byte
NEIGHBOURS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
CHECK = 8  # steps of a ray after which it is asked whether any goes on: it costs as much as a step

Step: TypeAlias = tuple[int, int]  # rows down, columns to the right
Joined: TypeAlias = dict[Step, Tensor]


def ray_distances(labels: Tensor) -> Tensor:
    """Distance from each pixel to where its cell ends along 32 rays.

    As StarDist (Schmidt 2018) marches: steps of one pixel until the rounded place has another label or lies outside of
    the image, then half a pixel back along the longer axis. All pixels round alike, so a step of a ray is one shift
    of the image, and it asks only whether two neighbours have one label. That is a bit, and eight crops share a byte.

    Args:
        labels: (B, H, W) integers; a value above 0 is a cell.

    Returns:
        (B, 32, H, W) float32 pixels on the device of the labels; 0 outside of cells.
    """
    distances = torch.empty((len(labels), RAYS, *labels.shape[1:]), device=labels.device)
    for i in range(0, len(labels), BITS):
        _cast(labels[i : i + BITS], distances[i : i + BITS])
    return distances


def _cast(labels: Tensor, distances: Tensor) -> None:
    """Fill in the distances (b, 32, H, W) of at most eight crops (b, H, W)."""
    count, height, width = labels.shape
    inside = labels > 0
    whole, seen = _packed(inside), inside.float()
    joined = {step: _packed(_alike(labels, inside, step)) for step in NEIGHBOURS}
    for ray, direction in enumerate(ray_directions()):
        steps = _steps_inside(whole, joined, _marched(direction, (height, width)), width)[:count]
        half = 0.5 / float(np.abs(direction).max())  # the step out of the cell, less the way back
        torch.add(steps.reshape(labels.shape), seen, alpha=half, out=distances[:, ray])


def _packed(masks: Tensor) -> Tensor:
    """Masks (b, H, W) as bits of bytes (H W)."""
    bits = torch.zeros(masks.shape[1:], dtype=torch.uint8, device=masks.device)
    for place, mask in enumerate(masks):
        bits |= mask.to(torch.uint8) << place
    return bits.reshape(-1)


def _alike(labels: Tensor, inside: Tensor, step: Step) -> Tensor:
    """Whether pixels (b, H, W) of cells have a neighbour in the direction of a step that is of the same cell."""
    rows, columns = (_kept(offset, size) for offset, size in zip(step, labels.shape[1:], strict=True))
    other = labels[:, _shifted(rows, step[0]), _shifted(columns, step[1])]
    alike = torch.zeros_like(inside)
    alike[:, rows, columns] = (labels[:, rows, columns] == other) & inside[:, rows, columns]
    return alike


def _kept(offset: int, size: int) -> slice:
    """Places of an axis that are still on it after a shift."""
    return slice(max(0, -offset), size - max(0, offset))


def _shifted(part: slice, offset: int) -> slice:
    return slice(part.start + offset, part.stop + offset)


def _marched(direction: NDArray[np.float32], shape: tuple[int, int]) -> list[Step]:
    """Row and column, from the centre on, of those steps of a ray that may still lie in an image of this shape."""
    places = np.cumsum(np.broadcast_to(direction, (sum(shape), 2)), 0, dtype=np.float32)  # adds up as StarDist does
    rounded = np.rint(places).astype(int)
    return [(row, column) for row, column in rounded.tolist() if abs(row) < shape[0] and abs(column) < shape[1]]


def _steps_inside(whole: Tensor, joined: Joined, places: list[Step], width: int) -> Tensor:
    """Steps (8, H W) of a ray that stay in the cell.

    A place at the edge of the image is joined to none outside, so a ray is over before it could enter the next row.

    Args:
        whole: (H W) bits of the pixels of cells.
        joined: by step, bits of the pixels that have a neighbour there of the same cell.
        places: of the ray.
        width: of the image.
    """
    alive = whole.clone()
    digits = [torch.zeros_like(alive)]  # of the number of steps: (H W) bits of each
    for number, (before, place) in enumerate(itertools.pairwise([(0, 0), *places]), 1):
        step = (place[0] - before[0], place[1] - before[1])
        if step in joined:  # else it is rounded to the same place
            here = before[0] * width + before[1]
            part = _kept(here, len(alive))
            alive[part] &= joined[step][_shifted(part, here)]
        if number % CHECK == 0 and not alive.any():
            break
        changing = (number & -number).bit_length()  # digits that are not those of the number before
        digits += [torch.zeros_like(alive) for _ in range(changing - len(digits))]
        for digit in digits[:changing]:
            digit ^= alive
    return _numbers(digits)


def _numbers(digits: list[Tensor]) -> Tensor:
    """Numbers (8, N) from their binary digits (N,), the lowest first, where each bit is of another number."""
    bytes_of = torch.arange(1 << BITS)[:, None] >> torch.arange(BITS) & 1
    spread = bytes_of.to(digits[0].device, torch.uint8).view(torch.int64)[:, 0]  # each bit of a byte as a byte of 8
    numbers = torch.zeros((), dtype=torch.uint8, device=digits[0].device)
    for i in range(0, len(digits), BITS):
        words = torch.zeros(len(digits[0]), dtype=torch.int64, device=digits[0].device)
        for place, digit in enumerate(digits[i : i + BITS]):
            words += spread[digit.int()] << place
        part = words.view(torch.uint8).reshape(-1, BITS).T
        numbers = numbers + (part.int() << i if i else part)
    return numbers


def depth_ratios(labels: Tensor) -> Tensor:
    """Distance of each pixel to the nearest one that is not of its cell, over the largest in the cell.

    The edge of the image is no edge of a cell, but of a crop with nothing else in it, as in StarDist.

    Args:
        labels: (B, H, W) integers; a value above 0 is a cell.

    Returns:
        (B, H, W) float32 in [0, 1]; 0 outside of cells.
    """
    depth = torch.where(labels > 0, squared_depths(labels), 0).sqrt()
    count = int(labels.max().clamp(min=0)) + 1 if labels.numel() else 1
    crop = torch.arange(len(labels), device=labels.device)[:, None, None]
    cells = (labels.clamp(min=0).long() + count * crop).reshape(-1)
    largest = torch.zeros(count * len(labels), device=labels.device)
    largest.scatter_reduce_(0, cells, depth.reshape(-1), "amax")
    return depth / largest[cells].reshape(labels.shape).clamp(min=1)


def squared_depths(labels: Tensor) -> Tensor:
    """Squared distance (B, H, W) float32 to the nearest pixel of another label: exact, all labels at once.

    Columns first, then the lower envelope of parabolas along rows (Felzenszwalb 2012). A parabola of another label
    needs no care: it lies beyond the end of the run of the pixel, which is nearer. Columns are looked at as far away as
    the first guess of any pixel of a cell: further ones are no nearer.
    """
    across = torch.minimum(*_to_change(labels, 1)).square()
    nearest = torch.minimum(torch.minimum(*_to_change(labels, 2)).square(), across)
    guesses = torch.where((labels > 0) & torch.isfinite(nearest), nearest, 0)
    width = labels.shape[2]
    for step in range(1, min(width, math.isqrt(int(guesses.max())) + 1)):
        ends, begins = nearest[:, :, step:], nearest[:, :, :-step]
        torch.minimum(ends, across[:, :, :-step] + step**2, out=ends)
        torch.minimum(begins, across[:, :, step:] + step**2, out=begins)
    return torch.where(torch.isinf(nearest), _to_edge(labels).square(), nearest)


def _to_change(labels: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Distances (B, H, W) to the next pixel of another label before and after, along an axis; infinite if none."""
    return _since_change(labels, axis), _since_change(labels.flip(axis), axis).flip(axis)


def _since_change(labels: Tensor, axis: int) -> Tensor:
    length = labels.shape[axis]
    shape = [1, 1, 1]
    shape[axis] = length
    places = torch.arange(length, device=labels.device, dtype=torch.float32).reshape(shape)
    begins = torch.full(labels.shape, -math.inf, device=labels.device)
    changed = labels.narrow(axis, 1, length - 1) != labels.narrow(axis, 0, length - 1)
    begins.narrow(axis, 1, length - 1).copy_(torch.where(changed, places.narrow(axis, 1, length - 1), -math.inf))
    return places - torch.cummax(begins, axis).values + 1


def _to_edge(labels: Tensor) -> Tensor:
    """Distance (H, W) to the nearest place outside of the image."""
    height, width = labels.shape[1:]
    rows = torch.arange(1, height + 1, device=labels.device, dtype=torch.float32)
    columns = torch.arange(1, width + 1, device=labels.device, dtype=torch.float32)
    return torch.minimum(torch.minimum(rows, rows.flip(0))[:, None], torch.minimum(columns, columns.flip(0)))
