"""Averaging down and enlarging."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.ops import drawing_scale
from cellkit.ops.drawing_scale import averaged, bands, boundaries, enlarged, nearest, picture_shape
from cellkit.ops.labelling import resize_labels


def floats(window):
    return window.astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((1000, 800), None, (1000, 800)),
        ((256, 256), None, (1024, 1024)),
        ((520, 696), None, (1040, 1392)),
        ((800, 10), None, (800, 10)),
        ((20_000, 10_000), None, (4096, 2048)),
        ((300, 600), 512, (256, 512)),
        ((300, 600), 4096, (2048, 4096)),
        ((1, 9000), 90, (1, 90)),
    ],
)
def test_shapes_of_pictures(shape, size, expected):
    assert picture_shape(shape, size) == expected


def test_whole_factors_are_means_of_blocks():
    image = np.random.default_rng(0).integers(0, 65_535, (2, 24, 36), np.uint16)
    blocks = image.reshape(2, 6, 4, 12, 3).mean(axis=(2, 4))
    assert averaged(image, (6, 12), floats) == pytest.approx(blocks, rel=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30)
def test_any_factor_is_a_mean_of_what_lies_beneath(height, width, rows, columns):
    image = np.random.default_rng(height * 41 + width).random((1, height, width))
    result = averaged(image, (rows, columns), floats)
    down, across = boundaries(height, min(rows, height)), boundaries(width, min(columns, width))
    assert result.shape == (1, len(down) - 1, len(across) - 1)
    for (i, j), value in np.ndenumerate(result[0]):
        part = image[0, down[i] : down[i + 1], across[j] : across[j + 1]]
        assert value == pytest.approx(part.mean(), rel=1e-4)


def test_large_images_are_read_in_bands(monkeypatch):
    image = np.random.default_rng(1).random((2, 50, 30))
    whole = averaged(image, (10, 7), floats)
    monkeypatch.setattr(drawing_scale, "BAND_PIXELS", 2 * 30 * 12)
    heights = []

    def noted(window):
        heights.append(window.shape[1])
        return floats(window)

    assert np.array_equal(averaged(image, (10, 7), noted), whole)
    assert max(heights) <= 12
    assert sum(heights) == 50


def test_bands_cover_all_rows_even_where_one_is_too_high():
    assert list(bands(np.array([0, 5, 10, 30, 31]), 10)) == [(0, 2), (2, 3), (3, 4)]


def test_enlarged_picture_has_the_size_and_the_colours():
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, 3:] = (200, 100, 50)
    large = enlarged(picture, (40, 60))
    assert large.shape == (40, 60, 3)
    assert large[20, 55].tolist() == [200, 100, 50]
    assert large[20, 5].tolist() == [0, 0, 0]
    assert enlarged(picture, (4, 6)) is picture


def test_nearest_is_that_of_labels():
    labels = np.arange(70, dtype=np.int32).reshape(10, 7)
    chosen = labels[nearest(4, 10)[:, None], nearest(3, 7)]
    assert np.array_equal(chosen, resize_labels(labels, (4, 3)))
