"""Star-convex targets from labels: how far each pixel sees within its cell, and how deep it lies in it (StarDist).

All crops of a batch at once and on the device of the labels: loops run over rays and steps, not over pixels or cells.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RAYS = 32


def ray_angles() -> NDArray[np.float32]:
    """Angle (32,) of each ray in radians; the row offset is its sine, the column offset its cosine."""
    return np.arange(RAYS, dtype=np.float32) * np.float32(2 * np.pi / RAYS)


def ray_directions() -> NDArray[np.float32]:
    """Row and column offset (32, 2) of a step of one pixel along each ray."""
    angles = ray_angles()
    return np.stack([np.sin(angles), np.cos(angles)], 1)


def ray_distances(labels: Tensor) -> Tensor:
    """Distance from each pixel to where its cell ends along 32 rays.

    As StarDist (Schmidt 2018) marches: steps of one pixel until the rounded place has another label or lies outside of
    the image, then half a pixel back along the longer axis. All pixels round alike, so a step of a ray is one shift
    of the image.

    Args:
        labels: (B, H, W) integers; a value above 0 is a cell.

    Returns:
        (B, 32, H, W) float32 pixels on the device of the labels; 0 outside of cells.
    """
    distances = torch.zeros((len(labels), RAYS, *labels.shape[1:]), device=labels.device)
    inside = labels > 0
    limit = sum(labels.shape[1:])
    for ray, direction in enumerate(ray_directions()):
        steps, lengths = _marched(direction, limit)
        seen = _steps_inside(labels, inside, steps)
        distances[:, ray] = torch.from_numpy(lengths).to(labels.device)[seen] * inside
    return distances


def _marched(direction: NDArray[np.float32], limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Shift (limit, 2) of each step, and the distance (limit,) where the cell ends with that step."""
    places = np.cumsum(np.broadcast_to(direction, (limit, 2)), 0, dtype=np.float32)  # adds up as StarDist does
    back = np.float32(1 - 0.5 / np.abs(direction).max())
    ends = places - back * direction
    return np.rint(places).astype(np.int64), np.hypot(ends[:, 0], ends[:, 1])


def _steps_inside(labels: Tensor, inside: Tensor, steps: NDArray[np.int64]) -> Tensor:
    """Steps (B, H, W) that stay in the cell."""
    alive = inside.clone()
    count = torch.zeros(labels.shape, dtype=torch.int32, device=labels.device)
    height, width = labels.shape[1:]
    for down, right in steps.tolist():
        if abs(down) >= height or abs(right) >= width:
            break
        rows, columns = _kept(down, height), _kept(right, width)
        other = labels[:, _shifted(rows, down), _shifted(columns, right)]
        here = alive[:, rows, columns]  # what has left the image stays out of this part
        here &= labels[:, rows, columns] == other
        if not here.any():
            break
        count[:, rows, columns] += here
    return count


def _kept(offset: int, size: int) -> slice:
    """Places of an axis that are still on it after a shift."""
    return slice(max(0, -offset), size - max(0, offset))


def _shifted(part: slice, offset: int) -> slice:
    return slice(part.start + offset, part.stop + offset)


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

    Columns first, then the lower envelope of parabolas along rows (Felzenszwalb 2012), within the run of the pixel:
    beyond it the end of the run is nearer.
    """
    across = torch.minimum(*_to_change(labels, 1))
    left, right = _to_change(labels, 2)
    nearest = torch.minimum(torch.minimum(left, right), across).square()
    column = across.square()
    width = labels.shape[2]
    for step in range(1, width):
        reachable = nearest[torch.isfinite(nearest) & (labels > 0)]
        if not reachable.numel() or step * step >= float(reachable.max()):
            break
        ends, begins = nearest[:, :, step:], nearest[:, :, :-step]
        same = right[:, :, :-step] > step
        torch.minimum(ends, torch.where(same, column[:, :, :-step] + step**2, math.inf), out=ends)
        torch.minimum(begins, torch.where(same, column[:, :, step:] + step**2, math.inf), out=begins)
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
