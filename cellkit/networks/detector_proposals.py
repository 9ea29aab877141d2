"""From maps of a detector to boxes: anchors, the regions that the proposal network offers, and regions made better.

Used alike where a detector learns and where it is used; as detectron2 has it (Ren et al. 2015, Cai and Vasconcelos
2018). Nothing here is learned, and no gradient goes through the choice of regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cellkit.networks.detector import Detector
from cellkit.networks.rpn import Objectness
from cellkit.ops.anchors import pyramid_anchors
from cellkit.ops.boxes import Weights, clip, decode, nonempty
from cellkit.ops.boxes_nms import nms_by_class

ANCHOR_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)  # factors of the deltas of anchors
STAGE_WEIGHTS: tuple[Weights, ...] = (  # and of the regions of each stage, whose errors are smaller and smaller
    (10.0, 10.0, 5.0, 5.0),
    (20.0, 20.0, 10.0, 10.0),
    (30.0, 30.0, 15.0, 15.0),
)


class Candidates(NamedTuple):
    """Every anchor, and what the network says of it; one entry for each of ``DetectorSpec.anchor_levels``.

    Attributes:
        anchors: (N, 4) float32 pixels of the image.
        logits: (B, N) float32: of an object.
        deltas: (B, N, 4) float32: its box relative to the anchor.
    """

    anchors: list[Tensor]
    logits: list[Tensor]
    deltas: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class ProposalLimits:
    """How many regions are offered.

    Attributes:
        before_nms: of each level that are compared, best first.
        most: that are left of an image.
        overlap: intersection over union above which the lesser of two of a level is dropped.
    """

    before_nms: int
    most: int
    overlap: float


def candidates(detector: Detector, objectness: Objectness) -> Candidates:
    """The anchors of maps, place by place along rows, with the numbers that belong to each."""
    generator = detector.proposal_generator
    cells = generator.anchor_generator.anchors()
    shapes = [(int(logits.shape[2]), int(logits.shape[3])) for logits in objectness.logits]
    return Candidates(
        anchors=pyramid_anchors(cells, shapes, [1 << level for level in generator.levels]),
        logits=[logits.permute(0, 2, 3, 1).flatten(1).float() for logits in objectness.logits],
        deltas=[_by_anchor(deltas) for deltas in objectness.deltas],
    )


@torch.no_grad()
def propose(found: Candidates, shapes: Sequence[tuple[int, int]], limits: ProposalLimits) -> list[Tensor]:
    """Regions of each image, the most likely first.

    The best anchors of each level are moved and clipped, those without area dropped, then the lesser of two of one
    level that overlap; the best of all levels together are left. What is not a number is no region.

    Args:
        found: of B images.
        shapes: (H, W) of each image, without what was added to fill the batch.
        limits: how many.

    Returns:
        (K, 4) pixels for each image, K at most ``limits.most``, all with area.
    """
    boxes, logits, levels = _best(found, limits.before_nms)
    regions = []
    for own, scores, shape in zip(boxes, logits, shapes, strict=True):
        own = clip(own, shape)
        usable = nonempty(own) & scores.isfinite()  # a side that is not a number is not longer than 0
        own, scores = own[usable], scores[usable]
        kept = nms_by_class(own, scores, levels[usable], limits.overlap)
        regions.append(own[kept[: limits.most]])
    return regions


def refined(boxes: Tensor, deltas: Tensor, stage: int, shape: tuple[int, int]) -> Tensor:
    """Boxes (R, 4) moved by the deltas (R, 4) of a stage and clipped to the image (H, W); no gradient goes through."""
    return clip(decode(boxes, deltas.detach(), STAGE_WEIGHTS[stage]), shape)


def _by_anchor(deltas: Tensor) -> Tensor:
    """(B, 4 A, h, w) -> (B, h w A, 4) float32."""
    count, channels, height, width = deltas.shape
    split = deltas.reshape(count, channels // 4, 4, height, width)
    return split.permute(0, 3, 4, 1, 2).reshape(count, -1, 4).float()


def _best(found: Candidates, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of each level, moved: boxes (B, K, 4), logits (B, K), and the entry (K,) each comes from."""
    boxes, logits, levels = [], [], []
    for level, (anchors, scores, deltas) in enumerate(zip(*found, strict=True)):
        best = scores.topk(min(most, scores.shape[1]), 1)
        moves = deltas.gather(1, best.indices[..., None].expand(-1, -1, 4))
        moved = decode(anchors[best.indices].reshape(-1, 4), moves.reshape(-1, 4), ANCHOR_WEIGHTS)
        boxes.append(moved.reshape(moves.shape))
        logits.append(best.values)
        levels.append(torch.full((best.values.shape[1],), level, device=scores.device))
    return torch.cat(boxes, 1), torch.cat(logits, 1), torch.cat(levels)
