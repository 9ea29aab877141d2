"""The typical diameter of the objects in images that nobody has labelled, by autocorrelation.

How fast an image stops resembling itself when it is shifted tells how large its objects are: two discs of diameter D
overlap by half when they are 0.404 D apart. Where cells are not brighter or darker than what surrounds them (phase
contrast, DIC), an image stops resembling itself within a few pixels; there the strength of its local detail is taken
in place of its intensities. An estimate: fluorescent nuclei come out right where they are alike, else a quarter too
large, some images half (large ones count by their area); cells in phase contrast and DIC between 0.75 and 1.7 times
their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Plane = NDArray[np.float32]

HALF_OVERLAP = 0.404  # distance in diameters at which two equal discs share half their area
SMALLEST = 8.0  # px; what seems smaller is detail inside of objects, or noise
WINDOW = 1024  # px, side of the windows in which large images are looked at, and how many per axis
WINDOWS = 3
PERCENTILES = 1.0, 99.8
NOISE_SIGMA = 1.0  # px, blur against noise, which resembles nothing
DETAIL_SIGMA, DETAIL_REACH = 2.0, 5.0  # px, blur before the gradient, and over which its squares are averaged


@dataclass(frozen=True, kw_only=True)
class ObjectSize:
    """What a set of images says about the size of its objects.

    Attributes:
        diameter: median over the images in pixels.
        low: a tenth of the images gave less.
        high: a tenth gave more.
        images: how many gave an estimate.
    """

    diameter: float
    low: float
    high: float
    images: int


def typical_size(images: Iterable[Image]) -> ObjectSize | None:
    """Estimate over images (C, H, W); None where none of them gives one."""
    sizes = [size for image in images if (size := object_size(image)) is not None]
    if not sizes:
        return None
    low, middle, high = np.percentile(sizes, (10, 50, 90)).tolist()
    return ObjectSize(diameter=middle, low=low, high=high, images=len(sizes))


class Image(Protocol):
    """(C, H, W), in memory or not."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its three sizes."""
        ...

    def __getitem__(self, window: tuple[slice, slice, slice], /) -> NDArray[Any]:
        """Part of it, as an array."""
        ...


def object_size(image: Image) -> float | None:
    """Typical diameter of the objects of one image.

    Args:
        image: (C, H, W) of any type; of lazy pixels only windows are read, 9 of 1024 x 1024 at most.

    Returns:
        pixels; or None where the image shows nothing, or nothing smaller than itself.
    """
    sizes = [size for window in _windows(image) if (size := _size(window)) is not None]
    return float(np.median(sizes)) if sizes else None


def _windows(image: Image) -> Iterator[list[Plane]]:
    """Channels, between 0 and 1, of the image or of parts of it; without those that have one value."""
    rows, columns = (_starts(size) for size in image.shape[1:])
    for top in rows:
        for left in columns:
            window = image[0 : image.shape[0], top : top + WINDOW, left : left + WINDOW]
            planes = [_normal(np.asarray(channel, np.float32)) for channel in window]
            yield [plane for plane in planes if plane is not None]


def _starts(size: int) -> list[int]:
    if size <= WINDOW:
        return [0]
    count = min(WINDOWS, -(-size // WINDOW))
    return [round(i * (size - WINDOW) / (count - 1)) for i in range(count)]


def _normal(plane: Plane) -> Plane | None:
    low, high = np.percentile(plane, PERCENTILES)
    if high <= low:
        low, high = float(plane.min()), float(plane.max())
    if high <= low:
        return None
    scaled: Plane = np.clip((plane - low) / (high - low), 0, 1, dtype=np.float32)
    return scaled


def _size(planes: list[Plane]) -> float | None:
    smooth = [ndimage.gaussian_filter(plane, NOISE_SIGMA) for plane in planes]
    size = _correlation_length(smooth)
    if size is not None and size < SMALLEST:
        size = _correlation_length([_detail(plane) for plane in planes])
    return None if size is None or size < SMALLEST else size


def _detail(plane: Plane) -> Plane:
    """Root mean square of the gradient around each pixel."""
    square = ndimage.gaussian_gradient_magnitude(plane, DETAIL_SIGMA) ** 2
    return np.asarray(np.sqrt(ndimage.gaussian_filter(square, DETAIL_REACH)), np.float32)


def _correlation_length(planes: list[Plane]) -> float | None:
    """Diameter of the discs whose autocorrelation falls to one half as fast as that of the planes together."""
    if not planes:
        return None
    profile = np.sum([_autocovariance(plane) for plane in planes], axis=0)
    below = np.flatnonzero(profile < 0.5 * profile[0])
    if below.size == 0:
        return None
    last = int(below[0]) - 1
    part = (profile[last] - 0.5 * profile[0]) / (profile[last] - profile[last + 1])
    return float((last + part) / HALF_OVERLAP)


def _autocovariance(plane: Plane) -> NDArray[np.float64]:
    """Mean product with itself, by whole pixels of distance up to half the smaller side."""
    shape = [fft.next_fast_len(2 * side, real=True) for side in plane.shape]
    products, counts = (_products(part, shape) for part in (plane - plane.mean(), np.ones_like(plane)))
    reach = max(1, min(plane.shape) // 2)
    y, x = np.ogrid[: reach + 1, -reach : reach + 1]  # the other half is the same
    distance = np.rint(np.hypot(y, x)).astype(int)
    near = distance <= reach
    rows, columns = np.broadcast_arrays(y, x)
    chosen = products[rows[near], columns[near]] / np.maximum(counts[rows[near], columns[near]], 1)
    bins = distance[near]
    result: NDArray[np.float64] = np.bincount(bins, chosen) / np.bincount(bins)
    return result


def _products(plane: Plane, shape: list[int]) -> Plane:
    spectrum = fft.rfft2(plane, shape)
    return np.asarray(fft.irfft2(spectrum.real**2 + spectrum.imag**2, shape))
