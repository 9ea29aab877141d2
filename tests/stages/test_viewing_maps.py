"""view of a prediction: its maps side by side."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.config import RepresentationSpec
from cellkit.errors import InputError
from cellkit.io.maps import Prediction
from cellkit.ops.drawing import GAP
from cellkit.ops.map_pictures import logits, vectors
from cellkit.stages import Failure, Skipped
from cellkit.stages.viewing import Picture, ViewSettings
from cellkit.stages.viewing_maps import draw_maps, panel_shape, view_maps


@pytest.fixture
def prediction():
    maps = np.random.default_rng(0).normal(size=(3, 40, 50)).astype(np.float16)
    return Prediction(
        key="a", maps=maps, representation=RepresentationSpec(name="flow"), source="a.tif", shape=(40, 50)
    )


def test_maps_stand_side_by_side_as_they_are_painted(prediction):
    size = 2 * 50 + 3 * GAP
    picture = draw_maps(prediction, ViewSettings(size=size))
    assert picture.shape[1] == size
    maps = prediction.maps.astype(np.float32)
    assert np.array_equal(picture[GAP : GAP + 40, GAP : GAP + 50], vectors(maps[:2]))
    assert np.array_equal(picture[GAP : GAP + 40, 2 * GAP + 50 : 2 * GAP + 100], logits(maps[2:]))
    assert (picture[GAP + 40 :, GAP : GAP + 50] < 100).all(axis=2).any()  # the name below


@pytest.mark.parametrize(("shape", "count"), [((40, 50), 2), ((500, 20), 2), ((3000, 3000), 3), ((9, 900), 1)])
@pytest.mark.parametrize("size", [None, 300, 4096])
def test_all_maps_together_have_the_size(shape, count, size):
    height, width = panel_shape(shape, count, size)
    whole = count * width + (count + 1) * GAP, height
    assert max(whole) <= (size or 4096)
    if size:
        assert max(whole) > 0.8 * size
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.5)


def test_scale_of_the_map_counts_for_the_bar(prediction):
    plain = draw_maps(prediction, ViewSettings(size=900))
    with_bar = draw_maps(prediction, ViewSettings(size=900, pixel_size=0.5))
    changed = (plain != with_bar).any(axis=2)
    assert changed[:, :450].any()
    assert changed[:, 450:].any()
    assert not changed[:100].any()


def test_failures_pass_and_pictures_up_to_date_are_skipped(prediction):
    failure = Failure(key="b", source="b", error=InputError("b", "bad"))
    outcomes = list(view_maps([failure, prediction], ViewSettings()))
    assert outcomes[0] is failure
    assert isinstance(outcomes[1], Picture)
    done = list(view_maps([prediction], ViewSettings(), is_done=lambda key, history: True))
    assert done == [Skipped(key="a", source="a.tif")]


def test_named_tiles_are_as_wide_as_a_tile(prediction):
    (tile,) = view_maps([prediction], ViewSettings(size=300, named=True))
    (bare,) = view_maps([prediction], ViewSettings(size=300))
    assert tile.pixels.shape[1] == 300
    assert tile.pixels.shape[0] > bare.pixels.shape[0] - 2 * GAP
    assert tile.history != bare.history
