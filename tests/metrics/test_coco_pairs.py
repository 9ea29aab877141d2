"""IoU of masks and boxes is pycocotools', bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from cellkit.errors import InputError
from cellkit.metrics.coco_pairs import find_pairs
from cellkit.metrics.instances import instances_of_run_lengths


def random_side(rng, count):
    """Overlapping rectangles (40, 50) with holes, boxes that are not theirs, a third of them crowds."""
    masks = np.zeros((count, 40, 50), bool)
    for mask in masks:
        top, left, height, width = rng.integers(0, (30, 40, 20, 20))
        mask[top : top + height, left : left + width] = rng.random((40, 50))[
            top : top + height, left : left + width
        ] < rng.choice([0.5, 1.0])
    codes = [coco_masks.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    boxes = rng.random((count, 4)) * (30, 30, 20, 20) - (0, 0, 1, 1)  # some without width or height
    crowd = rng.random(count) < 0.3
    return codes, boxes, crowd, instances_of_run_lengths(codes, (40, 50), boxes=boxes, crowd=crowd)


def dense(pairs, shape):
    table = np.zeros(shape)
    table[pairs.predicted, pairs.truth] = pairs.iou
    return table


@pytest.mark.parametrize("seed", range(5))
def test_iou_is_that_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    codes, boxes, crowd, truth = random_side(rng, 40)
    other_codes, other_boxes, _, predicted = random_side(rng, 60)
    literal = coco_masks.iou(other_codes, codes, crowd.astype(np.uint8).tolist())
    assert (dense(find_pairs(truth, predicted, "segm", ""), (60, 40)) == literal).all()
    literal = coco_masks.iou(other_boxes, boxes, crowd.astype(np.uint8).tolist())
    assert (dense(find_pairs(truth, predicted, "bbox", ""), (60, 40)) == literal).all()
    assert np.count_nonzero(literal) > 100


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_nothing_meets_nothing(kind):
    _, _, _, some = random_side(np.random.default_rng(0), 3)
    none = instances_of_run_lengths([], (40, 50))
    for truth, predicted in ((some, none), (none, some), (none, none)):
        assert find_pairs(truth, predicted, kind, "").iou.size == 0


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_shapes_must_agree(kind):
    with pytest.raises(InputError, match="field: truth is 40 x 50 but the prediction is 50 x 40"):
        find_pairs(*(instances_of_run_lengths([], shape) for shape in ((40, 50), (50, 40))), kind, "field")


def test_boxes_of_all_sizes_and_places():
    """Very large ones among small ones, far apart, negative places, without height, with a negative width."""
    rng = np.random.default_rng(7)
    boxes = rng.normal(0, 30, (200, 4)) * rng.choice([0.01, 1, 1, 1e3], (200, 1))
    boxes[:5] = (-1e15, -1e15, 3e15, 3e15), (1e14, -1e14, 5, 1e15), (0, 0, 0, 0), (0, 0, 9, 0), (3, 3, -9, 9)
    truth, predicted = (instances_of_run_lengths([], (40, 50), boxes=half) for half in (boxes[::2], boxes[1::2]))
    literal = coco_masks.iou(boxes[1::2], boxes[::2], [0] * 100)
    assert (dense(find_pairs(truth, predicted, "bbox", ""), (100, 100)) == literal).all()
    assert np.count_nonzero(literal) > 100
    flat = instances_of_run_lengths([], (40, 50), boxes=[[0, 0, 9, 0]])
    assert find_pairs(flat, flat, "bbox", "").iou.size == 0


def test_an_infinite_box():
    fine = instances_of_run_lengths([], (40, 50), boxes=[[0, 0, 9, 9]])
    infinite = instances_of_run_lengths([], (40, 50), ids=[4, 9], boxes=[[0, 0, 9, 9], [0, 0, np.inf, 9]])
    with pytest.raises(InputError) as caught:
        find_pairs(fine, infinite, "bbox", "field")
    assert (
        str(caught.value) == "field: the box of object 9 of the prediction is infinite (boxes are x, y, width, height)"
    )
