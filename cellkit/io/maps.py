"""Prediction files: the dense maps of images on their way from ``predict`` to ``postprocess``.

A prediction file is HDF5. Its root has the attributes

- ``format`` (text) = ``cellkit``; ``kind`` (text) = ``maps``; ``format_version`` (integer) = 1. Readers refuse other
  kinds and newer versions. Kinds besides ``maps``, ``instances`` (what detectors predict) and ``labels`` are reserved.
- ``cellkit_version`` (text): the version that wrote the file.
- ``history`` (text): the commands that made the file, oldest first, as a JSON list of objects with the fields
  ``verb``, ``version``, ``arguments``, ``model``, ``model_digest``, ``input_digest``. The digest of the input is null
  here; each image has its own.

It holds one group per image, in the order of the input, named by the key of the image: the name of its output file
without suffix. A key is not empty, does not begin with a dot and has no ``/``, ``\\`` or NUL. A group has the dataset

- ``maps`` (C, h, w), float16, little-endian: what the network put out, channels first. In files it is stored in chunks
  of (C, 256, 256), smaller where the map is smaller, with shuffle, gzip and Fletcher-32 checksum; in a tar stream it is
  contiguous and uncompressed.

and the attributes

- ``representation`` (text): what the channels mean, e.g. ``flow``; ``settings`` (text): JSON object with the settings
  of its decoding.
- ``source`` (text): the image as the user named it; ``axes`` (text): the axes of that file, e.g. ``YX``.
- ``shape`` (two integers): height and width of the source image in pixels.
- ``scale`` (number): map pixels per source pixel; ``h`` and ``w`` are the height and width times it, rounded.
- ``pixel_size`` (number, absent when unknown): micrometres per pixel of the source.
- ``diameter`` (number, absent when not given): typical cell diameter in pixels of the source, as the user gave it.
- ``history`` (text): as above, with the digest of the input; it tells whether the prediction is up to date.

All text is UTF-8. Links, external and virtual datasets are refused. Readers ignore attributes that they do not know.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from cellkit.config import RepresentationName, RepresentationSpec
from cellkit.errors import InputError
from cellkit.io.grouped_hdf5 import (
    Dataset,
    Group,
    GroupedFile,
    check_root,
    chunks_of,
    damaged,
    dataset_in,
    describe_root,
    history_of,
    number_of,
    opened,
    read_members,
    sound,
    text_of,
)
from cellkit.io.keys import safe_key
from cellkit.provenance import History, to_json

FORMAT_VERSION = 1
KIND = "maps"
MAKER = "cellkit predict"
LAZY_BYTES = 1 << 28  # maps beyond 256 MiB are read window by window
BAND_BYTES = 1 << 26  # lazy maps are copied in bands of rows of about this size
AGAIN = "predict the image again"


class Maps(Protocol):
    """(C, h, w) float16: an array, or maps in a file of which windows are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16."""

    def __getitem__(self, window: Any, /) -> NDArray[Any]:  # noqa: ANN401 - as numpy has it
        """The window named by slices of channels, rows and columns."""


@dataclass(frozen=True, kw_only=True)
class PredictionInfo:
    """All that is known about the maps of one image, without the maps.

    Attributes:
        key: output name of the image.
        representation: what the channels mean, with the settings of its decoding.
        source: the image as the user named it.
        shape: (H, W) of the source image.
        axes: axes of the source file.
        scale: map pixels per source pixel.
        pixel_size: micrometres per pixel of the source, or None.
        diameter: typical cell diameter in pixels of the source as the user gave it, or None.
        history: the commands that made it.
    """

    key: str
    representation: RepresentationSpec
    source: str
    shape: tuple[int, int]
    axes: str = "YX"
    scale: float = 1.0
    pixel_size: float | None = None
    diameter: float | None = None
    history: History = ()


@dataclass(frozen=True, kw_only=True)
class Prediction(PredictionInfo):
    """The maps of one image.

    Attributes:
        maps: (C, h, w) float16, an array or lazy.
    """

    maps: Maps


class LazyMaps:
    """Maps that stay in their file; each window opens it, so that it may be read from any thread at any time."""

    def __init__(self, path: Path, key: str, name: str, shape: tuple[int, ...]) -> None:
        self._path = path.resolve()
        self._key = key
        self._name = name
        self.shape = shape
        self.dtype = np.dtype(np.float16)

    def __getitem__(self, window: Any) -> NDArray[np.float16]:  # noqa: ANN401 - as numpy has it
        with opened(self._path, self._name) as file:
            found: NDArray[np.float16] = file[self._key]["maps"][window]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401 - NumPy's protocol
        whole = self[:, :, :]
        return whole if dtype is None else whole.astype(dtype)


class PredictionWriter(GroupedFile):
    """A prediction file under construction; it appears under its name when the block ends well.

    Args:
        path: the file.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, KIND, FORMAT_VERSION)

    def write(self, prediction: Prediction) -> None:
        """Append the maps of one image; lazy maps pass in bands of rows.

        Raises:
            OutputError: the disk is full or gone.
            UsageError: the file has an image of this key.
        """
        shape = prediction.maps.shape
        _check_shape(prediction, shape)
        with self.filling(prediction.key, prediction.history) as group:
            dataset = _created(group, prediction, shape)
            for rows in _bands(prediction.maps):
                dataset[:, rows] = prediction.maps[:, rows]
                self.check()

    def create(self, info: PredictionInfo, shape: tuple[int, ...]) -> Dataset:
        """An empty dataset (C, h, w) for the maps of a huge image, to be filled window by window.

        Windows that begin and end at multiples of 256 pixels are compressed only once.
        """
        _check_shape(info, shape)
        return _created(self.group(info.key, info.history), info, shape)


