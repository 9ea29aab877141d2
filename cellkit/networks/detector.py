"""Cascade Mask R-CNN and Mask R-CNN: trunk, pyramid, proposals and heads, under the names of detectron2.

The module holds what is learned and its dense passes. Anchors, regions, sampling, losses and decoding are numerics
without learning, and lie elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cellkit.networks.detector_spec import DetectorSpec, TrunkName
from cellkit.networks.fpn import FPN, STRIDE
from cellkit.networks.residual_unet import check_channels
from cellkit.networks.resnest import resnest
from cellkit.networks.resnet import BasicBlock, Bottleneck, Trunk, resnet
from cellkit.networks.roi_heads import Boxes, RoIHeads
from cellkit.networks.rpn import Objectness, ProposalGenerator

BLOCKS: dict[TrunkName, tuple[int, int, int, int]] = {
    "resnet-18": (2, 2, 2, 2),
    "resnet-34": (3, 4, 6, 3),
    "resnet-50": (3, 4, 6, 3),
    "resnet-101": (3, 4, 23, 3),
    "resnet-tiny": (1, 1, 1, 1),
    "resnest-50": (3, 4, 6, 3),
    "resnest-101": (3, 4, 23, 3),
    "resnest-200": (3, 24, 36, 3),
    "resnest-tiny": (1, 1, 1, 1),
}
BASIC: frozenset[TrunkName] = frozenset({"resnet-18", "resnet-34", "resnet-tiny"})
NARROW_STEMS: frozenset[TrunkName] = frozenset({"resnest-50", "resnest-tiny"})  # half as wide as res2's bottlenecks


class Dense(NamedTuple):
    """What an image gives before any region is chosen.

    Attributes:
        pyramid: P2 to P6, (B, C, h, w) each.
        objectness: maps of the region proposal network.
    """

    pyramid: list[Tensor]
    objectness: Objectness


class Detector(nn.Module):
    """The detector of a specification: 122,978,302 parameters with ResNeSt-200 and three stages.

    Args:
        spec: which; weights begin at random, but frozen parts are frozen from the start.

    Attributes:
        spec: the same.
        stride: heights and widths of images must be its multiples.
        ground: (channels, 1, 1) what fills an image up to such a multiple: it counts as 0 in the network.
        backbone: trunk (``bottom_up``) and pyramid.
        proposal_generator: anchors and region proposal network.
        roi_heads: box heads of each stage and the mask head.
    """

    ground: Tensor
    spread: Tensor

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stride = STRIDE
        mean, std = spec.mean or (0.0,) * spec.channels, spec.std or (1.0,) * spec.channels
        self.register_buffer("ground", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.backbone = FPN(build_trunk(spec), spec.pyramid, norm=spec.head_norm)
        self.proposal_generator = ProposalGenerator(spec)
        self.roi_heads = RoIHeads(spec)

    def forward(self, images: Tensor) -> Dense:
        """(B, channels, H, W), normalised -> pyramid and proposals.

        Raises:
            ModelError: other channels, or sides that 32 does not divide.
        """
        pyramid = self.features(images)
        return Dense(pyramid, self.objectness(pyramid))

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, channels, H, W) -> P2 (B, C, H / 4, W / 4), P3, P4, P5 (B, C, H / 32, W / 32), P6 (half of that)."""
        check_channels(images, self.spec.channels)
        if self.spec.mean:
            images = (images - self.ground) / self.spread
        pyramid: list[Tensor] = self.backbone(images)
        return pyramid

    def objectness(self, pyramid: list[Tensor]) -> Objectness:
        """P2 to P6 -> logits (B, A, h, w) and deltas (B, 4 A, h, w) for each of ``spec.anchor_levels``."""
        result: Objectness = self.proposal_generator(pyramid)
        return result

    def boxes(self, stage: int, pooled: Tensor) -> Boxes:
        """A stage's word on R pooled regions (R, C, 7, 7): scores (R, classes + 1), deltas (R, 4)."""
        return self.roi_heads.boxes(stage, pooled)

    def masks(self, pooled: Tensor) -> Tensor:
        """Pooled regions (R, C, 14, 14) -> logits (R, classes, 28, 28)."""
        return self.roi_heads.masks(pooled)


def build_trunk(spec: DetectorSpec) -> Trunk:
    """The trunk of a specification, frozen as far as that says."""
    blocks, width = BLOCKS[spec.trunk], spec.width
    if spec.trunk.startswith("resnest"):
        stem = width // 2 if spec.trunk in NARROW_STEMS else width
        trunk = resnest(blocks, stem=stem, width=width, channels=spec.channels, norm=spec.norm)
    else:
        block = BasicBlock if spec.trunk in BASIC else Bottleneck
        trunk = resnet(block, blocks, width=width, channels=spec.channels, norm=spec.norm)
    trunk.checkpointing = spec.checkpointing
    trunk.freeze(spec.freeze_at)
    return trunk
