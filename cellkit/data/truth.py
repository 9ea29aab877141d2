"""Annotations of one image, wherever they are kept, as a label image; and one mask per object where they overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from cellkit.errors import InputError
from cellkit.io.labels import read_labels

RunLength: TypeAlias = dict[str, Any]  # {"size": [H, W], "counts": bytes} of pycocotools


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The annotated objects of one image.

    Attributes:
        labels: (H, W) int32, 0 is background; the smallest object is on top where they overlap.
        masks: one run-length mask per object, where the layout can hold overlapping ones: ``masks[i]`` is the whole
            of the object whose visible part has label ``i + 1``; else None.
        overlapping: pixels that belong to more than one object.
    """

    labels: NDArray[np.int32]
    masks: tuple[RunLength, ...] | None = None
    overlapping: int = 0


class LabelRef(Protocol):
    """Where the annotation of one image is kept."""

    @property
    def name(self) -> str:
        """For messages and lists: usually a path."""
        ...

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it.

        Args:
            shape: height and width of the image that it must fit, if known.

        Raises:
            InputError: it cannot be read or does not fit.
        """
        ...


@dataclass(frozen=True)
class LabelFile:
    """A label image in a file of its own, or in a dataset of an HDF5 file."""

    name: str
    dataset: str | None = None

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`LabelRef`."""
        labels = read_labels(self.name, dataset=self.dataset).labels
        check_shape(self.name, labels.shape, shape)
        return Truth(labels=labels)


@dataclass(frozen=True)
class MaskFiles:
    """One file per object; whatever is not 0 belongs to it.

    Attributes:
        name: folder or pattern, for messages.
        paths: the files.
        shape: height and width, for an image without any object.
    """

    name: str
    paths: tuple[str, ...]

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`LabelRef`."""
        masks = []
        for path in self.paths:
            mask = read_mask(path)
            shape = check_shape(path, mask.shape, shape)
            masks.append(mask)
        if shape is None:
            raise InputError(self.name, "there is no mask, and no image that tells the size", "name the images too")
        return flatten(encode(masks), shape)


def read_mask(path: str) -> NDArray[np.bool_]:
    """Read the mask of one object, (H, W); of coloured files the alpha channel is ignored.

    Raises:
        InputError: it is missing or no image.
    """
    try:
        pixels: NDArray[Any] = np.asarray(iio.imread(path))
    except FileNotFoundError as error:
        raise InputError(path, "the file is not there", "check the folder of masks") from error
    except (OSError, ValueError, SyntaxError) as error:  # what the readers of imageio raise on damaged files
        raise InputError(path, "the file is no readable mask image", "replace or remove it") from error
    if pixels.ndim == 3:
        pixels = np.any(pixels[..., : 1 if pixels.shape[-1] <= 2 else 3], axis=-1)
    if pixels.ndim != 2:
        raise InputError(path, f"a mask of {pixels.ndim} dimensions", "one 2-D mask per object is needed")
    return pixels.astype(bool)


def check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, int] | None) -> tuple[int, int]:
    """The shape of an annotation, when it is that of its image.

    Raises:
        InputError: it is another one.
    """
    if wanted is not None and tuple(found) != tuple(wanted):
        sizes = " x ".join(map(str, found)), " x ".join(map(str, wanted))
        raise InputError(name, f"the labels have {sizes[0]} pixels, the image has {sizes[1]}", "pair them anew")
    return found[0], found[1]


def encode(masks: Iterable[NDArray[np.bool_]]) -> list[RunLength]:
    """Run-length masks of (H, W) masks."""
    return [run_lengths.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


def flatten(masks: Iterable[RunLength], shape: tuple[int, int]) -> Truth:
    """Paint overlapping objects into one label image, the smallest last; empty ones are dropped."""
    kept = [mask for mask in masks if run_lengths.area(mask) > 0]
    labels = np.zeros(shape, np.int32)
    covered = np.zeros(shape, np.uint16)
    areas = [int(run_lengths.area(mask)) for mask in kept]
    for index in sorted(range(len(kept)), key=lambda i: (-areas[i], i)):
        inside = run_lengths.decode(kept[index]).astype(bool)
        labels[inside] = index + 1
        covered += inside
    return Truth(labels=labels, masks=tuple(kept), overlapping=int(np.count_nonzero(covered > 1)))
