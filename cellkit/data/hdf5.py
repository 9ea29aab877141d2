"""Annotated images in one HDF5 file: groups or datasets called images and labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from cellkit.data.dataset import Dataset, Pair, natural, stem_of
from cellkit.data.truth import LabelFile, LabelRef
from cellkit.errors import InputError, NoInputError
from cellkit.io.keys import safe_key

IMAGE_NAMES = ("images", "image", "raw")
LABEL_NAMES = ("labels", "label", "masks")
LAYOUT = "HDF5 with images and labels"


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


def labels_in_hdf5(path: Path) -> dict[str, LabelRef]:
    """Label images of a file by key: in ``labels``, else all that are two-dimensional integers.

    Raises:
        InputError: the file is no HDF5.
        NoInputError: there are no labels in it.
    """
    with _opened(path) as file:
        within = next((file[name] for name in LABEL_NAMES if name in file), None)
        found = _datasets(within, path) if within is not None else dict(_integer_images(file, path))
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
        return {stem_of(path): node.name}
    names = [name for name in node if isinstance(node[name], h5py.Dataset)]
    return {safe_key(name, source=f"{path}::{node.name}"): node[name].name for name in sorted(names, key=natural)}


def _integer_images(file: Any, path: Path) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - h5py is not typed
    names = [name for name in file if isinstance(file[name], h5py.Dataset)]
    for name in sorted(names, key=natural):
        if file[name].ndim == 2 and file[name].dtype.kind in "ui":
            yield (stem_of(path) if len(names) == 1 else safe_key(name, source=str(path))), file[name].name
