"""Polygons filled by the centres of pixels: against ray casting, scikit-image and the labels themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.draw import polygon2mask

from cellkit.ops.contours import outlines
from cellkit.ops.contours_filling import filled, runs_of_pixels
from cellkit.ops.run_lengths import decode, encode_runs

SMALL = arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 0, 1, 1, 2, 70]))
SQUARE = np.array([[1, 1], [4, 1], [4, 3], [1, 3]])


def mask_of(rings, shape):
    owner, pixels = filled(rings, [0] * len(rings), shape)
    assert not owner.any()
    mask = np.zeros(shape, bool)
    mask.flat[pixels] = True
    assert mask.sum() == pixels.size
    return mask


@settings(max_examples=150, deadline=None)
@given(SMALL)
def test_outlines_along_the_edges_of_pixels_give_the_same_pixels(labels):
    rings, owners = [], []
    for label, pieces in outlines(labels).items():
        for piece in pieces:
            rings += [piece.outer, *piece.holes]
            owners += [label] * (1 + len(piece.holes))
    owner, pixels = filled(rings, owners, labels.shape)
    found = np.zeros_like(labels)
    found.flat[pixels] = owner
    np.testing.assert_array_equal(found, labels)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-64, 1300), st.integers(-64, 1300)), min_size=3, max_size=9))
def test_hand_drawn_polygons_take_the_centres_inside(corners):
    ring = np.array(corners) / 64 + 1 / 997  # no centre lies on an edge, where rules may differ
    found = mask_of([ring], (17, 19))
    y, x = (axis + 0.5 for axis in np.mgrid[:17, :19])
    inside = np.zeros((17, 19), bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):  # ray casting, pixel by pixel
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    np.testing.assert_array_equal(found, inside)


def test_a_convex_polygon_is_that_of_scikit_image():
    ring = np.array([[2.3, 1.2], [17.1, 4.7], [13.4, 15.9], [4.2, 12.6]])
    np.testing.assert_array_equal(mask_of([ring], (18, 20)), polygon2mask((18, 20), ring[:, ::-1] - 0.5))


def test_closed_rings_are_the_same_as_open_ones():
    closed = np.concatenate([SQUARE, SQUARE[:1]])
    np.testing.assert_array_equal(mask_of([closed], (5, 6)), mask_of([SQUARE], (5, 6)))


def test_neighbours_share_no_pixel_and_leave_none_out():
    line = [[3.1, 0], [6.7, 8]]
    left, right = [[0, 0], *line, [0, 8]], [[12, 0], [12, 8], *line[::-1]]
    owner, pixels = filled([np.array(left), np.array(right)], [4, 2], (8, 12))
    assert sorted(pixels.tolist()) == list(range(96))
    assert set(owner.tolist()) == {2, 4}


def test_what_lies_beyond_the_image_is_cut():
    mask = mask_of([SQUARE * 1000.0 - 1500], (5, 6))
    assert mask.all()
    assert not mask_of([SQUARE + 100], (5, 6)).any()
    assert not mask_of([SQUARE - 100], (5, 6)).any()


@pytest.mark.parametrize("rings", [[], [np.zeros((0, 2))], [np.array([[1, 1]])], [np.array([[1, 1], [4, 4]])]])
def test_rings_that_enclose_nothing(rings):
    assert not mask_of(rings, (5, 6)).any()


def test_overlapping_objects_become_masks_of_their_own():
    rings = [SQUARE, SQUARE + 1]
    owner, pixels = filled(rings, [0, 1], (6, 7))
    masks = encode_runs(runs_of_pixels(owner, pixels, (6, 7)), 2, (6, 7))
    for ring, mask in zip(rings, masks, strict=True):
        np.testing.assert_array_equal(decode(mask), mask_of([ring], (6, 7)))
