"""Where outputs go: a folder with one file per image, one file, or a tar stream on stdout."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from cellkit.config import OnExists
from cellkit.errors import CellkitError, OutputError, UsageError
from cellkit.io import detections
from cellkit.io.atomic import lock, output_error, remove_leftovers, written_whole
from cellkit.io.file_sinks import GroupedFileSink, SingleFileSink, writer_of
from cellkit.io.histories import stored_history
from cellkit.io.keys import HDF5_SUFFIXES, safe_key, suffix_of
from cellkit.io.labels import LabelImage, LabelRows, write_labels
from cellkit.io.maps import Prediction, to_bytes
from cellkit.io.sink_base import BaseSink, Item, Kind, is_up_to_date, twice
from cellkit.io.streams import StreamWriter
from cellkit.provenance import History

STREAM = "-"
FAILURES = "failed.tsv"
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "maps": (".h5", ".hdf5"),
    "labels": (".tif", ".tiff", ".ome.tif", ".ome.tiff", ".png", ".h5", ".hdf5"),
}


class Sink(Protocol):
    """Takes the result of one image after the other; a block that ends in an exception leaves nothing half-written."""

    def expect(self, count: int) -> None:
        """Say before any work how many images will come.

        Raises:
            UsageError: the output has no room for them.
        """

    def is_done(self, key: str, history: History) -> bool:
        """Whether the output of an image is there and made by the same commands. May be called from any thread.

        Raises:
            UsageError: it is there, but made otherwise, and may not be overwritten.
        """

    def write(self, item: Item) -> None:
        """Write the result of one image.

        Raises:
            OutputError: it cannot be written.
            UsageError: there is no place for it: a second image of its name, or in a file for one image.
        """

    def record_failure(self, key: str, source: str, reason: str) -> None:
        """Note an image that could not be done; folders get a ``failed.tsv``."""

    def close(self) -> None:
        """Finish the output."""

    def __enter__(self) -> Self:
        """The sink itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the output, or after an exception leave nothing half-written."""


def open_sink(output: str, kind: Kind, on_exists: OnExists = "skip", suffix: str = ".tif") -> Sink:
    """Open the output that the user named; that it can be written is known before any work.

    Args:
        output: ``DIR/`` or an existing folder or a name without suffix: one file per image; ``FILE.h5``, ``FILE.tif``
            or ``FILE.png``; ``-``: a tar stream on stdout.
        kind: labels, or maps for predictions of any kind.
        on_exists: what to do with outputs that are there.
        suffix: kind of label files in folders and streams.

    Raises:
        UsageError: an output that cannot be meant, is not writable, or exists and may not be overwritten.
        LockedError: another run is writing into the folder.
    """
    if kind == "maps":
        suffix = ".h5"
    elif suffix not in SUFFIXES[kind]:
        raise UsageError("--suffix", f"label images are not written as {suffix!r}", "choose .tif, .png or .h5")
    if output == STREAM:
        return StreamSink(sys.stdout.buffer, suffix)
    if not output:
        raise UsageError("--output", "an empty name", "give DIR/, a file or -")
    path = Path(output)
    try:
        if names_folder(output):
            return FolderSink(path, suffix, on_exists)
        found = suffix_of(path.name)
        if found not in SUFFIXES[kind]:
            choices = ", ".join(SUFFIXES[kind])
            problem = f"{kind} are not written as this kind of file"
            raise UsageError(output, problem, f"name a file with one of {choices}, or end the name of a folder with /")
        return GroupedFileSink(path, kind, on_exists) if found in HDF5_SUFFIXES else SingleFileSink(path, on_exists)
    except OutputError as error:
        raise UsageError(error.subject, error.problem, error.repair) from error


def names_folder(output: str) -> bool:
    """Whether an output gets one file per image: ``DIR/``, an existing folder, or a name without suffix."""
    path = Path(output)
    return path.is_dir() or output.endswith("/") or not path.suffix


class StreamSink(BaseSink):
    """A tar stream with one member per image; nothing in it is ever up to date.

    Args:
        stream: where to.
        suffix: kind of the members of label images.
    """

    def __init__(self, stream: BinaryIO, suffix: str) -> None:
        self._writer = StreamWriter(stream)
        self._suffix = suffix
        self._written: set[str] = set()

    def is_done(self, key: str, history: History) -> bool:
        """Never."""
        return False

    def write(self, item: Item) -> None:
        """Write one member."""
        if item.key in self._written:
            raise twice(STREAM, item.key)
        if isinstance(item, Prediction):
            data = to_bytes(item)
        elif isinstance(item, detections.ObjectPrediction):
            data = detections.to_bytes(item)
        else:
            memory = io.BytesIO()
            write_labels(memory, item, compress=isinstance(item, LabelRows), suffix=self._suffix)
            data = memory.getvalue()
        self._writer.write(item.key + self._suffix, data)
        self._written.add(item.key)

    def close(self) -> None:
        """Write the end member."""
        self._writer.close()

    def discard(self) -> None:
        """Without its end member a reader takes the stream for cut."""


class FolderSink(BaseSink):
    """One file per image, in a folder that one run at a time writes into.

    Args:
        folder: made when it is not there, and removed again when nothing came into it.
        suffix: kind of files.
        on_exists: what to do with outputs that are there.
    """

    def __init__(self, folder: Path, suffix: str, on_exists: OnExists) -> None:
        self._folder = folder
        self._suffix = suffix
        self._on_exists = on_exists
        self._written: set[str] = set()
        self._failures: list[tuple[str, str, str]] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(_made(folder))
            stack.enter_context(lock(folder))
            self._open = stack.pop_all()
        remove_leftovers(folder)

    def path_of(self, key: str) -> Path:
        """The output of an image.

        Raises:
            InputError: the key cannot be a file name.
        """
        return self._folder / (safe_key(key) + self._suffix)

    def is_done(self, key: str, history: History) -> bool:
        """Whether the file is there with this history."""
        path = self.path_of(key)
        if key in self._written:
            raise twice(self._folder, key)
        if not path.exists():
            return False
        stored = stored_history(path) if self._on_exists == "skip" else None
        return is_up_to_date(path, stored, history, self._on_exists)

    def write(self, item: Item) -> None:
        """Write one file."""
        path = self.path_of(item.key)
        if item.key in self._written:
            raise twice(self._folder, item.key)
        if isinstance(item, LabelImage | LabelRows):
            write_labels(path, item)
        else:
            with writer_of(item, path) as writer:
                writer.write(item)
        self._written.add(item.key)

    def record_failure(self, key: str, source: str, reason: str) -> None:
        """A line for ``failed.tsv``."""
        self._failures.append((key, source, reason))

    def close(self) -> None:
        """Write ``failed.tsv``, or remove that of a former run when nothing failed."""
        with self._open:
            path = self._folder / FAILURES
            if not self._failures:
                path.unlink(missing_ok=True)
                return
            lines = [("key", "source", "reason"), *self._failures]
            text = "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in lines)
            with written_whole(path) as part:
                part.write_bytes(text.encode("utf-8", "surrogateescape"))

    def discard(self) -> None:
        """Note the failures so far; what is written stays, each file is whole."""
        with contextlib.suppress(CellkitError):
            if self._failures:
                self.close()
        self._open.close()


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; remove again those made here that stay empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()
