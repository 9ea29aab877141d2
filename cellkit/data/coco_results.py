"""Results in the form that COCO's server takes: a list of detections, each of an image of the truth's file."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellkit.data.coco import CocoLabels, by_image, masked
from cellkit.data.coco_entries import Entry, ImageEntry, entry_of, load_json
from cellkit.data.truth import LabelRef
from cellkit.errors import InputError

FORM = "a list of entries with image_id, category_id, score and segmentation or bbox"

logger = logging.getLogger(__name__)


def read_results(
    path: Path,
    images: Mapping[Any, tuple[str, tuple[int, int]]],
    categories: Collection[int] = (),
    content: Any = None,  # noqa: ANN401 - JSON
) -> dict[str, LabelRef]:
    """The predicted objects of each image that the truth has, also of those without any.

    A result has a segmentation, a bbox, or both: then the mask is scored as mask and the bbox as box.

    Args:
        path: the file.
        images: name and (H, W) of each image of the truth, by its id there.
        categories: ids of the categories of the truth; where there is one, results need none of their own.
        content: what the file holds, where it was read already.

    Returns:
        by name of the image.

    Raises:
        InputError: no list; results of images that the truth does not have; a score that is missing or no number;
            neither segmentation nor bbox.
    """
    values = load_json(path) if content is None else content
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(path, "the JSON is no list of results", FORM)
    entries = [_result(path, value, place, categories) for place, value in enumerate(values, 1)]
    _check_images(path, entries, images)
    _check_categories(path, entries, categories)
    has_masks = masked(path, entries)
    listed = {number: ImageEntry(number, name, size) for number, (name, size) in images.items()}
    grouped = by_image(path, entries, listed, "result")
    return {
        image.name: CocoLabels(path, image.name, image.size, grouped[image.id], has_masks, "prediction")
        for image in listed.values()
    }


def image_ids(values: Sequence[Mapping[str, Any]]) -> set[Hashable]:
    """Ids of the images that a list of results is about, whatever else is wrong with it."""
    found = (value.get("image_id") for value in values if isinstance(value, dict))
    return {image for image in found if isinstance(image, Hashable)}


def _result(path: Path, value: Mapping[str, Any], place: int, categories: Collection[int]) -> Entry:
    entry = entry_of(path, {key: value[key] for key in value if key not in {"id", "iscrowd"}}, place, "result")
    if value.get("score") is None:
        raise InputError(path, f"{entry.where} lacks 'score'", FORM)
    if entry.segmentation is None and entry.box is None:
        raise InputError(path, f"{entry.where} has neither segmentation nor bbox", FORM)
    if entry.category is None and len(categories) == 1:
        return entry._replace(category=next(iter(categories)))
    if entry.category is None and categories:
        raise InputError(path, f"{entry.where} lacks 'category_id'", FORM)
    return entry


def _check_images(path: Path, entries: Sequence[Entry], images: Collection[Hashable]) -> None:
    strange = [entry for entry in entries if entry.image not in images]
    if strange:
        count, example = (
            f"{len(strange)} of {len(entries)} results",
            f"{strange[0].where} of image_id {strange[0].image!r}",
        )
        problem = f"{count} are of images that the truth does not have, e.g. {example}"
        raise InputError(path, problem, "give the COCO file that the results were made for")


def _check_categories(path: Path, entries: Sequence[Entry], categories: Collection[int]) -> None:
    strange = [entry for entry in entries if categories and entry.category not in categories]
    if strange:
        message = "%s: %d of %d results have a category that the truth does not list, e.g. %s has %s"
        logger.warning(message, path, len(strange), len(entries), strange[0].where, strange[0].category)
