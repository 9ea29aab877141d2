"""Annotations of one image, wherever they are kept, as a label image; and one mask per object where they overlap."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import h5py
import numpy as np
import tifffile
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from cellkit.data.annotations import Annotations
from cellkit.errors import InputError
from cellkit.io import tiff_metadata
from cellkit.io.grouped_hdf5 import number_of
from cellkit.io.images import Image, read_images
from cellkit.io.keys import TIFF_SUFFIXES, suffix_of
from cellkit.io.labels import read_labels
from cellkit.io.stored import decoding
from cellkit.ops.run_lengths import RunLength, pixels_of

LARGEST = int(np.iinfo(np.int32).max)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The annotated objects of one image.

    Attributes:
        labels: (H, W) int32, 0 is background; the smallest object is on top where they overlap. -1 where nothing is
            known, if that was asked for.
        masks: one run-length mask per object, where the layout can hold overlapping ones: ``masks[i]`` is the whole
            of the object whose visible part has label ``i + 1``; else None. Crowds come last and have no label; only
            what is read for scoring has them.
        overlapping: pixels that belong to more than one object.
        annotations: what the file says of each of the masks, where it says more than their pixels; else None.
        scores: (n,) float32, where a label image carries them; ``scores[i]`` belongs to label ``i + 1``.
        pixel_size: micrometres per pixel, where the annotation itself says it.
        outlines: (n, K, 2) float32, where a label file carries them; see :class:`cellkit.ops.instances.Instances`.
    """

    labels: NDArray[np.int32]
    masks: tuple[RunLength, ...] | None = None
    overlapping: int = 0
    annotations: Annotations | None = None
    scores: NDArray[np.float32] | None = None
    pixel_size: float | None = None
    outlines: NDArray[np.float32] | None = None


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
    """A label image in a file of its own, or in a dataset of an HDF5 file.

    Attributes:
        name: the file.
        dataset: the dataset of an HDF5 file.
        unknown: -1 is allowed, for pixels of which nothing is known.
    """

    name: str
    dataset: str | None = None
    unknown: bool = False

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`LabelRef`."""
        found = read_labels(self.name, dataset=self.dataset, unknown=self.unknown)
        check_shape(self.name, found.labels.shape, shape)
        pixel_size = _tagged_size(self.name) if found.pixel_size is None else found.pixel_size
        return Truth(labels=found.labels, scores=found.scores, pixel_size=pixel_size, outlines=found.outlines)


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
                pixel_size = number_of(file[self.dataset], "pixel_size")
        except (OSError, KeyError, ValueError) as error:
            raise InputError(subject, "the labels cannot be read", "replace the file; it may be truncated") from error
        check_shape(subject, labels.shape, shape)
        return Truth(labels=as_labels(labels, subject), pixel_size=pixel_size)


@dataclass(frozen=True)
class MaskFiles:
    """One file per object; whatever is not 0 belongs to it. Files without a pixel are left out with a warning.

    Attributes:
        name: folder or pattern, for messages.
        paths: the files.
    """

    name: str
    paths: tuple[str, ...]

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`LabelRef`."""
        masks, pixel_size = [], None
        for path in self.paths:
            image = next(read_images(path))
            masks.append(_inside(image))
            shape = check_shape(path, masks[-1].shape, shape)
            pixel_size = image.pixel_size if pixel_size is None else pixel_size
        if shape is None:
            raise InputError(self.name, "there is no mask, and no image that tells the size", "name the images too")
        empty = [path for path, mask in zip(self.paths, masks, strict=True) if not mask.any()]
        if empty:
            logger.warning("%s: %s, e.g. %s", self.name, left_out(len(empty), "mask"), empty[0])
        return replace(flatten(encode(masks), shape), pixel_size=pixel_size)


def _inside(image: Image) -> NDArray[np.bool_]:
    """The mask of one object, (H, W): what is not 0 in any channel; alpha does not count."""
    inside: NDArray[np.bool_] = np.asarray(image.pixels[:, :, :].astype(bool).any(axis=0))
    return inside


def _tagged_size(path: str) -> float | None:
    """Micrometres per pixel by the tags of a TIFF that another tool wrote."""
    if suffix_of(path) not in TIFF_SUFFIXES:
        return None
    try:
        with tifffile.TiffFile(path) as tiff, decoding(path):
            return tiff_metadata.pixel_size(tiff, 0)
    except tifffile.TiffFileError:
        return None  # the beginning of a file decides what it is, not its name


def left_out(count: int, what: str) -> str:
    """``2 masks without a pixel are left out``, for a warning."""
    return f"1 {what} without a pixel is left out" if count == 1 else f"{count} {what}s without a pixel are left out"


def as_labels(values: NDArray[Any], name: str) -> NDArray[np.int32]:
    """Whole numbers from 0 to 2147483647 as int32, from whatever type.

    Raises:
        InputError: there are others.
    """
    if values.dtype.kind not in "uibf":
        raise InputError(name, f"labels of type {values.dtype}", "whole numbers are needed, 0 for background")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise InputError(name, "holds fractions or NaN, not labels", "whole numbers are needed, 0 for background")
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
    return paint([mask for mask in masks if coco_masks.area(mask)], shape)


def paint(masks: Sequence[RunLength], shape: tuple[int, int]) -> Truth:
    """Paint overlapping objects into one label image, the smallest last: ``masks[i]`` gets the label ``i + 1``."""
    pixels = [pixels_of(mask) for mask in masks]
    labels = np.zeros(shape[0] * shape[1], np.int32)  # flattened by columns, as run lengths are
    covered = np.zeros(labels.size, np.uint16)
    for index in sorted(range(len(pixels)), key=lambda i: (-pixels[i].size, i)):
        labels[pixels[index]] = index + 1
        covered[pixels[index]] += 1
    return Truth(
        labels=np.ascontiguousarray(labels.reshape(shape[1], shape[0]).T),
        masks=tuple(masks),
        overlapping=int(np.count_nonzero(covered > 1)),
    )
