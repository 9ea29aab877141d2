"""What the user named as inputs -> sources, files or streams."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.images import ReadOptions
from cellkit.io.keys import key_of
from cellkit.io.labels import LabelImage, read_labels
from cellkit.io.maps import Prediction, read_predictions
from cellkit.io.sources import Source, find_sources
from cellkit.io.streams import read_stream
from cellkit.stages.outcomes import Failure

STREAM = "-"
MAP_SUFFIXES = (".h5", ".hdf5")
LABEL_SUFFIXES = (".tif", ".tiff", ".png", ".h5", ".hdf5")


def read_options(axes: str | None, channels: str | None, plane: int | None) -> ReadOptions:
    """Options of reading from their texts: ``--channels 0,DAPI``."""
    chosen = tuple(_index_or_name(part.strip()) for part in channels.split(",")) if channels else None
    return ReadOptions(axes=axes, channels=chosen, plane=plane)


def _index_or_name(text: str) -> int | str:
    if not text:
        raise UsageError("--channels", "an empty channel", "write e.g. --channels 0,2 or --channels DAPI")
    return int(text) if text.isdecimal() else text


def image_sources(inputs: Sequence[str], options: ReadOptions) -> tuple[Iterable[Source], int | None]:
    """Sources of images in order, and how many, if known."""
    if STREAM in inputs:
        if len(inputs) > 1:
            raise UsageError(STREAM, "a stream cannot be mixed with files", "give - alone")
        return stream_sources(binary_stdin(), options), None
    sources = find_sources(inputs, options)
    return sources, len(sources)


def stream_sources(stream: BinaryIO, options: ReadOptions) -> Iterator[Source]:
    """Images of a tar stream as they arrive."""
    for name, data in read_stream(stream):
        yield Source(key=key_of(name), path=name, options=options, data=data)


def predictions(inputs: Sequence[str]) -> Iterator[Prediction | Failure]:
    """Predictions of files, folders or the stream; an unreadable file costs itself."""
    if list(inputs) == [STREAM]:
        for name, data in read_stream(binary_stdin()):
            yield from _guarded_predictions(data, name)
        return
    for path in files(inputs, MAP_SUFFIXES, "prediction files (.h5)"):
        yield from _guarded_predictions(path, str(path))


def _guarded_predictions(source: Path | bytes, name: str) -> Iterator[Prediction | Failure]:
    try:
        yield from read_predictions(source, name)
    except InputError as error:
        yield Failure(key=key_of(name), source=name, error=error)


def label_images(inputs: Sequence[str]) -> Iterator[LabelImage | Failure]:
    """Label images of files, folders or the stream; an unreadable file costs itself."""
    if list(inputs) == [STREAM]:
        for name, data in read_stream(binary_stdin()):
            yield _guarded_labels(name, data)
        return
    for path in files(inputs, LABEL_SUFFIXES, "label images (.tif, .png, .h5)"):
        yield _guarded_labels(str(path), None)


def _guarded_labels(name: str, data: bytes | None) -> LabelImage | Failure:
    try:
        return read_labels(name, data)
    except InputError as error:
        return Failure(key=key_of(name), source=name, error=error)


def files(inputs: Sequence[str], suffixes: tuple[str, ...], what: str) -> list[Path]:
    """Files named, and those of folders named that have one of the suffixes, sorted by name."""
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
        elif path.exists():
            found.append(path)
        else:
            raise InputError(text, "there is no such file or folder", "check the path")
    if not found:
        raise NoInputError(", ".join(inputs), f"no {what} here", "name files, folders, or - for a stream")
    return found


def binary_stdin() -> BinaryIO:
    """The bytes of stdin.

    Raises:
        UsageError: stdin is a terminal: nothing will come.
    """
    if sys.stdin.isatty():
        raise UsageError(STREAM, "nothing is piped in", "e.g. cellkit predict in/ -m nuclei -o - | ...")
    return sys.stdin.buffer
