"""Endless batches for detectors: crops with boxes, categories and masks; number s depends on the seed and s alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellkit.config import Preprocessing
from cellkit.data.augment import Augmentation, Draw, Scene, draw, recolour
from cellkit.data.detection_categories import category_names
from cellkit.data.detection_crops import Crop, DetectionExample, DetectionTruth, cut, load_detection
from cellkit.data.loading import ImageOrder, Loading, Share, budgets
from cellkit.errors import NoInputError, UsageError
from cellkit.overlap import ordered_map

if TYPE_CHECKING:
    from cellkit.data.layouts import Pair

GRID = 32  # sides of images that a detector takes are multiples of this
SEEDS = 2  # per crop: of its place and shape, and of what is drawn in the step


class DetectionBatch(NamedTuple):
    """Crops, and what is to be found on them.

    Attributes:
        images: (B, C, H, W) float32, normalised; H and W are multiples of 32.
        truth: of each crop, on the same device.
        seeds: one per crop, for what is drawn in the step: the sampling of anchors and regions.
    """

    images: Tensor
    truth: tuple[DetectionTruth, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentation(Augmentation):
    """What may happen to a crop for a detector; no rotation unless wanted, as boxes grow by it.

    Detectron2-ResNeSt draws the shorter side of a COCO image from 640 to 864 pixels and a crop of nine tenths of that;
    the range of ``scale`` is about as wide.

    Attributes:
        crop: height and width of the crops in pixels, a multiple of 32.
        least_shown: an object of which a crop shows a smaller part is left out, unless that is 1024 pixels or more.
    """

    crop: int = 512
    scale: tuple[float, float] = (0.8, 1.25)
    rotate: bool = False
    least_shown: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UsageError: as :class:`Augmentation`; a crop that 32 does not divide, or a part that is out of [0, 1].
        """
        super().__post_init__()
        if self.crop % GRID:
            near = max(GRID, round(self.crop / GRID) * GRID)
            raise UsageError("crop", f"{self.crop} is no multiple of {GRID}", f"e.g. {near}")
        if not 0 <= self.least_shown <= 1:
            problem = f"{self.least_shown:g} is out of range"
            raise UsageError("least_shown", problem, "give a number from 0 to 1")


class DetectionSet:
    """Annotated images, loaded once, from which batches of augmented crops are drawn for ever.

    Args:
        pairs: images with their annotations, in any layout.
        preprocessing: what the model wants.
        augmentation: what may happen to a crop.
        loading: how images are read and where they are kept.
        categories: names of the categories that are told apart; None: those of the annotations. One alone takes all
            objects, whatever they are called.
        ground: of each channel, what a crop shows beyond the border of the image; empty: 0. What a detector fills
            images up with when it predicts.

    Attributes:
        categories: the same.

    Raises:
        NoInputError: there is no pair, or no image with an object.
        InputError: an image or its annotation cannot be read, or an object is of a category that has no place.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocessing: Preprocessing,
        augmentation: DetectionAugmentation,
        loading: Loading | None = None,
        categories: Sequence[str] | None = None,
        ground: Sequence[float] = (),
    ) -> None:
        if not pairs:
            raise NoInputError("training", "there is no annotated image", "give a folder with images and labels")
        self.pairs = tuple(pairs)
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.loading = loading or Loading()
        self.categories = tuple(categories) if categories is not None else category_names(pairs)
        self.ground = torch.tensor(ground or (0.0,), device=self.loading.device)[:, None, None]
        self.kept: list[DetectionExample | None] = []
        self.scenes: list[Scene] = []
        self._fill()
        if not any(len(scene.centres) for scene in self.scenes):
            problem = f"none of {len(pairs)} annotated images shows an object"
            raise NoInputError("training", problem, "outline some objects first")

    def __len__(self) -> int:
        """Images."""
        return len(self.pairs)

    def steps_per_epoch(self, batch: int) -> int:
        """Batches until each image was drawn once, rounded up."""
        return math.ceil(len(self.pairs) / batch)

    def batches(
        self, start: int = 0, *, batch: int = 2, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[DetectionBatch]:
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
        order = ImageOrder(len(self.pairs), seed)
        wanted = ((order.at(step * batch + i), _seeds(seed, step, i)) for step, i in own.places(start))
        drawn = ((index, self._draw(first, index), second) for index, (first, second) in wanted)
        again = any(example is None for example in self.kept)
        workers = self.loading.workers if again else 0
        crops = ordered_map(lambda item: (self._example(item[0]), *item[1:]), drawn, workers, 2 * own.crops)
        while True:
            yield self._assemble(list(islice(crops, own.crops)))

    def _fill(self) -> None:
        device_budget, memory_budget = budgets(self.loading)
        for example in ordered_map(self._load, self.pairs, self.loading.workers):
            self.scenes.append(example.scene)
            if example.size <= device_budget:
                device_budget -= example.size
                self.kept.append(example.to(self.loading.device))
            elif example.size <= memory_budget:
                memory_budget -= example.size
                self.kept.append(example)
            else:
                self.kept.append(None)
            if self.loading.progress is not None:
                self.loading.progress(len(self.kept), len(self.pairs))

    def _load(self, pair: Pair) -> DetectionExample:
        return load_detection(pair, self.preprocessing, self.categories, self.loading.options)

    def _example(self, index: int) -> DetectionExample:
        return self.kept[index] or self._load(self.pairs[index])

    def _draw(self, seed: int, index: int) -> Draw:
        return draw(torch.Generator().manual_seed(seed), self.augmentation, self.scenes[index])

    def _assemble(self, drawn: list[tuple[DetectionExample, Draw, int]]) -> DetectionBatch:
        device, side = self.loading.device, self.augmentation.crop
        crops = [self._cut(example, place) for example, place, _ in drawn]
        images = torch.empty((len(crops), self.preprocessing.channels, side, side), device=device)
        for image, crop in zip(images, crops, strict=True):
            image.copy_(crop.image.expand_as(image))
        images = recolour(images, [change for _, change, _ in drawn])
        images = torch.where(torch.stack([crop.inside for crop in crops])[:, None], images, self.ground)
        return DetectionBatch(images, tuple(crop.truth for crop in crops), tuple(seed for *_, seed in drawn))

    def _cut(self, example: DetectionExample, drawn: Draw) -> Crop:
        return cut(example, drawn.affine, self.augmentation.least_shown, self.loading.device)


def _seeds(seed: int, step: int, place: int) -> tuple[int, int]:
    """Seeds of one crop: it does not depend on what other processes draw."""
    first, second = np.random.SeedSequence((seed, step, place)).generate_state(SEEDS).tolist()
    return first, second
