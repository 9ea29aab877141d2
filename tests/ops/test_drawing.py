"""Pictures of cells."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.ops.drawing import GAP, PREDICTION_COLOUR, fit, overlay, sheet, to_rgb


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_becomes_rgb(channels):
    image = np.random.default_rng(0).integers(0, 4000, (channels, 20, 30), np.uint16)
    picture = to_rgb(image)
    assert (picture.shape, picture.dtype) == ((20, 30, 3), np.uint8)
    assert picture.max() == 255


def test_constant_image_is_no_division_by_zero():
    assert to_rgb(np.full((1, 4, 4), 7, np.uint8)).max() == 0


def test_outlines_are_drawn_on_the_inner_border_alone(two_touching_cells):
    picture = np.zeros((*two_touching_cells.shape, 3), np.uint8)
    drawn = overlay(picture, two_touching_cells)
    coloured = (drawn == PREDICTION_COLOUR).all(2)
    assert picture.max() == 0
    assert coloured[two_touching_cells == 0].sum() == 0
    assert coloured[32, 12]  # the left end of the first cell
    assert not coloured[32, 26]  # its middle
    left = np.flatnonzero(two_touching_cells[32] == 1).max()
    assert coloured[32, left]  # where the two touch
    assert coloured[32, left + 1]


def test_picture_keeps_its_shape_when_resized():
    assert fit(np.zeros((50, 100, 3), np.uint8), 40).shape == (20, 40, 3)
    assert fit(np.zeros((1, 300, 3), np.uint8), 30).shape == (1, 30, 3)


def test_sheet_places_pictures_in_rows_without_gaps():
    wide, tall = np.zeros((10, 20, 3), np.uint8), np.full((20, 10, 3), 9, np.uint8)
    page = sheet([wide, wide, tall], columns=2, side=20)
    assert page.shape == (10 + 20 + 3 * GAP, 2 * 20 + 3 * GAP, 3)
    assert page[GAP + 9, GAP + 19].tolist() == [0, 0, 0]
    assert page[10 + 2 * GAP, GAP].tolist() == [9, 9, 9]
