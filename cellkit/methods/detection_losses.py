"""Losses of a detector on one batch: proposals, the stages of the cascade, masks.

As detectron2-ResNeSt learns its cascades (Ren et al. 2015, He et al. 2017, Cai and Vasconcelos 2018), all added with
the same weight. Each term is a sum over what the step looks at divided by a number; where several processes share a
batch, that number is the mean over them, so that their mean gradient is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from cellkit.data.detection import DetectionBatch
from cellkit.data.detection_crops import DetectionTruth
from cellkit.engine.distributed import world_size
from cellkit.methods.detection_sampling import (
    Regions,
    generators,
    match_regions,
    sample_anchors,
    sample_regions,
)
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.methods.detection_targets import mask_targets
from cellkit.networks.detector import Detector
from cellkit.networks.detector_proposals import (
    ANCHOR_WEIGHTS,
    STAGE_WEIGHTS,
    Candidates,
    ProposalLimits,
    candidates,
    propose,
    refined,
)
from cellkit.networks.resnet_statistics import is_shared, summed
from cellkit.networks.roi_heads import BOX_SIDE, MASK_SIDE
from cellkit.ops.boxes import encode, nonempty
from cellkit.ops.roi_align import pool_levels

Sums: TypeAlias = dict[str, tuple[Tensor, float]]  # named sums, and what each is divided by


def detection_losses(network: Detector, batch: DetectionBatch, settings: DetectionSettings) -> dict[str, Tensor]:
    """Named terms of the loss.

    What is drawn depends on the seeds of the batch alone. Images without objects have terms of the background only. A
    network whose numbers are not finite has terms that are not finite.

    Args:
        network: what learns.
        batch: crops and their objects.
        settings: what is looked at; as many ``region_overlaps`` as the cascade has stages, at least.

    Returns:
        ``rpn_objectness``, ``rpn_box``; ``class_0``, ``box_0``, and so on for each stage; ``mask``: scalars, float32.
    """
    shape = (int(batch.images.shape[2]), int(batch.images.shape[3]))
    draws = generators(batch.seeds)
    pyramid = network.features(batch.images)
    found = candidates(network, network.objectness(pyramid))
    sums = rpn_sums(found, batch.truth, settings, draws)
    limits = ProposalLimits(before_nms=settings.before_nms, most=settings.proposals, overlap=settings.proposal_overlap)
    proposals = propose(found, [shape] * len(batch.images), limits)
    drawn = zip(proposals, batch.truth, draws, strict=True)
    regions = [sample_regions(boxes, truth.boxes, settings, draw) for boxes, truth, draw in drawn]
    maps = [level.float() for level in pyramid[:-1]]  # the coarsest one only proposes; turned once, not when pooled
    sums |= box_sums(network, maps, regions, batch.truth, settings)
    sums |= mask_sums(network, maps, regions, batch.truth)
    return _divided(sums)


def rpn_sums(
    found: Candidates, truths: Sequence[DetectionTruth], settings: DetectionSettings, draws: Sequence[torch.Generator]
) -> Sums:
    """Binary cross-entropy of the anchors looked at, and L1 of the deltas of those that stand for objects.

    Both are divided by the number of anchors that are wanted, whether there are as many or not.
    """
    anchors, logits, deltas = torch.cat(found.anchors), torch.cat(found.logits, 1), torch.cat(found.deltas, 1)
    objectness, boxes = logits.new_zeros(()), deltas.new_zeros(())
    for own_logits, own_deltas, truth, draw in zip(logits, deltas, truths, draws, strict=True):
        positives, stands_for, negatives = sample_anchors(anchors, truth.boxes, settings, draw)
        looked_at = own_logits[torch.cat([positives, negatives])]
        label = torch.zeros_like(looked_at)
        label[: len(positives)] = 1
        objectness = objectness + F.binary_cross_entropy_with_logits(looked_at, label, reduction="sum")
        wanted = encode(anchors[positives], truth.boxes[stands_for], ANCHOR_WEIGHTS)
        boxes = boxes + F.l1_loss(own_deltas[positives], wanted, reduction="sum")
    count = float(settings.anchors * len(truths))
    return {"rpn_objectness": (objectness, count), "rpn_box": (boxes, count)}


def box_sums(
    network: Detector,
    maps: Sequence[Tensor],
    regions: Sequence[Regions],
    truths: Sequence[DetectionTruth],
    settings: DetectionSettings,
) -> Sums:
    """Cross-entropy of the category and L1 of the deltas, stage by stage, both divided by the number of regions.

    The boxes that a stage gives, clipped, are the regions of the next, matched anew but not drawn anew; those without
    area are left out (Cai and Vasconcelos 2018, section 4).

    Args:
        network: whose heads.
        maps: P2 to P5.
        regions: of each image, for the first stage.
        truths: of each image.
        settings: overlap of each stage.
    """
    shape = (4 * int(maps[0].shape[2]), 4 * int(maps[0].shape[3]))  # of the images
    stages = network.spec.cascade_stages
    sums: Sums = {}
    for stage in range(stages):
        boxes = [own.boxes for own in regions]
        pairs = list(zip(regions, truths, strict=True))
        scores, deltas = network.boxes(stage, pool_levels(maps, boxes, BOX_SIDE))
        classes = torch.cat([_classes(own, truth, network.spec.classes) for own, truth in pairs])
        moves = torch.cat([_moves(own, truth, stage) for own, truth in pairs])
        moving = deltas.float()[torch.cat([own.positive for own in regions])]
        count = float(len(classes))
        sums[f"class_{stage}"] = (F.cross_entropy(scores.float(), classes, reduction="sum"), count)
        sums[f"box_{stage}"] = (F.l1_loss(moving, moves, reduction="sum"), count)
        if stage + 1 < stages:
            moved = torch.split(refined(torch.cat(boxes), deltas, stage, shape), [len(own) for own in boxes])
            overlap = settings.region_overlaps[stage + 1]
            regions = [
                match_regions(own[nonempty(own)], truth.boxes, overlap)
                for own, truth in zip(moved, truths, strict=True)
            ]
    return sums


def mask_sums(
    network: Detector, maps: Sequence[Tensor], regions: Sequence[Regions], truths: Sequence[DetectionTruth]
) -> Sums:
    """Mean binary cross-entropy of the masks of the regions that stand for objects, each in its own category.

    Args:
        network: whose head.
        maps: P2 to P5.
        regions: of each image, of the first stage.
        truths: of each image.
    """
    side = 2 * MASK_SIDE
    boxes = [own.boxes[own.positive] for own in regions]
    chosen = [own.truth[own.positive] for own in regions]
    logits = network.masks(pool_levels(maps, boxes, MASK_SIDE)).float()
    classes = torch.cat([truth.categories[own] for truth, own in zip(truths, chosen, strict=True)])
    targets = torch.cat(
        [
            mask_targets(some, truth.layers, truth.places[own], side)
            for some, truth, own in zip(boxes, truths, chosen, strict=True)
        ]
    )
    own_class = logits[torch.arange(len(logits), device=logits.device), classes]
    loss = F.binary_cross_entropy_with_logits(own_class, targets.float(), reduction="sum")
    return {"mask": (loss, float(len(logits) * side**2))}


def _classes(regions: Regions, truth: DetectionTruth, background: int) -> Tensor:
    """(R,) category of each region, the last for the background."""
    classes = torch.full_like(regions.truth, background)
    classes[regions.positive] = truth.categories[regions.truth[regions.positive]]
    return classes


def _moves(regions: Regions, truth: DetectionTruth, stage: int) -> Tensor:
    """(P, 4) deltas of the regions that stand for objects."""
    boxes = truth.boxes[regions.truth[regions.positive]]
    return encode(regions.boxes[regions.positive], boxes, STAGE_WEIGHTS[stage])


def _divided(sums: Sums) -> dict[str, Tensor]:
    device = next(iter(sums.values()))[0].device
    counts = _mean_over_processes([count for _, count in sums.values()], device)
    return {name: total / max(count, 1.0) for (name, (total, _)), count in zip(sums.items(), counts, strict=True)}


def _mean_over_processes(counts: list[float], device: torch.device) -> list[float]:
    if not is_shared():
        return counts
    values = torch.tensor(counts, dtype=torch.float64, device=device)
    mean: list[float] = (summed(values) / world_size()).tolist()
    return mean
