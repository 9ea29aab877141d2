"""The entries of COCO files - images, categories, annotations, results - read one by one and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_masks

from cellkit.data.truth import check_shape
from cellkit.errors import InputError
from cellkit.ops.run_lengths import RunLength, counts_of

REPAIR = "check the file against the COCO format"
POLYGON_NUMBERS = 6  # three points; pycocotools would take four numbers for a box
BOX_NUMBERS = 4
FARTHEST = 1e6  # pixels; pycocotools draws every point of an outline, also those far outside of the image
LARGEST_ID = 2**63 - 1
MOST_PIXELS = 2**32  # run lengths are counted in 32 bits


class ImageEntry(NamedTuple):
    """One image of a COCO file: its number and name there, and (H, W)."""

    id: Hashable
    name: str
    size: tuple[int, int]


class Entry(NamedTuple):
    """One annotation, or one result.

    Attributes:
        where: ``annotation 17``, for messages.
        image: id of its image.
        id: its number; its place in the list, from 1, where it has no whole number of its own.
        segmentation: polygons or run lengths as in the file; None where the file has none.
        box: x, y, width, height.
        area: as the file says.
        category: number of its category; None where the file has none.
        crowd: whether it is a region of many objects.
        score: 1.0 where the file has none.
    """

    where: str
    image: Hashable
    id: int
    segmentation: Any
    box: tuple[float, float, float, float] | None
    area: float | None
    category: int | None
    crowd: bool
    score: float


def load_json(path: Path) -> Any:  # noqa: ANN401 - JSON
    """What a JSON file holds.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, "the file is no readable JSON", REPAIR) from error


def entries_of(path: Path, values: Any, name: str) -> list[Mapping[str, Any]]:  # noqa: ANN401 - JSON
    """A list of entries.

    Raises:
        InputError: it is no list, or one of them is no entry.
    """
    if not isinstance(values, list):
        raise InputError(path, f"'{name}' is no list", REPAIR)
    wrong = next((place for place, value in enumerate(values, 1) if not isinstance(value, dict)), None)
    if wrong is not None:
        raise InputError(path, f"entry {wrong} of '{name}' is no entry with keys", REPAIR)
    return values


def image_entry(path: Path, value: Mapping[str, Any], place: int) -> ImageEntry:
    """Check one of ``images``.

    Raises:
        InputError: it lacks id, file_name, height or width, or they are of the wrong kind.
    """
    where = f"image {value.get('id', f'number {place}')}"
    number, name, height, width = (_needed(path, where, value, key) for key in ("id", "file_name", "height", "width"))
    if not isinstance(number, int | str) or not isinstance(name, str) or not name:
        raise InputError(path, f"{where}: its id or file_name is no name", REPAIR)
    if not all(_is_whole(side) and side > 0 for side in (height, width)) or height * width >= MOST_PIXELS:
        raise InputError(path, f"{where}: its size is {height} x {width}", "height and width are whole numbers above 0")
    return ImageEntry(number, name, (int(height), int(width)))


def category_names(path: Path, values: Any) -> dict[int, str]:  # noqa: ANN401 - JSON
    """Names of ``categories`` by id; empty where the file has none.

    Raises:
        InputError: one lacks its id, or two have the same.
    """
    names: dict[int, str] = {}
    for place, value in enumerate(entries_of(path, [] if values is None else values, "categories"), 1):
        number = _needed(path, f"category number {place}", value, "id")
        if not _is_whole(number):
            raise InputError(path, f"category number {place}: its id {number!r} is no whole number", REPAIR)
        if number in names:
            raise InputError(path, f"two categories have the id {number}", "number them anew")
        names[int(number)] = str(value.get("name", number))
    return names


