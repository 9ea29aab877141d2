"""Where ``cellkit convert`` writes: files per image in a folder, one file, or one for all images together.

These files have no common place for a history, so that what is up to date is told by its content: the same cells give
the same bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cellkit.cli.inputs import STREAM
from cellkit.cli.places import send
from cellkit.config import OnExists
from cellkit.errors import InputError, UsageError
from cellkit.io.atomic import check_writable, output_error, remove_leftovers, written_whole
from cellkit.io.export_coco import CocoImage, encode_coco
from cellkit.io.export_ctc import TRACKS, encode_frame, encode_tracks, frame_file, frame_places
from cellkit.io.export_objects import OBJECT_FILE
from cellkit.io.sink_base import ANOTHER, BaseSink, twice
from cellkit.io.sinks import FolderSink
from cellkit.stages.converting import Cells, Format, Found, coco_image, parts_of

COCO_FILE = "annotations.json"


@dataclass(frozen=True)
class Outputs:
    """Which files may be written.

    Attributes:
        on_exists: what to do with those that are there.
        inputs: files that are read, resolved: never written.
    """

    on_exists: OnExists
    inputs: frozenset[Path]

    def put(self, path: Path, data: bytes) -> bool:
        """Write a file; False: it is there already, with this content.

        Raises:
            UsageError: another one is there and may not be overwritten, or it is an input.
            OutputError: the system refuses.
        """
        if not self.is_needed(path, data):
            return False
        make_folder(path.parent)
        with written_whole(path) as part:
            part.write_bytes(data)
        return True

    def is_needed(self, path: Path, data: bytes) -> bool:
        """Whether a file must be written; see :meth:`put`."""
        if path.resolve() in self.inputs:
            raise UsageError(path, "the output would take the place of an input", ANOTHER)
        if not path.exists() or self.on_exists == "overwrite":
            return True
        if self.on_exists == "error":
            raise UsageError(path, "exists already", f"add --on-exists skip or overwrite, or {ANOTHER}")
        try:
            same = path.read_bytes() == data
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}", ANOTHER) from error
        if not same:
            problem = "exists and holds something else than would be written"
            raise UsageError(path, problem, f"add --on-exists overwrite, or {ANOTHER}")
        return False


def make_folder(folder: Path) -> None:
    """Make a folder with its parents.

    Raises:
        OutputError: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def inputs_of(found: Iterable[Found]) -> frozenset[Path]:
    """All files that are read, and the images: none of them may become an output."""
    names: list[str] = []
    for one in found:
        values = vars(one.ref)
        names += [str(values[name]) for name in ("name", "file", "path") if name in values]
        names += [*values.get("paths", ()), *([one.image] if one.image else [])]
    return frozenset(Path(name).resolve() for name in names)


class ExportSink(Protocol):
    """Takes the cells of one image after the other."""

    def expect(self, count: int) -> None:
        """Say before any work how many images will come."""

    def prepare(self, cells: Cells) -> bool:
        """Encode the files of an image; False: all are there already.

        Raises:
            UsageError: there is no place for them: the run ends.
            CellkitError: they cannot be encoded: the image has failed.
        """

    def write(self, item: Any) -> None:  # noqa: ANN401 - the cells that were prepared
        """Write the files that were prepared."""

    def record_failure(self, key: str, source: str, reason: str) -> None:
        """Note an image that could not be done."""


class PartsFolder(FolderSink):
    """A folder with files of their own for each image.

    Args:
        folder: made when it is not there.
        to: format.
        outputs: what may be written.
    """

    def __init__(self, folder: Path, to: Format, outputs: Outputs) -> None:
        super().__init__(folder, "", outputs.on_exists)
        self._to = to
        self._outputs = outputs
        self._pending: list[tuple[Path, bytes]] = []
        self._others: list[Path] = []

    def prepare(self, cells: Cells) -> bool:
        """Encode the files of an image; see :class:`ExportSink`."""
        if cells.key in self._written:
            raise twice(self._folder, cells.key)
        self._written.add(cells.key)
        parts = [(self._folder / name, data) for name, data in parts_of(cells, self._to)]
        self._others = self._other_objects(cells, parts) if self._to == "objects" else []
        self._pending = [(path, data) for path, data in parts if self._outputs.is_needed(path, data)]
        return bool(self._pending or self._others)

    def _other_objects(self, cells: Cells, parts: Sequence[tuple[Path, bytes]]) -> list[Path]:
        """Files beside those of the objects, which would be taken for objects of this image: they go."""
        folder = self.path_of(cells.key) / "masks"
        there = {path for path in folder.iterdir() if OBJECT_FILE.fullmatch(path.name)} if folder.is_dir() else set()
        others = sorted(there - {path for path, _ in parts})
        if others and self._outputs.on_exists != "overwrite":
            problem = f"it has {len(others)} other objects, e.g. {others[0].name}"
            raise UsageError(folder, problem, f"add --on-exists overwrite, or {ANOTHER}")
        return others

    def write(self, item: object) -> None:
        """Write the files that were prepared."""
        for path, data in self._pending:
            self._outputs.put(path, data)
        for path in self._others:
            path.unlink(missing_ok=True)


