"""Scale, tiles and history of predictions."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.config import Preprocessing
from cellkit.stages.prediction import PredictSettings, resize, scaled_shape, tiling_of


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
