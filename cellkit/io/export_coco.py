"""COCO files: images, categories, and one annotation with run lengths, area, box, category and score per object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from cellkit.provenance import History, to_json

CATEGORY, CELL = 1, "cell"  # of objects of which nobody says what they are


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoImage:
    """The objects of one image.

    Attributes:
        name: file name of the image.
        shape: (H, W).
        masks: compressed run lengths, one per object, as pycocotools has them.
        scores: (N,), or None: 1.
        history: the commands that made the labels.
        boxes: (N, 4) x, y, width, height, or None: those of the masks.
        categories: (N,) numbers, or None: 1.
        names: of the categories, by their numbers, also of such as no object has.
    """

    name: str
    shape: tuple[int, int]
    masks: Sequence[dict[str, Any]]
    scores: NDArray[np.floating[Any]] | None = None
    history: History = ()
    boxes: NDArray[np.float64] | None = None
    categories: NDArray[np.int64] | None = None
    names: Mapping[int, str] = field(default_factory=dict)

    def all_names(self) -> dict[int, str]:
        """Name of each category by its number, also of those that have none."""
        used = [] if self.categories is None else np.unique(self.categories).tolist()
        unnamed = {number: CELL if number == CATEGORY else f"category {number}" for number in used or [CATEGORY]}
        return {**(unnamed if used or not self.names else {}), **self.names}


def encode_coco(images: Sequence[CocoImage]) -> bytes:
    """A COCO file; its ``annotations`` alone are a list of results, as ``COCO.loadRes`` takes it.

    Format: https://cocodataset.org/#format-data and #format-results. Images and annotations are numbered from 1 in the
    given order; each image has the history of its labels under the key ``cellkit``. Categories keep their numbers; one
    whose number another image has for another name gets the next free one.
    """
    ids = _category_ids(images)
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        annotations += _annotations(image, number, len(annotations), ids)
    content = {
        "info": {"description": "cells, written by cellkit convert"},
        "images": [_image(image, number) for number, image in enumerate(images, 1)],
        "categories": [{"id": number, "name": name, "supercategory": CELL} for name, number in ids.items()],
        "annotations": annotations,
    }
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _category_ids(images: Sequence[CocoImage]) -> dict[str, int]:
    """Id of each category by its name; in all images the same."""
    ids: dict[str, int] = {}
    for image in images:
        for number, name in image.all_names().items():
            if name not in ids:
                ids[name] = number if number not in ids.values() else max(ids.values()) + 1
    return dict(sorted(ids.items(), key=lambda item: item[1]))


def _image(image: CocoImage, number: int) -> dict[str, Any]:
    values = {"id": number, "file_name": image.name, "height": image.shape[0], "width": image.shape[1]}
    return values | {"cellkit": json.loads(to_json(image.history))}


def _annotations(image: CocoImage, number: int, before: int, ids: Mapping[str, int]) -> list[dict[str, Any]]:
    if not image.masks:
        return []
    masks = list(image.masks)
    areas = [int(coco_masks.area(mask)) for mask in masks]  # of a list, it overflows at 256
    boxes = (coco_masks.toBbox(masks) if image.boxes is None else image.boxes).tolist()
    scores = [1.0] * len(masks) if image.scores is None else [float(str(score)) for score in image.scores]
    return [
        {
            "id": place,
            "image_id": number,
            "category_id": category,
            "iscrowd": 0,
            "segmentation": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
            "area": area,
            "bbox": box,
            "score": score if np.isfinite(score) else 1.0,
        }
        for place, mask, area, box, score, category in zip(
            range(before + 1, before + len(masks) + 1), masks, areas, boxes, scores, _numbers(image, ids), strict=True
        )
    ]


def _numbers(image: CocoImage, ids: Mapping[str, int]) -> list[int]:
    """Id of the category of each object."""
    names = image.all_names()
    own = [CATEGORY] * len(image.masks) if image.categories is None else image.categories.tolist()
    return [ids[names[number]] for number in own]
