"""A scale bar: a round length in micrometres, drawn to scale with its number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, maximum_filter

from cellkit.ops.drawing_text import SMALLEST, blend, letters

WIDEST = 0.25  # of the picture's width: with lengths of 1, 2, 5, 10 the bar is then at least a tenth of it
LIGHT, DARK = (255, 255, 255), (0, 0, 0)
FONT_PART = 1 / 34  # of the longer side of the picture
HALO_PART = 1 / 14  # of the font size: a dark rim that keeps white legible on white
THICKNESS_PART = 1 / 4  # of the font size
ROOM = 0.5  # of the picture's width and height that bar and text may take; a smaller picture gets none
MICROMETRES = {"nm": 1e-3, "µm": 1.0, "mm": 1e3}  # per unit


@dataclass(frozen=True)
class ScaleBar:
    """A bar for a picture.

    Attributes:
        length: micrometres: 1, 2 or 5 times a power of ten.
        pixels: the same in pixels of the picture.
    """

    length: float
    pixels: int

    @property
    def text(self) -> str:
        """The length with its unit, e.g. '20 µm'."""
        unit = "nm" if self.length < 1 else "µm" if self.length < MICROMETRES["mm"] else "mm"
        return f"{self.length / MICROMETRES[unit]:.6g} {unit}"


def bar_for(width: int, pixel_size: float) -> ScaleBar | None:
    """The longest round bar of at most a quarter of a picture's width.

    Args:
        width: of the picture in pixels.
        pixel_size: micrometres per pixel of the picture.

    Returns:
        The bar, or None when it would have no length.
    """
    most = width * WIDEST * pixel_size
    if not (most > 0 and math.isfinite(most)):
        return None
    power = math.floor(math.log10(most))
    lengths = [digit * 10.0**exponent for exponent in (power - 1, power, power + 1) for digit in (1, 2, 5)]
    length = max(length for length in lengths if length <= most * (1 + 1e-9))
    pixels = round(length / pixel_size)
    return ScaleBar(length, pixels) if pixels else None


def font_size(shape: tuple[int, ...]) -> int:
    """Size of text that suits a picture (H, W), in pixels."""
    return max(SMALLEST, round(max(shape[:2]) * FONT_PART))


def draw_scale_bar(picture: NDArray[np.uint8], pixel_size: float) -> NDArray[np.uint8]:
    """A copy of the picture (H, W, 3) with a white bar and its length, rimmed black, at the lower right.

    Args:
        picture: what to draw on.
        pixel_size: micrometres per pixel of the picture.

    Returns:
        The picture without a bar where there is no room for one.
    """
    bar = bar_for(picture.shape[1], pixel_size)
    drawn = picture.copy()
    if bar is None:
        return drawn
    size = font_size(picture.shape)
    text = letters(bar.text, size)
    text = text[find_objects((text > 0).astype(np.int8))[0]]
    mark = _mark(bar, text, size)
    margin = max(2, size // 2)
    if any(mark.shape[axis] + margin > ROOM * picture.shape[axis] + (axis == 0) * margin for axis in (0, 1)):
        return drawn
    place = drawn[-margin - mark.shape[0] : -margin, -margin - mark.shape[1] : -margin]
    rim = 2 * _halo(size) + 1
    blend(place, maximum_filter(mark, size=rim, mode="constant"), DARK)
    blend(place, mark, LIGHT)
    return drawn


def _mark(bar: ScaleBar, text: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Bar below text, centred, with room for the rim, as opacity (h, w)."""
    halo, thickness = _halo(size), max(2, round(size * THICKNESS_PART))
    gap = max(2, size // 4)
    width = max(bar.pixels, text.shape[1]) + 2 * halo
    mark = np.zeros((text.shape[0] + gap + thickness + 2 * halo, width), np.float32)
    left = (width - text.shape[1]) // 2
    mark[halo : halo + text.shape[0], left : left + text.shape[1]] = text
    left = (width - bar.pixels) // 2
    mark[-halo - thickness : -halo, left : left + bar.pixels] = 1
    return mark


def _halo(size: int) -> int:
    return max(1, round(size * HALO_PART))
