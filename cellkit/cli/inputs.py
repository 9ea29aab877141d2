"""What the user named as inputs -> sources, files or streams."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from cellkit.data.predicted_objects import HeldObjects
from cellkit.data.truth import Truth, check_shape
from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.detections import KIND, ObjectPrediction, kind_of, read_any_predictions, read_each
from cellkit.io.images import ReadOptions
from cellkit.io.keys import HDF5_SUFFIXES, key_of, split_dataset, suffix_of
from cellkit.io.labels import LABEL_SUFFIXES, LabelImage, read_label_images
from cellkit.io.maps import Prediction
from cellkit.io.sources import (
    IMAGE_MARK,
    LABEL_FOLDERS,
    OUTPUT_MARKS,
    SEQUENCE_RESULTS,
    Source,
    find_sources,
    natural_key,
)
from cellkit.io.streams import read_stream
from cellkit.overlap import ahead
from cellkit.stages.outcomes import Failure

STREAM = "-"

SHOWN = 3  # inputs named in a message; the rest is counted


@dataclass(frozen=True, eq=False)
class HeldLabels:
    """Labels that came through a stream."""

    image: LabelImage

    @property
    def name(self) -> str:
        """The member of the stream."""
        return self.image.source

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """The labels; see :class:`LabelRef`."""
        check_shape(self.name, self.image.shape, shape)
        held = self.image
        return Truth(labels=held.labels, scores=held.scores, pixel_size=held.pixel_size, outlines=held.outlines)


def named(inputs: Sequence[str]) -> str:
    """Inputs in short, for messages."""
    more = f" and {len(inputs) - SHOWN} more" if len(inputs) > SHOWN else ""
    return ", ".join(inputs[:SHOWN]) + more


def read_options(axes: str | None, channels: str | None, plane: int | None) -> ReadOptions:
    """Options of reading from their texts: ``--channels 0,DAPI``."""
    chosen = tuple(_index_or_name(part.strip()) for part in channels.split(",")) if channels is not None else None
    return ReadOptions(axes=axes, channels=chosen, plane=plane)


def _index_or_name(text: str) -> int | str:
    if not text:
        raise UsageError("--channels", "an empty channel", "write e.g. --channels 0,2 or --channels DAPI")
    return int(text) if text.isdecimal() else text


def image_sources(inputs: Sequence[str], options: ReadOptions) -> Iterable[Source]:
    """Sources of images in order: a list, or an iterator over the stream."""
    if is_stream(inputs):
        return _stream_sources(binary_stdin(), options)
    return find_sources(inputs, options)


def count_of(sources: Iterable[Source]) -> int | None:
    """How many sources there are, if it is known."""
    return len(sources) if isinstance(sources, Sequence) else None


def places(sources: Iterable[Source]) -> list[tuple[str, str]]:
    """Path and output key of each source that is a file."""
    return [(source.path, source.key) for source in sources] if isinstance(sources, Sequence) else []


def is_stream(inputs: Sequence[str]) -> bool:
    """Whether the inputs come through stdin.

    Raises:
        UsageError: some do, some do not.
    """
    if STREAM in inputs and len(inputs) > 1:
        raise UsageError(STREAM, "a stream cannot be mixed with files", "give - alone")
    return STREAM in inputs


def _stream_sources(stream: BinaryIO, options: ReadOptions) -> Iterator[Source]:
    """Images of a tar stream as they arrive; what a folder would not give either is passed over."""
    for name, data in read_stream(stream):
        if _is_image(PurePosixPath(name)):
            key = key_of(name)
            yield Source(key=key.removesuffix(IMAGE_MARK) or key, path=name, options=options, data=data)


def _is_image(member: PurePosixPath) -> bool:
    """Whether a member is an image to be segmented, by the rules for files in folders."""
    suffix = suffix_of(member.name)
    stem = member.name[: -len(suffix)].lower() if suffix else ""
    labelled = any(part in LABEL_FOLDERS or SEQUENCE_RESULTS.fullmatch(part) for part in member.parts[:-1])
    return bool(stem) and not stem.endswith(OUTPUT_MARKS) and not labelled


def prediction_files(inputs: Sequence[str]) -> list[Path] | None:
    """Prediction files in order, or None for the stream."""
    return None if is_stream(inputs) else files(inputs, HDF5_SUFFIXES, "prediction files (.h5)")


def predictions(paths: Sequence[Path] | None) -> Iterator[Prediction | ObjectPrediction | Failure]:
    """Predictions of files or the stream; an unreadable file costs itself."""
    if paths is None:
        for name, data in _members():
            yield from _guarded_predictions(data, name)
        return
    for path in paths:
        yield from _guarded_predictions(path, str(path))


def _members() -> Iterator[tuple[str, bytes]]:
    """Members of the stream, the next one read while one is worked on: the stage before must not wait for this one."""
    return ahead(read_stream(binary_stdin()), count=1)


def _guarded_predictions(source: Path | bytes, name: str) -> Iterator[Prediction | ObjectPrediction | Failure]:
    try:
        for key, found in read_any_predictions(source, name):
            yield Failure(key=key, source=name, error=found) if isinstance(found, InputError) else found
    except InputError as error:
        yield Failure(key=key_of(name), source=name, error=error)


def label_images(inputs: Sequence[str]) -> Iterator[LabelImage | Failure]:
    """Label images of files, folders or the stream; an unreadable file costs itself."""
    if is_stream(inputs):
        for name, data in _members():
            yield from _guarded_labels(name, data)
        return
    for path in files(inputs, LABEL_SUFFIXES, "label images (.tif, .png, .h5)"):
        yield from _guarded_labels(str(path), None)


def predicted_objects(
    inputs: Sequence[str], numbers: Mapping[str, int]
) -> Iterator[LabelImage | HeldObjects | Failure]:
    """As :func:`label_images`, but members of the stream may hold what a detector predicted.

    Args:
        inputs: as the user named them.
        numbers: of the categories in the truth, by their names.
    """
    if not is_stream(inputs):
        yield from label_images(inputs)
        return
    for name, data in _members():
        if _holds_objects(name, data):
            yield from _guarded_objects(name, data, numbers)
        else:
            yield from _guarded_labels(name, data)


def _holds_objects(name: str, data: bytes) -> bool:
    try:
        return name.lower().endswith(HDF5_SUFFIXES) and kind_of(data, name) == KIND
    except InputError:  # said when it is read
        return False


def _guarded_objects(name: str, data: bytes, numbers: Mapping[str, int]) -> Iterator[HeldObjects | Failure]:
    try:
        for key, found in read_each(data, name):
            if isinstance(found, InputError):
                yield Failure(key=key, source=name, error=found)
            else:
                yield HeldObjects(found, name, numbers)
    except InputError as error:
        yield Failure(key=key_of(name), source=name, error=error)


def _guarded_labels(name: str, data: bytes | None) -> Iterator[LabelImage | Failure]:
    try:
        yield from read_label_images(name, data)
    except InputError as error:
        yield Failure(key=key_of(name), source=name, error=error)


def files(inputs: Sequence[str], suffixes: tuple[str, ...], what: str) -> list[Path]:
    """Files named, and those of folders named that have one of the suffixes, in natural order as images are.

    Raises:
        InputError: a file or folder is not there.
        NoInputError: nothing was found.
    """
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            inside = (p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
            found += sorted(inside, key=lambda p: natural_key(str(p)))
        elif Path(split_dataset(text)[0]).exists():
            found.append(path)
        else:
            raise InputError(text, "does not exist", "check the name")
    if not found:
        raise NoInputError(named(inputs), f"no {what} here", "name files, folders, or - for a stream")
    return found


def binary_stdin() -> BinaryIO:
    """The bytes of stdin.

    Raises:
        UsageError: stdin is a terminal: nothing will come.
    """
    if sys.stdin.isatty():
        raise UsageError(STREAM, "nothing is piped in", "e.g. tar c in/ | cellkit predict - -o - | ...")
    return sys.stdin.buffer
