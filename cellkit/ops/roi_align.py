"""Pooling of boxes from feature maps by bilinear samples (RoIAlign, He 2017), and its exact gradient.

A bin of a box is the mean over a grid of samples. Samples of a grid share pixels, and those along x do not depend on
those along y: a bin is a sum over a small window of pixels with weights that are products of one along y and one along
x. So all bins are one product of a sparse matrix with the pixels, and the gradient is one with its transpose. Boxes are
taken some at a time, sorted by the size of the windows: memory is bounded, and no loop goes over boxes.

torchvision's kernel does the work where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cellkit.ops.boxes import area, check
from cellkit.ops.boxes_kernels import kernels
from cellkit.ops.roi_align_windows import Grid, windows

CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4  # a box as large as an ImageNet crop belongs to level 4 (Lin 2017, eq. 1)


class Share(NamedTuple):
    """The boxes that one map pools.

    Attributes:
        boxes: (n,) int64 indices of them.
        grid: how they are pooled.
    """

    boxes: Tensor
    grid: Grid


def roi_align(
    features: Tensor, boxes: Tensor, images: Tensor, size: int | tuple[int, int], *, scale: float, samples: int = 0
) -> Tensor:
    """Mean features in the bins of boxes, by bilinear samples; pixel centres lie at halves ("aligned").

    A sample more than a pixel outside of the map counts as 0, one that is nearer takes the value of the edge. A box
    without width or height is 0 where the samples follow the size of the bins.

    Args:
        features: (B, C, H, W). Half precision is summed in float32.
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the image, finite. No gradient goes to them.
        images: (N,) int64 image of each box within the batch.
        size: bins along y and x.
        scale: pixels of the map for one of the image: 1 / stride.
        samples: along each side of a bin; 0: as many as the bin is pixels wide, rounded up, box by box.

    Returns:
        (N, C, size, size) in the type of the features.

    Raises:
        ValueError: boxes are not (N, 4) and finite.
    """
    check(boxes)
    grid = Grid((size, size) if isinstance(size, int) else size, scale, samples)
    everything = Share(torch.arange(len(boxes), device=boxes.device), grid)
    return _pooled([features], boxes, images, (everything,), features.dtype).permute(0, 3, 1, 2)


def pool_levels(
    features: Sequence[Tensor],
    boxes: Sequence[Tensor],
    size: int,
    *,
    finest: int = 2,
    samples: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Pool each box from the level of a pyramid that fits its size.

    Args:
        features: (B, C, H, W) of each level from the finest on; level n has 2 ** n pixels of the image for one of its.
        boxes: (N, 4) of each image, in pixels of the image.
        size: bins along y and x.
        finest: the first level.
        samples: as in :func:`roi_align`.
        dtype: of the result; None: that of the features.

    Returns:
        (N of all images, C, size, size), image by image. Every level takes part in the gradient, if with zeros.

    Raises:
        ValueError: boxes are not (N, 4) and finite.
    """
    together, images = joined(boxes)
    check(together)
    levels = levels_of(together, finest, finest + len(features) - 1)
    shares = tuple(
        Share((levels == finest + i).nonzero()[:, 0], Grid((size, size), 0.5 ** (finest + i), samples))
        for i in range(len(features))
    )
    return _pooled(features, together, images, shares, dtype or features[0].dtype).permute(0, 3, 1, 2)


def joined(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) of all images one after another, and the image (N,) of each."""
    counts = torch.tensor([len(some) for some in boxes])
    images = torch.arange(len(boxes)).repeat_interleave(counts)
    return torch.cat(list(boxes)), images.to(boxes[0].device)


def levels_of(boxes: Tensor, finest: int, coarsest: int) -> Tensor:
    """Level (N,) int64 of a pyramid for boxes (N, 4): floor(4 + log2(sqrt(area) / 224)), clamped (Lin 2017, eq. 1)."""
    levels = torch.floor(CANONICAL_LEVEL + torch.log2(area(boxes).sqrt() / CANONICAL_SIDE))
    return levels.clamp(finest, coarsest).long()


def _pooled(
    features: Sequence[Tensor], boxes: Tensor, images: Tensor, shares: tuple[Share, ...], dtype: torch.dtype
) -> Tensor:
    """Bins (N, rows, columns, C); each box is in the share of one of the maps."""
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    compiled = kernels()
    if compiled is None:
        bins: Tensor = _Pooling.apply(boxes, images, shares, dtype, *features)  # type: ignore[no-untyped-call]
        return bins
    parts = []
    for level, (own, grid) in zip(features, shares, strict=True):
        exact = level.to(_exact(level))
        rois = torch.cat([images[own, None].to(exact.dtype), boxes[own].to(exact.dtype)], 1)
        parts.append(
            compiled.roi_align(
                exact, rois, grid.size, spatial_scale=grid.scale, sampling_ratio=grid.samples, aligned=True
            )
        )
    order = torch.cat([own for own, _ in shares]).argsort()
    return torch.cat(parts).index_select(0, order).to(dtype).permute(0, 2, 3, 1)


class _Pooling(torch.autograd.Function):
    """Bins of boxes, with the gradient to the features; only boxes are kept for it, not weights."""

    @staticmethod
    def forward(
        context: Any,  # noqa: ANN401 - torch has no public type of it
        boxes: Tensor,
        images: Tensor,
        shares: tuple[Share, ...],
        dtype: torch.dtype,
        *features: Tensor,
    ) -> Tensor:
        context.save_for_backward(boxes, images)
        context.shares, context.maps = shares, [(level.shape, level.dtype) for level in features]
        rows, columns = shares[0].grid.size
        bins = boxes.new_empty(len(boxes), rows * columns, features[0].shape[1], dtype=dtype)
        for level, (own, grid) in zip(features, shares, strict=True):
            pixels = level.permute(0, 2, 3, 1).to(_exact(level)).reshape(-1, level.shape[1])
            for part in windows(boxes[own], images[own], grid, (level.shape[2], level.shape[3])):
                bins.index_copy_(0, own[part.boxes], part.sums(pixels).to(dtype))
        return bins.view(len(boxes), rows, columns, bins.shape[2])

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        boxes, images = context.saved_tensors
        flat = gradient.to(_exact(gradient)).flatten(1, 2)
        whole = []
        for (own, grid), ((count, channels, height, width), dtype) in zip(context.shares, context.maps, strict=True):
            pixels = flat.new_zeros(count * height * width, channels)
            for part in windows(boxes[own], images[own], grid, (height, width)):
                part.spread(flat.index_select(0, own[part.boxes]), pixels)
            whole.append(pixels.reshape(count, height, width, channels).permute(0, 3, 1, 2).to(dtype))
        return (None, None, None, None, *whole)


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
