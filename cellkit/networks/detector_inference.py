"""What a detector finds on images: regions through the stages of the cascade, then the masks of those that are left.

As detectron2-ResNeSt tests its cascades: scores are the mean of the stages' softmax, boxes are the last stage's, each
category has its own non-maximum suppression, and the mask of an object's category is put into its box. Unlike there,
boxes without area are dropped before the best are chosen, not after.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cellkit.config import DetectSettings
from cellkit.errors import ModelError
from cellkit.networks.detector import Detector
from cellkit.networks.detector_proposals import ProposalLimits, candidates, propose, refined
from cellkit.networks.roi_heads import BOX_SIDE, MASK_SIDE
from cellkit.ops.boxes import nonempty
from cellkit.ops.boxes_nms import nms_by_class
from cellkit.ops.detections import Detections
from cellkit.ops.pasting import paste_runs
from cellkit.ops.roi_align import pool_levels

BOX_REGIONS = 1024  # at once: 50 MB of what is pooled, with 256 channels
MASK_REGIONS = 128  # at once: 25 MB pooled, 100 MB after the deconvolution


@torch.inference_mode()
def detect(
    detector: Detector,
    images: Tensor,
    settings: DetectSettings,
    shapes: Sequence[tuple[int, int]] | None = None,
) -> list[Detections]:
    """Objects of each image; the caller puts the detector into evaluation mode and holds the autocast.

    Args:
        detector: with one stage or several.
        images: (B, C, H, W), normalised, sides multiples of ``detector.stride``.
        settings: how many proposals and objects, and which.
        shapes: (H, W) of each image inside the padding, in its upper left corner; None: all of it.

    Returns:
        Objects of each image, within its shape, best first.

    Raises:
        ModelError: the images do not fit the detector, or what it says of them is not finite.
    """
    if shapes is None:
        shapes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
    pyramid, objectness = detector(images)
    found = candidates(detector, objectness)
    _check(*found.logits, *found.deltas)
    limits = ProposalLimits(before_nms=settings.before_nms, most=settings.proposals, overlap=settings.proposal_overlap)
    regions = propose(found, shapes, limits)
    exact = [level.float() for level in pyramid[:-1]]  # what is pooled is summed in single precision: turned once
    maps = [[level[i : i + 1] for level in exact] for i in range(len(images))]
    return [_objects(detector, *image, settings) for image in zip(maps, regions, shapes, strict=True)]


def _objects(
    detector: Detector, maps: list[Tensor], regions: Tensor, shape: tuple[int, int], settings: DetectSettings
) -> Detections:
    """Objects of one image.

    Args:
        detector: as there.
        maps: P2 to P5 of the image, (1, C, h, w) each.
        regions: (R, 4).
        shape: (H, W) of the image.
        settings: as there.
    """
    boxes, scores = _cascade(detector, maps, regions, shape)
    likely = (scores[:, :-1] >= settings.least_score) & nonempty(boxes)[:, None]  # the last is the background
    region, category = likely.nonzero().unbind(1)
    score = scores[region, category]
    kept = nms_by_class(boxes[region], score, category, settings.overlap)[: settings.most]
    boxes, score, category = boxes[region[kept]], score[kept], category[kept]
    logits = _masks(detector, maps, boxes, category)
    return Detections(
        shape=shape,
        boxes=boxes.cpu().numpy(),
        scores=score.cpu().numpy(),
        categories=category.cpu().numpy().astype(np.int32),
        masks=paste_runs(logits, boxes, shape, settings.mask_threshold),
    )


def _cascade(detector: Detector, maps: list[Tensor], regions: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (R, 4) of the last stage and mean probabilities (R, classes + 1) of all; some regions at a time."""
    stages = detector.spec.cascade_stages
    all_boxes, all_scores = [], []
    for boxes in torch.split(regions, BOX_REGIONS):
        scores = boxes.new_zeros(len(boxes), detector.spec.classes + 1)
        for stage in range(stages if len(boxes) else 0):
            logits, deltas = detector.boxes(stage, _pooled(maps, boxes, BOX_SIDE))
            scores += logits.float().softmax(1)
            boxes = refined(boxes, deltas, stage, shape)
        all_boxes.append(boxes)
        all_scores.append(scores / stages)
    together = torch.cat(all_boxes), torch.cat(all_scores)
    _check(*together)
    return together


def _masks(detector: Detector, maps: list[Tensor], boxes: Tensor, categories: Tensor) -> Tensor:
    """Logits (N, 28, 28) of the masks of boxes (N, 4), each of its own category (N,); some boxes at a time."""
    chosen = [boxes.new_zeros(0, 2 * MASK_SIDE, 2 * MASK_SIDE)]
    for some, own in zip(torch.split(boxes, MASK_REGIONS), torch.split(categories, MASK_REGIONS), strict=True):
        if len(some):
            logits = detector.masks(_pooled(maps, some, MASK_SIDE))
            chosen.append(logits[torch.arange(len(own), device=own.device), own].float())
    return torch.cat(chosen)


def _pooled(maps: list[Tensor], boxes: Tensor, size: int) -> Tensor:
    """(R, C, size, size), at once in the precision in which the heads will want it."""
    kind = boxes.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return pool_levels(maps, [boxes], size, dtype=dtype)


def _check(*tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        problem = "what it says of an image is not finite"
        raise ModelError("detector", problem, "use --precision fp32, or a checkpoint whose weights are sound")
