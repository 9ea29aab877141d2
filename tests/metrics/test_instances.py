"""Objects that may overlap: measured as pycocotools does, shared pixels as boolean arrays count them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_masks

from cellkit.errors import InputError
from cellkit.metrics.instances import (
    flat_labels,
    instances_of_labels,
    instances_of_run_lengths,
    meeting,
    overlaps,
    without_crowd,
)
from cellkit.metrics.intersections import intersections

MASKS = st.lists(arrays(bool, (5, 6)), max_size=4)


def encoded(mask):
    return coco_masks.encode(np.asfortranarray(mask, np.uint8))


def instances_of(masks, shape=(5, 6), **columns):
    return instances_of_run_lengths([encoded(mask) for mask in masks], shape, **columns)


def masks_of(instances):
    masks = np.zeros((len(instances), instances.shape[1] * instances.shape[0]), bool)
    for owner, start, length in zip(instances.owners, instances.starts, instances.lengths, strict=True):
        masks[owner, start : start + length] = True
    return masks.reshape(-1, *instances.shape[::-1]).transpose(0, 2, 1)


def crossing_worms():
    """Two bars (12, 14) that cross, and a dot on one of them."""
    masks = np.zeros((3, 12, 14), bool)
    masks[0, 5:8], masks[1, :, 6:9], masks[2, 6, 7] = True, True, True
    return masks


def test_objects_of_a_label_image(crowded_field):
    labels = np.pad(crowded_field[4:], ((0, 0), (0, 9)))  # wide, and with cells on the border
    found = instances_of_labels(labels)
    assert found.shape == labels.shape
    assert found.ids.tolist() == np.unique(labels[labels > 0]).tolist()
    assert (masks_of(found) == (labels == found.ids[:, None, None])).all()
    literal = [encoded(labels == i) for i in found.ids]
    assert found.pixels.tolist() == found.areas.tolist() == coco_masks.area(literal).tolist()
    assert found.boxes.tolist() == coco_masks.toBbox(literal).tolist()
    assert (found.scores == 1).all()
    assert (found.categories == 1).all()
    assert not found.crowd.any()
    assert found.has_masks


@given(MASKS)
def test_boxes_and_pixels_of_any_masks(masks):
    found = instances_of(masks)
    assert (masks_of(found) == np.reshape(masks, (-1, 5, 6))).all()
    literal = [encoded(mask) for mask in masks]
    assert found.boxes.tolist() == (coco_masks.toBbox(literal).tolist() if masks else [])
    assert found.pixels.tolist() == (coco_masks.area(literal).tolist() if masks else [])
    assert found.ids.tolist() == list(range(1, len(masks) + 1))


def test_the_first_score_belongs_to_label_1():
    labels = np.array([[0, 3, 3], [1, 0, 0]])
    assert instances_of_labels(labels, np.float32([0.5, 0.25, 0.75])).scores.tolist() == [0.5, 0.75]
    with pytest.raises(InputError) as caught:
        instances_of_labels(labels, [0.5, 0.25], key="field")
    assert str(caught.value) == (
        "field: there are 2 scores, but labels up to 3 (the first score belongs to label 1, and every label needs one)"
    )


@pytest.mark.parametrize("empty", [np.zeros((4, 5), np.uint16), np.zeros((0, 5), np.uint16), np.zeros((4, 0), bool)])
def test_an_image_without_objects(empty):
    found = instances_of_labels(empty, [])
    assert len(found) == found.starts.size == 0
    assert found.boxes.shape == (0, 4)
    assert found.has_masks
    assert flat_labels(found).shape == empty.shape
    assert overlaps(found, found).common_foreground == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 5)), "an array of float64 with 2 axes is no label image (give integers of height x width"),
        (np.zeros((4, 5, 3), np.uint8), "an array of uint8 with 3 axes is no label image"),
        (np.full((4, 5), -2), "there is the label -2 (labels are 0 (background) to 4294967295)"),
    ],
)
def test_what_is_no_label_image(labels, message):
    with pytest.raises(InputError) as caught:
        instances_of_labels(labels, key="field")
    assert str(caught.value).startswith("field: " + message)


def test_annotations_come_before_what_is_measured():
    found = instances_of(
        crossing_worms()[:2],
        (12, 14),
        ids=[9, 4],
        areas=[np.nan, 7.5],
        boxes=[[1, 2, 3.5, 4], [np.nan] * 4],
        scores=[0.5, 0.25],
        categories=[3, 1],
        crowd=[0, 1],
    )
    assert found.ids.tolist() == [9, 4]
    assert found.areas.tolist() == [42, 7.5]
    assert found.pixels.tolist() == [42, 36]
    assert found.boxes.tolist() == [[1, 2, 3.5, 4], [6, 0, 3, 12]]
    assert found.scores.tolist() == [0.5, 0.25]
    assert found.categories.tolist() == [3, 1]
    assert found.crowd.tolist() == [False, True]


def test_boxes_alone():
    found = instances_of_run_lengths([], (20, 30), boxes=[[1, 2, 3, 4.5], [0, 0, 1, 1]])
    assert not found.has_masks
    assert found.areas.tolist() == [13.5, 1]
    assert found.pixels.tolist() == [0, 0]
    assert found.starts.size == 0
    with pytest.raises(InputError) as caught:
        overlaps(found, found, "field")
    assert str(caught.value) == ("field: the truth has boxes but no masks (score coco/bbox alone, or give masks)")
    assert instances_of_run_lengths([], (20, 30), boxes=[]).has_masks  # nothing is missing


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (encoded(np.ones((3, 4))), "field: mask 2 is 3 x 4, the image is 12 x 14 (height x width must agree)"),
        ({"size": [12, 14], "counts": b"0o"}, "field: a mask is damaged: run lengths end in the middle of a number"),
        ({"size": [12, 14], "counts": encoded(np.ones((90, 90)))["counts"]}, "field: a mask is damaged: it leaves"),
    ],
)
def test_damaged_masks(mask, message):
    with pytest.raises(InputError) as caught:
        instances_of_run_lengths([encoded(crossing_worms()[0]), mask], (12, 14), key="field")
    assert str(caught.value).startswith(message)


def test_objects_are_taken_in_the_order_of_the_indices():
    worms = crossing_worms()
    taken = instances_of(worms, (12, 14), ids=[5, 6, 7]).take(np.array([2, 0]))
    assert taken.ids.tolist() == [7, 5]
    assert (masks_of(taken) == worms[[2, 0]]).all()
    assert taken.boxes.tolist() == [[7, 6, 1, 1], [0, 5, 14, 3]]


def test_crowds_are_left_out():
    found = instances_of(crossing_worms(), (12, 14), crowd=[0, 1, 0])
    alone = without_crowd(found)
    assert alone.ids.tolist() == [1, 3]
    assert (masks_of(alone) == crossing_worms()[[0, 2]]).all()
    assert without_crowd(alone) is alone


@given(drawn=st.data())
def test_the_table_of_label_images_is_that_of_intersections(small_labels, drawn):
    truth, prediction = drawn.draw(small_labels)
    expected = intersections(truth, prediction)
    found = overlaps(instances_of_labels(truth), instances_of_labels(prediction))
    for name in ("truth_ids", "predicted_ids", "truth_areas", "predicted_areas", "truth", "predicted", "pixels"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
        assert getattr(found, name).dtype == np.int64, name
    for name in ("truth_foreground", "predicted_foreground", "common_foreground"):
        assert getattr(found, name) == getattr(expected, name), name


@given(MASKS, MASKS, st.randoms())
def test_the_table_of_overlapping_objects_is_counted_literally(truth, predicted, random):
    ids = random.sample(range(50), len(truth))
    table = overlaps(instances_of(truth, ids=ids), instances_of(predicted))
    order = np.argsort(ids)
    assert table.truth_ids.tolist() == sorted(ids)
    assert table.truth_areas.tolist() == [truth[i].sum() for i in order]
    assert table.predicted_areas.tolist() == [mask.sum() for mask in predicted]
    counts = np.array([[(truth[i] & mask).sum() for mask in predicted] for i in order]).reshape(
        len(truth), len(predicted)
    )
    assert list(zip(table.truth, table.predicted, strict=True)) == list(zip(*np.nonzero(counts), strict=True))
    assert table.pixels.tolist() == counts[counts > 0].tolist()
    one, other = (np.any([np.zeros((5, 6), bool), *masks], axis=0) for masks in (truth, predicted))
    assert table.truth_foreground == one.sum()
    assert table.predicted_foreground == other.sum()
    assert table.common_foreground == (one & other).sum()


def test_shapes_must_agree():
    with pytest.raises(InputError) as caught:
        overlaps(instances_of_labels(np.zeros((4, 5), int)), instances_of_labels(np.zeros((5, 4), int)), "field")
    assert str(caught.value) == (
        "field: truth is 4 x 5 but the prediction is 5 x 4 (both must be objects of the same pixels, height x width)"
    )


SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(-2, 4)), max_size=8)


@given(SPANS, SPANS)
def test_every_pair_of_spans_that_meet_is_found_once(first, second):
    starts, lengths = np.array(first, float).reshape(-1, 2).T
    other_starts, other_lengths = np.array(second, float).reshape(-1, 2).T
    one, other = meeting(starts, starts + lengths, other_starts, other_starts + other_lengths)
    pairs = list(zip(one.tolist(), other.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    true = {
        (i, j) for i, (a, n) in enumerate(first) for j, (b, m) in enumerate(second) if min(a + n, b + m) - max(a, b) > 0
    }
    assert true <= set(pairs)
    if all(n > 0 for _, n in first + second):
        assert true == set(pairs)


def test_the_smallest_object_is_on_top():
    worms = crossing_worms()
    flat = flat_labels(instances_of(worms, (12, 14)))
    assert flat.dtype == np.int32
    assert flat[6].tolist() == [1] * 6 + [2, 3, 2] + [1] * 5
    assert flat[0].tolist() == [0] * 6 + [2] * 3 + [0] * 5


@given(MASKS)
def test_flat_labels_are_painted_the_largest_first(masks):
    painted = np.zeros((5, 6), int)
    for index in sorted(range(len(masks)), key=lambda i: (-masks[i].sum(), i)):
        painted[masks[index]] = index + 1
    assert (flat_labels(instances_of(masks)) == painted).all()


def test_a_label_image_comes_back(crowded_field):
    found = instances_of_labels(crowded_field)
    assert (np.concatenate([[0], found.ids])[flat_labels(found)] == crowded_field).all()
