"""At which scale a network sees an image: its cells shall have the working diameter."""

from __future__ import annotations

from cellkit.config import Preprocessing
from cellkit.errors import UsageError
from cellkit.io.images import Pixels
from cellkit.ops.object_size import object_size

REFERENCE_DIAMETER = 30.0  # px, for a model of any size (no working diameter) when the user gives a diameter
LARGEST_SCALE_CHANGE = 16.0  # a diameter that asks for more is a slip of the keyboard
PLAUSIBLE = 3.0  # times the typical diameter, and a third of it: between them an estimate from one image is believed


def scale_of(preprocessing: Preprocessing, diameter: float | None) -> float:
    """Map pixels per source pixel: working diameter over the user's diameter, or over the one the model was tuned for.

    Raises:
        UsageError: a diameter that no image can have.
    """
    diameter = diameter or preprocessing.typical
    if diameter is None:
        return 1.0
    working = preprocessing.diameter or REFERENCE_DIAMETER
    least, most = working / LARGEST_SCALE_CHANGE, working * LARGEST_SCALE_CHANGE
    if not least <= diameter <= most:
        problem = f"{diameter:g} px is beyond what a model of {working:g} px can be rescaled to"
        raise UsageError("--diameter", problem, f"give {least:g} to {most:g}")
    return working / diameter


def own_diameter(pixels: Pixels, preprocessing: Preprocessing) -> float | None:
    """Diameter of the objects of an image in pixels, for a model that brings each image to the same size of objects.

    Args:
        pixels: (C, H, W), as the image was read; of lazy ones only windows are read.
        preprocessing: of the model.

    Returns:
        Estimated from the image. None for models that do not ask for it, and where the image does not tell, or tells
        what is far from the typical diameter (one image in a hundred whose ground is brighter on one side): then the
        typical diameter counts.
    """
    found = object_size(pixels) if preprocessing.estimated else None
    if found is None:
        return None
    typical = preprocessing.typical or preprocessing.diameter or REFERENCE_DIAMETER
    return found if typical / PLAUSIBLE <= found <= typical * PLAUSIBLE else None