def entry_of(path: Path, value: Mapping[str, Any], place: int, kind: str) -> Entry:
    """Check one annotation or result; whether its image and category are known is for others to say.

    Args:
        path: the file.
        value: its keys and values.
        place: its place in the list, from 1.
        kind: ``annotation`` or ``result``, for messages.

    Raises:
        InputError: it lacks image_id; its box, area, category or score is of the wrong kind.
    """
    numbered = _is_whole(value.get("id"))
    where = f"{kind} {value['id']}" if numbered else f"{kind} number {place}"
    image, category = _needed(path, where, value, "image_id"), value.get("category_id")
    if not isinstance(image, Hashable):
        raise InputError(path, f"{where}: its image_id is no number", REPAIR)
    if category is not None and not _is_whole(category):
        raise InputError(path, f"{where}: its category_id {category!r} is no whole number", REPAIR)
    return Entry(
        where=where,
        image=image,
        id=int(value["id"]) if numbered else place,
        segmentation=value.get("segmentation"),
        box=_box(path, where, value.get("bbox")),
        area=_number(path, where, value, "area", smallest=0.0),
        category=category,
        crowd=bool(value.get("iscrowd")),
        score=1.0 if (score := _number(path, where, value, "score")) is None else score,
    )


def _needed(path: Path, where: str, value: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - JSON
    if value.get(key) is None:
        raise InputError(path, f"{where} lacks '{key}'", REPAIR)
    return value[key]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_ID


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _number(path: Path, where: str, value: Mapping[str, Any], key: str, smallest: float = -math.inf) -> float | None:
    found = value.get(key)
    if found is None:
        return None
    if not _is_number(found) or found < smallest:
        raise InputError(path, f"{where}: its {key} is {found!r}", f"{key} is a number, neither NaN nor infinite")
    return float(found)


def _box(path: Path, where: str, found: Any) -> tuple[float, float, float, float] | None:  # noqa: ANN401 - JSON
    if found is None or found == []:
        return None
    if not isinstance(found, list) or len(found) != BOX_NUMBERS or not all(_is_number(number) for number in found):
        raise InputError(path, f"{where}: its bbox is no box", "x, y, width and height in pixels")
    x, y, width, height = map(float, found)
    if width < 0 or height < 0:
        raise InputError(path, f"{where}: its bbox is {width:g} wide and {height:g} high", "x, y, width, height")
    return x, y, width, height


def run_length(name: str, entry: Entry, size: tuple[int, int]) -> RunLength:
    """The mask of an entry; empty where its polygons are no areas.

    Args:
        name: for messages.
        entry: with a segmentation: polygons, run lengths, or compressed run lengths.
        size: (H, W) of its image.

    Raises:
        InputError: it is none of these, or does not fit the image.
    """
    height, width = size
    found = entry.segmentation
    subject = f"{name}: {entry.where}"
    try:
        if isinstance(found, list):
            polygons = [polygon for polygon in found if len(polygon) >= POLYGON_NUMBERS]
            _check_polygons(subject, polygons)
            return coco_masks.merge(coco_masks.frPyObjects(polygons, height, width)) if polygons else _nothing(size)
        stored, counts = tuple(found["size"]), found["counts"]
        if isinstance(counts, str | bytes):
            mask = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
        else:
            mask = coco_masks.frPyObjects({"size": list(stored), "counts": counts}, *stored)
        runs = counts_of(mask)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(subject, "its segmentation is neither polygons nor run lengths", REPAIR) from error
    check_shape(subject, stored, size)
    if runs.sum() != height * width or (runs < 0).any():
        problem = f"its run lengths are of {max(0, int(runs.sum()))} pixels, the image has {height * width}"
        raise InputError(subject, problem, REPAIR)
    return mask


def _nothing(size: tuple[int, int]) -> RunLength:
    return coco_masks.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)  # type: ignore[no-any-return]


def _check_polygons(subject: str, polygons: list[Any]) -> None:
    for polygon in polygons:
        numbers = np.asarray(polygon, np.float64)
        if numbers.ndim != 1 or numbers.size % 2:
            raise InputError(subject, "a polygon has no pairs of x and y", REPAIR)
        if not (np.abs(numbers) <= FARTHEST).all():  # also NaN
            raise InputError(subject, "a polygon lies far outside of the image, or has NaN", REPAIR)
