"""Pictures of cells, for machines without a display: images as people look at them, outlines, fills, sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.colouring import painted
from cellkit.ops.labelling import outlines
from cellkit.ops.runs import runs_of

TRUTH_COLOUR = (40, 220, 90)  # green
PREDICTION_COLOUR = (255, 190, 0)  # amber; both stay apart on grey, purple and brown
FILLED = 0.45  # opacity of fills: what is beneath can still be judged
GAP = 6  # px between the pictures of a sheet
LEVELS = 255
CELL_SIDES = 8  # outlines are at most an eighth as wide as the typical cell
THIN = 800  # px of the longest side; one pixel more for each of them keeps outlines visible


def to_rgb(pixels: NDArray[np.generic], percentiles: tuple[float, float] = (0.5, 99.5)) -> NDArray[np.uint8]:
    """An image as people look at it: (C, H, W) of any type -> (H, W, 3) uint8, contrast by percentiles.

    One channel is grey; two are shown red and green; the first three of more are red, green and blue.
    """
    image = np.asarray(pixels[:3], np.float32)
    if image.shape[0] == 2:
        image = np.concatenate([image, np.zeros_like(image[:1])])
    low, high = np.percentile(image, percentiles)
    return shade((image - low) / max(float(high - low), 1e-12))


def shade(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Intensities from 0 to 1 as a picture, (C, H, W) -> (H, W, 3); what lies outside is clipped.

    One channel is grey; two are shown red and green; the first three of more are red, green and blue.
    """
    scaled = (np.clip(image[:3], 0, 1) * LEVELS).astype(np.uint8)
    if scaled.shape[0] == 1:
        scaled = np.repeat(scaled, 3, axis=0)
    elif scaled.shape[0] == 2:
        scaled = np.concatenate([scaled, np.zeros_like(scaled[:1])])
    return np.ascontiguousarray(scaled.transpose(1, 2, 0))


def overlay(
    picture: NDArray[np.uint8], labels: NDArray[np.int32], colour: tuple[int, int, int] = PREDICTION_COLOUR
) -> NDArray[np.uint8]:
    """A copy of the picture (H, W, 3) with the outlines of the labels (H, W) drawn in one colour."""
    drawn = picture.copy()
    drawn[outlines(labels)] = colour
    return drawn


def outlined(
    picture: NDArray[np.uint8], labels: NDArray[np.int32], width: int = 1, colour: tuple[int, int, int] | None = None
) -> NDArray[np.uint8]:
    """A copy of the picture (H, W, 3) with the outlines of the labels (H, W), inside the cells.

    Args:
        picture: what to draw on.
        labels: cells, 0 is background.
        width: of the lines in pixels.
        colour: of all outlines; None: each cell has its own.
    """
    drawn = picture.copy()
    rim = rims(labels, width)
    drawn[rim] = painted(labels)[rim] if colour is None else colour
    return drawn


def rims(labels: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
    """Pixels (H, W) of cells within ``width`` steps of whatever is beside them inside the image."""
    rim = outlines(labels)
    for _ in range(width - 1):
        rim |= outlines(np.where(rim, 0, labels))
    return rim


def line_width(labels: NDArray[np.int32]) -> int:
    """Width in pixels of outlines that can be seen on a picture of (H, W), and leave most of a cell free."""
    widest = 1 + int(max(labels.shape)) // THIN
    runs = runs_of(labels)
    _, place = np.unique(runs.values, return_inverse=True)
    areas = np.bincount(place.ravel(), runs.lengths * (runs.values != 0))
    areas = areas[areas > 0]
    side = float(np.sqrt(np.median(areas))) if areas.size else 0.0
    return max(1, min(widest, int(side / CELL_SIDES)))


def filled(picture: NDArray[np.uint8], labels: NDArray[np.int32], opacity: float = FILLED) -> NDArray[np.uint8]:
    """A copy of the picture (H, W, 3) with each cell of the labels (H, W) covered by its colour, translucently."""
    drawn = picture.copy()
    cells = labels != 0
    covered = drawn[cells].astype(np.float32)
    covered += (painted(labels)[cells] - covered) * np.float32(opacity)
    drawn[cells] = np.rint(covered).astype(np.uint8)
    return drawn


def sheet(pictures: Sequence[NDArray[np.uint8]], columns: int, side: int) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) of any size on one white sheet, each resized to ``side`` pixels, rows as high as needed."""
    return page([fit(picture, side) for picture in pictures], columns, side)


def page(pictures: Sequence[NDArray[np.uint8]], columns: int, width: int) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) at most ``width`` pixels wide, as they are, on one white sheet, rows as high as needed."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    paper = np.full((sum(heights) + GAP * (len(rows) + 1), columns * (width + GAP) + GAP, 3), LEVELS, np.uint8)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (width + GAP)
            paper[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        top += height + GAP
    return paper


def fit(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) resized by nearest pixels so that its longer side is ``side``."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    rows = np.minimum((np.arange(shape[0]) + 0.5) / shape[0] * height, height - 1).astype(np.intp)
    columns = np.minimum((np.arange(shape[1]) + 0.5) / shape[1] * width, width - 1).astype(np.intp)
    resized: NDArray[np.uint8] = picture[rows[:, None], columns]
    return resized
