"""Endless deformed crops of images without labels; batch number s depends on the seed and on s alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellkit.config import Preprocessing, Spec
from cellkit.data.loading import ImageOrder, Loading, Share, budgets
from cellkit.data.normalise import normalise, prepare_channels, statistics
from cellkit.data.scale import own_diameter, scale_of
from cellkit.errors import NoInputError, UsageError
from cellkit.io.images import Image
from cellkit.io.sources import Source
from cellkit.overlap import ordered_map

REDRAWS = 8  # of a crop that shows nothing; then it is taken as it is
FLAT = 1e-3  # of the range between the percentiles: what 16-bit floats and interpolation may change
FLOAT16_LIMIT = 60000.0  # outliers far above the percentiles would become infinite
SEEDS = 2  # per crop: of its place and shape, and of what the method draws on it


class UnlabelledBatch(NamedTuple):
    """Crops, and what else is random about them.

    Attributes:
        images: (B, C, h, w) float32.
        seeds: one per crop, for what a method draws on the device.
    """

    images: Tensor
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Deformation(Spec):
    """What may happen to a crop.

    Attributes:
        crop: height and width of the crops in pixels.
        scale: range of the magnification, log-uniform.
        rotate: any angle.
        flip: mirrored half of the time.
        flip_rows: turned upside down half of the time, also where crops are not rotated.
        spacing: pixels between the control points of the elastic deformation.
        jitter: standard deviation in pixels of the control points; 0: no elastic deformation.
    """

    younger = MappingProxyType({"flip_rows": False})

    crop: int = 128
    scale: tuple[float, float] = (0.9, 1.1)
    rotate: bool = True
    flip: bool = True
    flip_rows: bool = False
    spacing: int = 64
    jitter: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UsageError: a size is not positive, the range is empty, the jitter is negative.
        """
        for name in ("crop", "spacing"):
            if getattr(self, name) < 1:
                raise UsageError(name, f"{getattr(self, name)} is no size", "give pixels, e.g. 64")
        if not (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]):
            raise UsageError("scale", f"{self.scale} is no range", "give low and high, both above 0")
        if self.jitter < 0:
            raise UsageError("jitter", f"{self.jitter:g} is negative", "give 0 or more")


@dataclass(frozen=True, eq=False)
class _Kept:
    """One image: its pixels (C, H, W) float16, or None: read again when it is wanted."""

    source: Source
    frame: int
    pixels: Tensor | None


