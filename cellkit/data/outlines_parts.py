"""What the readers of drawn outlines have in common."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cellkit.io.label_image import LabelHeader

Ring = NDArray[np.float64]  # (V, 2) corners x, y in pixels, open or closed; the corner of the image is 0, 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """The outline of one cell.

    Attributes:
        name: as the file has it.
        rings: pieces and holes, filled together by the even-odd rule.
        score: NaN where there is none.
    """

    name: str
    rings: tuple[Ring, ...]
    score: float = float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """The outlines of one file.

    Attributes:
        outlines: in the order of the file.
        passed_over: how many objects are no cells, by kind: points, lines, regions around cells.
        planes: of a stack or series on which they lie, where the file says so.
        header: what our own files say of the labels they were made of.
        shape: (H, W) of the image, as our own files say; else None.
    """

    outlines: list[Outline]
    passed_over: Counter[str] = field(default_factory=Counter)
    planes: frozenset[Hashable] = frozenset()
    header: LabelHeader = field(default_factory=LabelHeader)
    shape: tuple[int, int] | None = None


def parse_header(text: str) -> tuple[LabelHeader, tuple[int, int] | None]:
    """What ``cellkit convert`` keeps in its files: the header of the labels, and under ``shape`` their size.

    Args:
        text: JSON ``{"cellkit": {...}}``; anything else gives an empty header.
    """
    header = LabelHeader.from_json(text)
    if header is None:
        return LabelHeader(), None
    shape = json.loads(text)["cellkit"].get("shape")
    is_size = isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)
    return header, (shape[0], shape[1]) if is_size else None
