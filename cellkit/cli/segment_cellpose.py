"""``cellkit segment --compat cellpose``: the files that Cellpose would write, beside the images or in another folder.

Both take the place of our own names. The masks carry the history; ``NAME_seg.npy`` has it too, under a key of its own,
until Cellpose's window saves the file anew: a file that somebody corrected there is never overwritten without a word.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from cellkit.cli.inputs import STREAM
from cellkit.cli.places import protect
from cellkit.config import OnExists
from cellkit.errors import InputError, OutputError, UsageError
from cellkit.io.atomic import written_whole
from cellkit.io.export_cellpose import encode_seg_npy
from cellkit.io.keys import split_dataset
from cellkit.io.label_image import LabelImage, LabelRows
from cellkit.io.sink_base import Item, Kind, is_up_to_date
from cellkit.io.sinks import FolderSink, Sink, names_folder
from cellkit.ops.contours import inner_boundary
from cellkit.provenance import History, to_json

MASKS = "_cp_masks"
SEG = "_seg.npy"
SUFFIXES = (".tif", ".tiff", ".png")
VERB = b'"verb": '  # of a history in JSON

log = logging.getLogger(__name__)


def masks_suffix(output: str, suffix: str) -> str:
    """What the names of masks end in: ``_cp_masks.tif``.

    Raises:
        UsageError: Cellpose has no such files; or the output is no folder.
    """
    if suffix not in SUFFIXES:
        raise UsageError("--suffix", f"Cellpose writes no masks as {suffix!r}", "choose .tif or .png")
    if output == STREAM or not output or not names_folder(output):
        raise UsageError("--compat", "Cellpose's names are those of files in a folder", "give -o DIR/")
    return MASKS + suffix


@contextlib.contextmanager
def opened(
    output: str, kind: Kind, on_exists: OnExists, suffix: str, inputs: Sequence[tuple[str, str]]
) -> Iterator[Sink]:
    """The open sink, after all that can be said against the output before any work.

    Args:
        output: a folder, as the user named it.
        kind: labels.
        on_exists: what to do with outputs that are there.
        suffix: of :func:`masks_suffix`.
        inputs: path and output key of each input that is a file; empty for a stream.

    Raises:
        UsageError: the folder cannot be written in, or an input would be overwritten.
        LockedError: another run is writing into the folder.
    """
    files = {Path(split_dataset(path)[0]).resolve() for path, _ in inputs}
    for _, key in inputs:
        protect(Path(output) / (key + suffix), files)
    try:
        sink = CellposeFolder(Path(output), suffix, on_exists)
    except OutputError as error:
        raise UsageError(error.subject, error.problem, error.repair) from error
    with sink:
        sink.expect(len(inputs))
        yield sink


class CellposeFolder(FolderSink):
    """NAME_cp_masks.tif and NAME_seg.npy per image; arguments as of :class:`FolderSink`.

    Images that are done by bands of rows have masks alone: a ``_seg.npy`` is made in memory.
    """

    def seg_of(self, key: str) -> Path:
        """The ``_seg.npy`` of an image; errors as :meth:`path_of`."""
        return self.path_of(key).with_name(key + SEG)

    def is_done(self, key: str, history: History) -> bool:
        """Whether the masks are there with this history, which were written last.

        Raises:
            UsageError: they are there, but made otherwise, and may not be overwritten; or there is a seg file alone,
                which somebody may have drawn by hand.
        """
        if super().is_done(key, history):
            return True
        seg = self.seg_of(key)
        if seg.exists():
            is_up_to_date(seg, _history_in(seg, history), history, self._on_exists)
        return False

    def write(self, item: Item) -> None:
        """Write both; the masks come last, so that they are there only when both are."""
        if isinstance(item, LabelRows):
            log.warning("%s: too large for a %s; there are masks alone", item.source, SEG)
        elif isinstance(item, LabelImage):
            self._write_seg(item)
        super().write(item)

    def _write_seg(self, item: LabelImage) -> None:
        path = self.seg_of(item.key)
        data = encode_seg_npy(
            _image_of(item.source, path), item.labels, inner_boundary(item.labels), to_json(item.history)
        )
        with written_whole(path) as part:
            part.write_bytes(data)


def _history_in(seg: Path, history: History) -> History | None:
    """That history, where a seg file has it; an empty one where it has another of ours; else None."""
    try:
        data = seg.read_bytes()
    except OSError as error:
        raise InputError(seg, f"cannot be read: {error.strerror}", "check its rights") from error
    if to_json(history).encode() in data:  # a pickle holds texts as they are
        return history
    return () if VERB in data else None


def _image_of(source: str, seg: Path) -> str:
    """The image as the seg file names it: bare beside it, so that both may be moved; else with its folders."""
    image = Path(split_dataset(source)[0]).absolute()
    return str(image) if image.is_file() and image.parent != seg.absolute().parent else image.name
