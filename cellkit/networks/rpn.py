"""Region proposal network: at each pixel of each level, how likely an anchor holds an object, and where its edges are.

Source: Ren et al. 2015, on a pyramid with the same head at all levels, as in detectron2. Dense part alone: what becomes
of the maps is the business of who trains and decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from cellkit.networks.detector_spec import DetectorSpec
from cellkit.networks.resnet_layers import NormedConv
from cellkit.ops.anchors import cell_anchors

STD = 0.01  # of the first weights


class Objectness(NamedTuple):
    """What the head says, one map for each entry of ``DetectorSpec.anchor_levels``, in that order.

    Attributes:
        logits: (B, A, h, w) each: of an object, for the A anchors at each pixel.
        deltas: (B, 4 A, h, w) each: dx, dy, dw, dh of the first anchor, then of the second, ...
    """

    logits: list[Tensor]
    deltas: list[Tensor]


class RPNHead(nn.Module):
    """3x3 convolution with ReLU, and two 1x1 ones.

    Args:
        channels: of the levels.
        anchors: A, at each pixel.
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = NormedConv(channels, channels, 3, norm="none", rectified=True)
        self.objectness_logits = NormedConv(channels, anchors, norm="none")
        self.anchor_deltas = NormedConv(channels, 4 * anchors, norm="none")
        for conv in (self.conv, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(conv.weight, std=STD)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> logits (B, A, h, w), deltas (B, 4 A, h, w)."""
        x = self.conv(x)
        return self.objectness_logits(x), self.anchor_deltas(x)


class AnchorGenerator(nn.Module):
    """The anchors of one cell, around its origin, as buffers that checkpoints carry.

    Args:
        sizes: square root of the area in pixels, one for each level.
        ratios: height / width of the A anchors.
    """

    def __init__(self, sizes: Sequence[float], ratios: Sequence[float]) -> None:
        super().__init__()
        self.cell_anchors = nn.Module()
        for index, size in enumerate(sizes):
            self.cell_anchors.register_buffer(str(index), cell_anchors([size], ratios))

    def anchors(self) -> list[Tensor]:
        """(A, 4) of each level: x0, y0, x1, y1 in pixels of the image, around 0."""
        return list(self.cell_anchors.buffers())


class ProposalGenerator(nn.Module):
    """Anchors and head of a specification."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.levels = spec.anchor_levels
        self.anchor_generator = AnchorGenerator(spec.anchor_sizes, spec.anchor_ratios)
        self.rpn_head = RPNHead(spec.pyramid, spec.anchors_per_cell)

    def forward(self, pyramid: Sequence[Tensor]) -> Objectness:
        """P2 to P6, (B, C, h, w) each -> maps of the levels that propose; one that is there twice is computed once."""
        computed = {level: self.rpn_head(pyramid[level - 2]) for level in dict.fromkeys(self.levels)}
        logits, deltas = zip(*(computed[level] for level in self.levels), strict=True)
        return Objectness(list(logits), list(deltas))