class PartFile(BaseSink):
    """The file of a single image.

    Args:
        path: the file.
        to: format.
        outputs: what may be written.
    """

    def __init__(self, path: Path, to: Format, outputs: Outputs) -> None:
        check_writable(path)
        remove_leftovers(path.parent, path.name)
        self._path = path
        self._to = to
        self._outputs = outputs
        self._data = b""
        self._key: str | None = None
        self._is_ready = False

    def expect(self, count: int) -> None:
        """One image has room."""
        if count > 1:
            raise UsageError(self._path, f"a file of this kind takes one image, not {count}", "give a folder DIR/")

    def prepare(self, cells: Cells) -> bool:
        """Encode the file; see :class:`ExportSink`."""
        if self._key is not None:
            problem = f"a file of this kind takes one image, not {self._key!r} and {cells.key!r}"
            raise UsageError(self._path, problem, "give a folder DIR/")
        self._key = cells.key
        self._data = next(parts_of(cells, self._to))[1]
        return self._outputs.is_needed(self._path, self._data)

    def write(self, item: object) -> None:
        """Written is at the end: a second image may come, and then there is no file."""
        self._is_ready = True

    def close(self) -> None:
        """Write the file, if its image came."""
        if self._is_ready:
            self._outputs.put(self._path, self._data)

    def discard(self) -> None:
        """Nothing was written yet."""


class CocoSink(BaseSink):
    """One COCO file of all images, written at the end.

    Args:
        path: the file; None: stdout.
        outputs: what may be written.
    """

    def __init__(self, path: Path | None, outputs: Outputs) -> None:
        if path is not None:
            if path.name == COCO_FILE:
                make_folder(path.parent)
            check_writable(path)
            remove_leftovers(path.parent, path.name)
        self._path = path
        self._outputs = outputs
        self._images: dict[str, CocoImage] = {}

    def prepare(self, cells: Cells) -> bool:
        """Keep the run lengths of an image until all are there."""
        image = coco_image(cells)
        if image.name in self._images:
            raise twice(self._path or STREAM, image.name)
        self._images[image.name] = image
        return True

    def write(self, item: object) -> None:
        """Written is at the end."""

    def close(self) -> None:
        """Write the file, if any image came."""
        data = encode_coco(list(self._images.values())) if self._images else b""
        if self._path is None:
            send(data)
        elif data:
            self._outputs.put(self._path, data)

    def discard(self) -> None:
        """Nothing was written yet."""


class FramesFolder(FolderSink):
    """Frames and tracks of the Cell Tracking Challenge; none of them stays when the result does not become whole.

    Args:
        folder: made when it is not there.
        keys: of all images, in order.
        outputs: what may be written.
    """

    def __init__(self, folder: Path, keys: Sequence[str], outputs: Outputs) -> None:
        self._places = frame_places(keys)
        self._others = self._other_frames(folder)
        if self._others and outputs.on_exists != "overwrite":
            problem = f"{len(self._others)} frames of another result are there, e.g. {self._others[0].name}"
            raise UsageError(folder, problem, f"add --on-exists overwrite, or {ANOTHER}")
        super().__init__(folder, "", outputs.on_exists)
        self._outputs = outputs
        self._tracks: dict[str, list[tuple[int, int, int]]] = {}
        self._made: list[Path] = []
        self._pending: tuple[Path, bytes] | None = None

    def _file(self, sequence: str, number: int) -> str:
        return frame_file(sequence, number, 1 + max(place for name, place in self._places.values() if name == sequence))

    def _other_frames(self, folder: Path) -> list[Path]:
        """Frames that are there and would be taken for some of this result: they go."""
        mine = {folder / self._file(*place) for place in self._places.values()}
        results = {path.parent for path in mine}
        return sorted(path for result in results for path in result.glob("mask*.tif") if path not in mine)

    def prepare(self, cells: Cells) -> bool:
        """Encode a frame; see :class:`ExportSink`."""
        sequence, number = self._places[cells.key]
        tracks = self._tracks.setdefault(sequence, [])
        before = tracks[-1][2] - 1 if tracks else 0
        data, last = encode_frame(cells.source, cells.labels, before)
        tracks.append((number, before + 1, last + 1))
        self._pending = self._folder / self._file(sequence, number), data
        return self._outputs.is_needed(*self._pending)

    def write(self, item: object) -> None:
        """Write the frame that was prepared."""
        if self._pending:
            self._put(*self._pending)

    def _put(self, path: Path, data: bytes) -> None:
        is_new = not path.exists()
        if self._outputs.put(path, data) and is_new:
            self._made.append(path)

    def close(self) -> None:
        """Write the tracks of each sequence."""
        try:
            for sequence, frames in self._tracks.items():
                self._put(self._folder / f"{sequence}_RES" / TRACKS, encode_tracks(frames))
        except BaseException:
            self.discard()
            raise
        for path in self._others:
            path.unlink(missing_ok=True)
        super().close()

    def discard(self) -> None:
        """Remove the new frames."""
        for path in self._made:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in self._made}:
            with contextlib.suppress(OSError):  # others are in it
                folder.rmdir()
        super().discard()
