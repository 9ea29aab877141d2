"""Each cell as an image of its own, cut out of its image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.io.images import Image
from cellkit.stages.measuring import Measured


@dataclass(frozen=True, kw_only=True, eq=False)
class Crop:
    """One cell.

    Attributes:
        label: its label.
        pixels: (C, h, w) in the type of the image.
    """

    label: int
    pixels: NDArray[Any]


def crops(measured: Measured, *, size: int | None = None, blank: bool = False) -> Iterator[Crop]:
    """The cells of an image, by ascending label.

    Args:
        measured: cells, of an image that is there.
        size: side of a square about the middle of the box of each cell, filled up with 0 beyond the image; larger
            cells are cut. None: the box of the cell.
        blank: pixels of other cells and of the background become 0.
    """
    image, cells, labels = measured.image, measured.cells, measured.labels
    if image is None or cells is None or labels is None:
        return
    for name, label, box in zip(measured.columns["label"], cells.ids, cells.boxes, strict=True):
        window = box if size is None else _square(box, size)
        yield Crop(label=int(name), pixels=_cut(image, labels, int(label) if blank else None, window))


def _square(box: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """First and last row and column of a square about the middle of a box; may reach beyond the image."""
    first = (box[:2] + box[2:] - size) // 2
    return np.concatenate([first, first + size])


def _cut(image: Image, labels: NDArray[np.int32], only: int | None, window: NDArray[np.int64]) -> NDArray[Any]:
    height, width = labels.shape
    y0, x0, y1, x1 = (int(value) for value in window)
    rows, columns = slice(max(0, y0), min(height, y1)), slice(max(0, x0), min(width, x1))
    seen = image.pixels[:, rows, columns]
    if only is not None:
        seen = np.where(labels[rows, columns] == only, seen, seen.dtype.type(0))
    margin = ((0, 0), (rows.start - y0, y1 - rows.stop), (columns.start - x0, x1 - columns.stop))
    return np.pad(seen, margin)
