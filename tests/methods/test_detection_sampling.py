"""Anchors and regions that a step looks at: as a slow loop draws them, as many as wanted, never another's truth."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from cellkit.methods.detection_sampling import generators, match_regions, sample_anchors, sample_regions
from cellkit.ops.anchors import grid_anchors
from cellkit.ops.boxes import iou

SPEC = importlib.util.spec_from_file_location("detection_toys", Path(__file__).with_name("detection_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

TRUTHS = toys.situations()
ANCHORS = torch.cat(
    [
        grid_anchors(torch.tensor([[-4.0, -4, 4, 4]]), (16, 24), 4),
        grid_anchors(torch.tensor([[-16.0, -16, 16, 16], [-12, -20, 12, 20]]), (8, 12), 8),
    ]
)
NONE = torch.zeros(0, 4)


def draw(seed=3):
    return generators([seed])[0]


@pytest.mark.parametrize("name", TRUTHS)
def test_anchors_are_those_of_a_slow_loop(name):
    truth = TRUTHS[name]
    positives, owners, negatives = sample_anchors(ANCHORS, truth.boxes, toys.SETTINGS, draw())
    slow = toys.slow_anchor_sample(ANCHORS.tolist(), truth.boxes.tolist(), toys.SETTINGS, draw())
    assert (positives.tolist(), owners.tolist(), negatives.tolist()) == slow
    assert len(positives) + len(negatives) == toys.SETTINGS.anchors
    assert (len(positives) > 0) == (len(truth.boxes) > 0)


@pytest.mark.parametrize("name", TRUTHS)
def test_regions_are_those_of_a_slow_loop_true_boxes_among_them(name):
    truth = TRUTHS[name]
    regions = sample_regions(ANCHORS, truth.boxes, toys.SETTINGS, draw())
    slow = toys.slow_region_sample(ANCHORS.tolist(), truth.boxes.tolist(), toys.SETTINGS, draw())
    assert regions.boxes.tolist() == slow
    assert int(regions.positive.sum()) <= toys.SETTINGS.regions * toys.SETTINGS.region_fraction
    for box, owner, positive in zip(*regions, strict=True):
        best, overlap = toys.stands_for(box.tolist(), truth.boxes.tolist())
        assert positive == (overlap >= 0.5)
        assert not positive or owner == best
    few = sample_regions(NONE, truth.boxes, toys.SETTINGS, draw())
    assert sorted(few.boxes.tolist()) == sorted(truth.boxes.tolist())
    assert few.positive.all()


def test_no_more_positives_than_their_fraction():
    truth = TRUTHS["one object"]
    many = truth.boxes.repeat(50, 1)
    regions = sample_regions(torch.cat([many, ANCHORS]), truth.boxes, toys.SETTINGS, draw())
    assert int(regions.positive.sum()) == 10  # a quarter of 40
    assert len(regions.boxes) == 40
    settings = dataclasses.replace(toys.SETTINGS, anchors=8, anchor_fraction=0.25)
    positives, _, negatives = sample_anchors(many, truth.boxes, settings, draw())
    assert (len(positives), len(negatives)) == (2, 0)


def test_nothing_at_all_is_an_empty_sample():
    regions = sample_regions(NONE, NONE, toys.SETTINGS, draw())
    assert regions.boxes.shape == (0, 4)
    assert len(regions.truth) == len(regions.positive) == 0


def test_a_stage_asks_for_its_own_overlap():
    truth = torch.tensor([[10.0, 10, 30, 30], [50, 10, 70, 30]])
    boxes = torch.tensor([[10.0, 10, 30, 22], [50, 10, 70, 25], [52, 10, 70, 30], [80, 40, 90, 50]])
    assert iou(boxes, truth).amax(1).tolist() == pytest.approx([0.6, 0.75, 0.9, 0])
    assert match_regions(boxes, truth, 0.5).positive.tolist() == [True, True, True, False]
    strict = match_regions(boxes, truth, 0.7)
    assert strict.positive.tolist() == [False, True, True, False]
    assert strict.truth.tolist() == [0, 1, 1, 0]
    assert match_regions(boxes, NONE, 0.5).positive.tolist() == [False] * 4


def test_seeds_decide_the_draw():
    truth = TRUTHS["no object"]
    first, again, other = (sample_regions(ANCHORS, truth.boxes, toys.SETTINGS, draw(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.boxes, other.boxes)
