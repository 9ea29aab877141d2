"""Annotations of one image, wherever they are kept, as a label image; and one mask per object where they overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from cellkit.errors import InputError
from cellkit.io.images import read_images
from cellkit.io.labels import read_labels
from cellkit.ops.run_lengths import RunLength, pixels_of

LARGEST = int(np.iinfo(np.int32).max)


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
class StackedLabels:
    """One label image of a stack (N, H, W) in an HDF5 file.

    Attributes:
        name: the file.
        dataset: the stack in it.
        index: number of the label image.
    """

    name: str
    dataset: str
    index: int

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`LabelRef`."""
        subject = f"{self.name}::{self.dataset}[{self.index}]"
        try:
            with h5py.File(self.name, "r", locking=False) as file:
                labels = np.asarray(file[self.dataset][self.index])
        except (OSError, KeyError, ValueError) as error:
            raise InputError(subject, "the labels cannot be read", "replace the file; it may be truncated") from error
        check_shape(subject, labels.shape, shape)
        return Truth(labels=as_labels(labels, subject))


@dataclass(frozen=True)
class MaskFiles:
    """One file per object; whatever is not 0 belongs to it.

    Attributes:
        name: folder or pattern, for messages.
        paths: the files.
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
    """Read the mask of one object, (H, W): what is not 0 in any channel; alpha does not count.

    Raises:
        InputError: as :func:`cellkit.io.images.read_images`.
    """
    pixels = next(read_images(path)).pixels
    inside: NDArray[np.bool_] = np.asarray(pixels[:, :, :].astype(bool).any(axis=0))
    return inside


def as_labels(values: NDArray[Any], name: str) -> NDArray[np.int32]:
    """Whole numbers from 0 to 2147483647 as int32.

    Raises:
        InputError: there are others.
    """
    if values.dtype.kind not in "uib":
        raise InputError(name, f"labels of type {values.dtype}", "whole numbers are needed, 0 for background")
    if int(values.min(initial=0)) < 0 or int(values.max(initial=0)) > LARGEST:
        raise InputError(name, f"labels outside 0 to {LARGEST}", "number the objects anew")
    return values.astype(np.int32)


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
    return [coco_masks.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


def flatten(masks: Iterable[RunLength], shape: tuple[int, int]) -> Truth:
    """Paint overlapping objects into one label image, the smallest last; empty ones are dropped."""
    found = [(mask, pixels) for mask in masks if (pixels := pixels_of(mask)).size]
    labels = np.zeros(shape[0] * shape[1], np.int32)  # flattened by columns, as run lengths are
    covered = np.zeros(labels.size, np.uint16)
    for index in sorted(range(len(found)), key=lambda i: (-found[i][1].size, i)):
        pixels = found[index][1]
        labels[pixels] = index + 1
        covered[pixels] += 1
    return Truth(
        labels=np.ascontiguousarray(labels.reshape(shape[1], shape[0]).T),
        masks=tuple(mask for mask, _ in found),
        overlapping=int(np.count_nonzero(covered > 1)),
    )
