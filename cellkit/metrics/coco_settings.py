"""What COCO evaluation leaves open: area ranges, detections per image, categories, thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from cellkit.errors import UsageError

Kind: TypeAlias = Literal["segm", "bbox"]
LARGEST_AREA = 1e5**2  # pycocotools' upper bound; an object above it belongs to no range

# As pycocotools computes them: some differ by one bit from the decimal fractions, which tells where an IoU equals one.
COCO_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, kw_only=True)
class AreaRange:
    """Objects by area: those outside are ignored, neither missed nor false.

    Attributes:
        name: ``all``, ``small``, ``medium`` or ``large``.
        lowest: square pixels, inside.
        highest: square pixels, inside too: an object on the border of two ranges belongs to both.
    """

    name: str
    lowest: float
    highest: float

    @property
    def suffix(self) -> str:
        """Of the names of values: ``s`` in ``APs``, nothing for all areas."""
        return "" if self.name == "all" else self.name[0]


def area_ranges(small: float, large: float) -> tuple[AreaRange, ...]:
    """All areas, those up to ``small``, between, and from ``large`` on (square pixels)."""
    return (
        AreaRange(name="all", lowest=0.0, highest=LARGEST_AREA),
        AreaRange(name="small", lowest=0.0, highest=small),
        AreaRange(name="medium", lowest=small, highest=large),
        AreaRange(name="large", lowest=large, highest=LARGEST_AREA),
    )


AREAS: dict[str, tuple[AreaRange, ...]] = {
    "coco": area_ranges(32.0**2, 96.0**2),
    "livecell": area_ranges(18.0**2, 31.0**2),  # Edlund et al. 2021, LIVECell
}


@dataclass(frozen=True, kw_only=True)
class CocoSettings:
    """How detections are judged.

    Attributes:
        areas: area ranges, the first of all areas.
        max_dets: how many detections count, those of the highest scores in each image (and category); None: as many as
            there are. Of several numbers, all values but ``AR@N`` are at the largest, as LIVECell has it.
        categories: whether an object must be of the right category, with the mean over categories; else all are one.
        thresholds: IoU that a match must reach, (0, 1].
    """

    areas: tuple[AreaRange, ...] = AREAS["coco"]
    max_dets: tuple[int, ...] | None = None
    categories: bool = True
    thresholds: tuple[float, ...] = COCO_THRESHOLDS

    def __post_init__(self) -> None:
        if self.max_dets is not None and (not self.max_dets or min(self.max_dets) < 1):
            given = ",".join(map(str, self.max_dets)) or "none"
            raise UsageError("max_dets", f"{given} detections cannot be judged", "give numbers of at least 1")
        if not self.areas or not self.thresholds or not all(0 < threshold <= 1 for threshold in self.thresholds):
            raise UsageError(
                "thresholds", "area ranges and IoU thresholds are needed", "thresholds are above 0, up to 1"
            )

    @property
    def most(self) -> int | None:
        """Detections that count in each image (and category); None: all."""
        return None if self.max_dets is None else max(self.max_dets)

    @property
    def fewer(self) -> tuple[int, ...]:
        """The numbers of detections beside the largest, ascending."""
        return () if self.max_dets is None else tuple(sorted(set(self.max_dets)))[:-1]


def parse_areas(text: str) -> tuple[AreaRange, ...]:
    """Area ranges from ``coco`` (32^2, 96^2), ``livecell`` (18^2, 31^2) or two areas ``a,b`` in square pixels.

    An area is a number or a side squared: ``324,961`` and ``18^2,31^2`` are the same.

    Raises:
        UsageError: it is none of these, or the areas do not ascend.
    """
    if text in AREAS:
        return AREAS[text]
    parts = text.split(",")
    areas = [_area(part.strip()) for part in parts]
    if len(areas) != 2 or not 0 < areas[0] < areas[1] < LARGEST_AREA:
        choices = ", ".join(AREAS)
        raise UsageError(text, "no such area ranges", f"choices: {choices}, or two ascending areas such as 324,961")
    return area_ranges(*areas)


def _area(text: str) -> float:
    """Square pixels of ``324`` or ``18^2``; NaN for anything else."""
    side, power, exponent = text.partition("^")
    try:
        value = float(side)
    except ValueError:
        return math.nan
    if power:
        return value**2 if exponent == "2" else math.nan
    return value