class UnlabelledSet:
    """Images without labels, loaded once, from which batches of crops are drawn for ever.

    Images in which every pixel is the same are left out, and crops that show nothing are drawn again: there is nothing
    to learn from them.

    Args:
        sources: the images; every frame of a time series is one.
        preprocessing: channels, normalisation, and the size of objects, which sets the scale.
        deformation: size of the crops, and what may happen to them.
        loading: how many threads read, how much is kept in memory, where batches are wanted.

    Raises:
        NoInputError: there is no image that shows anything.
        InputError: an image cannot be read, or holds NaN.
        ModelError: an image has other channels.
        UsageError: a diameter that no image can have.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        preprocessing: Preprocessing,
        deformation: Deformation,
        loading: Loading | None = None,
    ) -> None:
        self.preprocessing = preprocessing
        self.deformation = deformation
        self.loading = loading or Loading()
        self.kept: list[_Kept] = []
        self._fill(sources)
        if not self.kept:
            raise NoInputError("training", f"none of {len(sources)} images shows anything", "give images with cells")

    def __len__(self) -> int:
        """Images that show something."""
        return len(self.kept)

    @property
    def crop(self) -> int:
        """Height and width of the crops in pixels."""
        return self.deformation.crop

    def batches(
        self, start: int = 0, *, batch: int = 8, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[UnlabelledBatch]:
        """Batches number ``start``, ``start + 1``, ... without end.

        Args:
            start: number of the first batch.
            batch: crops in a batch, over all processes.
            seed: equal seeds give equal batches.
            rank: number of this process; it gets its share of each batch.
            world_size: number of processes; the batches of all together do not depend on it.

        Raises:
            UsageError: the processes cannot share a batch equally.
        """
        own = Share(batch, rank, world_size)
        order = ImageOrder(len(self.kept), seed)
        wanted = ((order.at(step * batch + i), _seeds(seed, step, i)) for step, i in own.places(start))
        # threads where they would otherwise wait: for files, or for a GPU
        busy = self.loading.device.type == "cpu" and all(kept.pixels is not None for kept in self.kept)
        workers = 0 if busy else self.loading.workers
        crops = ordered_map(lambda item: (self._crop(item[0], item[1][0]), item[1][1]), wanted, workers, 2 * own.crops)
        while True:
            images, seeds = zip(*islice(crops, own.crops), strict=True)
            yield UnlabelledBatch(torch.stack(images).to(self.loading.device), seeds)

    def _fill(self, sources: Sequence[Source]) -> None:
        _, budget = budgets(self.loading)
        for done, images in enumerate(ordered_map(self._load, sources, self.loading.workers), 1):
            for frame, pixels in enumerate(images):
                if pixels is None:
                    continue
                fits = pixels.numel() * pixels.element_size() <= budget
                budget -= pixels.numel() * pixels.element_size() if fits else 0
                self.kept.append(_Kept(sources[done - 1], frame, pixels if fits else None))
            if self.loading.progress is not None:
                self.loading.progress(done, len(sources))

    def _load(self, source: Source) -> list[Tensor | None]:
        return [self._pixels(image) for image in source.images()]

    def _pixels(self, image: Image) -> Tensor | None:
        """(C, H, W) float16 at working scale; None where every pixel is the same."""
        prepared = prepare_channels(image, self.preprocessing)
        channels, height, width = prepared.shape
        low, high = statistics(prepared, self.preprocessing, source=image.source)
        pixels = prepared if isinstance(prepared, np.ndarray) else prepared[0:channels, 0:height, 0:width]
        normal = torch.from_numpy(normalise(pixels, low, high, source=image.source))
        if _is_flat(normal):
            return None
        scale = scale_of(self.preprocessing, own_diameter(prepared, self.preprocessing))
        return _scaled(normal, scale).clamp_(-FLOAT16_LIMIT, FLOAT16_LIMIT).half()

    def image(self, index: int) -> Tensor:
        """One image as the network sees it, (C, H, W) float16."""
        kept = self.kept[index]
        if kept.pixels is not None:
            return kept.pixels
        again = self._pixels(next(islice(kept.source.images(), kept.frame, None)))
        return torch.zeros(self.preprocessing.channels, 1, 1) if again is None else again

    def _crop(self, index: int, seed: int) -> Tensor:
        """(C, crop, crop) float32."""
        image, generator = self.image(index), torch.Generator().manual_seed(seed)
        for _ in range(REDRAWS):
            crop = sample(image, draw_positions(generator, self.deformation, (image.shape[1], image.shape[2])))
            if not _is_flat(crop):
                break
        return crop


def draw_positions(generator: torch.Generator, deformation: Deformation, shape: tuple[int, int]) -> Tensor:
    """Where the pixels of one crop lie in an image.

    The undeformed crop lies inside the image where it fits; equal states of the generator give equal crops.

    Args:
        generator: on the CPU.
        deformation: what may happen.
        shape: (H, W) of the image.

    Returns:
        (2, crop, crop) float32 rows and columns; some may lie outside.
    """
    zoom, turn, mirrored, *place = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    low, high = deformation.scale
    factor = 1 / (low * math.exp(zoom * math.log(high / low)))  # pixels of the image per pixel of the crop
    angle = 2 * math.pi * turn if deformation.rotate else 0.0
    mirror = -1.0 if deformation.flip and mirrored < 0.5 else 1.0
    cosine, sine = math.cos(angle) * factor, math.sin(angle) * factor
    upside = -1.0 if deformation.flip_rows and not deformation.rotate and turn < 0.5 else 1.0
    half = (deformation.crop - 1) / 2
    reach = (abs(cosine) + abs(sine)) * half
    ends = [sorted((reach, size - 1 - reach)) for size in shape]  # of a small image, the crop shows all
    centre = [first + number * (last - first) for number, (first, last) in zip(place, ends, strict=True)]
    straight = torch.arange(deformation.crop) - half
    down, right = torch.stack(torch.meshgrid(straight, straight, indexing="ij")) + _bend(generator, deformation)
    return torch.stack(
        [
            cosine * upside * down - sine * mirror * right + centre[0],
            sine * down + cosine * mirror * right + centre[1],
        ]
    )


def _bend(generator: torch.Generator, deformation: Deformation) -> Tensor:
    """Smooth displacements (2, crop, crop) through control points that are displaced at random."""
    if deformation.jitter == 0:
        return torch.zeros(2, 1, 1)
    phase = torch.rand((), generator=generator)  # so that no place of the crop is always a control point
    position = torch.arange(deformation.crop) / deformation.spacing + phase + 1
    points = torch.arange(int(position[-1]) + 3)
    weights = _cubic((position[:, None] - points).abs())  # (crop, n)
    moved = torch.randn(2, len(points), len(points), generator=generator) * deformation.jitter
    return weights @ moved @ weights.T


def _cubic(t: Tensor) -> Tensor:
    """Weights of cubic convolution by distance (Keys 1981, a = -1/2): through the points, with smooth slopes."""
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((2.5 - 0.5 * t) * t - 4) * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))


def sample(image: Tensor, positions: Tensor) -> Tensor:
    """Bilinear values of an image, which is mirrored at its first and last pixels as often as needed.

    Args:
        image: (C, H, W) of any float type; only the part that is shown is turned into float32.
        positions: (2, h, w) rows and columns.

    Returns:
        (C, h, w) float32.
    """
    grid, window = [], [slice(None)]
    for position, size in zip(positions, image.shape[1:], strict=True):
        last = size - 1
        folded = last - (position.remainder(max(2 * last, 1)) - last).abs() if last else torch.zeros_like(position)
        first, end = int(folded.min()), min(int(folded.max()) + 2, size)
        window.append(slice(first, end))
        grid.append((folded - first) * (2 / max(end - first - 1, 1)) - 1)
    stacked = torch.stack(grid[::-1], -1)[None]
    pixels = image[tuple(window)].float()[None]
    return F.grid_sample(pixels, stacked, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _scaled(pixels: Tensor, scale: float) -> Tensor:
    """Bilinear, antialiased when shrinking: (C, H, W) -> (C, H scale, W scale)."""
    if scale == 1:
        return pixels
    size = [max(1, round(side * scale)) for side in pixels.shape[1:]]
    return F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False, antialias=scale < 1)[0]


def _is_flat(pixels: Tensor) -> bool:
    """Whether every channel (C, H, W) has one value, but for rounding."""
    flat = pixels.flatten(1)
    return bool((flat.amax(1) - flat.amin(1) < FLAT).all())


def _seeds(seed: int, step: int, place: int) -> tuple[int, ...]:
    """Seeds of one crop: it does not depend on what other processes draw."""
    return tuple(np.random.SeedSequence((seed, step, place)).generate_state(SEEDS).tolist())
