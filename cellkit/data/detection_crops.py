"""Annotated images as a detector learns from them: all objects on layers, and crops with the boxes that they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellkit.config import Preprocessing
from cellkit.data.augment import Scene
from cellkit.data.detection_categories import categories_of
from cellkit.data.detection_layers import Packed, pack_labels, pack_masks
from cellkit.data.diameter import centres_of, diameter_of
from cellkit.data.normalise import normalise, prepare_channels, statistics
from cellkit.data.scale import own_diameter
from cellkit.data.truth import Truth
from cellkit.data.warp import Affine, warp
from cellkit.io.images import ReadOptions

if TYPE_CHECKING:
    from cellkit.data.layouts import Pair

FLOAT16_LIMIT = 60000.0  # outliers far above the percentiles would become infinite
ENOUGH = 32**2  # pixels that tell what an object is, however small a part of it they are


class DetectionTruth(NamedTuple):
    """What a detector shall find on one crop.

    Attributes:
        boxes: (N, 4) float32 x0, y0, x1, y1 of the pixels of each object that the crop shows; none is empty.
        categories: (N,) int64, from 0.
        layers: (L, H, W) int32, L >= 1; objects that overlap lie on different layers, 0 is background.
        places: (N, 2) int64: the layer of each object, and its value there.
    """

    boxes: Tensor
    categories: Tensor
    layers: Tensor
    places: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionExample:
    """One annotated image, ready to be cropped.

    Attributes:
        image: (C, H, W) float16, normalised; (1, H, W) where all channels are equal.
        layers: (L, H, W) int16 or int32; object i has the number i + 1 on its layer.
        layer: (N,) int64, the layer of each object.
        areas: (N,) int64, pixels of each object.
        categories: (N,) int64, from 0.
        scene: its shape, objects and channels.
    """

    image: Tensor
    layers: Tensor
    layer: Tensor
    areas: Tensor
    categories: Tensor
    scene: Scene

    @property
    def size(self) -> int:
        """Bytes that the tensors take."""
        tensors = (self.image, self.layers, self.layer, self.areas, self.categories)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def to(self, device: torch.device) -> DetectionExample:
        """The same on another device."""
        return DetectionExample(
            image=self.image.to(device),
            layers=self.layers.to(device),
            layer=self.layer.to(device),
            areas=self.areas.to(device),
            categories=self.categories.to(device),
            scene=self.scene,
        )


def pack(truth: Truth) -> Packed:
    """The objects of an image on layers; crowds are left out, for they are no objects."""
    if truth.masks is None:
        return pack_labels(truth.labels)
    masks, annotations = truth.masks, truth.annotations
    if annotations is not None:
        masks = tuple(mask for mask, crowd in zip(masks, annotations.crowd, strict=True) if not crowd)
    return pack_masks(masks, (truth.labels.shape[0], truth.labels.shape[1]))


def load_detection(
    pair: Pair, preprocessing: Preprocessing, names: Sequence[str], options: ReadOptions | None = None
) -> DetectionExample:
    """Read an annotated image whole, with its objects on layers.

    Args:
        pair: the image.
        preprocessing: what the model wants.
        names: of the categories; see :func:`cellkit.data.detection_categories.categories_of`.
        options: how image files are read.

    Raises:
        InputError: the image or its annotation cannot be read or do not fit together, or hold NaN; an object of a
            category that has no place.
        ModelError: the model wants other channels.
    """
    read = pair.read(options)
    prepared = prepare_channels(read, preprocessing)
    channels, height, width = prepared.shape
    low, high = statistics(prepared, preprocessing, source=read.source)
    pixels = prepared if isinstance(prepared, np.ndarray) else prepared[0:channels, 0:height, 0:width]
    if all(np.array_equal(pixels[0], channel) for channel in pixels[1:]):
        pixels = pixels[:1]
    image = normalise(pixels, low[: len(pixels)], high[: len(pixels)], source=read.source)
    truth = pair.labels.read((height, width))
    packed = pack(truth)
    scene = Scene(
        shape=(height, width),
        diameter=own_diameter(image, preprocessing) or diameter_of(truth.labels),
        working=preprocessing.diameter,
        centres=centres_of(truth.labels),
        active=tuple(bool(some) for some in high > low),
    )
    return DetectionExample(
        image=torch.from_numpy(np.clip(image, -FLOAT16_LIMIT, FLOAT16_LIMIT).astype(np.float16)),
        layers=torch.from_numpy(packed.layers),
        layer=torch.from_numpy(packed.layer),
        areas=torch.from_numpy(packed.areas),
        categories=torch.from_numpy(categories_of(pair, truth, names, packed.areas.size)),
        scene=scene,
    )


class Crop(NamedTuple):
    """One crop of an image.

    Attributes:
        image: (1 or C, crop, crop) float32.
        inside: (crop, crop), where the crop shows the image; elsewhere there are no objects.
        truth: its objects.
    """

    image: Tensor
    inside: Tensor
    truth: DetectionTruth


def cut(example: DetectionExample, affine: Affine, least_shown: float, device: torch.device) -> Crop:
    """Cut one crop out of an image.

    Beyond the border of the image there is nothing: a mirrored object would be one object in two pieces.

    Args:
        example: the image.
        affine: where the crop lies.
        least_shown: an object of which the crop shows a smaller part of its pixels is left out, unless that is still
            32 x 32 pixels of the crop.
        device: where the crop is wanted.
    """
    image, layers = warp(example.image, example.layers, (), affine, device)
    inside = shown(affine, example.scene.shape, device)
    layers = layers.to(torch.int32) * inside
    return Crop(image, inside, truth_of(layers, example, least_shown / affine.shrinkage**2))


def shown(affine: Affine, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Which pixels (crop, crop) of a crop lie on the image (H, W)."""
    yy, yx, xy, xx = affine.matrix
    offset = torch.arange(affine.crop, device=device, dtype=torch.float32) - (affine.crop - 1) / 2
    down, right = offset[:, None], offset[None, :]
    y = yy * down + (yx * right + affine.centre[0])
    x = xy * down + (xx * right + affine.centre[1])
    return (y >= -0.5) & (y < shape[0] - 0.5) & (x >= -0.5) & (x < shape[1] - 0.5)


