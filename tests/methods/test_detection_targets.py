"""Mask targets: RoI align of an object's own mask, whatever else its region shows; in bounded memory."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from cellkit.methods import detection_targets
from cellkit.methods.detection_targets import mask_targets

SPEC = importlib.util.spec_from_file_location("detection_toys", Path(__file__).with_name("detection_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

TRUTHS = {name: truth for name, truth in toys.situations().items() if len(truth.boxes)}
SIDE = 28


def random_regions(truth, count):
    """Boxes inside the image, some of whole pixels, near one of its objects each."""
    random = np.random.default_rng(8)
    owners = torch.from_numpy(random.integers(0, len(truth.boxes), count))
    shifts = torch.from_numpy(random.normal(0, 9, (count, 4))).float()
    boxes = truth.boxes[owners] + torch.where(torch.arange(count)[:, None] % 3 == 0, shifts.round(), shifts)
    boxes[:, :2].clamp_(min=0)
    boxes[:, 2].clamp_(max=toys.SHAPE[1])
    boxes[:, 3].clamp_(max=toys.SHAPE[0])
    usable = (boxes[:, 2:] - boxes[:, :2] > 0.2).all(1)
    return boxes[usable], owners[usable]


@pytest.mark.parametrize("pixels", [1 << 22, 1])  # all windows as large as the largest, each as large as it must be
@pytest.mark.parametrize("name", TRUTHS)
def test_targets_equal_roi_align_of_each_objects_own_mask(name, pixels, monkeypatch):
    monkeypatch.setattr(detection_targets, "PIXELS", pixels)
    truth = TRUTHS[name]
    boxes, owners = random_regions(truth, 60)
    targets = mask_targets(boxes, truth.layers, truth.places[owners], SIDE)
    assert targets.dtype == torch.bool
    for box, owner, target in zip(boxes.tolist(), owners.tolist(), targets, strict=True):
        assert torch.equal(target.float(), toys.slow_mask(toys.mask_of(truth, owner), box))
    assert 0 < targets.float().mean() < 1


@pytest.mark.parametrize("name", sorted(set(TRUTHS) - {"one of a pixel"}))  # whose mask is but its interpolated edge
def test_the_target_of_a_true_box_is_the_object(name):
    truth = TRUTHS[name]
    targets = mask_targets(truth.boxes, truth.layers, truth.places, SIDE)
    for number, (x0, y0, x1, y1) in enumerate(truth.boxes.int().tolist()):
        mask = toys.mask_of(truth, number)[y0:y1, x0:x1]
        assert abs(targets[number].float().mean() - mask.float().mean()) < 0.03


def test_windows_taken_one_by_one_give_the_same(monkeypatch):
    truth = TRUTHS["two overlapping"]
    boxes, owners = random_regions(truth, 60)
    together = mask_targets(boxes, truth.layers, truth.places[owners], SIDE)
    sizes = []
    windows = detection_targets._windows

    def watched(*arguments):
        sizes.append(windows(*arguments).numel())
        return windows(*arguments)

    monkeypatch.setattr(detection_targets, "_windows", watched)
    monkeypatch.setattr(detection_targets, "PIXELS", 7000)
    assert torch.equal(mask_targets(boxes, truth.layers, truth.places[owners], SIDE), together)
    assert len(sizes) > 5
    assert max(sizes) <= 7000


def test_a_window_larger_than_the_limit_is_taken_alone(monkeypatch):
    truth = TRUTHS["one object"]
    monkeypatch.setattr(detection_targets, "PIXELS", 1)
    boxes = truth.boxes.repeat(2, 1)
    targets = mask_targets(boxes, truth.layers, truth.places.repeat(2, 1), SIDE)
    assert torch.equal(targets[0], targets[1])
    assert targets.any()


def test_no_region_has_no_target():
    truth = TRUTHS["one object"]
    assert mask_targets(torch.zeros(0, 4), truth.layers, truth.places[:0], SIDE).shape == (0, SIDE, SIDE)
