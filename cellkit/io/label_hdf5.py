"""Label images as HDF5: a dataset ``labels`` at the root, or one per key as ``KEY/labels``.

The dataset (H, W) is uint16 or uint32 (int16 or int32 where there is -1, of which nothing is known), in compressed
chunks of 256 x 256 with checksums; its attributes are ``axes`` = ``YX``, ``history`` and, when known, ``pixel_size``
in micrometres. A dataset ``scores`` (n,) float32 lies beside it when there are scores, and ``outlines`` (n, 32, 2)
float32 when the labels were drawn from polygons: their corners, row and column, where (0, 0) is the centre of the first
pixel. The root has the attributes
``format`` = ``cellkit``, ``kind`` = ``labels``, ``format_version`` = 1 and ``history``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError
from cellkit.io.grouped_hdf5 import (
    FORMAT_NAME,
    Dataset,
    Group,
    GroupedFile,
    check_root,
    chunks_of,
    dataset_in,
    describe_root,
    history_of,
    members,
    number_of,
    opened,
    text_of,
)
from cellkit.io.label_image import LabelHeader, LabelImage, LabelRows, bands, stored_dtype
from cellkit.provenance import to_json

FORMAT_VERSION = 1
KIND = "labels"
NAME = "labels"
MAKER = "cellkit postprocess"
BAND_ROWS = 256  # rows of one chunk
NAMES_SHOWN = 8  # datasets listed in a message


class LabelWriter(GroupedFile):
    """A file of label images by key under construction; it appears under its name when the block ends well.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, KIND, FORMAT_VERSION)

    def write(self, item: LabelImage | LabelRows) -> None:
        """Append one label image.

        Raises:
            OutputError: the disk is full or gone.
            UsageError: the file has an image of this key.
        """
        with self.filling(item.key, item.history) as group:
            _fill(group, item)


def encode_hdf5(item: LabelImage | LabelRows) -> bytes:
    """A label image as the bytes of an HDF5 file, with the dataset at the root."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        describe_root(file, KIND, FORMAT_VERSION)
        file.attrs["history"] = to_json(item.history)
        _fill(file, item)
    return memory.getvalue()


def _fill(group: Group, item: LabelImage | LabelRows) -> None:
    dtype = stored_dtype(item.largest, is_sparse=item.is_sparse)
    dataset = group.create_dataset(
        NAME, item.shape, dtype, chunks=chunks_of(item.shape), compression="gzip", shuffle=True, fletcher32=True
    )
    start = 0
    for band in bands(item.rows, item.shape, dtype, BAND_ROWS):
        dataset[start : start + len(band)] = band
        start += len(band)
    dataset.attrs["axes"] = "YX"
    dataset.attrs["history"] = to_json(item.history)
    if item.pixel_size is not None:
        dataset.attrs["pixel_size"] = float(item.pixel_size)
    if item.scores is not None:
        group.create_dataset("scores", data=np.asarray(item.scores, np.float32))
    if item.outlines is not None:
        group.create_dataset("outlines", data=np.asarray(item.outlines, np.float32))


def read_hdf5(
    content: Path | bytes, name: str, dataset: str | None = None
) -> Iterator[tuple[str | None, NDArray[Any], LabelHeader]]:
    """Label images of an HDF5 file: key (None for the only one of a file), array and header.

    Args:
        content: the file, or its bytes.
        name: for messages.
        dataset: one dataset by its path; None: ``labels``, or ``KEY/labels`` of all keys, or the only 2-D dataset.

    Raises:
        InputError: no HDF5, truncated, no such dataset, or none that can be meant.
    """
    with opened(content, name) as file:
        if dataset is None and text_of(file, "format") == FORMAT_NAME:
            check_root(file, name, KIND, FORMAT_VERSION, MAKER)
        for key, found in _datasets(file, name, dataset):
            yield key, found[()], _header(found, name)


def _datasets(file: Group, name: str, wanted: str | None) -> Iterator[tuple[str | None, Dataset]]:
    if wanted is not None:
        found = dataset_in(file, wanted, name)
        if found is None:
            raise InputError(name, f"has no dataset {wanted!r}", _choices(file))
        yield None, found
        return
    single = dataset_in(file, NAME, name)
    if single is not None:
        yield None, single
        return
    if text_of(file, "kind") == KIND:
        for key, group in members(file, name):
            found = dataset_in(group, NAME, name) if isinstance(group, h5py.Group) else None
            if found is None:
                raise InputError(name, f"{key!r} has no labels", "make it again")
            yield key, found
        return
    planes = [path for path in _paths(file) if file[path].ndim == 2]
    if len(planes) != 1:
        raise InputError(name, "holds no dataset 'labels'", _choices(file))
    yield None, dataset_in(file, planes[0], name)


def _paths(file: Group) -> list[str]:
    """Paths of all datasets."""
    paths: list[str] = []
    file.visititems(lambda path, item: paths.append(path) if isinstance(item, h5py.Dataset) else None)
    return paths


def _choices(file: Group) -> str:
    paths = _paths(file)
    shown = ", ".join(f"::/{path}" for path in paths[:NAMES_SHOWN]) + (", ..." if len(paths) > NAMES_SHOWN else "")
    return f"name one: {shown}" if paths else "it holds no dataset at all"


def _header(dataset: Dataset, name: str) -> LabelHeader:
    return LabelHeader(
        scores=_beside(dataset, "scores", 1, name),
        outlines=_beside(dataset, "outlines", 3, name),
        pixel_size=number_of(dataset, "pixel_size"),
        history=history_of(dataset, name),
    )


def _beside(dataset: Dataset, what: str, axes: int, name: str) -> NDArray[np.float32] | None:
    """What we keep of each label beside the dataset, if it is ours."""
    is_ours = dataset.name.rpartition("/")[2] == NAME
    found = dataset_in(dataset.parent, what, name) if is_ours else None
    return None if found is None or found.ndim != axes else found[()].astype(np.float32)
