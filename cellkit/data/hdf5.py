"""Annotated images in one HDF5 file: groups or datasets called images and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from cellkit.data.dataset import Dataset, Pair, image_key, natural
from cellkit.data.truth import LabelFile, LabelRef, StackedLabels
from cellkit.errors import InputError, NoInputError
from cellkit.io.detections import KIND as OBJECTS
from cellkit.io.grouped_hdf5 import is_of_kind
from cellkit.io.keys import safe_key

IMAGE_NAMES = ("images", "image", "raw")
LABEL_NAMES = ("labels", "label", "masks")
LAYOUT = "HDF5 with images and labels"
PLANE = 2  # axes of a label image
COLOURS = (3, 4)  # channels of an image that is no stack of labels
LABEL_STACK = 3  # axes of a stack of label images
STACK_AXES = {3: "ZYX", 4: "ZYXC"}  # Z: the reader takes one plane of a stack


def find_hdf5(path: Path) -> Dataset | None:
    """Pairs of ``images/KEY`` and ``labels/KEY``; or one pair, where both are datasets of a single image.

    Raises:
        InputError: the file is no HDF5.
    """
    with _opened(path) as file:
        images = next((file[name] for name in IMAGE_NAMES if name in file), None)
        labels = next((file[name] for name in LABEL_NAMES if name in file), None)
        if images is None or labels is None:
            return None
        if _is_stack(images, labels):
            return _stack(path, images, labels)
        pictures, truths = _datasets(images, path), _datasets(labels, path)
    pairs = [
        Pair(key=key, image=f"{path}::{name}", labels=LabelFile(str(path), truths[key]))
        for key, name in pictures.items()
        if key in truths
    ]
    return Dataset(
        layout=LAYOUT,
        pairs=tuple(pairs),
        unpaired_images=tuple(f"{path}::{name}" for key, name in pictures.items() if key not in truths),
        unpaired_labels=tuple(f"{path}::{name}" for key, name in truths.items() if key not in pictures),
    )


def _is_stack(images: Any, labels: Any) -> bool:  # noqa: ANN401 - h5py is not typed
    both = isinstance(images, h5py.Dataset) and isinstance(labels, h5py.Dataset)
    return both and labels.ndim == LABEL_STACK and images.ndim in STACK_AXES and len(images) == len(labels)


def _stack(path: Path, images: Any, labels: Any) -> Dataset:  # noqa: ANN401 - h5py is not typed
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) with labels (N, H, W); keys as those of time series."""
    channels_last = images.ndim == LABEL_STACK or images.shape[1:3] == labels.shape[1:]
    axes = STACK_AXES[images.ndim] if channels_last else "ZCYX"
    image, stem = f"{path}::{images.name}", image_key(path)
    pairs = tuple(
        Pair(
            key=_plane_key(stem, index, len(labels)),
            image=image,
            labels=StackedLabels(str(path), labels.name, index),
            axes=axes,
            plane=index,
        )
        for index in range(len(labels))
    )
    return Dataset(layout=LAYOUT, pairs=pairs)


def _plane_key(stem: str, index: int, count: int) -> str:
    return f"{stem}_t{index:03d}" if count > 1 else stem


def labels_in_hdf5(path: Path) -> dict[str, LabelRef]:
    """Label images of a file by key: in ``labels``, else ``KEY/labels``, else all two-dimensional integers.

    Of a stack (N, H, W), the planes; their keys are those of :func:`find_hdf5`.

    Raises:
        InputError: the file is no HDF5, or holds what a detector predicted.
        NoInputError: there are no labels in it.
    """
    with _opened(path) as file:
        if is_of_kind(file, OBJECTS):
            repair = "make labels of them with 'cellkit postprocess'"
            raise InputError(path, "holds the objects of a detector, not labels", repair)
        within = next((file[name] for name in LABEL_NAMES if name in file), None)
        if isinstance(within, h5py.Dataset) and within.ndim == LABEL_STACK and within.shape[-1] not in COLOURS:
            stem, count = image_key(path), len(within)
            return {_plane_key(stem, i, count): StackedLabels(str(path), within.name, i) for i in range(count)}
        found = _datasets(within, path) if within is not None else _grouped(file, path) or _integer_images(file, path)
    if not found:
        raise NoInputError(path, "there are no labels in it", f"a dataset or group called {' or '.join(LABEL_NAMES)}")
    return {key: LabelFile(str(path), name) for key, name in found.items()}


def _opened(path: Path) -> Any:  # noqa: ANN401 - h5py is not typed
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError(path, "the file is no readable HDF5", "replace it; it may be truncated") from error


def _datasets(node: Any, path: Path) -> dict[str, str]:  # noqa: ANN401 - h5py is not typed
    """Key and full name of a dataset, or of those in a group, in natural order."""
    if isinstance(node, h5py.Dataset):
        return {image_key(path): node.name}
    names = [name for name in node if isinstance(node[name], h5py.Dataset)]
    return {safe_key(name, source=f"{path}::{node.name}"): node[name].name for name in sorted(names, key=natural)}


def _grouped(file: Any, path: Path) -> dict[str, str]:  # noqa: ANN401 - h5py is not typed
    """``KEY/labels``, as cellkit writes several label images."""
    return {
        safe_key(key, source=str(path)): f"/{key}/{LABEL_NAMES[0]}"
        for key in sorted(file, key=natural)
        if isinstance(file[key], h5py.Group) and LABEL_NAMES[0] in file[key]
    }


def _integer_images(file: Any, path: Path) -> dict[str, str]:  # noqa: ANN401 - h5py is not typed
    names = [name for name in file if isinstance(file[name], h5py.Dataset)]
    flat = [name for name in names if file[name].ndim == PLANE and file[name].dtype.kind in "ui"]
    if len(flat) == 1:
        return {image_key(path): file[flat[0]].name}
    return {safe_key(name, source=str(path)): file[name].name for name in sorted(flat, key=natural)}
