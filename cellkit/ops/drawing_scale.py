"""Pictures at the size in which they are looked at: averaged down band by band, or enlarged.

What is read is anything of which (C, rows, columns) windows can be taken: an array, or an image larger than memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 4096  # px, the longest side of a picture
COMFORTABLE = 800  # px; smaller images are enlarged by a whole factor to at least this side, if no size is asked for
BAND_PIXELS = 1 << 22  # values (all channels) that are turned into floats at once

Convert = Callable[[NDArray[Any]], NDArray[np.float32]]


class Windows(Protocol):
    """(C, H, W) pixels of which windows are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""

    def __getitem__(self, window: Any, /) -> NDArray[Any]:  # noqa: ANN401 - as numpy has it
        """The (c, h, w) window named by slices of channels, rows and columns."""


def picture_shape(shape: tuple[int, int], size: int | None) -> tuple[int, int]:
    """Height and width of the picture of an image (H, W).

    Args:
        shape: of the image.
        size: longest side of the picture; None: that of the image, but at most 4,096, and of small images the smallest
            whole multiple from 800 on.
    """
    longest = max(shape)
    if size is None and longest <= LARGEST:
        factor = math.ceil(COMFORTABLE / longest)
        return shape[0] * factor, shape[1] * factor
    wanted = min(size or LARGEST, LARGEST)
    return max(1, round(shape[0] * wanted / longest)), max(1, round(shape[1] * wanted / longest))


def averaged(pixels: Windows, shape: tuple[int, int], convert: Convert) -> NDArray[np.float32]:
    """Mean over the area beneath each pixel of a smaller image, a band of rows at a time.

    Args:
        pixels: (C, H, W).
        shape: (h, w), an axis that would grow stays as it is.
        convert: brings a window (C, rows, W) to floats, before the mean is taken.

    Returns:
        (C, min(h, H), min(w, W)).
    """
    channels, height, width = pixels.shape
    down, across = (boundaries(old, min(old, new)) for old, new in ((height, shape[0]), (width, shape[1])))
    result = np.empty((channels, len(down) - 1, len(across) - 1), np.float32)
    for first, last in bands(down, max(1, BAND_PIXELS // (channels * width))):
        begin = int(down[first])
        window = convert(np.asarray(pixels[:, begin : int(down[last]), :]))
        result[:, first:last] = _means(_means(window, down[first : last + 1] - begin, 1), across, 2)
    return result


def boundaries(old: int, new: int) -> NDArray[np.int64]:
    """Where the parts of an axis of ``old`` pixels begin and end, (new + 1,), when each becomes one of ``new``."""
    return np.arange(new + 1, dtype=np.int64) * old // new


def bands(edges: NDArray[np.int64], rows: int) -> Iterator[tuple[int, int]]:
    """Ranges (first, last) of new rows that lie over at most ``rows`` old ones each, or over one new row."""
    count, first = len(edges) - 1, 0
    while first < count:
        last = int(np.searchsorted(edges, edges[first] + rows, side="right")) - 1
        last = min(count, max(last, first + 1))
        yield first, last
        first = last


def _means(values: NDArray[np.float32], edges: NDArray[np.int64], axis: int) -> NDArray[np.float32]:
    if len(edges) - 1 == values.shape[axis]:
        return values
    lengths = np.diff(edges).astype(np.float32)
    sums: NDArray[np.float32] = np.add.reduceat(values, edges[:-1], axis=axis)
    return sums / lengths.reshape([-1 if i == axis else 1 for i in range(values.ndim)])


def enlarged(picture: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) brought to (h, w) by bicubic interpolation."""
    if picture.shape[:2] == shape:
        return picture
    resized = Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.uint8)


def nearest(size: int, old: int) -> NDArray[np.int64]:
    """The old pixel of an axis that holds the centre of each of ``size`` new ones; as ``labelling.resize_labels``."""
    return ((np.arange(size) + 0.5) * old / size).astype(np.int64)
