"""Sinks that are one file: HDF5 with a group per image, TIFF or PNG for the labels of one image."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from cellkit.config import OnExists
from cellkit.errors import InputError, UsageError
from cellkit.io.atomic import check_writable, remove_leftovers, written_whole
from cellkit.io.detections import ObjectPrediction, ObjectWriter, kind_of
from cellkit.io.histories import read_histories, stored_history
from cellkit.io.keys import safe_key, suffix_of
from cellkit.io.label_hdf5 import LabelWriter
from cellkit.io.labels import LabelImage, LabelRows, fill_label_file
from cellkit.io.maps import Prediction, PredictionWriter
from cellkit.io.sink_base import ANOTHER, STORED, BaseSink, DiscardedError, Item, Kind, is_up_to_date, twice
from cellkit.provenance import History


class Writer(Protocol):
    """An HDF5 file under construction, that takes results of one kind; see ``grouped_hdf5.GroupedFile``."""

    keys: list[str]
    kind: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, item: Any, /) -> None:  # noqa: ANN401 - of its kind
        """Append the result of one image."""

    def keep(self, old: Path) -> None:
        """Copy those groups of another file of the same kind that this one does not have."""


def writer_of(item: Item, path: Path) -> Writer:
    """The file that takes results of this kind."""
    match item:
        case Prediction():
            return PredictionWriter(path)
        case ObjectPrediction():
            return ObjectWriter(path)
        case _:
            return LabelWriter(path)


class _FileSink(BaseSink):
    """One file, which gets its name at the end of the block."""

    def __init__(self, path: Path, on_exists: OnExists) -> None:
        check_writable(path)
        remove_leftovers(path.parent, path.name)
        self._path = path
        self._on_exists = on_exists
        self._open = contextlib.ExitStack()
        if path.exists() and on_exists == "error":
            is_up_to_date(path, None, (), on_exists)

    def discard(self) -> None:
        """Remove what was written; a file that was there stays as it was."""
        with contextlib.suppress(DiscardedError), self._open:
            raise DiscardedError


class GroupedFileSink(_FileSink):
    """One HDF5 file with a group per image.

    With ``skip``, images of an existing file that this run does not write stay in it.

    Args:
        path: the file.
        kind: labels, or maps for predictions of any kind.
        on_exists: what to do when it is there.
    """

    def __init__(self, path: Path, kind: Kind, on_exists: OnExists) -> None:
        super().__init__(path, on_exists)
        self._kind = kind
        self._writer: Writer | None = None
        self._held = ""  # what the file that is there holds
        self._old = self._read_old()

    def _read_old(self) -> dict[str, History]:
        """Histories by key of the file that is there, if it may stay."""
        if not self._path.exists() or self._on_exists == "overwrite":
            return {}
        try:
            held = kind_of(self._path, str(self._path))
            self._held = held if held in STORED[self._kind] else self._kind
            return read_histories(self._path, self._held)
        except InputError:
            is_up_to_date(self._path, None, (), self._on_exists)
            raise

    def is_done(self, key: str, history: History) -> bool:
        """Whether the file has the image with this history."""
        stored = self._old.get(safe_key(key))
        return stored is not None and is_up_to_date(self._path, stored, history, self._on_exists)

    def write(self, item: Item) -> None:
        """Write one group."""
        if self._writer is None:
            self._writer = self._begun(item)
        self._writer.write(item)

    def _begun(self, item: Item) -> Writer:
        writer = writer_of(item, self._path)
        if self._old and writer.kind != self._held:
            problem = f"holds {self._held}, and the model gives {writer.kind}"
            raise UsageError(self._path, problem, f"add --on-exists overwrite, or {ANOTHER}")
        return self._open.enter_context(writer)

    def close(self) -> None:
        """Give the file its name; a run that wrote nothing leaves what is there."""
        if self._writer is None or not self._writer.keys:
            self.discard()
            return
        with self._open:
            if self._old:
                self._writer.keep(self._path)


class SingleFileSink(_FileSink):
    """A TIFF or PNG of the labels of one image.

    Args:
        path: the file.
        on_exists: what to do when it is there.
    """

    def __init__(self, path: Path, on_exists: OnExists) -> None:
        super().__init__(path, on_exists)
        self._key: str | None = None
        self._is_written = False
        self._refusal: UsageError | None = None

    def expect(self, count: int) -> None:
        """One image has room."""
        if count > 1:
            raise self._refused(f"{count} images")

    def _refused(self, what: str) -> UsageError:
        problem = f"a file of this kind takes one image, not {what}"
        return UsageError(self._path, problem, "give a folder DIR/ or a FILE.h5")

    def _admit(self, key: str) -> None:
        """Refuse a second image, and with it the whole output: which of them would the file be?"""
        self._key = self._key or key
        if key != self._key:
            self._refusal = self._refused(f"{self._key!r} and {key!r}")
            raise self._refusal

    def is_done(self, key: str, history: History) -> bool:
        """Whether the file is there with this history."""
        self._admit(key)
        if not self._path.exists():
            return False
        stored = stored_history(self._path) if self._on_exists == "skip" else None
        return is_up_to_date(self._path, stored, history, self._on_exists)

    def write(self, item: Item) -> None:
        """Write the file; it gets its name when the sink is closed."""
        self._admit(item.key)
        if self._is_written:
            raise twice(self._path, item.key)
        if not isinstance(item, LabelImage | LabelRows):
            raise UsageError(self._path, "maps are not written as this kind of file", "give a FILE.h5")
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(written_whole(self._path))
            fill_label_file(part, item, suffix_of(self._path.name))
            self._open = stack.pop_all()
        self._is_written = True

    def close(self) -> None:
        """Give the file its name, unless a second image was refused."""
        if self._refusal is not None:
            self.discard()
            raise self._refusal
        self._open.close()
