"""Where the pictures of ``cellkit view`` go: a folder, one file, or stdout."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cellkit.cli.places import protect, send
from cellkit.cli.view_inputs import Views
from cellkit.config import OnExists
from cellkit.errors import InputError, OutputError, UsageError
from cellkit.io.atomic import check_writable, remove_leftovers, written_whole
from cellkit.io.histories import stored_history
from cellkit.io.label_image import LabelHeader
from cellkit.io.pictures import JPEG_MAGIC
from cellkit.io.sink_base import BaseSink, is_up_to_date, twice
from cellkit.io.sinks import STREAM, FolderSink, names_folder
from cellkit.provenance import History
from cellkit.stages.viewing import Picture
from cellkit.stages.viewing_sheet import SheetPlan, compose, plan_sheet

KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
NOTE = "cellkit"  # keyword of the PNG text that holds the history, as in label images
PNG_LEVEL = 4  # of zlib: half the time of the usual 6 for a few per cent of size
JPEG_QUALITY = 92
LONGEST_COMMENT = 60_000  # bytes; a JPEG comment may have 65,533


def plan(output: str, views: Views, size: int | None) -> SheetPlan | None:
    """The layout of the contact sheet, when several pictures go into one file.

    Raises:
        UsageError: no picture can be written to this name, or they do not fit on one sheet.
    """
    if not output:
        raise UsageError("--output", "an empty name", "give DIR/, FILE.png, FILE.jpg or -")
    if output != STREAM:
        if names_folder(output):
            return None
        if Path(output).suffix.lower() not in KINDS:
            choices = "name a FILE.png or FILE.jpg, or end the name of a folder with /"
            raise UsageError(output, "pictures are not written as this kind of file", choices)
    return plan_sheet(views.shapes, size) if views.count > 1 and views.shapes else None


def opened(
    output: str, suffix: str, on_exists: OnExists, plan: SheetPlan | None, inputs: Sequence[str]
) -> PictureFolder | PictureFile:
    """The sink, after all that can be said against the output before any work.

    Args:
        output: as the user named it.
        suffix: kind of pictures in a folder.
        on_exists: what to do with pictures that are there.
        plan: of the sheet, or None.
        inputs: files that may not be overwritten.

    Raises:
        UsageError: a terminal, or a file that cannot be written, may not be overwritten, or is an input.
        LockedError: another run is writing into the folder.
    """
    try:
        if output != STREAM and names_folder(output):
            return PictureFolder(Path(output), suffix, on_exists, inputs)
        return PictureFile(None if output == STREAM else Path(output), on_exists, plan, inputs)
    except OutputError as error:
        raise UsageError(error.subject, error.problem, error.repair) from error


class PictureFolder(FolderSink):
    """One picture per image.

    Args:
        folder: made when it is not there.
        suffix: .png or .jpg.
        on_exists: what to do with pictures that are there.
        inputs: files that may not be overwritten.
    """

    def __init__(self, folder: Path, suffix: str, on_exists: OnExists, inputs: Sequence[str]) -> None:
        super().__init__(folder, suffix, on_exists)
        self._inputs = {Path(name).resolve() for name in inputs}

    def is_done(self, key: str, history: History) -> bool:
        """Whether the picture is there with this history."""
        path = self.path_of(key)
        protect(path, self._inputs)
        return path.exists() and is_up_to_date(path, history_in(path), history, self._on_exists)

    def write(self, item: Any) -> None:  # noqa: ANN401 - a Picture
        """Write one picture."""
        if item.key in self._written:
            raise twice(self._folder, item.key)
        path = self.path_of(item.key)
        data = encode(item.pixels, item.history, self._suffix)
        with written_whole(path) as part:
            part.write_bytes(data)
        self._written.add(item.key)


class PictureFile(BaseSink):
    """One picture, or one sheet of all, in a file or on stdout.

    Args:
        path: the file, or None for stdout.
        on_exists: what to do when it is there.
        plan: of the sheet, or None for a single picture.
        inputs: files that may not be overwritten.
    """

    def __init__(self, path: Path | None, on_exists: OnExists, plan: SheetPlan | None, inputs: Sequence[str]) -> None:
        self._path = path
        self._on_exists = on_exists
        self._plan = plan
        self._pictures: list[Picture] = []
        if path is None:
            if sys.stdout.buffer.isatty():
                raise UsageError(STREAM, "refuse to write binary to a terminal", "add > FILE, | COMMAND or -o FILE.png")
            return
        protect(path, {Path(name).resolve() for name in inputs})
        check_writable(path)
        remove_leftovers(path.parent, path.name)
        if path.exists():
            stored = history_in(path)
            if stored is None or on_exists == "error":
                is_up_to_date(path, stored, (), on_exists)

    def is_done(self, key: str, history: History) -> bool:
        """Whether the file is there with this history; a sheet is compared when all its pictures are known."""
        return self._plan is None and self._has(history)

    def _has(self, history: History) -> bool:
        if self._path is None or not self._path.exists():
            return False
        return is_up_to_date(self._path, history_in(self._path), history, self._on_exists)

    def write(self, item: Any) -> None:  # noqa: ANN401 - a Picture
        """Keep a picture until all are there."""
        if self._plan is None and self._pictures:
            raise UsageError(self._path or STREAM, "takes one picture", "name a folder, -o DIR/")
        self._pictures.append(item)

    def close(self) -> None:
        """Write the picture or sheet, if there is any."""
        if not self._pictures:
            return
        first = self._pictures[0]
        pixels, history = (first.pixels, first.history) if self._plan is None else compose(self._pictures, self._plan)
        if self._plan is not None and self._has(history):
            return
        if self._path is None:
            send(encode(pixels, history, ".png"))
            return
        with written_whole(self._path) as part:
            part.write_bytes(encode(pixels, history, self._path.suffix))

    def discard(self) -> None:
        """Nothing was written yet."""


def encode(pixels: NDArray[np.uint8], history: History, suffix: str) -> bytes:
    """A picture (H, W, 3) as a file, with its history.

    Args:
        pixels: the picture.
        history: stored as in label images: a compressed text of a PNG, the comment of a JPEG.
        suffix: a key of :data:`KINDS`.
    """
    memory = io.BytesIO()
    note = LabelHeader(history=history).to_json()
    if KINDS[suffix.lower()] == "PNG":
        texts = PngInfo()
        texts.add_text(NOTE, note, zip=True)
        Image.fromarray(pixels).save(memory, "PNG", pnginfo=texts, compress_level=PNG_LEVEL)
    else:
        comment = note.encode("ascii") if len(note) <= LONGEST_COMMENT else b""
        # colours at full resolution: a thin outline has no two neighbouring pixels to share one
        Image.fromarray(pixels).save(memory, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=comment)
    return memory.getvalue()


def history_in(path: Path) -> History | None:
    """The history of a picture that is there, or None when it is none of ours."""
    with path.open("rb") as stream:
        is_jpeg = stream.read(len(JPEG_MAGIC)) == JPEG_MAGIC
    if not is_jpeg:
        return stored_history(path)
    try:
        with Image.open(path) as picture:
            header = LabelHeader.from_json(picture.info.get("comment", b"").decode("ascii", "replace"))
    except (InputError, OSError):
        return None
    return header.history if header else None
