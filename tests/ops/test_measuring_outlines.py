"""Perimeters and convex hulls against scikit-image's regionprops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import regionprops_table

from cellkit.ops import measuring_outlines
from cellkit.ops.measuring import cells_of
from cellkit.ops.measuring_outlines import convex_areas, perimeters

SMALL = arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 0, 1, 1, 4]))


def check(labels):
    cells = cells_of(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-image warns of hulls that it cannot make, and gives 0
        expected = regionprops_table(labels, properties=("perimeter", "area_convex"))
    np.testing.assert_allclose(perimeters(labels, cells), expected["perimeter"], atol=1e-9)
    assert np.array_equal(convex_areas(cells), expected["area_convex"])


@pytest.mark.parametrize("name", ["two_touching_cells", "cell_on_border", "crowded_field"])
def test_named_situations_are_those_of_regionprops(name, request):
    check(request.getfixturevalue(name))


@given(SMALL.filter(np.any))
def test_any_labels_are_those_of_regionprops(labels):
    check(labels)


def test_real_cells_are_those_of_regionprops(data):
    from cellkit.data.layouts import find_truth

    references = list(find_truth(str(data / "dsb2018")).values())
    for reference in references[:: max(1, len(references) // 5)]:
        check(reference.read().labels)


def test_bands_of_rows_change_nothing(monkeypatch, crowded_field):
    cells = cells_of(crowded_field)
    whole = perimeters(crowded_field, cells)
    for rows in (1, 2, 5):
        monkeypatch.setattr(measuring_outlines, "BAND_PIXELS", rows * crowded_field.shape[1])
        np.testing.assert_allclose(perimeters(crowded_field, cells), whole)


def test_the_hull_of_pieces_spans_the_rows_between_them():
    labels = np.zeros((9, 5), np.int32)
    labels[0, 1:4] = labels[8, 1:4] = 3
    assert convex_areas(cells_of(labels)).tolist() == [27]


def test_an_empty_field_has_no_outlines(empty_field):
    cells = cells_of(empty_field)
    assert perimeters(empty_field, cells).shape == convex_areas(cells).shape == (0,)