def _created(group: Group, info: PredictionInfo, shape: tuple[int, ...]) -> Dataset:
    describe(group, info)
    compression = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
    return group.create_dataset("maps", shape, np.float16, chunks=chunks_of(shape), **compression)


def to_bytes(prediction: Prediction) -> bytes:
    """A prediction file of one image, uncompressed: a member of a tar stream."""
    memory = io.BytesIO()
    _check_shape(prediction, prediction.maps.shape)
    with h5py.File(memory, "w") as file:
        describe_root(file, KIND, FORMAT_VERSION)
        group = file.create_group(safe_key(prediction.key))
        group.attrs["history"] = to_json(prediction.history)
        describe(group, prediction)
        group.create_dataset("maps", data=np.asarray(prediction.maps[:, :, :], np.float16))
    return memory.getvalue()


def _check_shape(info: PredictionInfo, shape: tuple[int, ...]) -> None:
    problem = _misfit(shape, info.shape, info.scale)
    if problem:
        raise ValueError(f"{info.key}: {problem}")


def describe(group: Group, info: PredictionInfo) -> None:
    """Write the attributes of a prediction, of whatever kind."""
    group.attrs["representation"] = info.representation.name
    group.attrs["settings"] = json.dumps(dict(info.representation.settings), sort_keys=True)
    group.attrs["source"] = info.source.encode("utf-8", "replace").decode()  # a name of broken bytes is no UTF-8
    group.attrs["axes"] = info.axes
    group.attrs["shape"] = np.array(info.shape, np.int64)
    group.attrs["scale"] = float(info.scale)
    for name in ("pixel_size", "diameter"):
        value = getattr(info, name)
        if value is not None:
            group.attrs[name] = float(value)


