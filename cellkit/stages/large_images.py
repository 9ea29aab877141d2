"""Images larger than memory: read, normalised, scaled and run through the network window by window.

The maps appear as bands of rows, from top to bottom, while somebody reads them; they are never there as a whole.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellkit.data.normalise import normalise
from cellkit.engine.tiles import rounded_up
from cellkit.errors import UsageError
from cellkit.io.images import Pixels
from cellkit.io.maps import Maps
from cellkit.networks import stride_of
from cellkit.ops.blocks import Window, windows
from cellkit.overlap import ahead
from cellkit.stages.passes import Passes

LARGE = 16_000_000  # pixels at map scale; images beyond go through in windows, whether they are in memory or not
CORE = 1344  # px, side of a window's core: with 64 px around it, it is exactly 2 x 2 tiles of 768 that overlap by 64
WIDE, CORE_OF_WIDE = 40_000, 640  # px; of wider images one row of windows is one row of such tiles, to save memory
READ_SIDE = 2048  # px of the source that are read at once, per axis
WHOLE_BYTES = 1 << 29  # maps that may be asked for at once; more is refused

log = logging.getLogger(__name__)


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether an image goes through in windows, by its (H, W) at map scale."""
    return shape[0] * shape[1] > LARGE


@dataclass(frozen=True, kw_only=True)
class LargePixels:
    """An image as the network sees it, of which windows are made when they are asked for.

    Attributes:
        pixels: (C, H, W) of the source, with the channels that the model wants.
        low: (C,) values that become 0.
        high: (C,) values that become 1.
        shape: (h, w) at map scale.
        source: name of the image for messages.
    """

    pixels: Pixels
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    shape: tuple[int, int]
    source: str

    def whole(self) -> NDArray[np.float32]:
        """All of it: (C, h, w)."""
        return self.window((slice(0, self.shape[0]), slice(0, self.shape[1])))

    def window(self, outer: tuple[slice, slice]) -> NDArray[np.float32]:
        """The window (C, rows, columns) named by slices at map scale, the same as cut out of the whole.

        Raises:
            InputError: a value is NaN or infinite.
        """
        rows, columns = outer
        result = np.empty((len(self.low), rows.stop - rows.start, columns.stop - columns.start), np.float32)
        scale = self.shape[0] / self.pixels.shape[1]
        side = max(1, int(READ_SIDE * min(1.0, scale)))
        for part in windows((result.shape[1], result.shape[2]), side, 0):
            down, across = part.core
            result[:, down, across] = self._piece(_shifted(down, rows.start), _shifted(across, columns.start))
        return result

    def _piece(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        if self.shape == tuple(self.pixels.shape[1:]):
            return self._normal(rows, columns)
        down_from, down = interpolation(rows, self.shape[0], self.pixels.shape[1])
        across_from, across = interpolation(columns, self.shape[1], self.pixels.shape[2])
        return _mixed(_mixed(self._normal(down_from, across_from), down).swapaxes(1, 2), across).swapaxes(1, 2)

    def _normal(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        return normalise(np.asarray(self.pixels[:, rows, columns]), self.low, self.high, source=self.source)


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _mixed(pixels: NDArray[np.float32], weights: sparse.csr_array) -> NDArray[np.float32]:
    """New rows from weighted sums of rows: pixels (C, m, w), weights (n, m) -> (C, n, w)."""
    rows = weights @ pixels.swapaxes(0, 1).reshape(pixels.shape[1], -1)
    return np.asarray(rows).reshape(-1, len(pixels), pixels.shape[2]).swapaxes(0, 1)


def interpolation(part: slice, size: int, old: int) -> tuple[slice, sparse.csr_array]:
    """What gives a part of an axis that is resized from ``old`` to ``size`` pixels: bilinear, antialiased.

    Each new pixel is a mean under a triangle, as in torch's ``interpolate(..., antialias=True)``, whose pixels these
    are; of a part, only the old pixels beneath it are needed.

    Args:
        part: new pixels (n).
        size: new pixels of the whole axis.
        old: old pixels of the whole axis.

    Returns:
        The slice (m) of old pixels, and weights (n, m) float32, sparse.
    """
    ratio = old / size
    reach = max(ratio, 1.0)
    centres = (np.arange(part.start, part.stop) + 0.5) * ratio
    begin, end = max(0, int(centres[0] - reach)), min(old, int(np.ceil(centres[-1] + reach)))
    distance = np.abs(np.arange(begin, end) + 0.5 - centres[:, None])
    weights = np.maximum(1 - distance / reach, 0)
    return slice(begin, end), sparse.csr_array((weights / weights.sum(1, keepdims=True)).astype(np.float32))


def map_bands(pixels: LargePixels, passes: Passes) -> Iterator[NDArray[np.float16]]:
    """Maps of an image from top to bottom; windows are read while the network runs.

    Each window has as much context around its core as tiles have overlap; of its maps only the core is taken.

    Yields:
        Bands (channels, rows, w) that tile the map.
    """
    height, width = pixels.shape
    core = CORE if width <= WIDE else CORE_OF_WIDE  # multiples of the stride of any network
    plan = windows(pixels.shape, core, rounded_up(passes.tiling.overlap, stride_of(passes.network)))
    arrays = ahead((window, pixels.window(window.outer)) for window in plan)
    for window, maps in passes.maps(arrays, _origin):
        (rows, columns), (top, left) = window.core, (outer.start for outer in window.outer)
        if columns.start == 0:
            band = np.empty((len(maps), rows.stop - rows.start, width), np.float16)
        band[:, :, columns] = maps[:, _shifted(rows, -top), _shifted(columns, -left)]
        if columns.stop == width:
            log.info("%s: network done for %d of %d rows", pixels.source, rows.stop, height)
            yield band


def map_window(pixels: LargePixels, passes: Passes, rows: slice, columns: slice) -> NDArray[np.float16]:
    """Maps (channels, rows, columns) of one window, with as much context as those of :func:`map_bands` have."""
    stride = stride_of(passes.network)  # windows begin at multiples of it: the network's grid is that of the image
    context = rounded_up(passes.tiling.overlap, stride)
    outer = tuple(
        slice(max(0, (part.start - context) // stride * stride), min(size, part.stop + context))
        for part, size in zip((rows, columns), pixels.shape, strict=True)
    )
    origin = outer[0].start, outer[1].start
    ((_, maps),) = passes.maps([(None, pixels.window((outer[0], outer[1])))], lambda _: origin)
    return maps[:, _shifted(rows, -origin[0]), _shifted(columns, -origin[1])]


def _origin(window: Window) -> tuple[int, int]:
    return window.outer[0].start, window.outer[1].start


class RollingMaps:
    """Maps (C, h, w) float16 that are computed while they are read, once, from top to bottom.

    A window may begin no higher than the one before it; what lies above is forgotten. The network runs in the thread
    that reads: it has one user at a time, and its activations stay in one heap.

    Args:
        bands: (C, rows, w) that tile the maps.
        shape: (C, h, w).
        source: name of the image for messages.
        apart: rows and columns -> maps of that window, computed for themselves; None: there is no such way.
    """

    def __init__(
        self,
        bands: Iterator[NDArray[np.float16]],
        shape: tuple[int, int, int],
        source: str,
        apart: Callable[[slice, slice], NDArray[np.float16]] | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float16)
        self._bands = bands
        self._source = source
        self.apart = apart
        self._kept: deque[NDArray[np.float16]] = deque()
        self._top = self._bottom = 0  # rows that are kept

    def __getitem__(self, window: tuple[slice, ...]) -> NDArray[np.float16]:
        channels, rows, columns = (*window, slice(None), slice(None))[:3]
        start, stop, _ = rows.indices(self.shape[1])
        self._check(start, stop, len(range(*columns.indices(self.shape[2]))))
        self._forget(start)
        while self._bottom < stop:
            self._take(start, stop)
        parts, top = [], self._top
        for band in self._kept:
            parts.append(band[channels, max(start - top, 0) : max(stop - top, 0), columns])
            top += band.shape[1]
        return np.concatenate(parts, axis=1)

    def _check(self, start: int, stop: int, width: int) -> None:
        size = 2 * self.shape[0] * (stop - start) * width
        if size > WHOLE_BYTES:
            problem = f"its maps of {size / 1e9:.1f} GB are too large for a tar stream"
            raise UsageError(self._source, problem, "use -o DIR/ or -o FILE.h5, or 'cellkit segment'")
        if start < self._top:
            raise ValueError(f"{self._source}: rows from {start} on were asked for, those above {self._top} are gone")

    def _take(self, start: int, stop: int) -> None:
        band = next(self._bands, None)
        if band is None:
            raise ValueError(f"{self._source}: rows up to {stop} were asked for after computing was stopped")
        self._kept.append(band)
        self._bottom += band.shape[1]
        self._forget(start)

    def _forget(self, start: int) -> None:
        while self._kept and self._top + self._kept[0].shape[1] <= start:
            self._top += self._kept.popleft().shape[1]

    def close(self) -> None:
        """Stop computing, and forget all rows."""
        self._bands = iter(())  # nobody else holds the former ones: they end
        self._kept.clear()
        self._top = self._bottom


def rolling_maps(pixels: LargePixels, passes: Passes) -> RollingMaps:
    """Maps of an image that are computed while they are read."""
    shape = (passes.channels, *pixels.shape)
    apart = partial(map_window, pixels, passes)
    return RollingMaps(map_bands(pixels, passes), shape, pixels.source, apart)


def read_apart(maps: Maps, rows: slice, columns: slice) -> NDArray[np.float16]:
    """A window (C, rows, columns) of maps in any order; those that are computed while they are read stay unread."""
    if isinstance(maps, RollingMaps) and maps.apart is not None:
        return maps.apart(rows, columns)
    return np.asarray(maps[:, rows, columns])
