"""What ``cellkit convert`` reads from a tar stream on stdin and writes as one on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import PurePosixPath

from cellkit.cli.convert_options import FormatName
from cellkit.cli.inputs import STREAM, HeldLabels, binary_stdin
from cellkit.data.folders import SEG_FILE, frame_key, unmarked
from cellkit.data.outlines import OutlineFile, outline_key, outline_suffix
from cellkit.data.predicted_objects import HeldObjects
from cellkit.errors import InputError, UsageError
from cellkit.io.detections import KIND, kind_of, read_objects
from cellkit.io.keys import HDF5_SUFFIXES, key_of
from cellkit.io.labels import LABEL_SUFFIXES, read_label_images
from cellkit.io.sink_base import BaseSink, twice
from cellkit.io.sources import IMAGE_FOLDER
from cellkit.io.streams import StreamWriter, read_stream
from cellkit.stages.converting import Cells, Format, Found, parts_of
from cellkit.stages.outcomes import Failure

SUFFIXES = (*LABEL_SUFFIXES, ".npy")
UNSTREAMED: tuple[FormatName, ...] = ("objects", "ctc")  # folders of their own, numbers that go on from file to file


def check(labels: str, output: str, to: FormatName) -> None:
    """Refuse what cannot go through a stream.

    Raises:
        UsageError: a format that makes a folder; frames whose number is not known from the beginning.
    """
    if output == STREAM and to in UNSTREAMED:
        raise UsageError("--to", f"'{to}' makes a folder, not a file per image", "give -o DIR/")
    if labels == STREAM and to == "ctc":
        raise UsageError("--to", "'ctc' numbers the frames when all are known", "unpack the stream and name the folder")


def found_in_stream(size: tuple[int, int] | None) -> Iterator[Found | Failure]:
    """Labels and outlines of the tar stream on stdin as they arrive; images/ of a data set and texts are passed over.

    Args:
        size: (H, W) of the images of drawn outlines that do not tell it themselves.
    """
    for name, data in read_stream(binary_stdin()):
        if not _is_labels(PurePosixPath(name)):
            continue
        try:
            yield from _found(name, data, size)
        except InputError as error:
            yield Failure(key=_failed_key(name), source=name, error=error)


def _is_labels(member: PurePosixPath) -> bool:
    """Whether a member is one that a folder would give."""
    known = bool(outline_suffix(member.name)) or member.suffix.lower() in SUFFIXES
    return known and IMAGE_FOLDER not in member.parts[:-1]


def _found(name: str, data: bytes, size: tuple[int, int] | None) -> Iterator[Found]:
    if outline_suffix(name):
        yield Found(key=outline_key(name), ref=OutlineFile(name, size=size, data=data))
    elif name.endswith(SEG_FILE):
        raise InputError(name, "a _seg.npy is read from a folder alone", "unpack the stream and name the folder")
    elif name.lower().endswith(HDF5_SUFFIXES) and kind_of(data, name) == KIND:
        for prediction in read_objects(data, name):
            yield Found(key=prediction.key, ref=HeldObjects(prediction, name))
    else:
        for image in read_label_images(name, data):
            key = frame_key(image.key) or unmarked(image.key)
            yield Found(key=key, ref=HeldLabels(image), history=image.history)


def _failed_key(name: str) -> str:
    try:
        return key_of(name)
    except InputError:
        return PurePosixPath(name).name


class PartsStream(BaseSink):
    """A tar stream with one file per image on stdout.

    Args:
        to: format.
    """

    def __init__(self, to: Format) -> None:
        self._writer = StreamWriter(sys.stdout.buffer)
        self._to = to
        self._keys: set[str] = set()
        self._pending: list[tuple[str, bytes]] = []

    def prepare(self, cells: Cells) -> bool:
        """Encode the member of an image."""
        if cells.key in self._keys:
            raise twice(STREAM, cells.key)
        self._keys.add(cells.key)
        self._pending = list(parts_of(cells, self._to))
        return True

    def write(self, item: object) -> None:
        """Write the member that was prepared."""
        for name, data in self._pending:
            self._writer.write(name, data)

    def close(self) -> None:
        """Write the end member."""
        self._writer.close()

    def discard(self) -> None:
        """Without its end member a reader takes the stream for cut."""
