"""Endless random crops of images without labels, by style: what contrastive fine-tuning compares its shots with.

Crop number (step, place) depends on the seed and on these alone, so resuming is exact. The crops are those of Scellseg,
magnified by 224/290 to 224/156 against the working scale, at any angle; but beyond the border the image is mirrored,
as it is for the shots, where the authors put zeros: black corners would tell the shots from all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cellkit.data.augment import Augmentation, Draw, Scene, draw, recolour
from cellkit.data.warp import warp
from cellkit.errors import NoInputError

CPU = torch.device("cpu")
SCALE = (224 / 290, 224 / 156)  # crops of 156 to 290 pixels become 224 (Scellseg, the authors' code)
CODE_OF_ZERO, CODES_PER_UNIT = 64, 128  # of packed crops: -0.5 to 1.492 in steps of 1/128


@dataclass(frozen=True, kw_only=True, eq=False)
class StyleImage:
    """One image without labels.

    Attributes:
        pixels: (C, H, W) float16, normalised; (1, H, W) where all channels are equal.
        scene: its shape, scale and channels.
    """

    pixels: Tensor
    scene: Scene


@dataclass(frozen=True, kw_only=True, eq=False)
class Style:
    """Images of one style.

    Attributes:
        name: of the style.
        images: at least one.
    """

    name: str
    images: tuple[StyleImage, ...]


class StyleCrops:
    """Crops without labels, drawn for ever: in each step of one style.

    Args:
        styles: of which one is drawn per step; all crops of the step show it.
        augmentation: what may happen to a shot; the same happens here, but for the scale.
        channels: of the crops.
        seed: equal seeds give equal crops.
        stream: number that tells crops of one seed apart: others for query images than for contrast images.
        device: where the crops are made.

    Raises:
        NoInputError: there is no style.
    """

    def __init__(
        self,
        styles: Sequence[Style],
        augmentation: Augmentation,
        channels: int,
        *,
        seed: int,
        stream: int = 0,
        device: torch.device = CPU,
    ) -> None:
        if not styles or not all(style.images for style in styles):
            raise NoInputError("styles", "there is no image to take crops from", "give a folder of images")
        self.styles = tuple(styles)
        self.augmentation = replace(augmentation, scale=SCALE, foreground=0)
        self.channels = channels
        self.key = (seed, stream)
        self.device = device

    def style_of(self, step: int) -> Style:
        """The style that all crops of a step show."""
        return self.styles[int(np.random.default_rng((*self.key, step)).integers(len(self.styles)))]

    def crops(self, step: int, count: int, *, first: int = 0) -> Tensor:
        """The crops of one step, images drawn with replacement.

        Args:
            step: number of the step.
            count: crops.
            first: place of the first one: processes that share a step take places of their own.

        Returns:
            (count, C, crop, crop) float32.
        """
        images = self.style_of(step).images
        side = self.augmentation.crop
        result = torch.empty((count, self.channels, side, side), device=self.device)
        draws = []
        for crop, (image, drawn) in zip(result, self._drawn(images, step, first), strict=False):
            crop.copy_(_cut(image, drawn, self.device))
            draws.append(drawn)
        return recolour(result, draws)

    def _drawn(self, images: Sequence[StyleImage], step: int, first: int) -> Iterator[tuple[StyleImage, Draw]]:
        """Image and draw at each place from ``first`` on; each has generators of its own."""
        place = first
        while True:
            chosen, seed = np.random.SeedSequence((*self.key, step, place)).generate_state(2, np.uint64)
            image = images[int(chosen) % len(images)]
            generator = torch.Generator().manual_seed(int(seed))
            yield image, draw(generator, self.augmentation, image.scene)
            place += 1


def _cut(image: StyleImage, drawn: Draw, device: torch.device) -> Tensor:
    """(1 or C, crop, crop) float32; the warp wants fields too, and gets one that takes no memory."""
    nothing = torch.zeros((1, 1, 1), dtype=torch.int8).expand(1, *image.pixels.shape[1:])
    return warp(image.pixels, nothing, (), drawn.affine, device)[0]


def pack(crops: Tensor) -> Tensor:
    """Normalised crops as bytes, for a checkpoint.

    Zero stays zero (so that an empty channel stays empty), values from -0.5 to 1.492 are off by at most 1/256, and what
    lies beyond is cut off.

    Args:
        crops: (N, C, h, w) of any float type.

    Returns:
        (N, C, h, w) uint8.
    """
    codes = (crops.float() * CODES_PER_UNIT).round_() + CODE_OF_ZERO
    return codes.clamp_(0, 255).to(torch.uint8)


def unpack(codes: Tensor) -> Tensor:
    """What :func:`pack` made, back as values: (N, C, h, w) uint8 -> (N, C, h, w) float32."""
    return (codes.float() - CODE_OF_ZERO) / CODES_PER_UNIT
