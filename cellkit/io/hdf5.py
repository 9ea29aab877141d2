"""HDF5 images: datasets that may be images, with the axes their attributes name."""

from __future__ import annotations

import io
import json
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError
from cellkit.io.detections import KIND as OBJECTS
from cellkit.io.grouped_hdf5 import is_of_kind
from cellkit.io.stored import Index, Stored
from cellkit.io.tiff_metadata import micrometres

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_AXES = 5  # T Z C Y X
LABEL_NAMES = frozenset(("label", "labels", "mask", "masks", "segmentation"))  # groups and datasets that are no input
AXIS_WORDS = {"time": "T", "frame": "T", "depth": "Z", "channel": "C", "sample": "S", "row": "Y", "column": "X"}
OPEN_AXES = string.ascii_lowercase  # letters of axes that the file does not name
DATASETS_SHOWN = 12  # listed in a message; more make no line that is read


class _Reopened:
    """A dataset that is opened for each window: it outlives the open file and serves several threads."""

    def __init__(self, content: Path | bytes, dataset: str) -> None:
        self._content = content
        self._dataset = dataset

    def __getitem__(self, index: Index) -> NDArray[Any]:
        with _open(self._content) as file:
            return np.asarray(file[self._dataset][index])


@contextmanager
def open_hdf5(content: Path | bytes, name: str, dataset: str | None, large_plane: int) -> Iterator[Stored]:
    """Open one dataset of an HDF5 file.

    Args:
        content: the file, or its bytes.
        name: the file as the user wrote it, for messages.
        dataset: which dataset; None takes the only one that may be an image.
        large_plane: pixels beyond which a plane is read by windows.

    Raises:
        InputError: no such dataset, none at all, or several to choose from.
    """
    with _open(content) as file:
        found = _choose(file, name, dataset)
        axes, guessed = _axes(found)
        shape = tuple(found.shape)
        is_large = _plane(shape, axes) > large_plane
        yield Stored(
            name=name,
            array=_Reopened(content, found.name) if is_large else found,
            shape=shape,
            dtype=found.dtype,
            axes=axes,
            pixel_size=_pixel_size(found),
            rgb="S" in axes,
            alpha="S" in axes and shape[axes.index("S")] == 4,
            guessed=guessed,
            large=is_large,
        )


def image_datasets(content: Path | bytes) -> list[str]:
    """Names of the datasets that may be images: two to five axes of numbers, not under a name of labels."""
    with _open(content) as file:
        return _images(file)


def is_ours(content: Path | bytes) -> bool:
    """Whether cellkit wrote this HDF5 file: an attribute of the root says so, by its name or value."""
    with _open(content) as file:
        return any(_text(part).startswith("cellkit") for attribute in file.attrs.items() for part in attribute)


def _open(content: Path | bytes) -> Any:  # noqa: ANN401 - h5py is not typed
    if isinstance(content, bytes):
        return h5py.File(io.BytesIO(content), "r")
    return h5py.File(content, "r", locking=False)  # the input may be open elsewhere, or lie on a read-only disk


def _images(file: Any) -> list[str]:  # noqa: ANN401
    names: list[str] = []
    if is_of_kind(file, OBJECTS):  # their boxes look like small images
        return names

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and _may_be_image(name, item):
            names.append(f"/{name}")

    file.visititems(visit)
    return names


def _may_be_image(name: str, item: Any) -> bool:  # noqa: ANN401
    is_array = item.dtype.kind in "buifc" and 2 <= len(item.shape or ()) <= MAX_AXES
    return is_array and not LABEL_NAMES & set(name.lower().split("/"))


def _choose(file: Any, name: str, dataset: str | None) -> Any:  # noqa: ANN401
    names = _images(file)
    if dataset is not None:
        found = file.get(dataset)
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise InputError(name, f"has no dataset {dataset!r}", _choices(names) or "it has none that may be an image")
        return found
    if is_of_kind(file, OBJECTS):
        raise InputError(name, "holds the objects of a detector, and no image", "name the images")
    if not names:
        raise InputError(name, "has no dataset that may be an image", "name one as FILE.h5::/dataset")
    if len(names) > 1:
        raise InputError(name, f"has {len(names)} datasets that may be images", _choices(names))
    return file[names[0]]


def _choices(names: list[str]) -> str:
    listed = ", ".join(names[:DATASETS_SHOWN]) + (", ..." if len(names) > DATASETS_SHOWN else "")
    return f"choose as FILE.h5::/dataset among {listed}" if names else ""


def _plane(shape: tuple[int, ...], axes: str) -> int:
    return int(np.prod([n for n, axis in zip(shape, axes, strict=True) if axis in "YX"]))


def _axes(dataset: Any) -> tuple[str, tuple[str, ...]]:  # noqa: ANN401
    """A letter per axis by the attributes, and what was guessed where they are silent."""
    shape = dataset.shape
    letters = "".join(_letter(word) for word in _axis_words(dataset))
    if len(letters) == len(set(letters)) == len(shape) and {"Y", "X"} <= set(letters):
        return letters, ()
    if len(shape) == 3 and shape[2] in (3, 4) and dataset.dtype == np.uint8 and min(shape[:2]) > shape[2]:
        return "YXS", (f"axes YXS, from the shape {' x '.join(map(str, shape))}",)
    unnamed = OPEN_AXES[: max(0, len(shape) - 2)] + "YX"
    return unnamed[len(unnamed) - len(shape) :], ()


def _axis_words(dataset: Any) -> list[str]:  # noqa: ANN401
    """Names of the axes: h5py's dimension labels, 'axes' as a word or list, ilastik's 'axistags'."""
    labels = [dimension.label for dimension in dataset.dims]
    if any(labels):
        return labels
    if "axistags" in dataset.attrs:
        return [str(axis["key"]) for axis in json.loads(_text(dataset.attrs["axistags"]))["axes"]]
    axes = dataset.attrs.get("axes", "")
    return [_text(word) for word in axes.ravel()] if isinstance(axes, np.ndarray) else list(_text(axes))


def _text(value: Any) -> str:  # noqa: ANN401
    return value.decode() if isinstance(value, bytes) else str(value)


def _letter(word: str) -> str:
    lowered = word.strip().lower()
    return AXIS_WORDS.get(lowered, lowered[:1].upper() or "Q")


def _pixel_size(dataset: Any) -> float | None:  # noqa: ANN401
    """Micrometres per pixel: 'element_size_um' (z, y, x; Fiji and ilastik) or 'pixel_size'."""
    for attribute in ("element_size_um", "pixel_size"):
        values = np.ravel(dataset.attrs.get(attribute, ()))
        if len(values) and np.issubdtype(values.dtype, np.number):
            return micrometres(float(values[-1]), "um")
    return None
