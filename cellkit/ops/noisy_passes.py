"""Mean and spread of a network's maps over noisy copies of an image, one copy at a time.

Where there is nothing to see, grains of noise become centres of spurious objects: the maps of the copies differ there,
and agree on cells (Wolf et al., section 3.3).

The noise of a pixel depends on the seed, the copy and its place in the image alone, so that windows of an image have
the noise of the whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cellkit.config import Spec
from cellkit.errors import UsageError

Tag = TypeVar("Tag")
Pixels: TypeAlias = NDArray[np.float32]
Maps: TypeAlias = NDArray[np.float16]

BLOCK = 256  # pixels, side of the squares that each have a generator


@dataclass(frozen=True, kw_only=True)
class Noise(Spec):
    """Which copies are made.

    Attributes:
        values: of the grains, on the scale where the percentiles of the image are 0 and 1: salt and pepper. The
            authors' code has 0.5 for pepper.
        repeats: copies for each value.
        fraction: of the pixels of a copy that become a grain, in each channel for itself.
        seed: of the places of the grains.
    """

    values: tuple[float, ...] = (1.0, 0.0)
    repeats: int = 16
    fraction: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no copies.

        Raises:
            UsageError: no value or no copy, or the fraction is not between 0 and 1.
        """
        if self.repeats < 1 or not self.values:
            problem = f"{self.repeats} copies for {len(self.values)} values are none"
            raise UsageError("repeats", problem, "give 1 or more, e.g. 16")
        if not 0 <= self.fraction <= 1:
            raise UsageError("fraction", f"{self.fraction:g} is out of range", "give a number from 0 to 1, e.g. 0.01")

    @property
    def copies(self) -> int:
        """In all."""
        return self.repeats * len(self.values)


def noisy(pixels: Pixels, noise: Noise, copy: int, origin: tuple[int, int] = (0, 0)) -> Pixels:
    """One noisy copy of an image or of a window of it.

    Args:
        pixels: (C, h, w).
        noise: which copies there are.
        copy: number of the copy, from 0; salt comes first.
        origin: row and column of the window in its image.

    Returns:
        (C, h, w), a copy.
    """
    result = pixels.copy()
    value = noise.values[copy // noise.repeats]
    height, width = pixels.shape[1:]
    for top in range(origin[0] // BLOCK * BLOCK, origin[0] + height, BLOCK):
        for left in range(origin[1] // BLOCK * BLOCK, origin[1] + width, BLOCK):
            rows = slice(max(top - origin[0], 0), top + BLOCK - origin[0])
            columns = slice(max(left - origin[1], 0), left + BLOCK - origin[1])
            part = result[:, rows, columns]
            y, x = max(origin[0] - top, 0), max(origin[1] - left, 0)
            grains = _grains(noise, copy, (top // BLOCK, left // BLOCK), len(pixels))
            part[grains[:, y : y + part.shape[1], x : x + part.shape[2]]] = value
    return result


def _grains(noise: Noise, copy: int, block: tuple[int, int], channels: int) -> NDArray[np.bool_]:
    """Which elements (C, BLOCK, BLOCK) of a block are grains; more channels leave the first ones as they are."""
    random = np.random.default_rng((noise.seed, copy, *block))
    return random.random((channels, BLOCK, BLOCK), np.float32) < noise.fraction


class Moments:
    """Running mean and variance of maps (C, H, W), in float32; none of the maps is kept (Welford)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float32]
        self._squares: NDArray[np.float32]

    def add(self, maps: NDArray[np.floating[Any]]) -> None:
        """Take one more in."""
        self.count += 1
        if self.count == 1:
            self.mean = maps.astype(np.float32)
            self._squares = np.zeros_like(self.mean)
            return
        difference = maps - self.mean
        self.mean += difference / np.float32(self.count)
        difference *= maps - self.mean
        self._squares += difference

    @property
    def deviation(self) -> NDArray[np.float32]:
        """Population standard deviation (C, H, W)."""
        return np.sqrt(np.maximum(self._squares, 0) / np.float32(self.count))


def mean_and_spread(
    images: Iterable[tuple[Tag, Pixels | Callable[[], Pixels]]],
    run: Callable[[Iterator[tuple[Tag, Callable[[], Pixels]]]], Iterable[tuple[Tag, Maps]]],
    noise: Noise,
    origin_of: Callable[[Tag], tuple[int, int]] = lambda _: (0, 0),
) -> Iterator[tuple[Tag, Maps]]:
    """Mean and spread of the maps of each image over its noisy copies; never more copies in memory than ``run`` takes.

    Args:
        images: tag and (C, h, w), normalised, or a function that gives it when its turn comes.
        run: the network: tagged functions that give images -> their tags and maps (K, h, w), in the same order; such
            as the engine's ``infer`` with everything but the images given.
        noise: which copies are made.
        origin_of: row and column in the whole image of what belongs to a tag, where that is a window.

    Yields:
        Tag and maps (K + 1, h, w) float16: means, and the standard deviations summed over the maps. Where all pixels
        are the same the spread is infinite, which is background: there is nothing but the noise to see.
    """
    flat: deque[bool] = deque()
    moments = Moments()
    for tag, maps in run(_copies(images, noise, origin_of, flat)):
        moments.add(maps)
        if moments.count == noise.copies:
            spread = moments.deviation.sum(0, keepdims=True)
            if flat.popleft():
                spread.fill(np.inf)
            yield tag, np.concatenate([moments.mean, spread]).astype(np.float16)
            moments = Moments()


def _copies(
    images: Iterable[tuple[Tag, Pixels | Callable[[], Pixels]]],
    noise: Noise,
    origin_of: Callable[[Tag], tuple[int, int]],
    flat: deque[bool],
) -> Iterator[tuple[Tag, Callable[[], Pixels]]]:
    for tag, image in images:
        pixels = image() if callable(image) else image
        flat.append(bool(pixels.min() == pixels.max()))
        for copy in range(noise.copies):
            yield tag, partial(noisy, pixels, noise, copy, origin_of(tag))
