"""ResNeSt: residual blocks whose 3x3 convolution is split in two and put together by attention over channels.

Source: Zhang et al. 2020, as in detectron2-ResNeSt: radix 2, cardinality 1, deep stem, average-down shortcuts, and
average pooling in the place of strides ("avd"). Names of weights are those of its checkpoints. Shapes in comments are
those of ResNeSt-200 and an image of (1, 3, 512, 704).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from cellkit.errors import ModelError
from cellkit.networks.detector_spec import NormName
from cellkit.networks.resnet import Trunk
from cellkit.networks.resnet_layers import NormedConv, convolved, normalisation
from cellkit.networks.resnet_statistics import SyncBatchNorm, is_shared

RADIX = 2  # maps that attention chooses between, at each channel
REDUCTION = 4  # of channels inside the attention
LEAST = 32  # channels inside the attention


class SplitAttention(nn.Module):
    """Two 3x3 convolutions in two groups, weighed by attention: (B, C, H, W) -> (B, C, H, W).

    Weights follow from the mean of both halves through two layers, and a softmax over the two at each channel. That of
    two numbers is the logistic function of their difference, and a sum with weights w and 1 - w an interpolation: one
    pass that reads both halves and writes the result, and keeps nothing else for the backward pass.

    Args:
        channels: C, even.
        norm: name of the normalisation.
    """

    def __init__(self, channels: int, *, norm: NormName) -> None:
        super().__init__()
        inside = max(channels * RADIX // REDUCTION, LEAST)
        self.conv = nn.Conv2d(channels, RADIX * channels, 3, padding=1, groups=RADIX, bias=False)
        self.bn0 = normalisation(norm, RADIX * channels)
        self.fc1 = nn.Conv2d(channels, inside, 1)
        self.bn1 = normalisation(norm, inside, pooled=True)
        self.fc2 = nn.Conv2d(inside, RADIX * channels, 1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W).

        Raises:
            ModelError: a single image is to be normalised by its own statistics.
        """
        self._check(x)
        x = convolved(x, self.conv, self.bn0, rectified=True)  # (B, 2C, H, W)
        first, second = x.chunk(RADIX, 1)  # views; cut from x at once, so that one gradient of 2C comes back
        halves = x.mean((2, 3), keepdim=True).chunk(RADIX, 1)  # the mean of a sum, without the map of the sum
        hidden = convolved(halves[0] + halves[1], self.fc1, self.bn1, rectified=True)  # (B, C / 2, 1, 1)
        for_first, for_second = self.fc2(hidden).chunk(RADIX, 1)
        weight = torch.sigmoid(for_first - for_second)  # (B, C, 1, 1)
        return torch.lerp(second, first, weight.to(x.dtype))

    def _check(self, x: Tensor) -> None:
        if len(x) != 1 or not isinstance(self.bn1, _BatchNorm) or not self.bn1.training:
            return
        if not (isinstance(self.bn1, SyncBatchNorm) and is_shared()):
            raise ModelError(
                "network",
                "batch normalisation inside split attention has one number a channel in a batch of 1",
                "train with batches of 2 or more images, or with norm=group-norm or norm=frozen-bn",
            )


class SplitBottleneck(nn.Module):
    """1x1 convolution, split attention, pooling if strided, 1x1 convolution, and a shortcut.

    (B, inputs, H, W) -> (B, 4 width, H / stride, W / stride), rounded up.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, norm: NormName) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.stride = stride
        self.shortcut = NormedConv(inputs, outputs, norm=norm) if stride > 1 or inputs != outputs else None
        self.conv1 = NormedConv(inputs, width, norm=norm, rectified=True)
        self.conv2 = SplitAttention(width, norm=norm)
        self.conv3 = NormedConv(width, outputs, norm=norm, rectified=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 width, H / stride, W / stride)."""
        y = self.conv2(self.conv1(x))
        if self.stride > 1:
            y = F.avg_pool2d(y, 3, self.stride, padding=1)
        result: Tensor = self.conv3(y, self._kept(x))
        return result

    def _kept(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            return x
        if self.stride > 1:  # pixels outside the image do not count in the mean
            x = F.avg_pool2d(x, self.stride, self.stride, ceil_mode=True, count_include_pad=False)
        kept: Tensor = self.shortcut(x)
        return kept


class DeepStem(nn.Module):
    """Three 3x3 convolutions, the first with stride 2, and pooling: (B, channels, H, W) -> (B, 2 width, H/4, W/4)."""

    def __init__(self, channels: int, width: int, *, norm: NormName) -> None:
        super().__init__()
        self.outputs = 2 * width
        self.conv1_1 = NormedConv(channels, width, 3, stride=2, norm=norm, rectified=True)
        self.conv1_2 = NormedConv(width, width, 3, norm=norm, rectified=True)
        self.conv1_3 = NormedConv(width, 2 * width, 3, norm=norm, rectified=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 2 width, H / 4, W / 4)."""
        x = self.conv1_3(self.conv1_2(self.conv1_1(x)))  # (1, 128, 256, 352)
        return F.max_pool2d(x, 3, stride=2, padding=1)


def resnest(
    blocks: Sequence[int], *, stem: int = 64, width: int = 64, channels: int = 3, norm: NormName = "bn"
) -> Trunk:
    """A ResNeSt of these blocks.

    Args:
        blocks: in each stage: (3, 4, 6, 3) in ResNeSt-50, (3, 4, 23, 3) in -101, (3, 24, 36, 3) in -200.
        stem: channels of the stem's first convolutions: 32 in ResNeSt-50, 64 in the deeper ones.
        width: of the bottlenecks of res2.
        channels: of the image.
        norm: name of the normalisation.
    """
    return Trunk(DeepStem(channels, stem, norm=norm), SplitBottleneck, blocks, width=width, norm=norm)
