"""Pictures of cells: outlines on images, drawn with NumPy alone, for headless machines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.labelling import outlines

TRUTH_COLOUR = (40, 220, 90)  # green
PREDICTION_COLOUR = (255, 190, 0)  # amber; both stay apart on grey, purple and brown
GAP = 6  # px between the pictures of a sheet
LEVELS = 255


def to_rgb(pixels: NDArray[np.generic], percentiles: tuple[float, float] = (0.5, 99.5)) -> NDArray[np.uint8]:
    """An image as people look at it: (C, H, W) of any type -> (H, W, 3) uint8, contrast by percentiles.

    One channel is grey; two are shown red and green; the first three of more are red, green and blue.
    """
    image = np.asarray(pixels, np.float32)
    if image.shape[0] == 2:
        image = np.concatenate([image, np.zeros_like(image[:1])])
    image = np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image[:3]
    low, high = np.percentile(image, percentiles)
    scaled = np.clip((image - low) / max(float(high - low), 1e-12), 0, 1) * LEVELS
    return np.ascontiguousarray(scaled.transpose(1, 2, 0).astype(np.uint8))


def overlay(
    picture: NDArray[np.uint8], labels: NDArray[np.int32], colour: tuple[int, int, int] = PREDICTION_COLOUR
) -> NDArray[np.uint8]:
    """A copy of the picture (H, W, 3) with the outlines of the labels (H, W) drawn in one colour."""
    drawn = picture.copy()
    drawn[outlines(labels)] = colour
    return drawn


def sheet(pictures: Sequence[NDArray[np.uint8]], columns: int, side: int) -> NDArray[np.uint8]:
    """Pictures (H, W, 3) of any size on one white sheet, each resized to ``side`` pixels, rows as high as needed."""
    small = [fit(picture, side) for picture in pictures]
    rows = [small[i : i + columns] for i in range(0, len(small), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    page = np.full((sum(heights) + GAP * (len(rows) + 1), columns * (side + GAP) + GAP, 3), LEVELS, np.uint8)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (side + GAP)
            page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        top += height + GAP
    return page


def fit(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) resized by nearest pixels so that its longer side is ``side``."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    rows = np.minimum((np.arange(shape[0]) + 0.5) / shape[0] * height, height - 1).astype(np.intp)
    columns = np.minimum((np.arange(shape[1]) + 0.5) / shape[1] * width, width - 1).astype(np.intp)
    resized: NDArray[np.uint8] = picture[rows[:, None], columns]
    return resized
