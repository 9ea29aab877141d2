"""Label operations: invariances, an independent oracle, and named situations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from cellkit.ops import labelling

ANY_LABELS = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))
RENUMBERED = np.array([0, 70, 5, 12], np.int32)

OPERATIONS = {
    "fill_holes": labelling.fill_holes,
    "clear_border": labelling.clear_border,
    "remove_small": lambda labels: labelling.remove_small(labels, 4),
    "outlines": labelling.outlines,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@given(labels=ANY_LABELS)
def test_transposed_image_gives_the_transposed_result(operation, labels):
    assert np.array_equal(operation(labels.T), operation(labels).T)


@pytest.mark.parametrize("operation", [*OPERATIONS.values(), labelling.keep_largest_pieces])
@given(labels=ANY_LABELS)
def test_numbers_of_cells_do_not_matter(operation, labels):
    changed = operation(RENUMBERED[labels])
    expected = operation(labels)
    assert np.array_equal(changed, expected if expected.dtype == bool else RENUMBERED[expected])


@given(ANY_LABELS)
def test_raster_order_keeps_the_cells_and_forgets_their_numbers(labels):
    ordered, former = labelling.relabel_in_raster_order(labels)
    assert np.array_equal(np.concatenate([[0], former])[ordered], labels)
    assert np.array_equal(labelling.relabel_in_raster_order(RENUMBERED[labels])[0], ordered)
    seen = ordered[ordered > 0]
    firsts = seen[np.sort(np.unique(seen, return_index=True)[1])]
    assert firsts.tolist() == list(range(1, len(firsts) + 1))


@given(ANY_LABELS)
def test_filled_holes_of_one_cell_are_those_of_scipy(labels):
    cell = (labels > 0).astype(np.int32)
    assert np.array_equal(labelling.fill_holes(cell), ndimage.binary_fill_holes(cell))


@given(ANY_LABELS)
def test_areas_and_boxes_are_those_of_scipy(labels):
    boxes = labelling.bounding_boxes(labels)
    for box, found in zip(boxes, ndimage.find_objects(labels), strict=True):
        expected = [0, 0, 0, 0] if found is None else [*(s.start for s in found), *(s.stop for s in found)]
        assert box.tolist() == expected
    assert np.array_equal(labelling.areas(labels), np.bincount(labels.ravel())[1:])


def test_hole_between_two_cells_stays():
    labels = np.zeros((7, 8), np.int32)
    labels[1:6, 1:4], labels[1:6, 4:7] = 1, 2
    labels[3, 2] = 0  # inside cell 1
    labels[2, 3:5] = 0  # between both
    filled = labelling.fill_holes(labels)
    assert filled[3, 2] == 1
    assert not filled[2, 3:5].any()


def test_hole_open_to_the_edge_stays():
    labels = np.ones((4, 4), np.int32)
    labels[0:2, 1] = 0
    assert np.array_equal(labelling.fill_holes(labels), labels)


def test_cell_inside_a_ring_is_not_swallowed():
    labels = np.ones((9, 9), np.int32)
    labels[2:7, 2:7] = 0
    labels[4, 4] = 2
    assert np.array_equal(labelling.fill_holes(labels), labels)


def test_only_the_largest_piece_stays():
    labels = np.zeros((6, 9), np.int32)
    labels[1:4, 1:4] = 5
    labels[4, 4] = 5  # joined by its corner
    labels[1, 6:8] = 5
    labels[0, 0] = 7
    kept = labelling.keep_largest_pieces(labels)
    labels[1, 6:8] = 0
    assert np.array_equal(kept, labels)


def test_of_equal_pieces_the_first_stays():
    labels = np.array([[3, 0, 3]], np.int32)
    assert labelling.keep_largest_pieces(labels).tolist() == [[3, 0, 0]]


def test_cell_at_the_edge_goes_whole(cell_on_border):
    assert np.array_equal(labelling.clear_border(cell_on_border), np.where(cell_on_border == 2, 2, 0))


def test_outline_lies_inside_and_between_touching_cells(two_touching_cells):
    edge = labelling.outlines(two_touching_cells)
    assert not edge[two_touching_cells == 0].any()
    border = two_touching_cells[32, 12:64]
    left = 12 + np.flatnonzero(border == 1)[-1]
    assert edge[32, left]
    assert edge[32, left + 1]
    assert not edge[32, 26]


def test_resized_labels_are_nearest_and_hold_no_new_numbers():
    labels = np.array([[1, 0], [0, 9]], np.int32)
    assert np.array_equal(labelling.resize_labels(labels, (4, 6)), np.repeat(np.repeat(labels, 2, 0), 3, 1))
    assert np.array_equal(labelling.resize_labels(labelling.resize_labels(labels, (6, 4)), (2, 2)), labels)
    assert labelling.resize_labels(labels, (1, 1)).shape == (1, 1)
    assert labelling.resize_labels(labels, (2, 2)) is labels
