"""Prediction files of detectors: the objects of images on their way from ``predict`` to ``postprocess``.

A file is HDF5, as that of dense maps, with the same attributes of the root; its ``kind`` is ``instances``, its
``format_version`` 1. It holds one group per image, in the order of the input, named by the key of the image. A group
has the same attributes as one of maps (``representation``, ``settings``, ``source``, ``axes``, ``shape``, ``scale``,
``pixel_size``, ``diameter``, ``history``) and the attribute

- ``category_names`` (text): JSON list of the names of the categories; ``[]`` when they have none.

Its datasets are about N objects, best first, which may overlap. All are in pixels of the source image, also where the
network saw it at another scale:

- ``boxes`` (N, 4) float32: x0, y0, x1, y1; the upper left corner of the image is 0, 0.
- ``scores`` (N,) float32 from 0 to 1, descending.
- ``categories`` (N,) int32, from 0: places in the list of names.
- ``masks`` (B,) uint8: the run-length masks of all objects, one after the other. Each is the text that COCO files and
  pycocotools call ``counts``, compressed, of an image of ``shape``. A mask may be empty: then it is one run of zeros.
- ``mask_bytes`` (N,) uint32: how many bytes each mask has; together B.

In files they are compressed by shuffle and gzip with Fletcher-32 checksums; in a tar stream they are contiguous and
uncompressed. Links, external and virtual datasets are refused. Readers ignore attributes that they do not know.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError
from cellkit.io import maps
from cellkit.io.grouped_hdf5 import (
    Group,
    GroupedFile,
    check_root,
    damaged,
    dataset_in,
    describe_root,
    members,
    opened,
    read_members,
    sound,
    text_of,
)
from cellkit.io.keys import safe_key
from cellkit.io.maps import AGAIN, Prediction, PredictionInfo, describe, info_of
from cellkit.provenance import to_json

FORMAT_VERSION = 1
KIND = "instances"
MAKER = "cellkit predict"
CHUNK_ITEMS = 1 << 15
MOST_PIXELS = np.iinfo(np.uint32).max  # pycocotools counts in this type
KINDS = {"boxes": "f", "scores": "f", "categories": "iu", "masks": "u", "mask_bytes": "u"}
PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectPrediction(PredictionInfo):
    """The objects of one image, best first, in pixels of the source.

    Attributes:
        boxes: (N, 4) float32 x0, y0, x1, y1.
        scores: (N,) float32 in [0, 1], descending.
        categories: (N,) int32, from 0.
        masks: compressed run lengths of each, as COCO's ``counts``; the image has ``shape``.
        names: of the categories, or none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    categories: NDArray[np.int32]
    masks: tuple[bytes, ...]
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many objects there are, however sure."""
        return len(self.scores)


class ObjectWriter(GroupedFile):
    """A prediction file of a detector under construction; it appears under its name when the block ends well.

    Args:
        path: the file.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, KIND, FORMAT_VERSION)

    def write(self, prediction: ObjectPrediction) -> None:
        """Append the objects of one image.

        Raises:
            OutputError: the disk is full or gone.
            UsageError: the file has an image of this key.
        """
        with self.filling(prediction.key, prediction.history) as group:
            _fill(group, prediction, PACKED)


