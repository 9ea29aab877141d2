"""Which pixels of a map the bins of boxes are sums of, and with which weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = 1 << 20  # pixels with a weight, over all bins of the boxes that are in memory at once
SIDES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # windows are rounded up to these; larger ones are the map


@dataclass(frozen=True)
class Grid:
    """How boxes are pooled.

    Attributes:
        size: bins along y and x.
        scale: pixels of the map for one of the image.
        samples: along each side of a bin; 0: as many as the bin is pixels wide, rounded up.
    """

    size: tuple[int, int]
    scale: float
    samples: int


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of pixels whose weighted sums are the bins of n boxes.

    Attributes:
        boxes: (n,) indices of the boxes.
        pixels: (n bins, taps) pixels of each bin among those of all images, row by row.
        weights: (n bins, taps) in the type of the boxes.
    """

    boxes: Tensor
    pixels: Tensor
    weights: Tensor

    def sums(self, pixels: Tensor) -> Tensor:
        """Bins (n, bins, C) from the pixels (P, C) of all images."""
        weights = self.weights.to(pixels.dtype)
        sums = F.embedding_bag(self.pixels, pixels, mode="sum", per_sample_weights=weights)
        return sums.reshape(len(self.boxes), -1, pixels.shape[1])

    def spread(self, bins: Tensor, pixels: Tensor) -> None:
        """Add to each pixel (P, C) the bins (n, bins, C) that it is part of, times its weights in them.

        Each pixel is written once, its bins are added in one order: every run has the same result, on any device.
        """
        taps = self.pixels.reshape(-1).sort(stable=True)
        found, counts = torch.unique_consecutive(taps.values, return_counts=True)
        pixels[found] += F.embedding_bag(
            taps.indices // self.pixels.shape[1],
            bins.reshape(-1, bins.shape[2]),
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=self.weights.reshape(-1)[taps.indices].to(bins.dtype),
        )


def windows(boxes: Tensor, images: Tensor, grid: Grid, shape: tuple[int, int]) -> Iterator[Windows]:
    """Windows of all bins of boxes (N, 4); some boxes at a time, whose windows are of one size.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image.
        images: (N,) image of each.
        grid: how they are pooled.
        shape: (H, W) of the map of each image.
    """
    rows = _Axis.of(boxes[:, 1::2], grid, 0, shape[0])
    columns = _Axis.of(boxes[:, 0::2], grid, 1, shape[1])
    classes = len(SIDES) + 1
    order = (rows.class_of_side() * classes + columns.class_of_side()).sort(stable=True)
    keys, counts = torch.unique_consecutive(order.values, return_counts=True)
    groups = torch.split(order.indices, counts.tolist())
    for key, group in zip(keys.tolist(), groups, strict=True):
        sides = rows.side(key // classes), columns.side(key % classes)
        samples = sides[0] * rows.most(group) + sides[1] * columns.most(group)
        taps = sides[0] * sides[1] * grid.size[0] * grid.size[1] + samples * max(grid.size)
        for some in torch.split(group, max(1, TAPS // taps)):
            yield _windows(some, images, rows.take(some).weights(sides[0]), columns.take(some).weights(sides[1]), shape)


def _windows(
    chosen: Tensor,
    images: Tensor,
    along_y: tuple[Tensor, Tensor],
    along_x: tuple[Tensor, Tensor],
    shape: tuple[int, int],
) -> Windows:
    """Windows of n boxes from the first pixels (n, bins) and weights (n, bins, side) along each axis."""
    (top, y_weights), (left, x_weights) = along_y, along_x
    lines = top[..., None] + torch.arange(y_weights.shape[2], device=top.device) + images[chosen, None, None] * shape[0]
    places = left[..., None] + torch.arange(x_weights.shape[2], device=left.device)
    pixels = lines[:, :, None, :, None] * shape[1] + places[:, None, :, None, :]
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    taps = y_weights.shape[2] * x_weights.shape[2]
    return Windows(boxes=chosen, pixels=pixels.reshape(-1, taps), weights=weights.reshape(-1, taps))


@dataclass(frozen=True, eq=False)
class _Axis:
    """Samples of the bins of n boxes along one axis, in pixels of the map, where 0 is the centre of the first.

    Attributes:
        starts: (n, bins) where the bins begin.
        step: (n,) between samples.
        count: (n,) samples of a bin, an integer as float.
        length: pixels of the map.
    """

    starts: Tensor
    step: Tensor
    count: Tensor
    length: int

    @classmethod
    def of(cls, ends: Tensor, grid: Grid, axis: int, length: int) -> _Axis:
        """Ends (N, 2) of boxes in pixels of the image."""
        start, stop = (ends * grid.scale - 0.5).unbind(1)
        width = (stop - start) / grid.size[axis]
        count = torch.full_like(width, grid.samples) if grid.samples else torch.ceil(width).clamp(min=0)
        starts = start[:, None] + width[:, None] * torch.arange(grid.size[axis], device=ends.device)
        return cls(starts=starts, step=width / count.clamp(min=1), count=count, length=length)

    def take(self, chosen: Tensor) -> _Axis:
        """The boxes that are chosen (m,)."""
        return _Axis(starts=self.starts[chosen], step=self.step[chosen], count=self.count[chosen], length=self.length)

    def most(self, chosen: Tensor) -> int:
        """The most samples in a bin of the chosen boxes (m,), at least 1."""
        return int(self.count[chosen].clamp(min=1).max())

    def class_of_side(self) -> Tensor:
        """Which of the sides (N,) holds the pixels of any bin of a box."""
        first, last = self._ends()
        needed = (torch.floor(last) - torch.floor(first)).amax(1) + 2
        return torch.bucketize(needed, torch.tensor(SIDES, dtype=needed.dtype, device=needed.device))

    def side(self, number: int) -> int:
        """Pixels of a window of that class."""
        return min(SIDES[number], self.length) if number < len(SIDES) else self.length

    def weights(self, side: int) -> tuple[Tensor, Tensor]:
        """First pixel (n, bins) of the windows, and weights (n, bins, side) of their pixels."""
        first = torch.floor(self._ends()[0]).clamp(max=self.length - side)
        samples = torch.arange(int(self.count.max()), device=first.device)
        places = self.starts[..., None] + (samples + 0.5) * self.step[:, None, None]  # (n, bins, samples)
        counts = self.count[:, None, None]
        share = ((places >= -1) & (places <= self.length) & (samples < counts)) / counts.clamp(min=1)
        pixels = first[..., None] + torch.arange(side, device=first.device)
        apart = places.clamp(0, self.length - 1)[..., None] - pixels[:, :, None]
        return first.long(), ((1 - apart.abs()).clamp(min=0) * share[..., None]).sum(2)

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Where the first and the last sample of each bin (n, bins) take their values, from lower to higher."""
        first = self.starts + 0.5 * self.step[:, None]
        last = self.starts + ((self.count - 0.5).clamp(min=0.5) * self.step)[:, None]
        lower, upper = torch.minimum(first, last), torch.maximum(first, last)
        return lower.clamp(0, self.length - 1), upper.clamp(0, self.length - 1)
