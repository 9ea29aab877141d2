"""Dense maps as pictures."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from skimage.color import hsv2rgb, rgb2lab
from sklearn.decomposition import PCA

from cellkit.config import RepresentationName
from cellkit.ops.map_pictures import (
    MAPS,
    PAINTERS,
    RAMP,
    embeddings,
    logits,
    means,
    offsets,
    paint_maps,
    probabilities,
    ramp,
    vectors,
    views_of,
)
from cellkit.representations import OBJECTS


def field(angle, length):
    return np.stack([-np.sin(angle) * length, np.cos(angle) * length]).astype(np.float32)


def test_every_representation_has_its_line_and_every_line_its_painter():
    assert set(get_args(RepresentationName)) - set(OBJECTS) <= set(MAPS)
    assert {view.kind for views in MAPS.values() for view in views} <= set(PAINTERS)


def test_direction_is_hue():
    angle = np.linspace(-np.pi, np.pi, 400, dtype=np.float32).reshape(20, 20)
    hue = (angle / (2 * np.pi)) % 1
    expected = hsv2rgb(np.stack([hue, np.ones_like(hue), np.ones_like(hue)], axis=-1)) * 255
    assert np.abs(vectors(field(angle, 5.0)) - expected).max() <= 1


def test_flow_to_the_right_is_red_and_length_is_brightness():
    length = np.ones((10, 100), np.float32) * 4
    length[:, :50] = 2
    picture = vectors(field(np.zeros_like(length), length))
    assert picture[0, 99].tolist() == [255, 0, 0]
    assert picture[0, 0].tolist() == [128, 0, 0]
    up = vectors(field(np.full((4, 4), np.pi / 2), 1.0))
    assert up[0, 0, 1] == 255  # a yellowish green: a quarter turn
    assert vectors(np.zeros((2, 3, 3), np.float32)).max() == 0


def test_probability_is_a_ramp_of_rising_lightness():
    values = np.linspace(0, 1, 101, dtype=np.float32)[None]
    lightness = rgb2lab(ramp(values))[0, :, 0]
    assert (np.diff(lightness) > 0).all()
    assert ramp(np.array([[-1.0, 2.0]], np.float32)).tolist() == [RAMP[[0, -1]].astype(int).tolist()]
    assert np.array_equal(logits(np.zeros((1, 2, 2), np.float32)), probabilities(np.full((1, 2, 2), 0.5, np.float32)))


def test_embeddings_are_principal_components():
    generator = np.random.default_rng(3)
    maps = (generator.normal(size=(5, 5)) @ generator.normal(size=(5, 30 * 40)) * 3).reshape(5, 30, 40)
    picture = embeddings(maps.astype(np.float32)).astype(float)
    components = PCA(3).fit_transform(maps.reshape(5, -1).T)
    for channel in range(3):
        inside = (picture[..., channel] > 0) & (picture[..., channel] < 255)
        mine, theirs = picture[..., channel][inside], components[:, channel].reshape(30, 40)[inside]
        assert abs(np.corrcoef(mine, theirs)[0, 1]) > 0.999
    assert np.array_equal(embeddings(maps.astype(np.float32)), picture)


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_any_number_of_channels_is_an_embedding(channels):
    maps = np.random.default_rng(0).normal(size=(channels, 6, 7)).astype(np.float32)
    (panel,) = paint_maps(maps, "something new")
    assert (panel.name, panel.picture.shape, panel.picture.dtype) == ("something new", (6, 7, 3), np.uint8)
    if channels == 1:
        assert (panel.picture == panel.picture[..., :1]).all()


def test_single_pixel_and_constant_maps():
    assert embeddings(np.ones((4, 1, 1), np.float32)).shape == (1, 1, 3)
    assert embeddings(np.ones((4, 5, 5), np.float32)).max() == 0


def test_flow_predictions_have_two_panels():
    maps = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    maps[0, 0, 0], maps[2, 0, 0] = np.nan, np.inf
    panels = paint_maps(maps, "flow")
    assert [panel.name for panel in panels] == ["flow", "cell probability"]
    assert np.array_equal(panels[1].picture, logits(np.nan_to_num(maps[2:], posinf=0)))
    assert views_of("flow", 2)[0].kind == "embeddings"  # too few channels for what flow has


def test_star_predictions_show_the_mean_ray_and_the_probability():
    maps = np.zeros((33, 10, 20), np.float32)
    maps[:32] = np.linspace(0, 12, 200).reshape(10, 20)
    maps[:32:2] += 1
    maps[1:32:2] -= 1  # rays differ, their mean does not
    maps[32] = 3
    panels = paint_maps(maps, "star")
    assert [panel.name for panel in panels] == ["mean distance to the outline in px, 0.12 to 12", "cell probability"]
    assert np.array_equal(panels[0].picture, means(np.linspace(0, 12, 200, dtype=np.float32).reshape(1, 10, 20)))
    assert np.array_equal(panels[1].picture, logits(maps[32:]))


def embedded() -> np.ndarray:
    """A disc of small spread whose pixels point to its middle, all of them 7 px too far to the right; noise around."""
    y, x = np.mgrid[-20:20, -20:20].astype(np.float32)
    maps = np.stack([-y, 7 - x, np.full_like(y, 0.2)])
    around = np.hypot(y, x) > 10
    maps[:2, around] = np.random.default_rng(1).normal(0, 60, (2, np.count_nonzero(around)))
    maps[2, around] = 5
    return maps


def test_offsets_are_shown_from_what_objects_have_in_common():
    panels = paint_maps(embedded(), "embedding")
    assert [panel.name for panel in panels] == ["offset within objects, up to 10 px", "spread, 0.2 to 5"]
    picture = panels[0].picture
    assert picture[20, 20].tolist() == [0, 0, 0], "the middle of the object is dark"
    assert picture[20, 10].tolist() == [255, 0, 0], "left of it, the way to the middle goes to the right: red"
    assert picture[20, 15].tolist() == [128, 0, 0]
    assert panels[1].picture[20, 20].tolist() == RAMP[0].astype(int).tolist()


def test_brightness_is_shown_where_there_is_one():
    maps = np.concatenate([embedded(), np.linspace(0, 1, 1600, dtype=np.float32).reshape(1, 40, 40)])
    panel = paint_maps(maps, "embedding")[2]
    assert panel.name == "brightness, 0.01 to 0.99"
    assert panel.picture[0, 0].tolist() == [0, 0, 0]
    assert panel.picture[-1, -1].tolist() == [255, 255, 255]
    assert [view.kind for view in views_of("embedding", 2)] == ["embeddings"], "what predicts no spread"


def test_offsets_of_an_image_of_one_look():
    picture = offsets(np.ones((3, 4, 4), np.float32))
    assert picture.max() == 0


@pytest.mark.parametrize("kind", PAINTERS)
def test_every_kind_has_a_legend(kind):
    legend = PAINTERS[kind].legend(20)
    assert (legend.ndim, legend.shape[2], legend.dtype) == (3, 3, np.uint8)
    assert legend.min() < legend.max()
