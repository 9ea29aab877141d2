"""Masks pasted into images: the pixels of a loop over all of them, and the bytes of pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from cellkit.ops import pasting
from cellkit.ops.pasting import paste_masks, paste_runs
from cellkit.ops.run_lengths import decode

SHAPE = (30, 41)
BOXES = [
    [3.2, 4.7, 19.9, 22.1],
    [5.0, 5.0, 12.0, 12.0],  # a pixel of the image for each of a mask of 7
    [-6.5, -8.0, 9.3, 7.7],  # partly outside
    [30.1, 20.2, 60.0, 44.4],
    [-50.0, -50.0, 90.0, 95.0],  # the image lies within it
    [7.1, 8.2, 7.6, 8.9],  # smaller than a pixel, and around a centre
    [7.6, 8.6, 8.4, 9.4],  # smaller than a pixel, and around none
    [10.0, 10.0, 10.0, 20.0],  # empty
    [10.0, 10.0, 20.0, 10.0],
    [50.0, 3.0, 60.0, 9.0],  # outside
    [3.0, -20.0, 9.0, -4.0],
    [12.0, -3.0, 17.0, 36.0],  # from the top to the bottom
]


def scene(seed=0, size=(7, 7), boxes=BOXES):
    logits = torch.randn(len(boxes), *size, generator=torch.Generator().manual_seed(seed)) * 3
    return logits, torch.tensor(boxes)


def taps(place, start, stop, size):
    """The two pixels of a mask that a pixel of the image lies between, and how near it is to the second."""
    one, half = np.float32(1), np.float32(0.5)
    depth = (np.float32(place) + half - start) / (stop - start) * np.float32(size) - half
    depth = min(max(depth, -one), np.float32(size))
    lower = int(np.floor(depth))
    return lower, depth - np.float32(lower)


def literal(logits, boxes, shape, threshold):
    """Mask by mask and pixel by pixel, in float32: along x, then along y; 0 outside of a mask."""
    probabilities = logits.sigmoid().numpy()
    pasted = np.zeros((len(logits), *shape), bool)
    for n, (x0, y0, x1, y1) in enumerate(boxes.numpy()):
        if not (x0 < x1 and y0 < y1):
            continue
        height, width = probabilities[n].shape
        padded = np.zeros((height + 4, width + 4), np.float32)
        padded[2:-2, 2:-2] = probabilities[n]
        rows = [taps(y, y0, y1, height) for y in range(shape[0])]
        columns = [taps(x, x0, x1, width) for x in range(shape[1])]
        for y, (top, down) in enumerate(rows):
            for x, (left, along) in enumerate(columns):
                corners = padded[top + 2 : top + 4, left + 2 : left + 4]
                upper, lower = corners[:, 0] + (corners[:, 1] - corners[:, 0]) * along
                pasted[n, y, x] = upper + (lower - upper) * down >= threshold
    return pasted


def decoded(masks, shape=SHAPE):
    return np.array([decode(mask) for mask in masks]).reshape(-1, *shape)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("size", [(7, 7), (3, 5), (1, 1)])
def test_pixels_are_those_of_a_loop(size, threshold):
    logits, boxes = scene(size=size)
    found = decoded(paste_masks(logits, boxes, SHAPE, threshold))
    np.testing.assert_array_equal(found, literal(logits, boxes, SHAPE, np.float32(threshold)))


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_pixels_are_those_of_grid_sample(threshold):
    """Another way round: torch samples the mask of a box at the centres of all pixels of the image."""
    random = np.random.default_rng(5)
    start = random.uniform(-20, 60, (40, 2))
    boxes = torch.tensor(np.concatenate([start, start + random.uniform(0.5, 60, (40, 2))], 1), dtype=torch.float32)
    logits = torch.randn(40, 28, 28, generator=torch.Generator().manual_seed(5))
    y, x = (torch.arange(side) + 0.5 for side in (50, 70))
    x = (x - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = (y - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    places = torch.stack([x[:, None].expand(-1, 50, -1), y[:, :, None].expand(-1, -1, 70)], 3)
    values = F.grid_sample(logits.sigmoid()[:, None], places, align_corners=False)[:, 0].numpy()
    found = decoded(paste_masks(logits, boxes, (50, 70), threshold), (50, 70))
    clear = np.abs(values - threshold) > 1e-5
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(found[clear], (values >= threshold)[clear])


def test_run_lengths_are_the_bytes_of_pycocotools():
    logits, boxes = scene()
    pixels = literal(logits, boxes, SHAPE, np.float32(0.5))
    assert paste_masks(logits, boxes, SHAPE) == [
        coco_masks.encode(np.asfortranarray(mask, np.uint8)) for mask in pixels
    ]


def test_runs_go_on_in_the_next_column():
    logits = torch.full((2, 28, 28), 9.0)
    boxes = torch.tensor([[5.0, -100.0, 8.0, 100.0], [6.0, -100.0, 7.0, 100.0]])
    runs = paste_runs(logits, boxes, (10, 12))
    assert runs.owners.tolist() == [0, 1]
    assert runs.starts.tolist() == [50, 60]
    assert runs.lengths.tolist() == [30, 10]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12))
def test_runs_are_apart_and_in_order(seed, count):
    random = np.random.default_rng(seed)
    start = random.uniform(-5, 20, (count, 2))
    boxes = torch.tensor(np.concatenate([start, start + random.uniform(0, 30, (count, 2))], 1), dtype=torch.float32)
    logits = torch.tensor(random.normal(0, 4, (count, 6, 6)), dtype=torch.float32)
    runs = paste_runs(logits, boxes, (13, 17))
    assert (runs.lengths > 0).all()
    gaps = runs.starts[1:] - runs.starts[:-1] - runs.lengths[:-1]
    assert ((gaps > 0) | (np.diff(runs.owners) > 0)).all()
    painted = np.zeros((count, 13 * 17), bool)
    for owner, begin, length in zip(runs.owners, runs.starts, runs.lengths, strict=True):
        painted[owner, begin : begin + length] = True
    pixels = painted.reshape(count, 17, 13).transpose(0, 2, 1)
    np.testing.assert_array_equal(pixels, literal(logits, boxes, (13, 17), np.float32(0.5)))


@pytest.mark.parametrize("pixels", [1, 40, 700])
def test_parts_change_nothing(monkeypatch, pixels):
    logits, boxes = scene(seed=4)
    whole = paste_masks(logits, boxes, SHAPE)
    monkeypatch.setattr(pasting, "PIXELS", pixels)
    assert paste_masks(logits, boxes, SHAPE) == whole


def test_a_mask_that_says_yes_everywhere_fills_the_pixels_whose_centres_its_box_holds():
    logits = torch.full((1, 28, 28), 50.0)
    (mask,) = paste_masks(logits, torch.tensor([[2.4, 3.6, 9.4, 8.6]]), SHAPE)
    expected = np.zeros(SHAPE, bool)
    expected[4:9, 2:9] = True
    np.testing.assert_array_equal(decode(mask), expected)


def test_no_masks_and_no_image():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SHAPE) == []
    assert paste_runs(torch.zeros(0, 28, 28), torch.zeros(0, 4), SHAPE).owners.size == 0
    logits, boxes = scene()
    assert paste_runs(logits, boxes, (0, 41)).owners.size == 0
    empty = paste_masks(logits[:1], torch.tensor([[99.0, 99.0, 120.0, 120.0]]), SHAPE)
    assert empty == [coco_masks.encode(np.zeros(SHAPE, np.uint8, order="F"))]


def test_half_precision_and_gradients_do_no_harm():
    logits, boxes = scene()
    halves = logits.bfloat16()
    assert paste_masks(halves.requires_grad_(), boxes.requires_grad_(), SHAPE) == paste_masks(
        halves.detach().float(), boxes.detach(), SHAPE
    )


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_thresholds_that_are_no_probability_are_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold must be above 0 and at most 1, not {threshold}"):
        paste_runs(*scene(), SHAPE, threshold)


def test_boxes_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="boxes must be finite"):
        paste_runs(torch.zeros(1, 28, 28), torch.full((1, 4), torch.inf), SHAPE)
