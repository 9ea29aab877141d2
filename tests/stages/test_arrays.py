"""``cellkit.segment`` for Python users."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest

import cellkit
from cellkit.cli.showing import SAMPLES
from cellkit.errors import InputError, ModelError
from cellkit.metrics import score
from cellkit.stages.arrays import as_image

GREY = "356d9903d16074f1"  # fluorescence, 54 nuclei of about 10 px
COLOUR = "6ab24e7e1f6c9fdd"  # histology, 20 nuclei of about 45 px


@pytest.mark.parametrize(("name", "floor"), [(GREY, 0.8), (COLOUR, 0.6)])
def test_real_nuclei_are_found(name, floor):
    image = iio.imread(SAMPLES / "images" / f"{name}.png")
    truth = iio.imread(SAMPLES / "labels" / f"{name}.png").astype(np.int32)
    labels = cellkit.segment(image)
    assert labels.shape == truth.shape
    assert score(truth, labels).values["ap_dsb@0.5"] >= floor


def test_inverted_image_gives_the_same_nuclei():
    image = iio.imread(SAMPLES / "images" / f"{GREY}.png")
    labels, inverted = cellkit.segment(image), cellkit.segment(255 - image)
    assert score(labels, inverted).values["ap_dsb@0.5"] > 0.8


def test_diameter_rescales():
    image = iio.imread(SAMPLES / "images" / f"{GREY}.png")
    large = np.kron(image, np.ones((4, 4), np.uint8))
    labels = cellkit.segment(large, diameter=40)  # 40 px: to be shrunk before the network sees them
    truth = np.kron(iio.imread(SAMPLES / "labels" / f"{GREY}.png"), np.ones((4, 4), np.uint16)).astype(np.int32)
    assert labels.shape == large.shape
    assert score(truth, labels).values["ap_dsb@0.5"] > 0.7


@pytest.mark.parametrize(
    ("shape", "channels", "size"),
    [
        ((5, 7), 1, (5, 7)),
        ((3, 5, 7), 3, (5, 7)),
        ((5, 7, 3), 3, (5, 7)),
        ((5, 7, 4), 4, (5, 7)),
        ((2, 5, 7), 2, (5, 7)),
    ],
)
def test_channels_are_found_first_or_last(shape, channels, size):
    image = as_image(np.zeros(shape, np.uint8))
    assert image.pixels.shape == (channels, *size)
    assert image.rgb == (shape[-1] in (3, 4) and len(shape) == 3)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 5), (0, 5)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(InputError, match="is no image"):
        as_image(np.zeros(shape))


def test_unknown_model_is_refused():
    with pytest.raises(ModelError, match="nuclei"):
        cellkit.segment(np.zeros((8, 8)), model="nucleus")
