"""Scale bars: round lengths, drawn to scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellkit.ops.scale_bar import WIDEST, bar_for, draw_scale_bar


def bar_in(picture):
    """Length of the longest white row in pixels."""
    white = (picture == 255).all(axis=2)
    return max(int(row.sum()) for row in white)


@pytest.mark.parametrize(
    ("width", "pixel_size", "text", "pixels"),
    [
        (1000, 0.25, "50 µm", 200),
        (1000, 0.5, "100 µm", 200),
        (1000, 0.004, "1 µm", 250),
        (1000, 0.0007, "100 nm", 143),
        (4096, 5.0, "5 mm", 1000),
        (1000, 4.0, "1 mm", 250),
        (800, 0.325, "50 µm", 154),
    ],
)
def test_lengths_are_round_and_to_scale(width, pixel_size, text, pixels):
    bar = bar_for(width, pixel_size)
    assert (bar.text, bar.pixels) == (text, pixels)
    assert bar.pixels == round(bar.length / pixel_size)


@given(st.integers(20, 4096), st.floats(1e-4, 1e3))
def test_bar_is_a_tenth_to_a_quarter_of_the_width(width, pixel_size):
    bar = bar_for(width, pixel_size)
    assert width * 0.1 - 1 <= bar.pixels <= width * WIDEST + 1
    digits = f"{bar.length:.3e}".split("e")[0]
    assert digits in ("1.000", "2.000", "5.000")


@pytest.mark.parametrize("pixel_size", [0.0, -1.0, float("nan"), float("inf")])
def test_no_bar_without_a_real_size(pixel_size):
    assert bar_for(500, pixel_size) is None
    assert (draw_scale_bar(np.full((400, 500, 3), 9, np.uint8), pixel_size) == 9).all()


@pytest.mark.parametrize("shape", [(600, 800), (800, 800), (1200, 4096), (160, 200)])
def test_drawn_bar_has_the_length_it_tells(shape):
    pixel_size = 0.5
    drawn = draw_scale_bar(np.zeros((*shape, 3), np.uint8), pixel_size)
    assert bar_in(drawn) == bar_for(shape[1], pixel_size).pixels
    bright = np.flatnonzero((drawn == 255).all(axis=2).any(axis=1))
    assert bright.min() > shape[0] / 2  # in the lower half
    assert np.flatnonzero((drawn == 255).any(axis=(0, 2))).min() > shape[1] / 2


def test_bar_is_rimmed_on_white_and_the_picture_stays():
    white = np.full((600, 800, 3), 255, np.uint8)
    drawn = draw_scale_bar(white, 0.5)
    assert (white == 255).all()
    assert (drawn == 0).all(axis=2).sum() > 200
    assert (drawn[:300] == 255).all()


def test_small_picture_gets_none():
    picture = np.full((20, 30, 3), 7, np.uint8)
    assert (draw_scale_bar(picture, 0.5) == 7).all()
