"""Proposals: anchors in the order of the maps, the best of each level, clipped, without doubles, as in a slow loop."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from cellkit.networks.detector import Detector
from cellkit.networks.detector_proposals import (
    STAGE_WEIGHTS,
    Candidates,
    ProposalLimits,
    candidates,
    propose,
    refined,
)
from cellkit.networks.detector_spec import TINY_CASCADE
from cellkit.networks.rpn import Objectness
from cellkit.ops.boxes import encode

LIMITS = ProposalLimits(before_nms=20, most=30, overlap=0.5)
EVERYTHING = ProposalLimits(before_nms=100, most=100, overlap=0.7)


def tiny(**changes):
    torch.manual_seed(0)
    spec = dataclasses.replace(TINY_CASCADE, channels=1, anchor_sizes=(8, 16, 32, 64, 128), **changes)
    return Detector(spec)


def random_maps(detector, *, images=2, shape=(64, 96)):
    """What a restless proposal network would say."""
    generator = torch.Generator().manual_seed(3)
    count = detector.spec.anchors_per_cell
    sizes = [(shape[0] >> level, shape[1] >> level) for level in detector.spec.anchor_levels]
    logits = [torch.randn(images, count, *size, generator=generator) for size in sizes]
    deltas = [torch.randn(images, 4 * count, *size, generator=generator) for size in sizes]
    return Objectness(logits, deltas)


def one_level(boxes, logits):
    """Candidates of one image whose anchors are these boxes and stay where they are."""
    return Candidates([boxes], [torch.tensor([logits])], [torch.zeros(1, len(boxes), 4)])


def slow_anchors(detector, entry, place):
    """Anchors of one place (row, column) of an entry of the levels, as x0, y0, x1, y1."""
    size, stride = detector.spec.anchor_sizes[entry], 2 ** detector.spec.anchor_levels[entry]
    for ratio in detector.spec.anchor_ratios:
        width = size / math.sqrt(ratio)
        height = size * math.sqrt(ratio)
        x, y = place[1] * stride, place[0] * stride
        yield x - width / 2, y - height / 2, x + width / 2, y + height / 2


def slow_decode(box, deltas):
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + width / 2 + deltas[0] * width, box[1] + height / 2 + deltas[1] * height
    width *= math.exp(min(deltas[2], math.log(1000 / 16)))
    height *= math.exp(min(deltas[3], math.log(1000 / 16)))
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def slow_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_proposals(detector, maps, image, shape, limits):
    """Anchor by anchor, box by box."""
    left = []
    for entry in range(len(detector.spec.anchor_levels)):
        found = []
        logits, deltas = maps.logits[entry][image], maps.deltas[entry][image]
        for row in range(logits.shape[1]):
            for column in range(logits.shape[2]):
                for a, anchor in enumerate(slow_anchors(detector, entry, (row, column))):
                    moved = slow_decode(anchor, deltas[4 * a : 4 * a + 4, row, column].tolist())
                    found.append((logits[a, row, column].item(), moved))
        found = sorted(found, key=lambda pair: -pair[0])[: limits.before_nms]
        kept = []
        for score, (x0, y0, x1, y1) in found:
            box = (max(0, min(x0, shape[1])), max(0, min(y0, shape[0])), max(0, min(x1, shape[1])))
            box = (*box, max(0, min(y1, shape[0])))
            empty = box[2] <= box[0] or box[3] <= box[1]
            if not empty and all(slow_iou(box, other) <= limits.overlap for _, other in kept):
                kept.append((score, box))
        left += kept
    left.sort(key=lambda pair: -pair[0])
    return torch.tensor([box for _, box in left[: limits.most]])


@pytest.mark.parametrize("levels", [(2, 3, 4, 5, 6), (2, 2, 3, 4, 5)])
def test_proposals_equal_a_slow_loop(levels):
    detector = tiny(anchor_levels=levels)
    maps = random_maps(detector)
    shapes = [(64, 96), (50, 77)]  # the second image is padded
    found = propose(candidates(detector, maps), shapes, LIMITS)
    for image, shape in enumerate(shapes):
        expected = slow_proposals(detector, maps, image, shape, LIMITS)
        assert len(expected) == LIMITS.most
        torch.testing.assert_close(found[image], expected, rtol=1e-4, atol=1e-3)


def test_limits_leave_fewer():
    detector = tiny()
    found = candidates(detector, random_maps(detector))
    limits = dataclasses.replace(LIMITS, before_nms=1, most=100, overlap=1.0)
    shapes = [(64, 96)] * 2
    assert all(0 < len(boxes) <= 5 for boxes in propose(found, shapes, limits))  # one a level, some lie outside
    assert [len(boxes) for boxes in propose(found, shapes, dataclasses.replace(LIMITS, most=3))] == [3, 3]


def test_only_boxes_of_one_level_suppress_each_other():
    box = torch.tensor([[10.0, 10, 30, 30]])
    logits, deltas = torch.tensor([[1.0]]), torch.zeros(1, 1, 4)
    same = Candidates([box, box], [logits, logits + 1], [deltas, deltas])
    assert propose(same, [(64, 64)], EVERYTHING)[0].tolist() == [[10, 10, 30, 30]] * 2
    together = Candidates([torch.cat([box, box])], [torch.tensor([[1.0, 2.0]])], [torch.zeros(1, 2, 4)])
    assert propose(together, [(64, 64)], EVERYTHING)[0].tolist() == [[10, 10, 30, 30]]


def test_boxes_are_clipped_and_those_outside_dropped():
    boxes = torch.tensor([[-10.0, -10, 5, 5], [40, 10, 70, 40], [64, 0, 80, 20], [-9, 3, 0, 9]])
    found = propose(one_level(boxes, [1.0, 2.0, 3.0, 4.0]), [(32, 64)], EVERYTHING)[0]
    assert found.tolist() == [[40, 10, 64, 32], [0, 0, 5, 5]]


def test_what_is_not_a_number_is_no_proposal():
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30], [40, 40, 50, 50]])
    found = one_level(boxes, [math.nan, 1.0, 2.0])
    found.deltas[0][0, 2, 2] = math.nan
    assert propose(found, [(64, 64)], EVERYTHING)[0].tolist() == [[20, 20, 30, 30]]


def test_a_field_of_poor_boxes_gives_none():
    found = one_level(torch.tensor([[70.0, 0, 80, 9]]), [1.0])
    assert propose(found, [(64, 64)], EVERYTHING)[0].shape == (0, 4)


def test_no_gradient_goes_to_proposals():
    detector = tiny(norm="group-norm")
    dense = detector(torch.rand(1, 1, 64, 64))
    found = candidates(detector, dense.objectness)
    assert found.deltas[0].requires_grad
    assert not propose(found, [(64, 64)], LIMITS)[0].requires_grad


def test_half_precision_is_decoded_in_single():
    detector = tiny()
    maps = random_maps(detector)
    half = Objectness([logits.bfloat16() for logits in maps.logits], [deltas.bfloat16() for deltas in maps.deltas])
    assert {tensor.dtype for part in candidates(detector, half) for tensor in part} == {torch.float32}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_deltas_of_a_stage_are_undone_by_its_weights(stage):
    regions = torch.tensor([[4.0, 5, 20, 30], [10, 10, 50, 20]])
    boxes = torch.tensor([[6.0, 5, 25, 33], [12, 8, 40, 22]])
    deltas = encode(regions, boxes, STAGE_WEIGHTS[stage])
    torch.testing.assert_close(deltas, encode(regions, boxes) * torch.tensor([10.0, 10, 5, 5]) * (stage + 1))
    torch.testing.assert_close(refined(regions, deltas, stage, (64, 64)), boxes)
    assert refined(regions, deltas, stage, (16, 16)).max() == 16
    assert refined(regions, deltas.requires_grad_(), stage, (64, 64)).requires_grad is False