def to_bytes(prediction: ObjectPrediction) -> bytes:
    """A prediction file of one image, uncompressed: a member of a tar stream."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        describe_root(file, KIND, FORMAT_VERSION)
        group = file.create_group(safe_key(prediction.key))
        group.attrs["history"] = to_json(prediction.history)
        _fill(group, prediction, {})
    return memory.getvalue()


def _fill(group: Group, prediction: ObjectPrediction, packed: dict[str, Any]) -> None:
    describe(group, prediction)
    group.attrs["category_names"] = json.dumps(list(prediction.names))
    columns = {
        "boxes": np.asarray(prediction.boxes, "<f4"),
        "scores": np.asarray(prediction.scores, "<f4"),
        "categories": np.asarray(prediction.categories, "<i4"),
        "masks": np.frombuffer(b"".join(prediction.masks), np.uint8),
        "mask_bytes": np.array([len(mask) for mask in prediction.masks], "<u4"),
    }
    for name, values in columns.items():
        chunked = (
            {"chunks": (min(CHUNK_ITEMS, len(values)), *values.shape[1:]), **packed} if packed and values.size else {}
        )
        group.create_dataset(name, data=values, **chunked)


def read_any_predictions(
    content: Path | bytes, name: str
) -> Iterator[tuple[str, Prediction | ObjectPrediction | InputError]]:
    """Keys and predictions of a file, or of its bytes, in their order: dense maps or objects.

    An image whose prediction is damaged costs itself: an error stands in its place.

    Args:
        content: the file, or its bytes.
        name: the file as the user named it, for messages.

    Raises:
        InputError: nothing can be read: missing, no HDF5, truncated, none of ours, of a newer format.
    """
    yield from read_each(content, name) if kind_of(content, name) == KIND else maps.read_each(content, name)


def kind_of(content: Path | bytes, name: str) -> str | None:
    """What an HDF5 file says that it holds: ``maps``, ``instances``, ``labels``, anything else, or nothing.

    Raises:
        InputError: missing, empty, truncated, or no HDF5.
    """
    with opened(content, name) as file:
        return text_of(file, "kind")


def read_objects(content: Path | bytes, name: str) -> Iterator[ObjectPrediction]:
    """Read the objects of each image of a file, or of its bytes, in their order; one image is in memory at a time.

    Args:
        content: the file, or its bytes.
        name: the file as the user named it, for messages.

    Raises:
        InputError: as :func:`read_any_predictions`; not as the format says, or the file holds something else.
    """
    yield from sound(read_each(content, name))


def read_each(content: Path | bytes, name: str) -> Iterator[tuple[str, ObjectPrediction | InputError]]:
    """As :func:`read_objects`, each with its key; an image whose objects are damaged costs itself.

    Raises:
        InputError: nothing can be read of the file.
    """
    with opened(content, name) as file:
        check_root(file, name, KIND, FORMAT_VERSION, MAKER)
        yield from read_members(file, name, lambda key, group: _prediction(name, key, group))


def keys_of(path: Path) -> list[str]:
    """Keys of the images of a file, in their order.

    Raises:
        InputError: as :func:`read_objects`.
    """
    with opened(path, str(path)) as file:
        check_root(file, str(path), KIND, FORMAT_VERSION, MAKER)
        return [key for key, _ in members(file, str(path))]


def read_object(path: Path, key: str) -> ObjectPrediction:
    """Read the objects of one image of a file.

    Raises:
        InputError: as :func:`read_objects`; or the file has no such image.
    """
    with opened(path, str(path)) as file:
        check_root(file, str(path), KIND, FORMAT_VERSION, MAKER)
        if not isinstance(file.get(safe_key(key), getlink=True), h5py.HardLink):
            raise InputError(path, f"holds no image {key!r}", AGAIN)
        return _prediction(str(path), key, file[key])


def counts_of(path: Path) -> dict[str, int]:
    """How many objects each image of a file has, by key.

    Raises:
        InputError: as :func:`read_objects`.
    """
    return {prediction.key: prediction.count for prediction in read_objects(path, str(path))}


def _prediction(name: str, key: str, group: Group) -> ObjectPrediction:
    columns = {column: _column(name, key, group, column) for column in KINDS}
    boxes, scores, categories = columns["boxes"], columns["scores"], columns["categories"]
    names = _names(name, key, group)
    info = info_of(name, key, group)
    problem = _misfit(columns, names)
    if problem is None and info.shape[0] * info.shape[1] > MOST_PIXELS:
        problem = f"an image of {info.shape[0]} x {info.shape[1]} pixels has no run-length masks"
    if problem:
        raise InputError(name, f"{key!r}: {problem}", AGAIN)
    ends = np.concatenate([[0], np.cumsum(columns["mask_bytes"], dtype=np.int64)]).tolist()
    text = columns["masks"].tobytes()
    return ObjectPrediction(
        boxes=boxes.astype(np.float32, copy=False),
        scores=scores.astype(np.float32, copy=False),
        categories=categories.astype(np.int32, copy=False),
        masks=tuple(text[begin:end] for begin, end in pairwise(ends)),
        names=names,
        **vars(info),
    )


def _column(name: str, key: str, group: Group, column: str) -> NDArray[Any]:
    dataset = dataset_in(group, column, name) if isinstance(group, h5py.Group) else None
    if dataset is None:
        raise InputError(name, f"{key!r} has no {column}", AGAIN)
    wanted = 2 if column == "boxes" else 1
    if dataset.ndim != wanted or dataset.dtype.kind not in KINDS[column]:
        raise InputError(name, f"the {column} of {key!r} are {dataset.ndim}-D {dataset.dtype}", AGAIN)
    try:
        values: NDArray[Any] = dataset[()]
    except (OSError, RuntimeError) as error:
        raise damaged(name, error) from error
    return values


def _names(name: str, key: str, group: Group) -> tuple[str, ...]:
    try:
        found = json.loads(text_of(group, "category_names") or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InputError(name, f"{key!r} has damaged names of categories", AGAIN)
    return tuple(found)


def _misfit(columns: dict[str, NDArray[Any]], names: tuple[str, ...]) -> str | None:
    """What is wrong with the columns, if anything."""
    boxes, scores, categories = columns["boxes"], columns["scores"], columns["categories"]
    count = len(scores)
    different = next((c for c in ("boxes", "categories", "mask_bytes") if len(columns[c]) != count), None)
    if different or boxes.shape[1] != 4:
        return f"{different or 'boxes'} {columns[different or 'boxes'].shape} for {count} scores"
    if int(columns["mask_bytes"].sum(dtype=np.uint64)) != len(columns["masks"]):
        return f"its masks have {len(columns['masks'])} bytes, not {int(columns['mask_bytes'].sum(dtype=np.uint64))}"
    if not (np.isfinite(boxes).all() and ((scores >= 0) & (scores <= 1)).all()):
        return "a box or a score is no number that it can be"
    if (scores[1:] > scores[:-1]).any():
        return "its objects are not sorted by their scores"
    highest = len(names) - 1 if names else np.iinfo(np.int32).max
    if count and not 0 <= int(categories.min()) <= int(categories.max()) <= highest:
        return f"a category is none of {len(names) or 'any'} that there are"
    return None
