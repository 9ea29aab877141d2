"""Where the table and the crops of ``cellkit measure`` go."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellkit import __version__
from cellkit.cli.inputs import STREAM
from cellkit.cli.measure_files import WholeFile, place
from cellkit.cli.places import protect
from cellkit.cli.reporting import counted_images
from cellkit.config import OnExists
from cellkit.errors import OutputError, UsageError
from cellkit.io.label_tiff import MICROMETRES_PER_CENTIMETRE
from cellkit.io.sink_base import BaseSink, twice
from cellkit.io.sinks import FolderSink
from cellkit.io.tables import check_table_name, encode_table
from cellkit.overlap import ordered_map
from cellkit.stages.measuring import Measured, table_of
from cellkit.stages.measuring_crops import Crop, crops

log = logging.getLogger(__name__)

CROP_SUFFIX = ".tif"
LABEL_DIGITS = 5  # at least: names of a folder of crops are in the order of the labels


@dataclass(frozen=True)
class CropSettings:
    """Which crops are written.

    Attributes:
        folder: where to, or None: no crops.
        size: side in pixels; None: the box of the cell.
        blank: what is not the cell becomes 0.
        workers: crops written at once.
    """

    folder: str | None
    size: int | None = None
    blank: bool = False
    workers: int = 1


@contextlib.contextmanager
def opened(output: str, cut: CropSettings, on_exists: OnExists, inputs: Sequence[str]) -> Iterator[TableSink]:
    """The open sink, after all that can be said against the outputs before any work.

    Args:
        output: as the user named it.
        cut: crops.
        on_exists: what to do with outputs that are there.
        inputs: files that may not be overwritten.

    Raises:
        UsageError: no table is called so; an output that cannot be written, may not be overwritten, or is an input.
        LockedError: another run is writing into the folder of crops.
    """
    taken = {Path(name).resolve() for name in inputs}
    try:
        table = TableFile(output, on_exists, taken)
        folder = None if cut.folder is None else CropFolder(cut, on_exists, taken)
    except OutputError as error:
        raise UsageError(error.subject, error.problem, error.repair) from error
    with TableSink(table, folder) as sink:
        yield sink


class TableFile(WholeFile):
    """The table of all images, in a file or on stdout; arguments and errors as those of any whole file."""

    def __init__(self, output: str, on_exists: OnExists, taken: set[Path]) -> None:
        if output != STREAM:
            check_table_name(output)
        super().__init__(output, on_exists, taken)

    def write_rows(self, images: Sequence[Measured]) -> None:
        """Write all rows."""
        table = table_of(images)
        self.write(encode_table(table, self.suffix) if self.suffix else encode_table(table))


class CropFolder(FolderSink):
    """An image per cell.

    Args:
        cut: where to, and how.
        on_exists: what to do with crops that are there.
        taken: files that may not be overwritten.
    """

    def __init__(self, cut: CropSettings, on_exists: OnExists, taken: set[Path]) -> None:
        super().__init__(Path(cut.folder or ""), CROP_SUFFIX, on_exists)
        self._cut = cut
        self._taken = taken

    def write(self, item: Any) -> None:  # noqa: ANN401 - what was measured
        """Write the crops of one image, several at once."""
        rgb = item.image is not None and item.image.rgb

        def written(crop: Crop) -> None:
            path = self.path_of(f"{item.key}_{crop.label:0{LABEL_DIGITS}d}")
            protect(path, self._taken)
            place(path, encode_crop(crop.pixels, item.pixel_size, rgb=rgb), self._on_exists)

        for _ in ordered_map(written, crops(item, size=self._cut.size, blank=self._cut.blank), self._cut.workers):
            pass


class TableSink(BaseSink):
    """Takes what was measured of one image after the other; the table is written when all are there.

    Args:
        table: where rows go.
        folder: where crops go, or None.
    """

    def __init__(self, table: TableFile, folder: CropFolder | None) -> None:
        self._table = table
        self._folder = folder
        self._images: dict[str, Measured] = {}

    def is_done(self, key: str, history: object) -> bool:
        """Never: whether an output is up to date is known when it is made."""
        return False

    def write(self, item: Any) -> None:  # noqa: ANN401 - what was measured
        """Keep the rows, write the crops."""
        if item.key in self._images:
            raise twice(item.source, item.key)
        if self._folder is not None:
            self._folder.write(item)
        self._images[item.key] = item.without_pixels()

    def record_failure(self, key: str, source: str, reason: str) -> None:
        """A line for the ``failed.tsv`` of the crops."""
        if self._folder is not None:
            self._folder.record_failure(key, source, reason)

    def close(self) -> None:
        """Write the table, if anything was measured."""
        with contextlib.ExitStack() as stack:
            if self._folder is not None:
                stack.enter_context(self._folder)
            if self._images:
                self._table.write_rows(list(self._images.values()))
        overlapping = [image.key for image in self._images.values() if image.overlapping]
        if overlapping:
            text = "cells overlap in %s, e.g. %s; a pixel of several cells counts for the smallest of them alone"
            log.warning(text, counted_images(len(overlapping)), overlapping[0])

    def discard(self) -> None:
        """No table; crops that are written stay, each is whole."""
        if self._folder is not None:
            self._folder.discard()


def encode_crop(pixels: NDArray[Any], pixel_size: float | None, *, rgb: bool) -> bytes:
    """A crop (C, h, w) as TIFF: one channel as (h, w), colours as (h, w, 3), more channels as pages.

    Args:
        pixels: in the type of the image.
        pixel_size: micrometres per pixel, for the resolution tags, or None.
        rgb: the channels are red, green and blue.
    """
    density = MICROMETRES_PER_CENTIMETRE / pixel_size if pixel_size else None
    single = len(pixels) == 1
    array = np.moveaxis(pixels, 0, -1) if rgb else pixels[0] if single else pixels
    memory = io.BytesIO()
    tifffile.imwrite(
        memory,
        np.ascontiguousarray(array),
        photometric="rgb" if rgb else "minisblack",
        metadata=None if rgb or single else {"axes": "CYX"},
        software=f"cellkit {__version__}",
        resolution=(density, density) if density else None,
        resolutionunit="CENTIMETER" if density else None,
    )
    return memory.getvalue()
