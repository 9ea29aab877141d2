"""Contact sheets: many pictures, with their names, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellkit.errors import UsageError
from cellkit.ops.drawing import GAP, page
from cellkit.ops.drawing_scale import LARGEST
from cellkit.ops.drawing_text import caption_height
from cellkit.ops.scale_bar import font_size
from cellkit.provenance import History, Record, digest_of, to_json
from cellkit.stages.viewing import Picture

USUAL = 2048  # px, the longest side of a sheet
SMALLEST_TILE = 64  # px; a smaller picture shows no cells
LINES = 2  # of the captions: name and counts


@dataclass(frozen=True)
class SheetPlan:
    """How a sheet is laid out.

    Attributes:
        columns: pictures beside each other.
        side: longest side of each picture in pixels; captions come below.
    """

    columns: int
    side: int


def plan_sheet(shapes: Sequence[tuple[int, int]], size: int | None) -> SheetPlan:
    """The layout with the largest pictures.

    Args:
        shapes: (H, W) of the images, in their order.
        size: longest side of the sheet in pixels; None: 2,048, or more, up to 4,096, where pictures would be too small.

    Raises:
        UsageError: there are more images than the sheet has room for.
    """
    for page_size in (size or USUAL, size or LARGEST):
        most = min(len(shapes), max(1, (page_size - GAP) // (SMALLEST_TILE + GAP)))
        plans = [SheetPlan(columns, _side(shapes, columns, page_size)) for columns in range(1, most + 1)]
        best = max(plans, key=lambda plan: plan.side)
        if best.side >= SMALLEST_TILE:
            return best
    problem = f"{len(shapes)} images do not fit on a sheet of {size or LARGEST} pixels"
    repair = "name a folder, -o DIR/, for one picture per image" + ("" if size is None else ", or give a larger --size")
    raise UsageError("--output", problem, repair)


def _side(shapes: Sequence[tuple[int, int]], columns: int, size: int) -> int:
    """The largest tile with so many columns; 0 when it would be too small."""
    high = (size - GAP) // columns - GAP
    low = SMALLEST_TILE - 1
    while low < high:  # the height grows with the side
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _height(shapes, columns, middle) <= size else (low, middle - 1)
    return low if low >= SMALLEST_TILE else 0


def _height(shapes: Sequence[tuple[int, int]], columns: int, side: int) -> int:
    heights = [max(1, round(side * height / max(height, width))) for height, width in shapes]
    rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    text = caption_height(LINES, font_size((side,)))
    return sum(row + text + GAP for row in rows) + GAP


def compose(pictures: Sequence[Picture], plan: SheetPlan) -> tuple[NDArray[np.uint8], History]:
    """The sheet (H, W, 3), and its history: that of its pictures is in the digest."""
    pixels = page([picture.pixels for picture in pictures], plan.columns, plan.side)
    texts = [f"{picture.key} {to_json(picture.history)}" for picture in pictures]
    digest = digest_of("\n".join(texts).encode("utf-8", "surrogateescape"))
    return pixels, (Record(verb="view", arguments={"images": len(pictures)}, input_digest=digest),)
