"""Boxes: by arithmetic on single boxes, and by counting pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cellkit.ops.boxes import SCALE_CLAMP, area, check, clip, decode, encode, intersection, iou, nonempty

CASCADE = (10.0, 10.0, 5.0, 5.0)


def whole_boxes(seed, count, side=20):
    """Boxes on whole pixels, some of them empty."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.integers(0, side, (count, 2, 2)), 1).reshape(count, 4)
    return torch.tensor(corners, dtype=torch.float64)


def painted(boxes, side=20):
    masks = np.zeros((len(boxes), side, side), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_areas_and_overlaps_are_those_of_the_pixels():
    ours, theirs = whole_boxes(0, 30), whole_boxes(1, 40)
    one, other = painted(ours), painted(theirs)
    shared = (one[:, None] & other).sum((2, 3))
    either = (one[:, None] | other).sum((2, 3))
    assert area(ours).tolist() == one.sum((1, 2)).tolist()
    assert intersection(ours[:, None], theirs).tolist() == shared.tolist()
    assert iou(ours, theirs).tolist() == (shared / np.maximum(either, 1)).tolist()
    assert (either == 0).any()  # two empty ones are among them


def test_a_box_whose_sides_are_swapped_has_no_area():
    assert area(torch.tensor([[5.0, 5.0, 2.0, 1.0], [5.0, 0.0, 2.0, 1.0]])).tolist() == [0.0, 0.0]


def test_no_boxes():
    none, some = torch.zeros(0, 4), torch.ones(3, 4)
    assert iou(none, some).shape == (0, 3)
    assert iou(some, none).shape == (3, 0)
    assert area(none).shape == nonempty(none).shape == (0,)
    assert encode(none, none).shape == decode(none, none).shape == clip(none, (3, 4)).shape == (0, 4)
    assert decode(none, torch.zeros(0, 12)).shape == (0, 12)


def test_clipped_to_the_image():
    boxes = torch.tensor(
        [[-3.0, -4.0, 5.0, 6.0], [1.0, 2.0, 90.0, 80.0], [-9.0, 3.0, -1.0, 5.0], [50.0, 3.0, 60.0, 5.0]]
    )
    assert clip(boxes, (7, 11)).tolist() == [[0, 0, 5, 6], [1, 2, 11, 7], [0, 3, 0, 5], [11, 3, 11, 5]]


def test_boxes_that_have_sides():
    boxes = torch.tensor([[0.0, 0.0, 3.0, 2.0], [1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 5.0, 1.0], [4.0, 4.0, 2.0, 9.0]])
    assert nonempty(boxes).tolist() == [True, False, False, False]
    assert nonempty(boxes, 1.9).tolist() == [True, False, False, False]
    assert nonempty(boxes, 2.0).tolist() == [False] * 4


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), CASCADE])
def test_deltas_are_those_of_the_formula(weights):
    reference, box = (10.0, 20.0, 18.0, 26.0), (13.0, 17.0, 17.0, 29.0)
    # centres 14, 23 and 15, 23; sides 8, 6 and 4, 12
    expected = [weights[0] * 1 / 8, 0.0, weights[2] * math.log(4 / 8), weights[3] * math.log(12 / 6)]
    deltas = encode(torch.tensor([reference]), torch.tensor([box]), weights)
    torch.testing.assert_close(deltas, torch.tensor([expected]))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), CASCADE])
def test_decoding_is_the_inverse(weights):
    random = torch.Generator().manual_seed(3)
    start = torch.rand(2, 50, 2, generator=random, dtype=torch.float64) * 100
    references, boxes = torch.cat([start, start + torch.rand(2, 50, 2, generator=random) * 40 + 1], 2)
    back = decode(references, encode(references, boxes, weights), weights)
    torch.testing.assert_close(back, boxes, rtol=1e-9, atol=1e-9)


def test_sides_grow_by_a_bounded_factor():
    grown = decode(torch.tensor([[0.0, 0.0, 2.0, 4.0]]), torch.tensor([[0.0, 0.0, 50.0, SCALE_CLAMP]]))
    torch.testing.assert_close(grown[:, 2:] - grown[:, :2], torch.tensor([[125.0, 250.0]]))
    shrunk = decode(torch.tensor([[0.0, 0.0, 2.0, 4.0]]), torch.tensor([[0.0, 0.0, -50.0, 0.0]]))
    torch.testing.assert_close(shrunk, torch.tensor([[1.0, 0.0, 1.0, 4.0]]))


def test_several_boxes_for_each_reference():
    references = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 9.0, 25.0]])
    deltas = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    single = [decode(references, deltas[:, i : i + 4], CASCADE) for i in (0, 4, 8)]
    assert torch.equal(decode(references, deltas, CASCADE), torch.cat(single, 1))


def test_half_precision_is_decoded_in_single():
    references, deltas = torch.tensor([[1000.0, 1000.0, 1017.0, 1033.0]]), torch.zeros(1, 4, dtype=torch.bfloat16)
    assert torch.equal(decode(references, deltas), references)
    assert decode(references.bfloat16(), deltas).dtype == torch.float32


def test_deltas_have_a_gradient():
    references, boxes = (
        whole_boxes(4, 5) + torch.tensor([0.0, 0, 1, 1]),
        whole_boxes(5, 5) + torch.tensor([0.0, 0, 2, 3]),
    )
    deltas = encode(references, boxes).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: decode(references, x, CASCADE), [deltas])


@pytest.mark.parametrize(
    ("boxes", "problem"),
    [
        (torch.zeros(4), r"boxes must be \(N, 4\) floating-point numbers, not \(4,\) torch.float32"),
        (torch.zeros(2, 5), r"not \(2, 5\)"),
        (torch.zeros(2, 4, dtype=torch.int64), "not .* torch.int64"),
        (torch.tensor([[0.0, 0.0, math.nan, 1.0]]), "boxes must be finite"),
        (torch.tensor([[0.0, -math.inf, 1.0, 1.0]]), "boxes must be finite"),
    ],
)
def test_what_is_no_box_is_refused(boxes, problem):
    with pytest.raises(ValueError, match=problem):
        check(boxes)
