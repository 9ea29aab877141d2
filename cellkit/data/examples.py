"""Annotated images as compact tensors: read, normalised, with the targets that a representation wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellkit.config import Preprocessing
from cellkit.data.augment import Scene
from cellkit.data.diameter import centres_of, diameter_of
from cellkit.data.normalise import normalise, prepare_channels, statistics
from cellkit.data.scale import own_diameter
from cellkit.io.images import ReadOptions

if TYPE_CHECKING:
    from cellkit.data.layouts import Pair

Compute: TypeAlias = Callable[[NDArray[np.int32]], NDArray[np.float32]]

FLOAT16_LIMIT = 60000.0  # outliers far above the percentiles would become infinite
VECTOR_STEPS = 127  # int8 holds a direction to half a degree
INT8 = np.iinfo(np.int8)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a representation is trained on.

    Attributes:
        compute: labels (H, W) int32 -> fields (T, H, W) float32.
        vectors: pairs of channels that are the (y, x) of unit vectors and turn with the image.
    """

    compute: Compute
    vectors: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One annotated image, ready to be cropped.

    Attributes:
        image: (C, H, W) float16, normalised; (1, H, W) where all channels are equal.
        fields: (T, H, W) int8 or float16; vectors of any length.
        scene: its shape, cells and channels.
    """

    image: Tensor
    fields: Tensor
    scene: Scene

    @property
    def size(self) -> int:
        """Bytes that the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.image, self.fields))

    def to(self, device: torch.device) -> Example:
        """The same on another device."""
        return Example(image=self.image.to(device), fields=self.fields.to(device), scene=self.scene)


def load_pair(
    pair: Pair, preprocessing: Preprocessing, options: ReadOptions | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Read an annotated image whole.

    Returns:
        image (C, H, W) float32, normalised, with the channels that the model wants; labels (H, W) int32.

    Raises:
        InputError: the image or its labels cannot be read or do not fit together, or hold NaN.
        ModelError: the model wants other channels.
    """
    image, labels, _ = _load(pair, preprocessing, options or ReadOptions())
    return np.repeat(image, preprocessing.channels // len(image), axis=0), labels


def load_example(
    pair: Pair, preprocessing: Preprocessing, targets: Targets, options: ReadOptions | None = None
) -> Example:
    """Read an annotated image and compute its targets; errors as :func:`load_pair`."""
    image, labels, active = _load(pair, preprocessing, options or ReadOptions())
    scene = Scene(
        shape=labels.shape,
        diameter=own_diameter(image, preprocessing) or diameter_of(labels),
        working=preprocessing.diameter,
        centres=centres_of(labels),
        active=active,
    )
    compact = np.clip(image, -FLOAT16_LIMIT, FLOAT16_LIMIT).astype(np.float16)
    fields = compact_fields(targets.compute(labels), targets.vectors)
    return Example(image=torch.from_numpy(compact), fields=torch.from_numpy(fields), scene=scene)


def compact_fields(fields: NDArray[np.float32], vectors: tuple[tuple[int, int], ...]) -> NDArray[Any]:
    """Fields as int8 where nothing is lost by it but a fraction of a degree, else as float16.

    Args:
        fields: (T, H, W); vectors of length up to 1.
        vectors: pairs of channels that are vectors.
    """
    scale = np.ones((len(fields), 1, 1), np.float32)
    scale[[channel for pair in vectors for channel in pair]] = VECTOR_STEPS
    scaled = fields * scale
    rounded = np.rint(scaled)
    fits = rounded.min(initial=0) >= INT8.min and rounded.max(initial=0) <= INT8.max
    whole = np.array_equal(rounded[scale.ravel() == 1], scaled[scale.ravel() == 1])
    return rounded.astype(np.int8) if fits and whole else fields.astype(np.float16)


def _load(
    pair: Pair, preprocessing: Preprocessing, options: ReadOptions
) -> tuple[NDArray[np.float32], NDArray[np.int32], tuple[bool, ...]]:
    """Image (1 or C, H, W), labels, and per channel whether it holds anything."""
    read = pair.read(options)
    prepared = prepare_channels(read, preprocessing)
    channels, height, width = prepared.shape
    low, high = statistics(prepared, preprocessing, source=read.source)
    pixels = prepared if isinstance(prepared, np.ndarray) else prepared[0:channels, 0:height, 0:width]
    if all(np.array_equal(pixels[0], channel) for channel in pixels[1:]):
        pixels = pixels[:1]
    image = normalise(pixels, low[: len(pixels)], high[: len(pixels)], source=read.source)
    labels = pair.labels.read((height, width)).labels
    return image, labels, tuple(bool(some) for some in high > low)