def _bands(maps: Maps) -> Iterator[slice]:
    """Rows to copy at once: all of an array, whole chunks of lazy maps."""
    channels, height, width = maps.shape
    rows = height
    if not isinstance(maps, np.ndarray):
        rows = max(1, BAND_BYTES // (2 * channels * width) // 256) * 256
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def read_predictions(content: Path | bytes, name: str) -> Iterator[Prediction]:
    """Read the predictions of a file, or of its bytes, in their order.

    Maps beyond 256 MiB stay in their file and are read by windows.

    Args:
        content: the file, or its bytes.
        name: the file as the user named it, for messages.

    Raises:
        InputError: missing, no HDF5, truncated, none of ours, of a newer format, or not as the format says.
    """
    yield from sound(read_each(content, name))


def read_each(content: Path | bytes, name: str) -> Iterator[tuple[str, Prediction | InputError]]:
    """As :func:`read_predictions`, each with its key; an image whose maps are damaged costs itself.

    Raises:
        InputError: nothing can be read of the file.
    """
    with opened(content, name) as file:
        check_root(file, name, KIND, FORMAT_VERSION, MAKER)
        yield from read_members(file, name, lambda key, group: _prediction(content, name, key, group))


def _prediction(content: Path | bytes, name: str, key: str, group: Group) -> Prediction:
    dataset = dataset_in(group, "maps", name) if isinstance(group, h5py.Group) else None
    if dataset is None:
        raise InputError(name, f"{key!r} has no maps", AGAIN)
    if dataset.ndim != 3 or dataset.dtype != np.float16:
        problem = f"the maps of {key!r} are {dataset.ndim}-D {dataset.dtype}, not (C, H, W) float16"
        raise InputError(name, problem, AGAIN)
    info = info_of(name, key, group)
    misfit = _misfit(dataset.shape, info.shape, info.scale)
    if misfit:
        raise InputError(name, f"{key!r}: {misfit}", AGAIN)
    return Prediction(maps=_maps(content, name, key, dataset), **vars(info))


def info_of(name: str, key: str, group: Group) -> PredictionInfo:
    """The attributes of a prediction, of whatever kind.

    Raises:
        InputError: one that is needed is missing, or means nothing.
    """
    shape, scale = _geometry(name, key, group)
    return PredictionInfo(
        key=key,
        representation=_representation(name, key, group),
        source=text_of(group, "source") or key,
        shape=shape,
        axes=text_of(group, "axes") or "YX",
        scale=scale,
        pixel_size=number_of(group, "pixel_size"),
        diameter=number_of(group, "diameter"),
        history=history_of(group, name),
    )


def _maps(content: Path | bytes, name: str, key: str, dataset: Dataset) -> Maps:
    if isinstance(content, Path) and dataset.nbytes > LAZY_BYTES:
        return LazyMaps(content, key, name, dataset.shape)
    if isinstance(content, bytes) and (here := _in_place(content, dataset)) is not None:
        return here
    try:
        maps: NDArray[np.float16] = dataset[()]
    except (OSError, RuntimeError) as error:
        raise damaged(name, error) from error
    return maps


def _in_place(content: bytes, dataset: Dataset) -> NDArray[np.float16] | None:
    """Maps of a stream where they lie, not to be written to; None for those that are compressed or incomplete."""
    begin = dataset.id.get_offset()
    if begin is None or dataset.id.get_storage_size() != dataset.nbytes or begin + dataset.nbytes > len(content):
        return None
    return np.frombuffer(content, np.float16, dataset.size, begin).reshape(dataset.shape)


def _geometry(name: str, key: str, group: Group) -> tuple[tuple[int, int], float]:
    """Shape of the source, and scale between it and what the network saw."""
    shape = np.asarray(group.attrs.get("shape", ()))
    scale = number_of(group, "scale")
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or scale is None:
        raise InputError(name, f"{key!r} does not say the shape of its source and its scale", AGAIN)
    return (int(shape[0]), int(shape[1])), scale


def _misfit(maps: tuple[int, ...], source: tuple[int, int], scale: float) -> str | None:
    """What is wrong with the shape of maps (C, h, w) for a source (H, W) at a scale, if anything."""
    if min(*maps, *source) < 1:
        return f"no pixels: maps {maps}, source {source}"
    if not (math.isfinite(scale) and scale > 0):
        return f"the scale {scale} is no positive number"
    if any(abs(size - full * scale) > 1 for size, full in zip(maps[1:], source, strict=True)):
        return f"maps of {maps[1]} x {maps[2]} do not fit a source of {source[0]} x {source[1]} at scale {scale:g}"
    return None


def _representation(name: str, key: str, group: Group) -> RepresentationSpec:
    found = text_of(group, "representation")
    if found is None:
        raise InputError(name, f"{key!r} does not say what its maps mean", AGAIN)
    known = next((choice for choice in get_args(RepresentationName) if choice == found), None)
    if known is None:
        raise InputError(
            name, f"{key!r} is of the representation {found!r}, unknown to this cellkit", "upgrade cellkit"
        )
    try:
        settings = json.loads(text_of(group, "settings") or "{}")
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(name, f"{key!r} has damaged settings", AGAIN)
    return RepresentationSpec(name=known, settings=settings)
