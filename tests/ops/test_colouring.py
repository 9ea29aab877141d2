"""Colours of cells: stable per label, different where cells touch."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import deltaE_ciede2000, rgb2lab

from cellkit.ops.colouring import PALETTE, colours_of, painted, preferences, touching
from cellkit.ops.drawing import PREDICTION_COLOUR, TRUTH_COLOUR

LARGEST = 2**31 - 1
SMALL_FIELDS = arrays(np.int32, (6, 7), elements=st.integers(0, 5))


def slow_touching(labels):
    pairs = set()
    height, width = labels.shape
    for y, x, dy, dx in product(range(height), range(width), (-1, 0, 1), (-1, 0, 1)):
        if 0 <= y + dy < height and 0 <= x + dx < width:
            one, other = sorted((int(labels[y, x]), int(labels[y + dy, x + dx])))
            if 0 < one < other:
                pairs.add((one, other))
    return pairs


def test_all_colours_can_be_told_apart():
    lab = rgb2lab(PALETTE / 255)
    differences = deltaE_ciede2000(lab[:, None], lab[None]) + 1000 * np.eye(len(lab))
    assert differences.min() > 26
    truth = rgb2lab(np.array([TRUTH_COLOUR]) / 255)
    assert deltaE_ciede2000(lab, truth).min() > 20
    assert deltaE_ciede2000(truth, rgb2lab(np.array([PREDICTION_COLOUR]) / 255)).min() > 26


def test_free_cells_keep_their_colour_whatever_else_is_there(crowded_field):
    one = np.zeros((9, 90), np.int32)
    one[3:6, 3:6], one[3:6, 30:33], one[3:6, 60:63] = 7, 100_000, LARGEST
    other = np.zeros_like(one)
    other[0, 0], other[5, 40] = LARGEST, 7
    first = dict(zip(*map(list, colours_of(one)), strict=True))
    second = dict(zip(*map(list, colours_of(other)), strict=True))
    assert list(first) == [7, 100_000, LARGEST]
    assert all((first[label] == second[label]).all() for label in (7, LARGEST))


def test_orders_are_permutations_and_the_colours_are_used_evenly():
    order = preferences(np.arange(1, 20_001))
    assert (np.sort(order, axis=1) == np.arange(len(PALETTE))).all()
    share = np.bincount(order[:, 0], minlength=len(PALETTE)) / len(order)
    assert share.min() > 0.09
    assert share.max() < 0.11
    assert (order[1:, 0] == order[:-1, 0]).mean() < 0.12  # neighbours in raster order do not share more than chance


@given(SMALL_FIELDS)
def test_pairs_are_those_of_a_slow_search(labels):
    assert set(map(tuple, touching(labels).tolist())) == slow_touching(labels)


@given(SMALL_FIELDS, st.integers(1, LARGEST - 5))
@settings(max_examples=40)
def test_touching_cells_differ(labels, offset):
    labels = np.where(labels > 0, labels + np.int32(offset), 0).astype(np.int32)
    cells, colours = colours_of(labels)
    table = {int(cell): tuple(colour) for cell, colour in zip(cells, colours, strict=True)}
    assert sorted(table) == sorted(set(labels.ravel().tolist()) - {0})
    assert all(table[one] != table[other] for one, other in slow_touching(labels))


def test_tiled_tissue_keeps_most_colours():
    labels = np.kron(np.arange(1, 901).reshape(30, 30), np.ones((4, 4), int)).astype(np.int32)
    cells, colours = colours_of(labels)
    table = {int(cell): tuple(colour) for cell, colour in zip(cells, colours, strict=True)}
    assert all(table[one] != table[other] for one, other in slow_touching(labels))
    kept = (colours == PALETTE[preferences(cells)[:, 0]]).all(axis=1)
    assert kept.mean() > 0.55  # each touches eight others: no tissue is denser


def test_more_touching_cells_than_colours_is_no_error():
    labels = np.zeros((3, 30), np.int32)
    labels[0] = np.arange(1, 31)
    labels[1] = 99
    cells, colours = colours_of(labels)
    assert (len(cells), colours.shape) == (31, (31, 3))


def test_painted_cells_are_on_black(two_touching_cells):
    picture = painted(two_touching_cells)
    assert (picture[two_touching_cells == 0] == 0).all()
    for label in (1, 2):
        assert len(np.unique(picture[two_touching_cells == label], axis=0)) == 1
    assert picture[32, 20].tolist() != picture[32, 60].tolist()


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (1, 9)])
def test_empty_field_has_no_colours(shape):
    cells, colours = colours_of(np.zeros(shape, np.int32))
    assert (len(cells), colours.shape) == (0, (0, 3))
    assert painted(np.zeros(shape, np.int32)).max() == 0
