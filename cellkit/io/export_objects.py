"""One PNG per object, as in the 2018 Data Science Bowl: ID/masks/NNNNN.png."""

from __future__ import annotations

import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OBJECT_FILE = re.compile(r"\d{5,}\.png")
LEVEL = 1  # of zlib: a mask is nearly all background


def object_file(label: int) -> str:
    """``00017.png``."""
    return f"{label:05d}.png"


def encode_object(mask: NDArray[np.bool_]) -> bytes:
    """A grey PNG of a mask (H, W): 255 inside, else 0."""
    memory = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(memory, "PNG", compress_level=LEVEL)
    return memory.getvalue()
