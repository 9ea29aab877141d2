"""HDF5 files of ours: a group per key, written whole, and errors of one line where HDF5 has twenty."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias, TypeVar

import h5py
import numpy as np

from cellkit import __version__
from cellkit.errors import InputError, UsageError
from cellkit.io.atomic import written_whole
from cellkit.io.keys import safe_key
from cellkit.provenance import History, from_json, to_json

Group: TypeAlias = Any  # h5py is not typed
Dataset: TypeAlias = Any
T = TypeVar("T")

MAGIC = b"\x89HDF\r\n\x1a\n"
FORMAT_NAME = "cellkit"
CHUNK = 256  # pixels; chunks of 256 x 256 are read by windows without much waste
EARLY_COPY = "make it again, or copy it again"


class _Host:
    """The file below an HDF5 file under construction.

    HDF5 ends the process by a segmentation fault when the disk fills up while a file is open. So it never learns of
    an error: the first one is kept for :meth:`check`, and what is written after it goes nowhere.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise the error that HDF5 was spared."""
        if self.error is not None:
            raise self.error

    def _keep(self, error: OSError) -> None:
        self.error = self.error or error

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def read(self, size: int = -1) -> bytes:
        return self.stream.read(size)

    def readinto(self, target: memoryview) -> int:
        return int(self.stream.readinto(target))  # type: ignore[attr-defined]

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                return self.stream.write(data)
            except OSError as error:
                self._keep(error)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return self.stream.truncate(size)
            except OSError as error:
                self._keep(error)
        return size or 0

    def flush(self) -> None:
        if self.error is None:
            try:
                self.stream.flush()
            except OSError as error:
                self._keep(error)


class GroupedFile:
    """An HDF5 file under construction with one group per key; it appears under its name when the block ends well.

    Args:
        path: the file.
        kind: what the groups hold: ``maps`` or ``labels``.
        version: version of the format of that kind.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, kind: str, version: int) -> None:
        self.path = path
        self.kind = kind
        self.version = version
        self.keys: list[str] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._part = stack.enter_context(written_whole(self.path))
            stream = stack.enter_context(self._part.open("w+b"))
            self._host = _Host(stream)
            self._root = stack.enter_context(h5py.File(self._host, "w", track_order=True))
            describe_root(self._root, self.kind, self.version)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The blocks end from the inside out, and each learns of an error in a former one: nothing half-written stays.
        with self._open:
            if error is not None:
                raise error
            self._root.close()
            self._host.stream.flush()
            self._host.check()
            self._verify()

    def group(self, key: str, history: History) -> Group:
        """A new group for the image ``key``.

        Raises:
            InputError: the key cannot be a name.
            UsageError: the file has a group of this key.
        """
        if safe_key(key) in self.keys:
            raise UsageError(self.path, f"two images have the name {key!r}", "rename one of them")
        if not self.keys:
            self._root.attrs["history"] = to_json(tuple(replace(record, input_digest=None) for record in history))
        group = self._root.create_group(key)
        group.attrs["history"] = to_json(history)
        self.keys.append(key)
        return group

    @contextlib.contextmanager
    def filling(self, key: str, history: History) -> Iterator[Group]:
        """A new group that is removed again when its filling fails, as :meth:`group`."""
        group = self.group(key, history)
        try:
            yield group
            self.check()
        except BaseException:
            self.keys.remove(key)
            del self._root[key]
            raise

    def keep(self, old: Path) -> None:
        """Copy those groups of another file of the same kind that this one does not have."""
        with opened(old, str(old)) as file:
            for key in file:
                if key not in self.keys:
                    file.copy(file[key], self._root, name=key)
                    self.keys.append(key)
        self.check()

    def check(self) -> None:
        """Raise the error that was met since the file was opened, if any."""
        self._host.check()

    def _verify(self) -> None:
        """Read back what keys there are; the pixels carry checksums that every reader checks."""
        try:
            with h5py.File(self._part, "r") as file:
                is_same = list(file) == self.keys
        except (OSError, RuntimeError):
            is_same = False
        if not is_same:
            raise OSError(None, "it does not read back as it was written")


def describe_root(root: Group, kind: str, version: int) -> None:
    """Mark a file as ours."""
    root.attrs["format"] = FORMAT_NAME
    root.attrs["kind"] = kind
    root.attrs["format_version"] = version
    root.attrs["cellkit_version"] = __version__


