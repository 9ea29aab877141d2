"""Places and shapes of cells against scikit-image's regionprops, one cell after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import regionprops_table

from cellkit.ops.measuring import cells_of, centroids, eccentricities, equivalent_diameters

PROPERTIES = ("label", "area", "centroid", "bbox", "eccentricity", "equivalent_diameter_area")
SMALL = arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 0, 1, 2, 7]))


def check(labels):
    cells = cells_of(labels)
    expected = regionprops_table(labels, properties=PROPERTIES)
    assert np.array_equal(cells.ids, expected["label"])
    assert np.array_equal(cells.areas, expected["area"])
    np.testing.assert_allclose(centroids(cells).T, [expected["centroid-0"], expected["centroid-1"]], atol=1e-9)
    assert np.array_equal(cells.boxes.T, [expected[f"bbox-{side}"] for side in range(4)])
    np.testing.assert_allclose(eccentricities(cells) ** 2, expected["eccentricity"] ** 2, atol=1e-9)
    np.testing.assert_allclose(equivalent_diameters(cells), expected["equivalent_diameter_area"])


@pytest.mark.parametrize("name", ["two_touching_cells", "cell_on_border", "crowded_field"])
def test_named_situations_are_those_of_regionprops(name, request):
    check(request.getfixturevalue(name))


@given(SMALL.filter(np.any))
def test_any_labels_are_those_of_regionprops(labels):
    check(labels)


def test_far_from_the_corner_nothing_is_lost():
    labels = np.zeros((3, 60_000), np.int32)
    labels[:, :40] = 5
    labels[:, -40:] = 9
    near, far = eccentricities(cells_of(labels))
    assert near == far
    assert near == pytest.approx(np.sqrt(1 - (3**2 - 1) / (40**2 - 1)))  # a rectangle of pixels


def test_an_empty_field_has_no_cells(empty_field):
    cells = cells_of(empty_field)
    assert len(cells) == 0
    assert centroids(cells).shape == (0, 2)
    assert eccentricities(cells).shape == equivalent_diameters(cells).shape == cells.touches_border.shape == (0,)


def test_a_cell_touches_the_border_by_a_pixel_in_it():
    labels = np.zeros((7, 9), np.int32)
    labels[0, 4], labels[4, 0], labels[6, 4], labels[4, 8], labels[1:6, 1:8][2, 3] = 1, 2, 3, 4, 5
    assert cells_of(labels).touches_border.tolist() == [True, True, True, True, False]
