"""Inference of detectors: perfect networks find exactly the objects, others what a slow loop finds; chunks, padding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from cellkit.config import DetectSettings
from cellkit.errors import ModelError
from cellkit.networks import detector_inference
from cellkit.networks.detector import Dense, Detector
from cellkit.networks.detector_inference import detect
from cellkit.networks.detector_proposals import STAGE_WEIGHTS, ProposalLimits, candidates, propose
from cellkit.networks.detector_spec import TINY_CASCADE
from cellkit.networks.roi_heads import Boxes
from cellkit.networks.rpn import Objectness, ProposalGenerator
from cellkit.ops.boxes import encode
from cellkit.ops.pasting import paste_runs
from cellkit.ops.roi_align import roi_align
from cellkit.ops.run_lengths import decode, encode_runs

SPEC = dataclasses.replace(
    TINY_CASCADE, channels=1, anchor_sizes=(8, 16, 32, 64, 128), norm="group-norm", head_norm="group-norm", classes=2
)
SETTINGS = DetectSettings(before_nms=50, proposals=40, least_score=0.3, most=20)
SHAPE = (96, 128)
RECTANGLES = {  # x0, y0, x1, y1 and category
    "no object": [],
    "one object": [(30, 20, 70, 44, 1)],
    "two that overlap": [(20, 20, 60, 50, 0), (45, 25, 85, 55, 0)],
    "one inside another, of another kind": [(20, 20, 80, 80, 0), (30, 30, 72, 70, 1)],
    "at the border": [(0, 0, 18, 25, 0), (100, 60, 128, 96, 1), (50, 90, 66, 96, 0)],
    "many": [(x, y, x + 13, y + 11, (x + y) % 2) for x in range(4, 110, 20) for y in range(3, 80, 16)],
}


class Perfect(nn.Module):
    """Says what is true: its proposals are the objects a bit off, best first, and each stage mends a part of that."""

    stride = 32

    def __init__(self, rectangles, *, shift=0.0):
        super().__init__()
        self.spec = SPEC
        self.proposal_generator = ProposalGenerator(SPEC)
        self.objects = torch.tensor([r[:4] for r in rectangles], dtype=torch.float32).reshape(-1, 4)
        self.categories = torch.tensor([r[4] for r in rectangles], dtype=torch.int64)
        self.errors = [shift, shift / 2, shift / 4, 0.0]  # of what goes into each stage, and of what comes out
        self.seen = []

    def off(self, stage):
        """The boxes that go into a stage."""
        return self.objects + self.errors[stage]

    def forward(self, images):
        count, (height, width) = SPEC.anchors_per_cell, images.shape[2:]
        sizes = [(height >> level, width >> level) for level in SPEC.anchor_levels]
        maps = Objectness(
            [torch.full((1, count, *size), -20.0) for size in sizes],
            [torch.zeros(1, 4 * count, *size) for size in sizes],
        )
        anchors = candidates(self, maps).anchors[0]
        for number, box in enumerate(self.off(0)):  # each at an anchor of its own, wherever that is
            place, anchor = divmod(number, count)
            row, column = divmod(place, sizes[0][1])
            maps.logits[0][0, anchor, row, column] = 20.0 - 0.01 * number
            delta = encode(anchors[number][None], box[None])[0]
            maps.deltas[0][0, 4 * anchor : 4 * anchor + 4, row, column] = delta
        pyramid = [torch.zeros(1, 1, height >> level, width >> level) for level in range(2, 7)]
        return Dense(pyramid, maps)

    def boxes(self, stage, pooled):
        if stage == 0:
            self.chunk = len(self.seen), len(pooled)
            self.seen += range(len(pooled))
        own = slice(self.chunk[0], sum(self.chunk))
        categories = self.categories[own]  # regions beyond those of the objects are background
        scores, deltas = torch.zeros(len(pooled), SPEC.classes + 1), torch.zeros(len(pooled), 4)
        scores[:, -1] = 1.0
        scores[torch.arange(len(categories)), categories] = 5.0 + stage
        deltas[: len(categories)] = encode(self.off(stage)[own], self.off(stage + 1)[own], STAGE_WEIGHTS[stage])
        return Boxes(scores, deltas)

    def masks(self, pooled):
        return torch.full((len(pooled), SPEC.classes, 28, 28), 20.0)


def masks_of(found):
    """(N, H, W) bool."""
    runs = encode_runs(found.masks, len(found), found.shape)
    return np.array([decode(run) for run in runs], bool).reshape(-1, *found.shape)


@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("name", RECTANGLES)
def test_a_perfect_network_finds_exactly_the_objects(name, shift):
    rectangles = RECTANGLES[name]
    if name == "at the border":
        shift = 0.0  # moved inwards and outwards, its proposals would be clipped: no network could mend them exactly
    settings = DetectSettings(proposals=max(len(rectangles), 1), proposal_overlap=1.0, least_score=0.5)
    (found,) = detect(Perfect(rectangles, shift=shift), torch.zeros(1, 1, *SHAPE), settings)
    order = np.lexsort(found.boxes.T[::-1].round())
    expected = np.array(sorted(rectangles)).reshape(-1, 5)
    assert len(found) == len(rectangles)
    np.testing.assert_allclose(found.boxes[order], expected[:, :4], atol=1e-3)
    np.testing.assert_array_equal(found.categories[order], expected[:, 4])
    for mask, (x0, y0, x1, y1, _) in zip(masks_of(found)[order], expected, strict=True):
        true = np.zeros(SHAPE, bool)
        true[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(mask, true)


def test_boxes_that_leave_the_image_are_no_objects():
    network = Perfect(RECTANGLES["two that overlap"])
    network.errors[3] = 500.0  # pixels to the right and down
    settings = DetectSettings(proposals=2, proposal_overlap=1.0)
    (found,) = detect(network, torch.zeros(1, 1, *SHAPE), settings)
    assert len(found) == 0


def test_scores_are_the_mean_of_the_stages_softmax():
    settings = DetectSettings(proposals=1, proposal_overlap=1.0)
    (found,) = detect(Perfect(RECTANGLES["one object"]), torch.zeros(1, 1, *SHAPE), settings)
    stages = [np.exp(5.0 + stage) / (np.exp(5.0 + stage) + np.exp(1.0) + 1) for stage in range(3)]
    np.testing.assert_allclose(found.scores, [np.mean(stages)], rtol=1e-6)


def restless(**changes):
    """A random detector that moves boxes and is sure of something."""
    torch.manual_seed(5)
    detector = Detector(dataclasses.replace(SPEC, **changes)).eval()
    head = detector.proposal_generator.rpn_head
    nn.init.normal_(head.objectness_logits.weight, std=0.5)
    nn.init.normal_(head.anchor_deltas.weight, std=0.1)
    for predictor in detector.roi_heads.box_predictor:
        nn.init.normal_(predictor.cls_score.weight, std=0.5)
        nn.init.normal_(predictor.bbox_pred.weight, std=1.0)
    nn.init.normal_(detector.roi_heads.mask_head.predictor.weight, std=1.0)
    return detector


def random_images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def slow_pool(pyramid, box, side):
    """One box from the level that fits it."""
    width, height = box[2] - box[0], box[3] - box[1]
    level = 4 + np.log2(max(np.sqrt(width * height), 1e-6) / 224)
    level = int(np.clip(np.floor(level), 2, 5))
    row = torch.tensor([box], dtype=torch.float32)
    return roi_align(pyramid[level - 2], row, torch.zeros(1, dtype=torch.int64), side, scale=1 / 2**level)


def slow_move(box, deltas, stage, shape):
    dx, dy, dw, dh = (d / w for d, w in zip(deltas, STAGE_WEIGHTS[stage], strict=True))
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + dx * width, box[1] + height / 2 + dy * height
    width, height = width * np.exp(min(dw, np.log(62.5))), height * np.exp(min(dh, np.log(62.5)))
    edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return [min(max(edge, 0), size) for edge, size in zip(edges, (shape[1], shape[0]) * 2, strict=True)]


def slow_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / max(sum(areas) - width * height, 1e-9)


@torch.no_grad()
def slow_detect(detector, image, shape, settings):
    """Region by region: (score, category, box, mask logits), best first."""
    pyramid, objectness = detector(image)
    limits = ProposalLimits(before_nms=settings.before_nms, most=settings.proposals, overlap=settings.proposal_overlap)
    every = []
    for region in propose(candidates(detector, objectness), [shape], limits)[0].tolist():
        scores = 0
        stages = detector.spec.cascade_stages
        for stage in range(stages):
            said = detector.boxes(stage, slow_pool(pyramid, region, 7))
            scores = scores + said.scores[0].softmax(0) / stages
            region = slow_move(region, said.deltas[0].tolist(), stage, shape)
        area = (region[2] - region[0]) * (region[3] - region[1])
        for category in range(detector.spec.classes):
            if area > 0 and scores[category] >= settings.least_score:
                every.append((scores[category].item(), category, region))
    kept = []
    for score, category, box in sorted(every, key=lambda one: -one[0]):
        if all(slow_iou(box, other) <= settings.overlap for _, kind, other, _ in kept if kind == category):
            kept.append((score, category, box, detector.masks(slow_pool(pyramid, box, 14))[0, category]))
    return kept[: settings.most]


@pytest.mark.parametrize("stages", [1, 3])
def test_detections_equal_a_slow_loop(stages):
    detector = restless(cascade_stages=stages)
    images = random_images(2, 1, 64, 96)
    shapes = [(64, 96), (50, 77)]
    for i, found in enumerate(detect(detector, images, SETTINGS, shapes)):
        expected = slow_detect(detector, images[i : i + 1], shapes[i], SETTINGS)
        assert 3 < len(found) == len(expected)
        assert set(found.categories.tolist()) == {0, 1}
        assert (np.diff(found.scores) <= 0).all()
        np.testing.assert_allclose(found.scores, [one[0] for one in expected], rtol=1e-4)
        assert found.categories.tolist() == [one[1] for one in expected]
        np.testing.assert_allclose(found.boxes, [one[2] for one in expected], atol=2e-3)
        assert found.shape == shapes[i]
        logits = torch.stack([one[3] for one in expected])
        slow = paste_runs(logits, torch.tensor([one[2] for one in expected]), shapes[i])
        assert 0 < slow.lengths.sum()
        true = np.array([decode(run) for run in encode_runs(slow, len(found), found.shape)])
        assert (masks_of(found) != true).mean() < 1e-4  # where a probability is 0.5, rounding decides


def test_chunks_change_nothing(monkeypatch):
    detector, images = restless(), random_images(1, 1, 64, 96)
    (whole,) = detect(detector, images, SETTINGS)
    monkeypatch.setattr(detector_inference, "BOX_REGIONS", 7)
    monkeypatch.setattr(detector_inference, "MASK_REGIONS", 3)
    (parts,) = detect(detector, images, SETTINGS)
    assert len(whole) > 3
    np.testing.assert_allclose(parts.boxes, whole.boxes, atol=1e-3)
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-4)
    assert (masks_of(parts) != masks_of(whole)).mean() < 1e-4


def test_what_lies_in_the_padding_is_not_found():
    detector, images = restless(), random_images(1, 1, 64, 96)
    (found,) = detect(detector, images, SETTINGS, [(40, 50)])
    assert len(found) > 0
    assert found.shape == (40, 50)
    assert (found.boxes <= [50, 40, 50, 40]).all()


@pytest.mark.parametrize(("setting", "value"), [("least_score", 1.0), ("most", 0)])
def test_where_nothing_is_left_there_are_no_objects(setting, value):
    settings = dataclasses.replace(SETTINGS, **{setting: value})
    (found,) = detect(restless(), random_images(1, 1, 64, 96), settings)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks.owners.size == 0


def test_settings_leave_fewer():
    detector, images = restless(), random_images(1, 1, 64, 96)
    (found,) = detect(detector, images, SETTINGS)
    (sure,) = detect(detector, images, dataclasses.replace(SETTINGS, least_score=float(found.scores[2])))
    np.testing.assert_array_equal(sure.scores, found.scores[found.scores >= found.scores[2]])
    (few,) = detect(detector, images, dataclasses.replace(SETTINGS, most=2))
    np.testing.assert_array_equal(few.scores, found.scores[:2])


def test_half_precision_gives_single_precision_objects():
    detector, images = restless(), random_images(1, 1, 64, 96).to(memory_format=torch.channels_last)
    detector = detector.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = detect(detector, images, SETTINGS)
    assert len(found) > 3
    assert (found.boxes.dtype, found.scores.dtype, found.categories.dtype) == (np.float32, np.float32, np.int32)
    (exact,) = detect(detector, images, SETTINGS)
    np.testing.assert_allclose(found.scores[0], exact.scores[0], atol=0.05)


@pytest.mark.parametrize("part", ["proposal_generator.rpn_head.anchor_deltas", "roi_heads.box_predictor.1.cls_score"])
def test_a_network_that_says_no_numbers_is_named(part):
    detector = restless()
    nn.init.constant_(detector.get_submodule(part).weight, np.nan)
    with pytest.raises(
        ModelError, match=r"^detector: what it says of an image is not finite \(use --precision fp32, or"
    ):
        detect(detector, random_images(1, 1, 64, 96), SETTINGS)
