"""Sinks that are one file: HDF5 with a group per image, TIFF or PNG for the labels of one image."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cellkit.config import OnExists
from cellkit.errors import InputError, UsageError
from cellkit.io.atomic import check_writable, remove_leftovers, written_whole
from cellkit.io.histories import read_histories, stored_history
from cellkit.io.keys import safe_key, suffix_of
from cellkit.io.label_hdf5 import LabelWriter
from cellkit.io.labels import fill_label_file
from cellkit.io.maps import Prediction, PredictionWriter
from cellkit.io.sink_base import BaseSink, DiscardedError, Item, Kind, is_up_to_date, twice
from cellkit.provenance import History


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
        kind: labels or maps.
        on_exists: what to do when it is there.
    """

    def __init__(self, path: Path, kind: Kind, on_exists: OnExists) -> None:
        super().__init__(path, on_exists)
        self._kind = kind
        self._maps: PredictionWriter | None = None
        self._labels: LabelWriter | None = None
        self._old = self._read_old()

    def _read_old(self) -> dict[str, History]:
        """Histories by key of the file that is there, if it may stay."""
        if not self._path.exists() or self._on_exists == "overwrite":
            return {}
        try:
            return read_histories(self._path, self._kind)
        except InputError:
            is_up_to_date(self._path, None, (), self._on_exists)
            raise

    def is_done(self, key: str, history: History) -> bool:
        """Whether the file has the image with this history."""
        stored = self._old.get(safe_key(key))
        return stored is not None and is_up_to_date(self._path, stored, history, self._on_exists)

    def write(self, item: Item) -> None:
        """Write one group."""
        if isinstance(item, Prediction):
            self._maps = self._maps or self._open.enter_context(PredictionWriter(self._path))
            self._maps.write(item)
        else:
            self._labels = self._labels or self._open.enter_context(LabelWriter(self._path))
            self._labels.write(item)

    def close(self) -> None:
        """Give the file its name; a run that wrote nothing leaves what is there."""
        writer = self._maps or self._labels
        if writer is None or not writer.keys:
            self.discard()
            return
        with self._open:
            if self._old:
                writer.keep(self._path)


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
        if isinstance(item, Prediction):
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
