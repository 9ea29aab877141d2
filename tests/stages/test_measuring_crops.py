"""Cells cut out of their images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellkit.data.truth import Truth
from cellkit.io.images import Image
from cellkit.stages.measuring import Pair, measure
from cellkit.stages.measuring_crops import crops


@dataclass
class Held:
    """Labels in memory."""

    truth: Truth
    name: str = "labels.tif"

    def read(self, shape=None):
        return self.truth


def cut(labels, pixels, **settings):
    image = Image(key="a", pixels=pixels, source="a.tif", axes="CYX")
    (measured,) = measure([Pair(key="a", labels=Held(Truth(labels=labels)), image=image)])
    return list(crops(measured, **settings))


def numbered(labels):
    """Two channels in which every pixel is another."""
    return np.arange(1, 2 * labels.size + 1, dtype=np.uint16).reshape(2, *labels.shape)


def test_a_box_holds_the_cell_and_what_is_around_it(two_touching_cells):
    pixels = numbered(two_touching_cells)
    for crop in cut(two_touching_cells, pixels):
        rows, columns = np.nonzero(two_touching_cells == crop.label)
        expected = pixels[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert crop.pixels.dtype == np.uint16
        assert np.array_equal(crop.pixels, expected)


def test_blank_leaves_the_pixels_of_the_cell_alone(two_touching_cells):
    pixels = numbered(two_touching_cells)
    for crop in cut(two_touching_cells, pixels, blank=True):
        kept = crop.pixels[crop.pixels > 0]
        assert np.array_equal(np.sort(kept), np.sort(pixels[:, two_touching_cells == crop.label].ravel()))
        assert crop.pixels.dtype == np.uint16


def test_a_square_is_about_the_box_and_black_beyond_the_image(cell_on_border):
    pixels = numbered(cell_on_border)
    framed = np.pad(pixels, ((0, 0), (40, 40), (40, 40)))
    for crop in cut(cell_on_border, pixels, size=30):
        rows, columns = np.nonzero(cell_on_border == crop.label)
        y, x = ((part.min() + part.max() + 1 - 30) // 2 + 40 for part in (rows, columns))
        assert np.array_equal(crop.pixels, framed[:, y : y + 30, x : x + 30])


def test_a_cell_larger_than_the_square_is_cut(two_touching_cells):
    assert [crop.pixels.shape for crop in cut(two_touching_cells, numbered(two_touching_cells), size=5)] == [
        (2, 5, 5)
    ] * 2


def test_no_cell_no_crop(empty_field):
    assert cut(empty_field, numbered(empty_field)) == []
