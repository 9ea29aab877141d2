"""Outlines along the edges of pixels: filled by scikit-image, they are the same pixels again."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.segmentation import find_boundaries

from cellkit.cli.showing import SAMPLES
from cellkit.ops.contours import inner_boundary, outlines

SMALL = arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 0, 1, 1, 2, 70]))


def filled(ring, shape):
    """Pixels whose centre is inside of a ring; scikit-image has whole numbers at the centres."""
    return polygon2mask(shape, ring[:, ::-1] - 0.5)


def drawn(found, shape):
    labels = np.zeros(shape, np.int32)
    for label, pieces in found.items():
        for piece in pieces:
            mask = filled(piece.outer, shape)
            for hole in piece.holes:
                mask &= ~filled(hole, shape)
            assert mask.sum() == piece.area
            labels[mask] = label
    return labels


def rings_of(found):
    return [ring for pieces in found.values() for piece in pieces for ring in (piece.outer, *piece.holes)]


@settings(max_examples=150, deadline=None)
@given(SMALL)
def test_filled_outlines_are_the_labels(labels):
    found = outlines(labels)
    np.testing.assert_array_equal(drawn(found, labels.shape), labels)
    for label, pieces in found.items():
        assert len(pieces) == ndimage.label(labels == label)[1]
        assert [piece.area for piece in pieces] == sorted((piece.area for piece in pieces), reverse=True)


@settings(max_examples=150, deadline=None)
@given(SMALL)
def test_rings_turn_at_every_corner_and_pass_none_twice(labels):
    for ring in rings_of(outlines(labels)):
        assert len({tuple(corner) for corner in ring.tolist()}) == len(ring)
        steps = np.roll(ring, -1, axis=0) - ring
        assert ((steps == 0).sum(axis=1) == 1).all()  # along rows or columns
        assert ((steps[:, 0] == 0) != (np.roll(steps, 1, axis=0)[:, 0] == 0)).all()


def test_one_pixel():
    (piece,) = outlines(np.pad([[7]], ((2, 0), (1, 0))))[7]
    assert {tuple(corner) for corner in piece.outer.tolist()} == {(1, 2), (2, 2), (2, 3), (1, 3)}
    x, y = piece.outer.T
    assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() == 2
    assert (piece.holes, piece.area) == ((), 1)


def test_a_ring_closed_by_a_corner_alone_has_a_hole_that_touches_its_outline():
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
    (piece,) = outlines(labels)[1]
    assert len(piece.holes) == 1
    assert piece.area == 7
    shared = {tuple(c) for c in piece.outer.tolist()} & {tuple(c) for c in piece.holes[0].tolist()}
    assert shared == {(2, 2)}


def test_pixels_that_touch_by_a_corner_are_two_pieces():
    assert [piece.area for piece in outlines(np.eye(2, dtype=int))[1]] == [1, 1]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (4, 4)])
def test_nothing_has_no_outlines(shape):
    assert outlines(np.zeros(shape, np.int32)) == {}


@pytest.mark.parametrize("name", ["2cfa61bef6542dd3", "2dd3356f2dcf470a"])
def test_nuclei(name):
    labels = iio.imread(SAMPLES / "labels" / f"{name}.png").astype(np.int32)
    found = outlines(labels)
    assert list(found) == np.unique(labels)[1:].tolist()
    np.testing.assert_array_equal(drawn(found, labels.shape), labels)


def test_inner_boundary_is_that_of_scikit_image():
    labels = iio.imread(SAMPLES / "labels" / "2cfa61bef6542dd3.png").astype(np.int32)
    around = np.pad(labels, 1)  # scikit-image does not take the frame for a boundary
    expected = np.where(find_boundaries(around, mode="inner"), around, 0)[1:-1, 1:-1]
    np.testing.assert_array_equal(inner_boundary(labels), expected)
