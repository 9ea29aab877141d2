"""What a step of training looks at: anchors and regions, drawn from the seeds of the batch, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cellkit.methods.detection_settings import DetectionSettings
from cellkit.ops.matching import match, sample


class Regions(NamedTuple):
    """Boxes of one image that the heads look at.

    Attributes:
        boxes: (R, 4) pixels, all with area.
        truth: (R,) int64 true box that each stands for; 0 where there is none.
        positive: (R,) bool: whether it stands for one at all.
    """

    boxes: Tensor
    truth: Tensor
    positive: Tensor


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Where the draws of each image come from: on the CPU, so that every device draws the same."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample_anchors(
    anchors: Tensor, boxes: Tensor, settings: DetectionSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors of one image to look at (Ren 2015, section 3.1.3).

    Args:
        anchors: (N, 4) of all levels.
        boxes: (M, 4) true ones, M may be 0.
        settings: overlaps and numbers.
        generator: of the image.

    Returns:
        Indices (P,) of anchors that stand for objects, the true box (P,) of each, and indices (Q,) of background.
    """
    low, high = settings.anchor_overlaps
    matches = match(anchors, boxes, low=low, high=high, low_quality=True)
    positives, negatives = sample(matches.labels, settings.anchors, settings.anchor_fraction, generator)
    return positives, matches.truth[positives], negatives


def sample_regions(
    proposals: Tensor, boxes: Tensor, settings: DetectionSettings, generator: torch.Generator
) -> Regions:
    """Regions of one image for the first stage: drawn from proposals (K, 4) and the true boxes (M, 4) themselves."""
    every = match_regions(torch.cat([proposals, boxes]), boxes, settings.region_overlaps[0])
    labels = every.positive.to(torch.int8)
    chosen = torch.cat(sample(labels, settings.regions, settings.region_fraction, generator))
    return Regions(*(values[chosen] for values in every))


def match_regions(boxes: Tensor, truth: Tensor, overlap: float) -> Regions:
    """What boxes (R, 4) stand for among the true ones (M, 4), given the least intersection over union."""
    matches = match(boxes, truth, low=overlap, high=overlap)
    return Regions(boxes=boxes, truth=matches.truth, positive=matches.labels > 0)
