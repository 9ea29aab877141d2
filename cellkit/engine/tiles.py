"""How an image is cut into overlapping tiles of one size, and how their maps are blended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def rounded_up(length: int, stride: int) -> int:
    """The smallest multiple of ``stride`` that is at least ``length``."""
    return -(-length // stride) * stride


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis of an image.

    Attributes:
        size: of every tile, in pixels.
        starts: first pixel of each tile; multiples of the stride, so that the network's grid is that of the image.
        weights: per tile (size,) float32; over all tiles they sum to 1 at every pixel.
    """

    size: int
    starts: tuple[int, ...]
    weights: tuple[npt.NDArray[np.float32], ...]


def divide(length: int, limit: int, overlap: int, stride: int) -> Axis:
    """Divide an axis into as few tiles as the limit allows, of equal and smallest size.

    Args:
        length: pixels, a multiple of ``stride``.
        limit: largest tile, at least ``overlap + stride``; at most that much of the image is seen at once.
        overlap: pixels that neighbours share at least; a multiple of ``stride``.
        stride: multiple that the network asks of its input.
    """
    limit = limit // stride * stride
    if length <= limit:
        return Axis(length, (0,), (np.ones(length, np.float32),))
    count = -(-(length - overlap) // (limit - overlap))
    size = rounded_up(-(-(length + (count - 1) * overlap) // count), stride)
    room = (length - size) // stride  # in strides; shared out evenly, so that no gap is wider than size - overlap
    starts = tuple(i * room // (count - 1) * stride for i in range(count))
    return Axis(size, starts, _blending(length, size, overlap, starts))


def _blending(length: int, size: int, overlap: int, starts: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], ...]:
    """Weights that fade where a tile has a neighbour.

    A quarter of the overlap is context only (the network saw no image beyond the tile's edge there); half of it is
    a cosine ramp.
    """
    fade = _ramp(size, overlap)
    raw = []
    for start in starts:
        weight = np.ones(size)
        if start > 0:
            weight *= fade
        if start + size < length:
            weight *= fade[::-1]
        raw.append(weight)
    total = np.zeros(length)
    for start, weight in zip(starts, raw, strict=True):
        total[start : start + size] += weight
    return tuple((w / total[s : s + size]).astype(np.float32) for s, w in zip(starts, raw, strict=True))


def _ramp(size: int, overlap: int) -> npt.NDArray[np.float64]:
    """(size,): 0 over a quarter of the overlap, half a cosine to 1 over half of it, then 1."""
    if overlap == 0:
        return np.ones(size)
    position = (np.arange(size) + 0.5 - overlap / 4) / (overlap / 2)
    ramp: npt.NDArray[np.float64] = 0.5 - 0.5 * np.cos(np.pi * np.clip(position, 0, 1))
    return ramp
