"""Validation: images at the scale at which a model sees them, scores at the scale of the truth."""

from __future__ import annotations

from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from cellkit.config import Preprocessing
from cellkit.data.layouts import find_pairs
from cellkit.engine import open_device
from cellkit.representations.mask import MASK, MaskSettings
from cellkit.stages.validation import Validation, hold

SIDE, RADIUS = 64, 10


@pytest.fixture
def pairs(tmp_path):
    """One bright disc of diameter 20 on black, labelled."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = (y - 32) ** 2 + (x - 32) ** 2 <= RADIUS**2
    for part, values in (("images", disc * 200 + 20), ("labels", disc)):
        (tmp_path / part).mkdir()
        iio.imwrite(tmp_path / part / "a.png", values.astype(np.uint8))
    return find_pairs(str(tmp_path)).pairs


@pytest.mark.parametrize(
    ("working", "typical", "side"),
    [
        (None, None, 64),  # any size: as it is
        (40.0, None, 128),  # by the diameter of its own cells, 20
        (40.0, 10.0, 256),  # by the diameter that the model was tuned for
        (None, 60.0, 32),  # against the reference of 30
    ],
)
def test_images_are_held_at_the_scale_of_the_model(pairs, working, typical, side):
    held = hold(pairs, Preprocessing(channels=1, diameter=working, typical=typical))[0]
    assert held.pixels.shape[1:] == pytest.approx((side, side), abs=2)
    assert held.labels.shape == (SIDE, SIDE)


class Bright(torch.nn.Module):
    """Says cell where the image is bright."""

    def forward(self, x):
        logit = 20 * (x[:, :1] - 0.5)
        return SimpleNamespace(maps=torch.cat([-logit, logit], 1))


@pytest.mark.parametrize("working", [None, 40.0])
def test_scores_are_those_of_the_image_at_its_own_scale(pairs, working):
    preprocessing = Preprocessing(channels=1, normalisation="minmax", diameter=working)
    validate = Validation(pairs, preprocessing, MASK, MaskSettings(), open_device("cpu", "fp32"))
    scores = validate(Bright())
    assert set(scores) == {"ap_dsb", "ap_dsb@0.5"}
    assert scores["ap_dsb@0.5"] == 1.0
    assert scores["ap_dsb"] > 0.85
