"""Scale, tiles and history of predictions."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.config import Preprocessing
from cellkit.errors import UsageError
from cellkit.stages.prediction import PredictSettings, resize, scale_of, scaled_shape, tiling_of


@pytest.mark.parametrize(
    ("working", "diameter", "scale"),
    [
        (30.0, None, 1.0),
        (30.0, 15.0, 2.0),
        (30.0, 60.0, 0.5),
        (None, None, 1.0),
        (None, 60.0, 0.5),
    ],
)
def test_scale_brings_the_given_diameter_to_the_working_one(working, diameter, scale):
    assert scale_of(Preprocessing(diameter=working), diameter) == scale


def test_a_tuned_model_knows_the_diameter_of_its_images():
    tuned = Preprocessing(diameter=30.0, typical=60.0)
    assert scale_of(tuned, None) == 0.5
    assert scale_of(tuned, 15.0) == 2.0


@pytest.mark.parametrize("diameter", [1.0, 1e6])
def test_a_diameter_that_is_a_slip_of_the_keyboard_is_refused(diameter):
    with pytest.raises(UsageError, match=r"--diameter.*give 1\.875 to 480"):
        scale_of(Preprocessing(diameter=30.0), diameter)


def test_tiles_overlap_by_two_working_diameters():
    assert tiling_of(PredictSettings(), Preprocessing(diameter=50.0)).overlap == 100
    assert tiling_of(PredictSettings(overlap=10), Preprocessing()).overlap == 10
    assert tiling_of(PredictSettings(), Preprocessing(), margin=44).overlap == 176


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_resizing_keeps_the_mean(scale):
    pixels = np.random.default_rng(0).random((2, 40, 60), np.float32)
    resized = resize(pixels, scaled_shape((40, 60), scale))
    assert resized.shape == (2, round(40 * scale), round(60 * scale))
    assert resized.mean() == pytest.approx(pixels.mean(), abs=0.01)


def test_an_image_never_vanishes():
    assert scaled_shape((3, 400), 1 / 16) == (1, 25)
