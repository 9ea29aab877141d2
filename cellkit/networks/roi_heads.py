"""Heads on regions of interest: the category and the edges of a box, and the mask inside it.

Sources: Cai and Vasconcelos 2018 (a head for each of three stages, boxes without regard to category), He et al. 2017
(masks, one for each category), as in detectron2-ResNeSt. Dense part alone: regions come in pooled.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cellkit.networks.detector_spec import DetectorSpec, NormName
from cellkit.networks.resnet_layers import NormedConv

BOX_SIDE = 7  # pixels of a pooled region for the box heads
MASK_SIDE = 14  # and for the mask head, whose masks are twice as wide
SCORE_STD, BOX_STD, MASK_STD = 0.01, 0.001, 0.001  # of the first weights of the last layers


class Boxes(NamedTuple):
    """What a stage says about R regions.

    Attributes:
        scores: (R, classes + 1) logits; the last is the background.
        deltas: (R, 4): dx, dy, dw, dh.
    """

    scores: Tensor
    deltas: Tensor


class ConvBoxHead(nn.Sequential):
    """3x3 convolutions, normalisation and ReLU, then a fully connected layer: (R, C, 7, 7) -> (R, hidden).

    Without convolutions two fully connected layers.

    Args:
        channels: C.
        hidden: width of the fully connected layers.
        convs: how many convolutions.
        norm: name of their normalisation.
    """

    def __init__(self, channels: int, hidden: int, *, convs: int, norm: NormName) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index in range(1, convs + 1):
            layers[f"conv{index}"] = NormedConv(channels, channels, 3, norm=norm, rectified=True)
        layers["flatten"] = nn.Flatten()  # channel by channel, whatever the order in memory
        inputs = channels * BOX_SIDE**2
        for index in range(1, 2 if convs else 3):
            layers[f"fc{index}"] = _linear(inputs, hidden)
            layers[f"relu{index}"] = nn.ReLU(inplace=True)
            inputs = hidden
        super().__init__(layers)


class BoxPredictor(nn.Module):
    """Two fully connected layers: (R, hidden) -> :class:`Boxes`."""

    def __init__(self, hidden: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, classes + 1)
        self.bbox_pred = nn.Linear(hidden, 4)
        for layer, std in ((self.cls_score, SCORE_STD), (self.bbox_pred, BOX_STD)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Boxes:
        """(R, hidden) -> scores (R, classes + 1), deltas (R, 4)."""
        return Boxes(self.cls_score(x), self.bbox_pred(x))


class MaskHead(nn.Sequential):
    """3x3 convolutions, a deconvolution and a 1x1 convolution: (R, C, 14, 14) -> logits (R, classes, 28, 28)."""

    def __init__(self, channels: int, classes: int, *, convs: int, norm: NormName) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index in range(1, convs + 1):
            layers[f"mask_fcn{index}"] = NormedConv(channels, channels, 3, norm=norm, rectified=True)
        deconv = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        predictor = NormedConv(channels, classes, norm="none")
        nn.init.kaiming_normal_(deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(deconv.bias)  # type: ignore[arg-type]
        nn.init.normal_(predictor.weight, std=MASK_STD)
        layers |= {"deconv": deconv, "relu": nn.ReLU(inplace=True), "predictor": predictor}
        super().__init__(layers)


class RoIHeads(nn.Module):
    """The heads of a specification: ``box_head`` and ``box_predictor`` of each stage, and one ``mask_head``."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        stages = range(spec.cascade_stages)
        heads = (spec.pyramid, spec.hidden)
        self.box_head = nn.ModuleList(ConvBoxHead(*heads, convs=spec.box_convs, norm=spec.head_norm) for _ in stages)
        self.box_predictor = nn.ModuleList(BoxPredictor(spec.hidden, spec.classes) for _ in stages)
        self.mask_head = MaskHead(spec.pyramid, spec.classes, convs=spec.mask_convs, norm=spec.head_norm)

    def boxes(self, stage: int, pooled: Tensor) -> Boxes:
        """A stage's word on R regions.

        Args:
            stage: 0, 1 or 2.
            pooled: (R, C, 7, 7). The trunk sees the mean of the stages' gradients (a third of each, in a cascade).
        """
        shared = scale_gradient(pooled, 1 / len(self.box_head))
        result: Boxes = self.box_predictor[stage](self.box_head[stage](shared))
        return result

    def masks(self, pooled: Tensor) -> Tensor:
        """(R, C, 14, 14) -> logits (R, classes, 28, 28)."""
        result: Tensor = self.mask_head(pooled)
        return result


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # noqa: ANN401 - torch has no public type of it
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradients[0] * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself, whose gradient comes back multiplied by a factor."""
    if factor == 1 or not (torch.is_grad_enabled() and x.requires_grad):
        return x
    result: Tensor = _ScaledGradient.apply(x, factor)  # type: ignore[no-untyped-call]
    return result


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, a=1)  # Xavier over the incoming connections, as in Caffe2
    nn.init.zeros_(layer.bias)
    return layer
