"""At which scale a network sees an image: by a given, a typical or an estimated diameter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cellkit.config import Preprocessing
from cellkit.data.scale import own_diameter, scale_of
from cellkit.errors import UsageError

EACH = Preprocessing(diameter=30.0, typical=20.0, estimated=True)


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


def test_an_image_tells_its_diameter_to_a_model_that_asks():
    y, x = np.indices((160, 160)) % 50 - 25
    discs = (np.hypot(y, x) < 12)[None].astype(np.float32)
    assert own_diameter(discs, EACH) == pytest.approx(24, rel=0.15)
    assert own_diameter(discs, Preprocessing(diameter=30.0, typical=20.0)) is None


def test_an_image_that_shows_nothing_tells_none():
    assert own_diameter(np.zeros((1, 50, 50)), EACH) is None


def test_what_is_far_from_the_typical_diameter_is_not_believed():
    y, x = np.indices((1000, 1000)) - 500
    assert own_diameter((np.hypot(y, x) < 300)[None].astype(np.float32), EACH) is None


def test_without_a_typical_diameter_the_working_one_says_what_is_plausible():
    y, x = np.indices((160, 160)) % 50 - 25
    discs = (np.hypot(y, x) < 12)[None].astype(np.float32)
    assert own_diameter(discs, replace(EACH, typical=None)) == pytest.approx(24, rel=0.15)
    assert own_diameter(discs, replace(EACH, typical=None, diameter=200.0)) is None
