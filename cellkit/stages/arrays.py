"""The stages for one array in memory: the door for Python users."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.engine.device import open_device
from cellkit.errors import InputError
from cellkit.io.images import Image
from cellkit.io.label_image import whole
from cellkit.stages.model import load_model
from cellkit.stages.outcomes import Failure, Skipped
from cellkit.stages.postprocessing import decode
from cellkit.stages.prediction import Command, PredictSettings, prepare, run_network

COLOUR_CHANNELS = (3, 4)


def segment_array(image: NDArray[Any], model: str, *, diameter: float | None, device: str) -> NDArray[np.int32]:
    """See :func:`cellkit.segment`."""
    ready = load_model(model, open_device(device))
    command = Command(verb="segment", model=ready, settings=PredictSettings(diameter=diameter))
    prepared = prepare(as_image(image), ready, command.settings, ())
    for prediction in run_network([prepared], command):
        if not isinstance(prediction, Failure | Skipped):
            return whole(decode(prediction))
    raise AssertionError("the engine gives one result per image")


def as_image(array: NDArray[Any]) -> Image:
    """An array as an image with its channels first.

    Raises:
        InputError: the array has not two or three axes, or no pixels.
    """
    pixels = np.asarray(array)
    if pixels.ndim not in (2, 3) or pixels.size == 0:
        raise InputError("array", f"shape {pixels.shape} is no image", "give (H, W), (C, H, W) or (H, W, 3)")
    colour = pixels.ndim == 3 and pixels.shape[2] in COLOUR_CHANNELS and pixels.shape[0] not in COLOUR_CHANNELS
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif colour:
        pixels = np.moveaxis(pixels, 2, 0)
    return Image(key="array", pixels=pixels, source="array", axes="YXS" if colour else "CYX", rgb=colour)
