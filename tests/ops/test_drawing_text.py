"""Letters and captions."""

from __future__ import annotations

import numpy as np

from cellkit.ops.drawing_text import PAPER, Entry, caption, caption_height, fitted, letters, swatch


def test_letters_differ_and_have_one_height():
    one, other = letters("20", 20), letters("nuclei", 20)
    assert one.shape[0] == other.shape[0]
    assert one.shape[1] < other.shape[1]
    assert (one.min(), one.max()) == (0, 1)
    assert letters("", 20).max() == 0


def test_micro_sign_is_a_u_with_a_long_stroke():
    u, micro = letters("u", 40), letters("µ", 40)
    assert u.shape == micro.shape
    below = np.flatnonzero(u.any(axis=1)).max() + 1
    assert micro[below:].any()
    assert (micro >= u).all()


def test_letters_the_font_lacks_are_never_boxes():
    assert np.array_equal(letters("Zellkern-ä", 14), letters("Zellkern-a", 14))
    assert np.array_equal(letters("細", 14), letters("?", 14))
    assert np.array_equal(letters("a\nb\0", 14), letters("a?b?", 14))


def test_long_names_lose_their_middle():
    name = "plate1_well_A01_field_03_channel_DAPI"
    short = fitted(name, 14, 120)
    assert letters(short, 14).shape[1] <= 121
    assert "..." in short
    assert (short[:3], short[-3:]) == (name[:3], name[-3:])
    assert fitted(name, 14, 1000) == name
    assert fitted(name, 14, 2) == ""


def test_caption_has_its_size_and_its_swatches():
    green = (40, 220, 90)
    strip = caption(300, [[Entry(text="image 1")], [Entry(text="true 7", glyph=swatch(green, 14))]], 14)
    assert strip.shape == (caption_height(2, 14), 300, 3)
    assert (strip == green).all(axis=2).sum() == 10 * 10
    assert tuple(strip[-1, -1]) == PAPER
    assert strip[:14].min() < 100  # ink
    narrow = caption(5, [[Entry(text="true 7", glyph=swatch(green, 14))]], 14)
    assert (narrow == 255).all()
