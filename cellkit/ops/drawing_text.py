"""Letters in pictures: Pillow's built-in font, so that a picture is the same on every machine.

The font has the letters of ASCII. A micro sign is put together here; other letters lose their accents or become '?'.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 12  # px; smaller letters of this font cannot be read
MICRO = "µ"
ELLIPSIS = "..."
INK = (30, 30, 30)
PAPER = (255, 255, 255)

Glyph = NDArray[np.uint8]
Alpha = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A piece of a caption.

    Attributes:
        text: what it says.
        glyph: (h, w, 3) picture before the text, such as a swatch of colour, or None.
    """

    text: str
    glyph: Glyph | None = None


def swatch(colour: tuple[int, int, int], size: int) -> Glyph:
    """A square of one colour for a legend, (s, s, 3), for text of a size in pixels."""
    side = max(4, round(size * 0.7))
    return np.full((side, side, 3), colour, np.uint8)


def letters(text: str, size: int) -> Alpha:
    """Text as opacity in [0, 1], (h, w); all texts of a size have the same height.

    Args:
        text: one line.
        size: of the font in pixels.
    """
    font = _font(size)
    plain = _plain(text)
    ascent, descent = font.getmetrics()
    width = max(1, round(font.getlength(plain)))
    canvas = Image.new("L", (width + 1, ascent + descent))
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 0), plain, fill=255, font=font)
    written = text if len(text) == len(plain) else ""
    for place in (i for i, letter in enumerate(written) if letter == MICRO):  # a u with a longer left stroke
        left, top, _, bottom = font.getbbox("u")
        start = font.getlength(plain[:place]) + left
        stroke = max(1, round(size / 12))
        end = bottom + (ascent + descent - bottom) * 0.8
        draw.rectangle((round(start), top, round(start) + stroke - 1, round(end)), fill=255)
    return np.asarray(canvas, np.float32) / np.float32(255)


def fitted(text: str, size: int, width: int) -> str:
    """Text that is at most ``width`` pixels wide; longer text loses its middle, as names differ at their ends."""
    font = _font(size)
    if font.getlength(_plain(text)) <= width:
        return text
    kept = len(text) - 1
    while kept > 0 and font.getlength(_plain(_shortened(text, kept))) > width:
        kept -= 1
    return _shortened(text, kept) if kept else ""


def caption(width: int, lines: Sequence[Sequence[Entry]], size: int, inset: int = 0) -> NDArray[np.uint8]:
    """A strip of paper with lines of text, (h, width, 3).

    Args:
        width: of the strip in pixels; what is too long is shortened.
        lines: pieces of each line, from left to right.
        size: of the font in pixels.
        inset: free pixels at the left.
    """
    pitch = line_height(size)
    strip = np.full((caption_height(len(lines), size), width, 3), PAPER, np.uint8)
    for number, line in enumerate(lines):
        left = inset
        for entry in line:
            left = _put(strip, entry, (number * pitch, left), size)
    return strip


def caption_height(lines: int, size: int) -> int:
    """Height of a caption in pixels."""
    return line_height(size) * lines + size // 3


def line_height(size: int) -> int:
    """Height of a line of a caption in pixels."""
    ascent, descent = _font(size).getmetrics()
    return int(ascent) + int(descent) + size // 4


def _put(strip: NDArray[np.uint8], entry: Entry, place: tuple[int, int], size: int) -> int:
    """Write an entry at (top, left); gives where the next one begins."""
    top, left = place
    if entry.glyph is not None:
        height, across = entry.glyph.shape[:2]
        if left + across > strip.shape[1]:
            return left
        down = top + max(0, (line_height(size) - height) // 2)
        part = strip[down : down + height, left : left + across]
        part[:] = entry.glyph[: part.shape[0]]
        left += across + size // 3
    text = fitted(entry.text, size, strip.shape[1] - left - 1)
    if not text:
        return left
    alpha = letters(text, size)
    part = strip[top + size // 8 : top + size // 8 + alpha.shape[0], left : left + alpha.shape[1]]
    blend(part, alpha[: part.shape[0], : part.shape[1]], INK)
    return int(left + alpha.shape[1] + size)


def blend(picture: NDArray[np.uint8], alpha: Alpha, colour: tuple[int, int, int]) -> None:
    """Lay a colour over a picture (h, w, 3), in place, with an opacity (h, w) in [0, 1]."""
    opacity = alpha[..., None]
    mixed = picture * (1 - opacity) + np.array(colour, np.float32) * opacity
    picture[:] = np.rint(mixed).astype(np.uint8)


def _shortened(text: str, kept: int) -> str:
    tail = kept // 2
    return text[: kept - tail] + ELLIPSIS + (text[-tail:] if tail else "")


def _plain(text: str) -> str:
    return "".join(_ascii(letter) for letter in text)


@lru_cache(maxsize=1024)
def _ascii(letter: str) -> str:
    if letter == MICRO:
        return "u"
    found = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return "".join(part for part in found if part.isprintable()) or ("" if unicodedata.combining(letter) else "?")


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(max(size, SMALLEST))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("Pillow was built without FreeType")
    return font
