"""Runs: every pixel once, pieces as an independent labelling finds them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from cellkit.ops.runs import Neighbours, paint, runs_of, spread

ANY_LABELS = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))
CORNERS, SIDES = np.ones((3, 3), int), ndimage.generate_binary_structure(2, 1)


@given(ANY_LABELS)
def test_runs_paint_the_image_again(labels):
    runs = runs_of(labels)
    assert np.array_equal(paint(runs, runs.values), labels)
    assert np.array_equal(runs.pixels(), np.arange(labels.size))
    assert np.array_equal(labels.ravel()[runs.starts], runs.values)


def test_runs_end_with_their_row():
    runs = runs_of(np.ones((3, 4), np.int32))
    assert runs.lengths.tolist() == [4, 4, 4]
    assert runs.rows.tolist() == [0, 1, 2]
    assert runs.columns.tolist() == [0, 0, 0]


def test_image_without_pixels_has_no_runs():
    for shape in ((0, 5), (5, 0)):
        runs = runs_of(np.zeros(shape, np.int32))
        assert len(runs) == 0
        assert Neighbours(runs).pieces(runs.values)[0] == 0
        assert paint(runs, runs.values).shape == shape


def test_spread_joins_ranges():
    assert spread(np.array([5, 0, 9]), np.array([2, 3, 0])).tolist() == [5, 6, 0, 1, 2]


@given(ANY_LABELS)
def test_pieces_are_those_of_an_independent_labelling(labels):
    runs = runs_of(labels)
    count, piece = Neighbours(runs).pieces(runs.values)
    expected = np.zeros(labels.shape, int)
    for value in range(4):
        found, number = ndimage.label(labels == value, SIDES if value == 0 else CORNERS)
        expected += np.where(number > 0, number + expected.max(), 0) * (found > 0)
    pairs = np.unique(np.stack([paint(runs, piece).ravel(), expected.ravel()]), axis=1)
    assert count == expected.max() == pairs.shape[1]


@given(ANY_LABELS, st.integers(0, 3))
def test_pieces_follow_changed_values(labels, removed):
    runs = runs_of(labels)
    values = np.where(runs.values == removed, 0, runs.values)
    fresh = runs_of(paint(runs, values))
    assert Neighbours(runs).pieces(values)[0] == Neighbours(fresh).pieces(fresh.values)[0]
