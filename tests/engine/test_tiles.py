"""Tiles cover the axis, share their overlap and blend to one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellkit.engine.tiles import divide, rounded_up


def test_rounded_up():
    assert [rounded_up(n, 8) for n in (1, 8, 9)] == [8, 8, 16]


def test_a_short_axis_is_one_tile():
    axis = divide(64, 64, 16, 8)
    assert (axis.size, axis.starts) == (64, (0,))
    assert (axis.weights[0] == 1).all()


@given(st.integers(1, 60), st.integers(0, 6), st.integers(1, 20), st.sampled_from([1, 8, 16]))
def test_tiles_cover_overlap_and_blend_to_one(strides, overlap_strides, more, stride):
    length, overlap = strides * stride, overlap_strides * stride
    limit = overlap + more * stride
    axis = divide(length, limit, overlap, stride)
    assert axis.size <= max(limit, length if length <= limit else 0)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.size == length
    assert all(start % stride == 0 for start in axis.starts)
    assert all(b - a <= axis.size - overlap for a, b in zip(axis.starts, axis.starts[1:], strict=False))
    total = np.zeros(length)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        total[start : start + axis.size] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_tiles_are_as_few_and_as_small_as_the_limit_allows():
    axis = divide(1040, 1024, 64, 8)
    assert (axis.size, axis.starts) == (552, (0, 488))


def test_the_outer_quarter_of_the_overlap_is_context_only():
    first, last = divide(160, 112, 64, 8).weights
    assert (first[-16:] == 0).all()
    assert (last[:16] == 0).all()
    assert (first[:48] == 1).all()
    assert np.abs(np.diff(first)).max() < 0.06  # smooth


@pytest.mark.parametrize("limit", [65, 71])
def test_a_limit_that_is_no_multiple_is_rounded_down(limit):
    assert divide(160, limit, 16, 8).size <= 64