@contextlib.contextmanager
def opened(content: Path | bytes, name: str) -> Iterator[Group]:
    """Open an HDF5 file, or its bytes, for reading.

    Raises:
        InputError: missing, empty, truncated, no HDF5; or damaged where it was read inside the block.
    """
    start = first_bytes(content, name)
    if not start.startswith(MAGIC):
        raise InputError(name, "is no HDF5 file", "check what was given")
    try:
        with h5py.File(io.BytesIO(content) if isinstance(content, bytes) else content, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise damaged(name, error) from error


def damaged(name: str, error: Exception) -> InputError:
    """One line for what HDF5 said about a file that it could not read."""
    if "truncated" in str(error):
        return InputError(name, "is truncated", EARLY_COPY)
    reason = " ".join(str(error).split())[:160]
    return InputError(name, f"is damaged HDF5: {reason}", EARLY_COPY)


def first_bytes(content: Path | bytes, name: str, count: int = 16) -> bytes:
    """How a file begins.

    Raises:
        InputError: missing, a folder, unreadable or empty.
    """
    if isinstance(content, bytes):
        start = content[:count]
    else:
        try:
            with content.open("rb") as stream:
                start = stream.read(count)
        except FileNotFoundError as error:
            raise InputError(name, "there is no such file", "check the path") from error
        except IsADirectoryError as error:
            raise InputError(name, "is a folder, not a file", "name a file in it") from error
        except OSError as error:
            raise InputError(name, f"cannot be read: {error.strerror}", "check the file and its permissions") from error
    if not start:
        raise InputError(name, "is empty", EARLY_COPY)
    return start


def check_root(file: Group, name: str, kind: str, version: int, maker: str) -> None:
    """Check that a file is ours, of the kind that is needed and of a version that can be read.

    Args:
        file: the open file.
        name: for messages.
        kind: ``maps`` or ``labels``.
        version: the newest version of the format that can be read.
        maker: the command that makes such files, for the repair.

    Raises:
        InputError: it is not.
    """
    repair = f"give a file that '{maker}' wrote"
    if text_of(file, "format") != FORMAT_NAME:
        raise InputError(name, f"is HDF5, but holds no {kind} of cellkit", repair)
    found = text_of(file, "kind")
    if found != kind:
        raise InputError(name, f"holds {found or 'something else'}, not {kind}", repair)
    number = number_of(file, "format_version")
    if number is None or number < 1:
        raise InputError(name, "has no format version", repair)
    if number > version:
        problem = f"is of format {number:g}; this cellkit reads up to {version}"
        raise InputError(name, problem, "upgrade cellkit")


def text_of(item: Group, name: str) -> str | None:
    """A text attribute, or None where there is none."""
    value = item.attrs.get(name)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def read_members(file: Group, name: str, read: Callable[[str, Group], T]) -> Iterator[tuple[str, T | InputError]]:
    """What is read of each group, by its key; one that is damaged costs itself: its error stands in its place.

    Args:
        file: the root.
        name: the file as the user named it, for messages.
        read: key, group -> what it holds.

    Raises:
        InputError: as :func:`members`.
    """
    for key, group in members(file, name):
        try:
            found: T | InputError = read(key, group)
        except InputError as error:
            found = error
        yield key, found


def sound(found: Iterable[tuple[str, T | InputError]]) -> Iterator[T]:
    """What :func:`read_members` read, up to the first error.

    Raises:
        InputError: one of them is damaged.
    """
    for _, one in found:
        if isinstance(one, InputError):
            raise one
        yield one


def is_of_kind(file: Group, kind: str) -> bool:
    """Whether the root of a file says that it is ours, and of this kind."""
    return text_of(file, "format") == FORMAT_NAME and text_of(file, "kind") == kind


def number_of(item: Group, name: str) -> float | None:
    """A numeric attribute, or None where there is none."""
    value = item.attrs.get(name)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if is_number else None


def history_of(item: Group, name: str) -> History:
    """The history in the attribute ``history``, empty where there is none.

    Raises:
        InputError: it is none of ours.
    """
    text = text_of(item, "history")
    if text is None:
        return ()
    try:
        return from_json(text)
    except ValueError as error:
        raise InputError(name, "holds a damaged history", EARLY_COPY) from error


def members(group: Group, name: str) -> Iterator[tuple[str, Any]]:
    """Keys and members of a group in their order; keys are checked, and links out of the file are refused.

    Raises:
        InputError: a key that is no file name, a link, or data that lies in other files.
    """
    for key in group:
        safe_key(key, source=name)
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise InputError(name, f"{key!r} is a link", "copy the data into the file")
        yield key, group[key]


def dataset_in(group: Group, path: str, name: str) -> Dataset | None:
    """The dataset ``path`` of a group, or None; data that lies in other files is refused.

    Raises:
        InputError: its data lies in other files.
    """
    item = group.get(path)
    if not isinstance(item, h5py.Dataset):
        return None
    if item.is_virtual or item.external:
        raise InputError(name, f"the data of {path!r} lies in other files", "copy the data into the file")
    return item


def chunks_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks of 256 x 256 pixels with all channels; smaller where the image is."""
    return (*shape[:-2], *(min(CHUNK, size) for size in shape[-2:]))
