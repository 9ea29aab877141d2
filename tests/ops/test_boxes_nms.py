"""Non-maximum suppression: the survivors of a loop over boxes, whatever the crowd, the blocks and the kernels."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.ops import boxes_nms
from cellkit.ops.boxes_nms import nms, nms_by_class


def literal(boxes, scores, classes, overlap):
    """One by one, in the type of the boxes; of equal scores the first comes first."""
    x0, y0, x1, y1 = np.asarray(boxes).T
    classes, zero = np.asarray(classes), x0.dtype.type(0)
    areas = np.maximum(x1 - x0, zero) * np.maximum(y1 - y0, zero)
    waiting = sorted(range(len(x0)), key=lambda i: -float(scores[i]))
    kept = []
    while waiting:
        best, *others = waiting
        kept.append(best)
        rest = np.array(others, int)
        width = np.minimum(x1[best], x1[rest]) - np.maximum(x0[best], x0[rest])
        height = np.minimum(y1[best], y1[rest]) - np.maximum(y0[best], y0[rest])
        shared = np.maximum(width, zero) * np.maximum(height, zero)
        with np.errstate(invalid="ignore"):
            beaten = shared / (areas[best] + areas[rest] - shared) > x0.dtype.type(overlap)
        waiting = rest[~(beaten & (classes[rest] == classes[best]))].tolist()
    return kept


def field(seed, count, side, largest, kinds=3):
    """Boxes of many sizes and shapes, some empty, with scores of which many are equal, and classes."""
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(0, np.log(largest), (count, 2))) * (random.random((count, 1)) > 0.05)
    start = random.uniform(-10, side, (count, 2))
    boxes = torch.tensor(np.concatenate([start, start + sides], 1), dtype=torch.float32)
    scores = torch.tensor(random.integers(0, max(2, count // 3), count) / 7, dtype=torch.float32)
    return boxes, scores, torch.tensor(random.integers(0, kinds, count))


def grid_boxes(seed, count, side=6):
    """Boxes on few whole pixels: many are the same, and many overlaps are just the threshold."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.integers(0, side, (count, 2, 2)), 1).reshape(count, 4)
    return torch.tensor(corners, dtype=torch.float32), torch.tensor(random.integers(0, 5, count).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 150), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]))
def test_survivors_are_those_of_a_loop(seed, count, overlap):
    boxes, scores, classes = field(seed, count, 60, 40)
    assert nms(boxes, scores, overlap).tolist() == literal(boxes, scores, np.zeros(count), overlap)
    assert nms_by_class(boxes, scores, classes, overlap).tolist() == literal(boxes, scores, classes, overlap)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 120), st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]))
def test_overlaps_of_just_the_threshold_survive(seed, count, overlap):
    boxes, scores = grid_boxes(seed, count)
    assert nms(boxes, scores, overlap).tolist() == literal(boxes, scores, np.zeros(count), overlap)


@pytest.mark.parametrize("overlap", [0.05, 0.5, 0.7, 0.95])
@pytest.mark.parametrize(("block", "pairs"), [(1, 1 << 20), (7, 50), (64, 1), (1000, 300)])
def test_blocks_change_nothing(monkeypatch, block, pairs, overlap):
    monkeypatch.setattr(boxes_nms, "BLOCK", block)
    monkeypatch.setattr(boxes_nms, "PAIRS", pairs)
    boxes, scores, classes = field(3, 120, 50, 30)
    assert nms_by_class(boxes, scores, classes, overlap).tolist() == literal(boxes, scores, classes, overlap)


@pytest.mark.parametrize("overlap", [0.3, 0.7])
@pytest.mark.parametrize(("side", "largest"), [(1000, 40), (400, 300), (5, 90)])
def test_thousands_spread_out_or_in_one_place(side, largest, overlap):
    boxes, scores, classes = field(11, 3000, side, largest)
    assert nms_by_class(boxes, scores, classes, overlap).tolist() == literal(boxes, scores, classes, overlap)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_row_of_boxes_each_of_which_beats_the_next(axis):
    """Every second one survives: the longest chain of doubts."""
    boxes = torch.zeros(300, 4)
    boxes[:, axis], boxes[:, 2 + axis] = torch.arange(300) * 2.0, torch.arange(300) * 2.0 + 5
    boxes[:, 3 - axis] = 10
    assert nms(boxes, torch.arange(300, 0, -1.0), 0.4).tolist() == list(range(0, 300, 2))


def test_far_from_zero_classes_do_not_round_each_other():
    """Moving classes apart in float32 would lose the quarter of a pixel that these two differ by."""
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.0, 1.25, 1.0]]).repeat(2, 1) + 30000.0
    classes = torch.tensor([0, 0, 10**6, 10**6])
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert nms_by_class(boxes, scores, classes, 0.61).tolist() == [0, 1, 2, 3]
    assert nms_by_class(boxes, scores, classes, 0.59).tolist() == [0, 2]


def test_hundreds_of_classes_on_a_large_plane():
    boxes, scores, classes = field(13, 2000, 200, 40, kinds=400)
    boxes[::2] += 90000.0
    assert nms_by_class(boxes, scores, classes, 0.1).tolist() == literal(boxes, scores, classes, 0.1)


def test_of_equal_scores_the_first_survives():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(5, 1)
    assert nms(boxes, torch.tensor([1.0, 2.0, 2.0, 2.0, 1.0]), 0.5).tolist() == [1]


def test_boxes_without_area_survive_and_beat_none():
    boxes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 9.0, 9.0], [3.0, 3.0, 3.0, 3.0]])
    assert nms(boxes, torch.tensor([3.0, 2.0, 1.0]), 0.0).tolist() == [0, 1, 2]


def test_no_boxes():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).dtype == torch.int64


def test_half_precision_is_compared_in_single_and_without_a_gradient():
    boxes, scores, _ = field(5, 80, 40, 30)
    halves = boxes.bfloat16().requires_grad_()
    found = nms(halves, scores.requires_grad_(), 0.5)
    assert found.tolist() == nms(halves.detach().float(), scores, 0.5).tolist()


@pytest.mark.parametrize("overlap", [-0.1, 1.1])
def test_thresholds_that_are_no_fraction_are_refused(overlap):
    with pytest.raises(ValueError, match=f"overlap must be from 0 to 1, not {overlap}"):
        nms(torch.zeros(1, 4), torch.zeros(1), overlap)


def test_boxes_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="boxes must be finite"):
        nms(torch.full((1, 4), torch.nan), torch.zeros(1), 0.5)


def test_the_kernel_of_torchvision_is_used_class_by_class(monkeypatch):
    calls = []

    def kernel(boxes, scores, overlap):
        calls.append((len(boxes), overlap))
        return torch.tensor(literal(boxes, scores, np.zeros(len(boxes)), overlap), dtype=torch.int64)

    monkeypatch.setattr(boxes_nms, "kernels", lambda: types.SimpleNamespace(nms=kernel))
    boxes, scores, classes = field(9, 90, 40, 30)
    assert nms_by_class(boxes, scores, classes, 0.4).tolist() == literal(boxes, scores, classes, 0.4)
    assert sorted(calls) == sorted((int((classes == i).sum()), 0.4) for i in range(3))
    calls.clear()
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.4).tolist() == []
    assert not calls
