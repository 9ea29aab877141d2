"""What an annotation file says of each object of an image beside its mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """Entries of one image, in the order of :attr:`cellkit.data.truth.Truth.masks`: objects, then crowds.

    Attributes:
        ids: (N,) int64; the ids of the file, or the places of the entries in it, from 1.
        areas: (N,) float64, pixels; what the annotation says, else the pixels of its mask or the area of its box.
        boxes: (N, 4) float64, pixels; x, y, width, height as the annotation says, else the tight box of its mask.
        scores: (N,) float64; 1.0 where the file has none.
        categories: (N,) int64; 1 where the file has none.
        crowd: (N,) bool; a region of many objects that were not told apart (COCO's iscrowd).
        has_masks: False: the file has boxes alone, and there are no masks.
        has_boxes: the file itself has a box for every entry.
        has_categories: False: categories say nothing, since whoever wrote the file knows one at most.
        names: of the categories, by their numbers, also of those without an object; what the file names.
    """

    ids: NDArray[np.int64]
    areas: NDArray[np.float64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    categories: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    has_masks: bool = True
    has_boxes: bool = False
    has_categories: bool = True
    names: Mapping[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Entries."""
        return len(self.ids)


def numbers_by_name(names: Iterable[str], numbers: Mapping[str, int]) -> list[int]:
    """Number that each category has in a truth, by its name; one that the truth does not have, where it has no such.

    Args:
        names: of the categories, each once.
        numbers: of the categories of the truth, by their names; at least one.
    """
    unknown = max(numbers.values()) + 1
    return [numbers.get(name, unknown + place) for place, name in enumerate(names)]
