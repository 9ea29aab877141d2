"""Runs that are put elsewhere are those of the masks that are put there pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.ops.labelling import resize_labels
from cellkit.ops.run_lengths import MaskRuns
from cellkit.ops.run_lengths_moved import joined, moved, resized

SHAPE = (9, 7)


@pytest.fixture
def masks():
    """Four masks that overlap: ragged ones, one that fills its window, an empty one."""
    some = np.random.default_rng(0).random((4, *SHAPE)) < 0.4
    some[2], some[3] = True, False
    return some


def runs_of(masks):
    """Literal: pixel by pixel down the columns."""
    rows = []
    for owner, mask in enumerate(masks):
        flat = np.concatenate([[False], mask.T.ravel(), [False]])
        starts = [i for i in range(1, len(flat)) if flat[i] and not flat[i - 1]]
        ends = [i for i in range(1, len(flat)) if flat[i - 1] and not flat[i]]
        rows += [(owner, start - 1, end - start) for start, end in zip(starts, ends, strict=True)]
    owners, starts, lengths = np.array(rows, np.int64).reshape(-1, 3).T
    return MaskRuns(owners=owners, starts=starts, lengths=lengths)


def assert_same(found, expected):
    for name in ("owners", "starts", "lengths"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("corner", [(0, 0), (3, 4), (11, 0), (5, 13), (-2, -3), (16, 17), (40, 2)])
def test_runs_of_a_window_are_those_of_the_image(masks, corner):
    whole = np.zeros((4, 20, 21), bool)
    for owner, y, x in np.argwhere(masks):
        if 0 <= y + corner[0] < 20 and 0 <= x + corner[1] < 21:
            whole[owner, y + corner[0], x + corner[1]] = True
    assert_same(moved(runs_of(masks), SHAPE[0], corner, (20, 21)), runs_of(whole))


@pytest.mark.parametrize("size", [(9, 7), (18, 14), (13, 30), (4, 3), (1, 1), (9, 2), (31, 7)])
def test_resized_masks_are_those_of_resized_labels(masks, size):
    expected = np.stack([resize_labels(mask.astype(np.int32), size) for mask in masks]).astype(bool)
    assert_same(resized(runs_of(masks), SHAPE, size), runs_of(expected))


def test_runs_that_touch_become_one_whatever_their_order():
    runs = MaskRuns(owners=np.array([1, 0, 0, 1]), starts=np.array([7, 5, 2, 3]), lengths=np.array([2, 1, 3, 3]))
    found = joined(runs)
    assert found.owners.tolist() == [0, 1, 1]
    assert found.starts.tolist() == [2, 3, 7]
    assert found.lengths.tolist() == [4, 3, 2]


def test_no_runs_stay_none():
    nothing = np.zeros(0, np.int64)
    runs = MaskRuns(owners=nothing, starts=nothing, lengths=nothing)
    assert len(resized(runs, (4, 4), (8, 8)).starts) == len(moved(runs, 4, (1, 1), (8, 8)).starts) == 0
