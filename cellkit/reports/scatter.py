"""A map of images as a picture: a sign per image, in the colour of its dataset, as SVG or PNG.

Both are drawn from the same shapes without a plotting library. In an SVG each sign tells the name of its image.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from cellkit.ops.drawing_text import ELLIPSIS, INK, PAPER, blend, fitted, letters
from cellkit.reports.markup import number, tag

SIDE = 560  # units of the square that holds the signs; in an SVG one unit is one pixel
EDGE = 20
HEAD = 44  # the title
ROW = 22  # of the legend
ROWS = SIDE // ROW  # of the legend, in each of its columns
COLUMN = 250  # width of a column of the legend
SIGN = 24  # what a sign of the legend takes of it
LETTERS = 30  # of a name in the legend; more are cut out of its middle
TEXT, TITLE = 13, 16  # px
PNG_SCALE = 2  # pixels of a PNG per unit
OVERSAMPLED = 2  # pixels that one pixel of the PNG is averaged from, per axis
NOTE = "cellkit"  # keyword of the text of a PNG
FRAME = "#c4cacf"
PALETTE = ("#0072b2", "#d55e00", "#00855f", "#b8508e", "#7a6a00", "#55606a")  # those of the reports

Polygon = NDArray[np.float64]


def _polygon(corners: int, *radii: float, turn: float = 0.0) -> Polygon:
    """Corners (K, 2) as (x, y) around 0, the first one up, or turned by some radians; radii alternate."""
    angles = 2 * np.pi * np.arange(corners) / corners + turn
    polygon: Polygon = np.resize(radii, corners)[:, None] * np.stack([np.sin(angles), -np.cos(angles)], 1)
    return polygon


SHAPES = (  # one per dataset: colour is never the only difference
    _polygon(24, 4.2),
    _polygon(4, 5.2, turn=np.pi / 4),
    _polygon(3, 5.4),
    _polygon(10, 6.0, 2.6),
    _polygon(3, 5.4, turn=np.pi),
    _polygon(4, 5.0),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scatter:
    """What is drawn.

    Attributes:
        title: above the picture.
        places: (N, 2) of the images, in any unit; N at least 1.
        names: of the images.
        groups: dataset of each image; the legend has them in the order in which they come first.
        note: what the file shall carry about its origin, or None.
    """

    title: str
    places: NDArray[np.float64]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    note: str | None = None


@dataclass(frozen=True)
class _Sign:
    """A sign at a place of the picture, with the text that it tells."""

    polygon: Polygon
    colour: str
    text: str


@dataclass(frozen=True)
class _Text:
    """A line of text: left end, middle of its height."""

    x: float
    y: float
    text: str
    size: int


def svg(scatter: Scatter) -> bytes:
    """The picture as an SVG file, which shows the name of an image and of its dataset on hovering."""
    width, height = _extent(scatter)
    frame = tag("rect", x=EDGE, y=HEAD, width=SIDE, height=SIDE, fill="none", stroke=FRAME)
    signs = [
        tag("path", tag("title", sign.text), d=_path(sign.polygon), fill=sign.colour, stroke="#fff", stroke_width=0.8)
        for sign in _signs(scatter)
    ]
    texts = [
        tag("text", text.text, x=text.x, y=text.y + 0.35 * text.size, font_size=text.size) for text in _texts(scatter)
    ]
    picture = tag(
        "svg",
        tag("title", scatter.title),
        *([] if scatter.note is None else [tag("metadata", scatter.note)]),
        tag("rect", width=width, height=height, fill="#fff"),
        frame,
        *signs,
        tag("g", *texts, fill="#1c2126", font_family="system-ui, 'DejaVu Sans', sans-serif"),
        xmlns="http://www.w3.org/2000/svg",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="img",
    )
    return f"{picture}\n".encode()


def png(scatter: Scatter) -> bytes:
    """The picture as a PNG file, two pixels per unit."""
    width, height = _extent(scatter)
    fine = PNG_SCALE * OVERSAMPLED
    canvas = Image.new("RGB", (width * fine, height * fine), PAPER)
    draw = ImageDraw.Draw(canvas)
    box = [fine * n for n in (EDGE, HEAD, EDGE + SIDE, HEAD + SIDE)]
    draw.rectangle(box, outline=FRAME, width=OVERSAMPLED)
    for sign in _signs(scatter):
        corners = [(float(x), float(y)) for x, y in fine * sign.polygon]
        draw.polygon(corners, fill=sign.colour, outline="#fff", width=OVERSAMPLED)
    pixels = np.array(canvas.reduce(OVERSAMPLED))
    for text in _texts(scatter):
        _write(pixels, text)
    memory = io.BytesIO()
    texts = PngInfo()
    if scatter.note is not None:
        texts.add_text(NOTE, scatter.note, zip=True)
    Image.fromarray(pixels).save(memory, "PNG", pnginfo=texts, optimize=True)
    return memory.getvalue()


def _write(pixels: NDArray[np.uint8], text: _Text) -> None:
    """Put text into a picture (H, W, 3), in place; what is too long is shortened."""
    size, left = PNG_SCALE * text.size, round(PNG_SCALE * text.x)
    alpha = letters(fitted(text.text, size, pixels.shape[1] - left - 1), size)
    top = max(0, round(PNG_SCALE * text.y - alpha.shape[0] / 2))
    part = pixels[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    blend(part, alpha[: part.shape[0], : part.shape[1]], INK)


def _extent(scatter: Scatter) -> tuple[int, int]:
    """Width and height of the picture."""
    columns = -(-len(set(scatter.groups)) // ROWS)
    return EDGE + SIDE + EDGE + columns * COLUMN, HEAD + SIDE + EDGE


def _signs(scatter: Scatter) -> Iterator[_Sign]:
    """The signs of all images, then those of the legend."""
    numbers = {group: index for index, group in enumerate(dict.fromkeys(scatter.groups))}
    for place, name, group in zip(_placed(scatter.places), scatter.names, scatter.groups, strict=True):
        yield _sign(numbers[group], place, f"{group}: {name}")
    for group, index in numbers.items():
        x, y = _row(index)
        yield _sign(index, np.array([x + SIGN / 2, y]), group)


def _sign(index: int, place: NDArray[np.float64], text: str) -> _Sign:
    """The sign of a dataset; 36 datasets have signs of their own."""
    shape = SHAPES[(index + index // len(PALETTE)) % len(SHAPES)]
    return _Sign(shape + place, PALETTE[index % len(PALETTE)], text)


def _placed(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places (N, 2) in the square of the picture, the same scale along both axes, the second axis upwards."""
    low, high = places.min(0), places.max(0)
    span = float((high - low).max()) or 1.0
    inside = (places - (low + high) / 2) / span * (SIDE - 2 * EDGE)
    result: NDArray[np.float64] = inside * (1, -1) + (EDGE + SIDE / 2, HEAD + SIDE / 2)
    return result


def _texts(scatter: Scatter) -> Iterator[_Text]:
    """The title, and a dataset with the number of its images per row of the legend."""
    yield _Text(EDGE, HEAD / 2, scatter.title, TITLE)
    for index, (group, count) in enumerate(Counter(scatter.groups).items()):
        x, y = _row(index)
        yield _Text(x + SIGN, y, f"{_shortened(group)} ({count})", TEXT)


def _row(index: int) -> tuple[float, float]:
    """Left end and middle of a row of the legend."""
    return 2 * EDGE + SIDE + index // ROWS * COLUMN, HEAD + (index % ROWS + 0.5) * ROW


def _shortened(name: str) -> str:
    kept = (LETTERS - len(ELLIPSIS)) // 2
    return name if len(name) <= LETTERS else name[:kept] + ELLIPSIS + name[-kept:]


def _path(polygon: Polygon) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in polygon.tolist()) + "z"