def truth_of(layers: Tensor, example: DetectionExample, least: float) -> DetectionTruth:
    """What can be seen of the objects of an image, numbered anew from 1.

    Args:
        layers: (L, h, w) int32 of a crop, with the numbers that the objects have in the image.
        example: the image.
        least: pixels of the crop that are to be seen of an object, for each of its pixels in the image.
    """
    layer, y, x = layers.nonzero(as_tuple=True)
    number = layers[layer, y, x].long() - 1
    count = len(example.areas)
    visible = torch.bincount(number, minlength=count)
    enough = visible >= (least * example.areas.to(layers.device)).clamp(min=1, max=ENOUGH)
    kept = enough.nonzero()[:, 0]
    table = torch.zeros(count + 1, dtype=torch.int32, device=layers.device)
    table[kept + 1] = torch.arange(1, len(kept) + 1, dtype=torch.int32, device=layers.device)
    lowest, highest = (_extreme(values, number, count) for values in ((x, y), (-x, -y)))
    boxes = torch.cat([lowest, 1 - highest], 1)[kept].float()
    own = example.layer.to(layers.device)[kept]
    used, place = torch.unique(own, return_inverse=True)
    used = used if len(used) else used.new_zeros(1)  # one empty layer, where there is nothing
    return DetectionTruth(
        boxes=boxes,
        categories=example.categories.to(layers.device)[kept],
        layers=table[layers[used].long()],
        places=torch.stack([place, torch.arange(1, len(kept) + 1, device=layers.device)], 1),
    )


def _extreme(values: tuple[Tensor, Tensor], number: Tensor, count: int) -> Tensor:
    """The lowest of each of two values of the pixels of each object: (S,), (S,), (S,) -> (count, 2)."""
    result = torch.zeros((count, 2), dtype=torch.int64, device=number.device)
    for column, value in enumerate(values):
        result[:, column] = result[:, column].scatter_reduce(0, number, value, "amin", include_self=False)
    return result
