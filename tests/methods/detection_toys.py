"""Named situations for detectors, tiny networks that do not stand still, and the losses of a batch, box by box."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cellkit.data.detection import DetectionBatch
from cellkit.data.detection_crops import DetectionTruth
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.networks.detector import Detector
from cellkit.networks.detector_proposals import ProposalLimits, candidates, propose
from cellkit.networks.detector_spec import TINY_CASCADE
from cellkit.ops.roi_align import roi_align

SHAPE = (64, 96)
SPEC = dataclasses.replace(TINY_CASCADE, channels=1, anchor_sizes=(8, 16, 32, 64, 128), classes=2)
SETTINGS = DetectionSettings(anchors=32, before_nms=60, proposals=80, regions=40)
WEIGHTS = ((10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15))


def disc(centre, radius):
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def truth_of(masks, categories=None):
    """What a crop shows; each mask (H, W) on the first layer where it is free."""
    layers, places, boxes = [np.zeros(SHAPE, np.int32)], [], []
    for number, mask in enumerate(masks, 1):
        layer = next((i for i, own in enumerate(layers) if not own[mask].any()), len(layers))
        if layer == len(layers):
            layers.append(np.zeros(SHAPE, np.int32))
        layers[layer][mask] = number
        places.append((layer, number))
        y, x = np.nonzero(mask)
        boxes.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
    return DetectionTruth(
        boxes=torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
        categories=torch.tensor(categories or [0] * len(places), dtype=torch.int64),
        layers=torch.from_numpy(np.stack(layers)),
        places=torch.tensor(places, dtype=torch.int64).reshape(-1, 2),
    )


def situations():
    """Truth by name."""
    touching = disc((30, 60), 13) & ~disc((30, 40), 14)
    return {
        "no object": truth_of([]),
        "one object": truth_of([disc((30, 40), 14)], [1]),
        "two touching": truth_of([disc((30, 40), 14), touching]),
        "two overlapping": truth_of([disc((30, 40), 16), disc((34, 55), 12), disc((50, 80), 7)], [0, 1, 0]),
        "at the border": truth_of([disc((2, 20), 9), disc((60, 94), 12), disc((32, 30), 8)], [1, 0, 0]),
        "one of a pixel": truth_of([disc((10, 10), 0), disc((32, 50), 20)]),
    }


def batch_of(*truths, seeds=None):
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(len(truths), 1, *SHAPE, generator=generator)
    return DetectionBatch(images, truths, tuple(seeds or range(7, 7 + len(truths))))


def restless(**changes):
    """A detector at random whose stages move boxes far, some of them out of the image."""
    torch.manual_seed(5)
    detector = Detector(dataclasses.replace(SPEC, **changes))
    nn.init.normal_(detector.proposal_generator.rpn_head.objectness_logits.weight, std=0.3)
    nn.init.normal_(detector.proposal_generator.rpn_head.anchor_deltas.weight, std=0.1)
    for predictor in detector.roi_heads.box_predictor:
        nn.init.normal_(predictor.cls_score.weight, std=0.5)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.5)
    nn.init.normal_(detector.roi_heads.mask_head.predictor.weight, std=0.3)
    return detector


def mask_of(truth, number):
    """(H, W) bool of one object."""
    layer, value = truth.places[number].tolist()
    return truth.layers[layer] == value


def iou(a, b):
    """In single precision, as thresholds are met there."""
    a, b = np.float32(a), np.float32(b)
    width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]))
    height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def coded(reference, box, weights):
    """Girshick 2014, equations 6 to 9."""
    width, height = reference[2] - reference[0], reference[3] - reference[1]
    dx = ((box[0] + box[2]) / 2 - (reference[0] + reference[2]) / 2) / width
    dy = ((box[1] + box[3]) / 2 - (reference[1] + reference[3]) / 2) / height
    dw, dh = math.log((box[2] - box[0]) / width), math.log((box[3] - box[1]) / height)
    return [weight * delta for weight, delta in zip(weights, (dx, dy, dw, dh), strict=True)]


def moved(box, deltas, weights):
    """Where the deltas move a box, clipped to the image."""
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas, weights, strict=True))
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    width, height = width * math.exp(min(dw, math.log(62.5))), height * math.exp(min(dh, math.log(62.5)))
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return [min(max(edge, 0.0), size) for edge, size in zip(edges, (SHAPE[1], SHAPE[0]) * 2, strict=True)]


def stands_for(box, truths):
    """The true box that a box overlaps most, and how much."""
    overlaps = [iou(box, true) for true in truths]
    return (int(np.argmax(overlaps)), max(overlaps)) if overlaps else (0, 0.0)


def drawn(indices, count, generator):
    order = torch.randperm(len(indices), generator=generator)[:count].tolist()
    return [indices[i] for i in order]


def slow_anchor_sample(anchors, truths, settings, generator):
    """Indices of positives, their true boxes, indices of negatives; anchor by anchor."""
    best = [stands_for(anchor, truths) for anchor in anchors]
    labels = [1 if b >= np.float32(0.7) else 0 if b < np.float32(0.3) else -1 for _, b in best]
    for true in truths:
        overlaps = [iou(anchor, true) for anchor in anchors]
        highest = max(overlaps)
        labels = [1 if o == highest and highest > 0 else label for o, label in zip(overlaps, labels, strict=True)]
    count = int(settings.anchors * settings.anchor_fraction)
    positives = drawn([i for i, label in enumerate(labels) if label == 1], count, generator)
    negatives = [i for i, label in enumerate(labels) if label == 0]
    return positives, [best[i][0] for i in positives], drawn(negatives, settings.anchors - len(positives), generator)


def slow_region_sample(proposals, truths, settings, generator):
    """Boxes that the first stage looks at."""
    every = proposals + truths
    positive = [stands_for(box, truths)[1] >= 0.5 for box in every]
    count = int(settings.regions * settings.region_fraction)
    first = drawn([i for i, p in enumerate(positive) if p], count, generator)
    second = drawn([i for i, p in enumerate(positive) if not p], settings.regions - len(first), generator)
    return [every[i] for i in first + second]


def slow_pool(pyramid, image, box, side):
    """One box of one image from the level that fits it."""
    size = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    level = min(max(math.floor(4 + math.log2(size / 224)), 2), 5)
    row = torch.tensor([box], dtype=torch.float32)
    return roi_align(pyramid[level - 2][image][None], row, torch.tensor([0]), side, scale=0.5**level)[0]


def slow_mask(mask, box):
    """The pixels (28, 28) of an object in a box."""
    share = roi_align(mask[None, None].float(), torch.tensor([box]), torch.tensor([0]), 28, scale=1.0)
    return (share[0, 0] >= 0.5).float()


def slow_rpn(network, objectness, batch, settings, generators):
    """Sums over images and anchors of the first two terms."""
    found = candidates(network, objectness)
    anchors, logits, deltas = (torch.cat(found.anchors), torch.cat(found.logits, 1), torch.cat(found.deltas, 1))
    entropy, distance = 0.0, 0.0
    for i, (truth, generator) in enumerate(zip(batch.truth, generators, strict=True)):
        boxes = truth.boxes.tolist()
        positives, owners, negatives = slow_anchor_sample(anchors.tolist(), boxes, settings, generator)
        for anchor in positives:
            entropy = entropy - torch.sigmoid(logits[i, anchor]).log()
        for anchor in negatives:
            entropy = entropy - torch.sigmoid(-logits[i, anchor]).log()
        for anchor, owner in zip(positives, owners, strict=True):
            wanted = torch.tensor(coded(anchors[anchor].tolist(), boxes[owner], (1, 1, 1, 1)))
            distance = distance + (deltas[i, anchor] - wanted).abs().sum()
    return entropy, distance


def slow_losses(network, batch, settings):
    """All terms, box by box; what is pooled goes through the heads together, as batch normalisation wants."""
    generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
    pyramid = network.features(batch.images)
    objectness = network.objectness(pyramid)
    entropy, distance = slow_rpn(network, objectness, batch, settings, generators)
    count = settings.anchors * len(batch.truth)
    losses = {"rpn_objectness": entropy / count, "rpn_box": distance / count}
    limits = ProposalLimits(before_nms=settings.before_nms, most=settings.proposals, overlap=settings.proposal_overlap)
    proposals = propose(candidates(network, objectness), [SHAPE] * len(batch.truth), limits)
    regions = []  # image, box
    for i, truth in enumerate(batch.truth):
        chosen = slow_region_sample(proposals[i].tolist(), truth.boxes.tolist(), settings, generators[i])
        regions += [(i, box) for box in chosen]
    first = regions
    for stage in range(network.spec.cascade_stages):
        said = network.boxes(stage, torch.stack([slow_pool(pyramid, i, box, 7) for i, box in regions]))
        class_loss, box_loss, following = 0.0, 0.0, []
        for (i, box), scores, deltas in zip(regions, said.scores, said.deltas, strict=True):
            truth = batch.truth[i]
            owner, overlap = stands_for(box, truth.boxes.tolist())
            positive = overlap >= np.float32((0.5, 0.6, 0.7)[stage])
            kind = truth.categories[owner].item() if positive else network.spec.classes
            class_loss = class_loss - scores.log_softmax(0)[kind]
            if positive:
                wanted = torch.tensor(coded(box, truth.boxes[owner].tolist(), WEIGHTS[stage]))
                box_loss = box_loss + (deltas - wanted).abs().sum()
            new = moved(box, deltas.tolist(), WEIGHTS[stage])
            if new[2] > new[0] and new[3] > new[1]:
                following.append((i, new))
        losses |= {f"class_{stage}": class_loss / len(regions), f"box_{stage}": box_loss / len(regions)}
        regions = following
    return losses | {"mask": slow_mask_loss(network, pyramid, first, batch)}


def slow_mask_loss(network, pyramid, regions, batch):
    """Mean over objects' regions and pixels of their masks."""
    positive = []
    for i, box in regions:
        owner, overlap = stands_for(box, batch.truth[i].boxes.tolist())
        if overlap >= 0.5:
            positive.append((i, box, owner))
    if not positive:
        return torch.zeros(())
    logits = network.masks(torch.stack([slow_pool(pyramid, i, box, 14) for i, box, _ in positive]))
    losses = []
    for (i, box, owner), own in zip(positive, logits, strict=True):
        target = slow_mask(mask_of(batch.truth[i], owner), box)
        losses.append(F.binary_cross_entropy(torch.sigmoid(own[batch.truth[i].categories[owner]]), target))
    return torch.stack(losses).mean()
