"""Pictures of agreement: colours where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.errors import InputError
from cellkit.ops.labelling import outlines
from cellkit.reports import draw_agreement, draw_example
from cellkit.reports import gallery as g


def squares(*corners: tuple[int, int], size: int = 20, shape: tuple[int, int] = (512, 512)) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    for number, (y, x) in enumerate(corners, 1):
        labels[y : y + size, x : x + size] = number
    return labels


def pixel(picture: np.ndarray, y: int, x: int) -> tuple[int, ...]:
    return tuple(picture[y, x].tolist())


def mixed(colour: tuple[int, int, int], below: tuple[int, int, int] = g.BACKGROUND) -> tuple[int, ...]:
    return tuple(int((1 - g.FILL) * low + g.FILL * high) for low, high in zip(below, colour, strict=True))


def test_matched_cells_are_outlined_and_the_others_filled():
    picture = draw_agreement(None, squares((10, 10), (100, 100)), squares((10, 12), (200, 200)))
    assert picture.shape == (512, 512, 3)
    assert pixel(picture, 20, 20) == g.BACKGROUND  # inside both of the matched pair
    assert pixel(picture, 15, 10) == g.TRUE_OUTLINE
    assert pixel(picture, 15, 12) == g.PREDICTED_OUTLINE
    assert pixel(picture, 110, 110) == mixed(g.MISSED)
    assert pixel(picture, 100, 105) == g.TRUE_OUTLINE
    assert pixel(picture, 210, 210) == mixed(g.FALSE)
    assert pixel(picture, 200, 205) == g.PREDICTED_OUTLINE
    assert pixel(picture, 300, 300) == g.BACKGROUND


def test_the_threshold_decides_what_is_matched():
    truth, prediction = squares((10, 10)), squares((10, 18))  # IoU 12 / 28
    assert pixel(draw_agreement(None, truth, prediction, 0.5), 20, 12) == mixed(g.MISSED)
    assert pixel(draw_agreement(None, truth, prediction, 0.4), 20, 12) == g.BACKGROUND


def test_a_merged_pair_shows_both_sides():
    truth = squares((10, 10), (10, 30))
    merged = (truth > 0).astype(np.int32)
    picture = draw_agreement(None, truth, merged, threshold=0.6)
    both = mixed(g.FALSE, mixed(g.MISSED))
    assert all(abs(a - b) <= 1 for a, b in zip(pixel(picture, 20, 20), both, strict=True))


def test_ids_do_not_matter():
    truth, prediction = squares((10, 10), (100, 100)), squares((10, 12), (200, 200))
    other = draw_agreement(None, truth.astype(np.uint16) * 700, prediction * 1_000_000)
    assert np.array_equal(draw_agreement(None, truth, prediction), other)


def test_the_image_is_below():
    image = np.zeros((1, 512, 512), np.uint16)
    image[0, :256] = 4000
    picture = draw_agreement(image, squares((10, 10)), squares((10, 10)))
    assert pixel(picture, 20, 20) == (255, 255, 255)
    assert pixel(picture, 400, 400) == (0, 0, 0)


def test_channels_are_colours():
    image = np.zeros((3, 5000, 512), np.uint8)  # so large that every other pixel is left out, too
    image[1, :, :256] = 200
    empty = np.zeros((5000, 512), np.int32)
    picture = draw_agreement(image, empty, empty)
    assert picture.shape == (1024, 105, 3)
    assert pixel(picture, 500, 20) == (0, 255, 0)
    assert pixel(picture, 500, 80) == (0, 0, 0)


def test_large_images_are_scaled_down_with_outlines_still_closed():
    truth = squares((100, 100), (2000, 1000), size=300, shape=(3000, 1500))
    image = np.random.default_rng(0).integers(0, 255, (3, 3000, 1500), np.uint8)
    picture = draw_agreement(image, truth, truth)
    assert picture.shape == (1024, 512, 3)
    rim = (picture == g.PREDICTED_OUTLINE).all(2)
    filled = np.zeros_like(rim)
    filled[34:137, 34:137] = True  # where the middles of the small pixels lie in the cell
    assert np.array_equal(rim[:200], outlines(filled[:200].astype(np.int32)))


def test_scaling_down_averages():
    image = np.zeros((1, 2048, 2048), np.uint8)
    image[:, ::2] = 200  # stripes of one pixel become an even grey
    picture = draw_agreement(image, np.zeros((2048, 2048), np.int32), np.zeros((2048, 2048), np.int32))
    assert picture.shape == (1024, 1024, 3)
    assert np.ptp(picture) <= 1
    assert 120 <= picture[0, 0, 0] <= 135


def test_small_images_are_enlarged_by_a_whole_factor():
    labels = squares((2, 2), size=4, shape=(40, 60))
    assert draw_agreement(None, labels, labels).shape == (40 * 9, 60 * 9, 3)
    assert draw_agreement(None, labels[:, :1], labels[:, :1]).shape == (40 * 13, 13, 3)


def test_without_cells_the_image_is_left_as_it_is():
    empty = np.zeros((512, 512), np.int32)
    assert (draw_agreement(None, empty, empty) == g.BACKGROUND).all()


def test_labels_of_other_pixels_are_refused():
    with pytest.raises(InputError, match="truth is 20 x 20 but the prediction is 20 x 21"):
        draw_agreement(None, np.zeros((20, 20), int), np.zeros((20, 21), int))


def test_an_image_of_another_size_is_refused():
    labels = np.zeros((20, 30), np.int32)
    with pytest.raises(InputError, match="its pixels are 30 x 20, but the labels are 20 x 30"):
        draw_agreement(np.zeros((1, 30, 20)), labels, labels)


def test_an_example_has_its_image_without_lines_too():
    image = np.random.default_rng(0).integers(0, 255, (3, 512, 512), np.uint8)
    labels = squares((10, 10))
    example = draw_example("a", (25, "aji", 0.5), image, labels, labels)
    assert (example.key, example.percentile, example.score_name, example.score) == ("a", 25, "aji", 0.5)
    changed = (example.picture != example.plain).any(2)
    assert np.array_equal(changed, outlines(labels))
    assert draw_example("a", (25, "aji", 0.5), None, labels, labels).plain is None


def test_colours_stay_apart_without_red_or_green():
    blue = [colour[2] for colour in (g.TRUE_OUTLINE, g.MISSED)]
    orange = [colour[2] for colour in (g.PREDICTED_OUTLINE, g.FALSE)]
    assert min(blue) - max(orange) > 150
