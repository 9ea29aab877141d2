"""Residual networks as trunks of detectors: the features of four stages.

Sources: He et al. 2016 (basic and bottleneck blocks), with the stride in the 3x3 convolution; names of weights are
detectron2's. Shapes in comments are those of ResNet-50 and an image of (1, 3, 512, 704).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellkit.networks.detector_spec import FREEZABLE, NormName
from cellkit.networks.resnet_layers import NormedConv, freeze, recomputed


class BlockType(Protocol):
    """How a block of a stage is made."""

    expansion: int  # channels that leave it, of each of its width

    def __call__(self, inputs: int, width: int, *, stride: int, norm: NormName) -> nn.Module:
        """A module from (B, inputs, H, W) to (B, expansion * width, H / stride, W / stride)."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, inputs, H, W) -> (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, norm: NormName) -> None:
        super().__init__()
        changes = stride > 1 or inputs != width
        self.shortcut = NormedConv(inputs, width, stride=stride, norm=norm) if changes else None
        self.conv1 = NormedConv(inputs, width, 3, stride=stride, norm=norm, rectified=True)
        self.conv2 = NormedConv(width, width, 3, norm=norm, rectified=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width, H / stride, W / stride)."""
        kept = x if self.shortcut is None else self.shortcut(x)
        result: Tensor = self.conv2(self.conv1(x), kept)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (B, inputs, H, W) -> (B, 4 width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, norm: NormName) -> None:
        super().__init__()
        outputs = self.expansion * width
        changes = stride > 1 or inputs != outputs
        self.shortcut = NormedConv(inputs, outputs, stride=stride, norm=norm) if changes else None
        self.conv1 = NormedConv(inputs, width, norm=norm, rectified=True)
        self.conv2 = NormedConv(width, width, 3, stride=stride, norm=norm, rectified=True)
        self.conv3 = NormedConv(width, outputs, norm=norm, rectified=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 width, H / stride, W / stride)."""
        kept = x if self.shortcut is None else self.shortcut(x)
        result: Tensor = self.conv3(self.conv2(self.conv1(x)), kept)
        return result


class Stem(nn.Module):
    """7x7 convolution with stride 2 and pooling: (B, channels, H, W) -> (B, outputs, H / 4, W / 4)."""

    def __init__(self, channels: int, outputs: int, *, norm: NormName) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv1 = NormedConv(channels, outputs, 7, stride=2, norm=norm, rectified=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, outputs, H / 4, W / 4)."""
        return F.max_pool2d(self.conv1(x), 3, stride=2, padding=1)


class Trunk(nn.Module):
    """A stem and four stages: (B, channels, H, W) -> the maps of res2, res3, res4 and res5.

    Args:
        stem: from the image to a quarter of its height; its attribute ``outputs`` counts its channels.
        block: what stages are made of.
        blocks: how many of them in each stage.
        width: of the blocks of res2; twice as wide in each further stage.
        norm: normalisation of the blocks.

    Attributes:
        widths: channels of the four maps.
        checkpointing: training keeps the inputs of blocks alone, and computes what is inside a second time.
    """

    def __init__(self, stem: nn.Module, block: BlockType, blocks: Sequence[int], *, width: int, norm: NormName) -> None:
        super().__init__()
        self.stem = stem
        self.checkpointing = False
        self.widths = tuple(block.expansion * width * 2**index for index in range(len(blocks)))
        inputs = [int(stem.outputs), *self.widths[:-1]]  # type: ignore[arg-type]
        stages = []
        for index, (enter, count) in enumerate(zip(inputs, blocks, strict=True)):
            made = []
            for position in range(count):
                stride = 2 if index and not position else 1
                own = self.widths[index] if position else enter
                made.append(block(own, width * 2**index, stride=stride, norm=norm))
            stages.append(nn.Sequential(*made))
        self.res2, self.res3, self.res4, self.res5 = stages

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, H, W) -> res2 (B, 256, H / 4, W / 4), res3 (B, 512, ...), res4, res5 (B, 2048, H / 32, W / 32).

        Sides that no power of 2 divides are rounded up in each stage.
        """
        x = self.stem(x)  # (1, 64, 128, 176)
        maps = []  # (1, 256, 128, 176), (1, 512, 64, 88), (1, 1024, 32, 44), (1, 2048, 16, 22)
        for stage in (self.res2, self.res3, self.res4, self.res5):
            x = self._stage(stage, x)
            maps.append(x)
        return maps

    def freeze(self, parts: int) -> None:
        """Make constants of the first parts, in place: 0 none, 1 the stem, 2 also res2, ... 5 everything."""
        for module in [self.stem, self.res2, self.res3, self.res4, self.res5][: min(parts, FREEZABLE)]:
            freeze(module)

    def _stage(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        learned = torch.is_grad_enabled() and next(stage.parameters()).requires_grad
        if not (self.checkpointing and self.training and learned):
            result: Tensor = stage(x)
            return result
        for block in stage:
            x = recomputed(block, x)
        return x


def resnet(block: BlockType, blocks: Sequence[int], *, width: int = 64, channels: int = 3, norm: NormName) -> Trunk:
    """A ResNet of these blocks.

    Args:
        block: :class:`BasicBlock` (18, 34 layers) or :class:`Bottleneck` (50, 101).
        blocks: in each stage: (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3).
        width: of the stem and of res2's blocks.
        channels: of the image.
        norm: name of the normalisation.
    """
    return Trunk(Stem(channels, width, norm=norm), block, blocks, width=width, norm=norm)
