"""Anchors: the boxes of a few sizes and shapes at every place of a map that a detector starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AnchorSet:
    """Which anchors lie on which maps.

    Attributes:
        levels: level of the pyramid of each map; the stride of level n is 2 ** n pixels. A level may come twice.
        sizes: of the anchors on each map: sides in pixels of the squares with their area.
        ratios: height over width, the same on all maps.
    """

    levels: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raises ValueError if the sizes are not as many as the levels, or some maps would have more than others."""
        if len(self.levels) != len(self.sizes):
            raise ValueError(f"{len(self.sizes)} groups of anchor sizes do not fit {len(self.levels)} levels")
        if len({len(sizes) for sizes in self.sizes}) > 1:
            raise ValueError("one head serves all levels: each must have as many anchor sizes as the others")

    @property
    def count(self) -> int:
        """Anchors at each place of a map."""
        return len(self.sizes[0]) * len(self.ratios)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between the places of each map."""
        return tuple(1 << level for level in self.levels)


COCO = AnchorSet(levels=(2, 3, 4, 5, 6), sizes=((32,), (64,), (128,), (256,), (512,)), ratios=(0.5, 1.0, 2.0))
LIVECELL = AnchorSet(  # the configuration published with LIVECell (Edlund 2021): the finest map twice, slender cells
    levels=(2, 2, 3, 4, 5, 6),
    sizes=((4,), (9,), (17,), (31,), (64,), (127,)),
    ratios=(0.25, 0.5, 1.0, 2.0, 4.0),
)


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors (S R, 4) float32 around the place 0, 0: all ratios (height over width) of the first size, then the next.

    An anchor of size s has the area s ** 2 whatever its ratio.
    """
    size = torch.tensor(sizes, dtype=torch.float64)[:, None]
    ratio = torch.tensor(ratios, dtype=torch.float64)[None]
    width, height = size / ratio.sqrt(), size * ratio.sqrt()
    return torch.stack([-width, -height, width, height], 2).reshape(-1, 4).div(2).float()


def grid_anchors(cell: Tensor, shape: tuple[int, int], stride: int, offset: float = 0.0) -> Tensor:
    """Anchors (H W A, 4) at all places of a map (H, W): place by place along rows, at each in the order of ``cell``.

    Args:
        cell: (A, 4) anchors around 0, 0; their device and type are those of the result.
        shape: (H, W) of the map.
        stride: pixels between places.
        offset: of the first place from the corner of the image, in strides.
    """
    rows, columns = ((torch.arange(length, device=cell.device) + offset) * stride for length in shape)
    y, x = torch.meshgrid(rows.to(cell.dtype), columns.to(cell.dtype), indexing="ij")
    places = torch.stack([x, y, x, y], 2).reshape(-1, 1, 4)
    return (places + cell).reshape(-1, 4)


def pyramid_anchors(
    cells: Sequence[Tensor], shapes: Sequence[tuple[int, int]], strides: Sequence[int], offset: float = 0.0
) -> list[Tensor]:
    """Anchors of each map of a pyramid, as :func:`grid_anchors` gives them.

    Args:
        cells: (A, 4) of each map.
        shapes: (H, W) of each map.
        strides: pixels between the places of each map.
        offset: as there.
    """
    maps = zip(cells, shapes, strides, strict=True)
    return [grid_anchors(cell, shape, stride, offset) for cell, shape, stride in maps]
