"""List the fluorescence images of a data set: python recipes/cellulus_fluorescence.py DATA [NAMES]

Prints the names of images that are grey with a dark ground, one per line: what recipes take as NAMES and TEST_NAMES.
NAMES is a file that lists the images to look at. No label is looked at.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.data.layouts import find_pairs, read_names, select
from cellkit.errors import CellkitError

PERCENTILES = 1.0, 99.8  # black and white; what is beyond are dead pixels
COLOURED = 0.05  # of the range: stained tissue differs by 0.06 and more between its channels, grey images by nothing
DARK = 0.4  # of the range: the median of fluorescence lies below (0.3 where cells are dense), of bright field above


def is_fluorescence(pixels: NDArray[Any], *, rgb: bool) -> bool:
    """Whether an image (C, H, W) is grey with a dark ground.

    Channels that are no colours are looked at together. An image of one value is none.
    """
    planes = pixels.astype(np.float64)
    grey = planes.mean(0)
    low, middle, high = np.percentile(grey, (PERCENTILES[0], 50.0, PERCENTILES[1])).tolist()
    if high <= low:
        return False
    coloured = rgb and float((planes.max(0) - planes.min(0)).mean()) > COLOURED * (high - low)
    return not coloured and middle - low < DARK * (high - low)


def fluorescence_names(data: str, names: str | None = None) -> list[str]:
    """Keys of the fluorescence images of a data set.

    Args:
        data: annotated images in any layout.
        names: file that lists the images to look at, or None for all.

    Raises:
        NoInputError: there are no annotated images.
        InputError: an image cannot be read.
        UsageError: a name fits no image.
    """
    found = find_pairs(data)
    images = ((pair.key, pair.read()) for pair in (select(found, read_names(names)) if names else found).pairs)
    return [key for key, image in images if is_fluorescence(np.asarray(image.pixels[...]), rgb=image.rgb)]


if __name__ == "__main__":
    try:
        sys.stdout.write("".join(f"{name}\n" for name in fluorescence_names(sys.argv[1], *sys.argv[2:3])))
    except CellkitError as error:
        sys.exit(f"cellulus_fluorescence: error: {error}")
