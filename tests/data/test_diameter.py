import math

import numpy as np
import pytest

from cellkit.data.diameter import centres_of, diameter_of


def test_diameter_is_the_median_over_objects(crowded_field):
    areas = np.unique(crowded_field[crowded_field > 0], return_counts=True)[1]
    assert diameter_of(crowded_field) == pytest.approx(np.median([2 * math.sqrt(a / math.pi) for a in areas]))


def test_no_cell_has_no_diameter(empty_field):
    assert diameter_of(empty_field) is None
    assert centres_of(empty_field).shape == (0, 2)


def test_huge_ids_give_the_same(crowded_field):
    huge = np.where(crowded_field > 0, crowded_field + 2_000_000_000, 0)
    assert diameter_of(huge) == diameter_of(crowded_field)
    np.testing.assert_array_equal(centres_of(huge), centres_of(crowded_field))


def test_centres_are_centres_of_mass(two_touching_cells):
    expected = [np.argwhere(two_touching_cells == label).mean(0) for label in (1, 2)]
    np.testing.assert_allclose(centres_of(two_touching_cells), expected, rtol=1e-6)


def test_pixels_of_which_nothing_is_known_are_no_cell(two_touching_cells):
    sparse = np.where(two_touching_cells == 1, -1, two_touching_cells)
    only = np.where(two_touching_cells == 2, 2, 0)
    assert diameter_of(sparse) == diameter_of(only)
    np.testing.assert_array_equal(centres_of(sparse), centres_of(only))
    assert diameter_of(np.full((4, 5), -1)) is None
    assert centres_of(np.full((4, 5), -1)).shape == (0, 2)
