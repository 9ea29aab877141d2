"""Maps larger than memory -> cells: decoded in overlapping windows, labels kept compressed until all are numbered."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.io.labels import LabelRows
from cellkit.io.maps import Prediction
from cellkit.ops.blocks import Band, Window, assemble, raster_table, windows
from cellkit.ops.instances import Instances
from cellkit.ops.labelling import in_raster_order
from cellkit.ops.runs import runs_of
from cellkit.overlap import ordered_map

Decode: TypeAlias = Callable[[NDArray[np.floating[Any]]], Instances]
Labels: TypeAlias = NDArray[np.int32]

CORE = 1024  # px, side of a window's core
HALO = 128  # px around it at least: a cell must be seen whole from its centre on, in any direction
HALO_DIAMETERS = 2
PENDING = 16  # windows that may wait for threads: about a row of them, while the network computes the next row
FASTEST = 1  # zlib level: labels shrink by a factor of 100 and more at any

log = logging.getLogger(__name__)


def cells_of(prediction: Prediction, decode: Decode, workers: int) -> LabelRows:
    """Cells of large maps, at the size of their source image.

    The maps are read once, from top to bottom, and windows of them are decoded in threads.

    Args:
        prediction: maps of any kind.
        decode: maps (C, h, w) of a window -> its cells.
        workers: windows decoded at once.
    """
    rows = _Rows(_size(prediction), prediction.shape)
    for band in assemble(_size(prediction), _parts(prediction, decode, workers)):
        rows.add(band)
        log.info("%s: cells found in %d of %d rows", prediction.source, band.top + len(band.labels), rows.size[0])
    rows.finish()
    return LabelRows(
        key=prediction.key,
        source=prediction.source,
        scores=rows.scores,
        pixel_size=prediction.pixel_size,
        history=prediction.history,
        rows=rows,
        shape=prediction.shape,
        count=len(rows.scores),
    )


def _size(prediction: Prediction) -> tuple[int, int]:
    return prediction.maps.shape[1], prediction.maps.shape[2]


def halo_of(prediction: Prediction) -> int:
    """Map pixels around the core of a window."""
    diameter = (prediction.diameter or 0) * prediction.scale
    return max(HALO, int(np.ceil(HALO_DIAMETERS * diameter)))


def _parts(prediction: Prediction, decode: Decode, workers: int) -> Iterator[tuple[Window, Instances]]:
    """Windows with their cells; windows are read here, one after the other, and decoded in threads."""
    maps = prediction.maps

    def read() -> Iterator[tuple[Window, NDArray[Any]]]:
        for window in windows(_size(prediction), CORE, halo_of(prediction)):
            yield window, np.asarray(maps[:, window.outer[0], window.outer[1]])

    def decoded(part: tuple[Window, NDArray[Any]]) -> tuple[Window, Instances]:
        return part[0], decode(part[1])

    across = -(-_size(prediction)[1] // CORE)
    return ordered_map(decoded, read(), workers, max(workers + 1, min(across, PENDING)))


class _Rows:
    """Labels at the size of the source, compressed band by band; read as bands once they are numbered.

    Args:
        size: (h, w) of the maps.
        shape: (H, W) of the source.
    """

    def __init__(self, size: tuple[int, int], shape: tuple[int, int]) -> None:
        self.size = size
        self.shape = shape
        self.scores = np.zeros(0, np.float32)
        # each source pixel takes the map pixel that holds its centre, as in ops.labelling.resize_labels
        self._taken = [
            ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(shape, size, strict=True)
        ]
        self._packed: list[bytes] = []
        self._cells: list[NDArray[np.int64]] = []
        self._scores: list[NDArray[np.float32]] = []
        self._order: list[NDArray[np.int64]] = []

    def add(self, band: Band) -> None:
        """Take the next band."""
        labels = self._resized(band)
        self._packed.append(zlib.compress(np.ascontiguousarray(labels).data, FASTEST))
        self._cells.append(band.cells)
        self._scores.append(band.scores)
        self._order.append(in_raster_order(runs_of(labels).values)[1])

    def _resized(self, band: Band) -> Labels:
        if self.size == self.shape:
            return band.labels
        rows, columns = self._taken
        begin, end = np.searchsorted(rows, [band.top, band.top + len(band.labels)])
        return band.labels[rows[begin:end, None] - band.top, columns]

    def finish(self) -> None:
        """Number the cells in raster order; those that vanished when shrinking have no number."""
        order = in_raster_order(np.concatenate(self._order))[1]
        cells = np.concatenate(self._cells)
        scores = np.zeros(int(cells.max(initial=0)) + 1, np.float32)
        scores[cells] = np.concatenate(self._scores)
        self.scores = scores[order]
        self._table = raster_table([order])

    def __iter__(self) -> Iterator[Labels]:
        for packed in self._packed:
            labels = np.frombuffer(zlib.decompress(packed), np.int32).reshape(-1, self.shape[1])
            yield self._table[labels]
