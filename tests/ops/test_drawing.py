"""Pictures of cells."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.ops.colouring import colours_of
from cellkit.ops.drawing import (
    FILLED,
    GAP,
    PREDICTION_COLOUR,
    filled,
    fit,
    line_width,
    outlined,
    overlay,
    page,
    rims,
    shade,
    sheet,
    to_rgb,
)


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


def test_shade_clips_and_shows_two_channels_red_and_green():
    image = np.array([[[-1.0, 0.5]], [[0.25, 2.0]]], np.float32)
    assert shade(image).tolist() == [[[0, 63, 0], [127, 255, 0]]]
    assert shade(image[:1]).tolist() == [[[0, 0, 0], [127, 127, 127]]]


def test_outlines_have_the_colour_of_their_cell(two_touching_cells):
    picture = np.full((*two_touching_cells.shape, 3), 50, np.uint8)
    drawn = outlined(picture, two_touching_cells)
    _, colours = colours_of(two_touching_cells)
    rim = rims(two_touching_cells, 1)
    for label in (1, 2):
        assert (drawn[rim & (two_touching_cells == label)] == colours[label - 1]).all()
    assert (drawn[~rim] == 50).all()
    assert np.array_equal(
        outlined(picture, two_touching_cells, 1, PREDICTION_COLOUR), overlay(picture, two_touching_cells)
    )


def test_wider_rims_grow_inwards(two_touching_cells):
    thin, wide = rims(two_touching_cells, 1), rims(two_touching_cells, 3)
    assert (wide >= thin).all()
    assert wide.sum() > 2 * thin.sum()
    assert not wide[two_touching_cells == 0].any()
    assert np.flatnonzero(wide[32])[:3].tolist() == [12, 13, 14]
    assert not wide[32, 15]


def test_line_width_follows_the_picture_and_the_cells(two_touching_cells):
    assert line_width(two_touching_cells) == 1
    large = np.kron(two_touching_cells, np.ones((30, 30), np.int32))
    assert line_width(large) == 1 + 2400 // 800
    small = np.zeros((2400, 2400), np.int32)
    small[5:14, 5:14] = 1
    assert line_width(small) == 1  # an eighth of nine pixels
    assert line_width(np.zeros((900, 900), np.int32)) == 1


def test_fills_are_mixed_with_what_is_beneath(two_touching_cells):
    picture = np.full((*two_touching_cells.shape, 3), 100, np.uint8)
    drawn = filled(picture, two_touching_cells)
    cells, colours = colours_of(two_touching_cells)
    assert (drawn[two_touching_cells == 0] == 100).all()
    for label, colour in zip(cells, colours, strict=True):
        expected = 100 + (colour.astype(float) - 100) * FILLED
        assert np.abs(drawn[two_touching_cells == label] - expected).max() <= 0.51


def test_page_places_pictures_as_they_are():
    small = np.zeros((3, 4, 3), np.uint8)
    paper = page([small, small], columns=1, width=10)
    assert paper.shape == (2 * 3 + 3 * GAP, 10 + 2 * GAP, 3)
    assert (paper[GAP : GAP + 3, GAP + 4 :] == 255).all()
