"""Targets of a mask head: the pixels of objects inside regions, as small masks."""

from __future__ import annotations

import torch
from torch import Tensor

from cellkit.ops.roi_align import roi_align

PIXELS = 1 << 22  # of the image, over all regions, that are in memory at once
SHARE = 0.5  # of a bin that an object covers


def mask_targets(boxes: Tensor, layers: Tensor, places: Tensor, side: int) -> Tensor:
    """Which bins of each region its object covers by half or more (He 2017).

    The same as RoI align, with as many samples as a bin is pixels wide, of the object's own binary mask, but that mask
    is taken from the layers only in reach of its region.

    Args:
        boxes: (R, 4) regions inside the image, with area.
        layers: (L, H, W) integers: objects that overlap lie on different layers, 0 is background.
        places: (R, 2) int64: layer of each region's object, and its value there.
        side: bins along y and x.

    Returns:
        (R, side, side) bool.
    """
    targets = torch.zeros(len(boxes), side, side, dtype=torch.bool, device=boxes.device)
    first = torch.floor(boxes[:, :2] - 0.5).clamp(min=0)  # of pixels that samples lie between; in front is the edge
    sizes = (torch.floor(boxes[:, 2:] - 0.5) + 2 - first).long()
    order = sizes.prod(1).argsort()  # windows of regions taken together are as large as the largest
    while len(order):
        together = order[: _number(sizes[order])]
        order = order[len(together) :]
        size = sizes[together].amax(0).tolist()
        masks = _windows(layers, places[together], first[together].long(), (size[1], size[0]))
        local = boxes[together] - first[together].repeat(1, 2)  # exact: whole pixels are taken away
        numbers = torch.arange(len(together), device=boxes.device)
        share = roi_align(masks[:, None].to(boxes.dtype), local, numbers, side, scale=1.0)
        targets[together] = share[:, 0] >= SHARE
    return targets


def _number(sizes: Tensor) -> int:
    """How many of the first windows (N, 2), which become larger and larger, fit into memory; one at least."""
    largest = sizes.cummax(0).values.prod(1)
    pixels = largest * torch.arange(1, len(sizes) + 1, device=sizes.device)
    return max(1, int((pixels <= PIXELS).sum()))


def _windows(layers: Tensor, places: Tensor, first: Tensor, shape: tuple[int, int]) -> Tensor:
    """Masks (R, h, w) bool of objects from the pixels ``first`` (R, 2: x, y) on; beyond the image its edge goes on."""
    height, width = layers.shape[1:]
    rows = (first[:, 1, None] + torch.arange(shape[0], device=layers.device)).clamp(max=height - 1)
    columns = (first[:, 0, None] + torch.arange(shape[1], device=layers.device)).clamp(max=width - 1)
    flat = (places[:, 0, None] * height + rows)[:, :, None] * width + columns[:, None, :]
    return layers.reshape(-1)[flat] == places[:, 1, None, None]
