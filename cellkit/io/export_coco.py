"""COCO files: images, one category, and one annotation with run lengths, area, box and score per object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from cellkit.provenance import History, to_json

CATEGORY = {"id": 1, "name": "cell", "supercategory": "cell"}


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoImage:
    """The objects of one image.

    Attributes:
        name: file name of the image.
        shape: (H, W).
        masks: compressed run lengths, one per object, as pycocotools has them.
        scores: (N,), or None: 1.
        history: the commands that made the labels.
    """

    name: str
    shape: tuple[int, int]
    masks: Sequence[dict[str, Any]]
    scores: NDArray[np.floating[Any]] | None = None
    history: History = ()


def encode_coco(images: Sequence[CocoImage]) -> bytes:
    """A COCO file; its ``annotations`` alone are a list of results, as ``COCO.loadRes`` takes it.

    Format: https://cocodataset.org/#format-data and #format-results. Images and annotations are numbered from 1 in the
    given order; each image has the history of its labels under the key ``cellkit``.
    """
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, 1):
        annotations += _annotations(image, number, len(annotations))
    content = {
        "info": {"description": "cells, written by cellkit convert"},
        "images": [_image(image, number) for number, image in enumerate(images, 1)],
        "categories": [CATEGORY],
        "annotations": annotations,
    }
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def _image(image: CocoImage, number: int) -> dict[str, Any]:
    values = {"id": number, "file_name": image.name, "height": image.shape[0], "width": image.shape[1]}
    return values | {"cellkit": json.loads(to_json(image.history))}


def _annotations(image: CocoImage, number: int, before: int) -> list[dict[str, Any]]:
    if not image.masks:
        return []
    masks = list(image.masks)
    areas = [int(coco_masks.area(mask)) for mask in masks]  # of a list, it overflows at 256
    boxes = coco_masks.toBbox(masks).tolist()
    scores = [1.0] * len(masks) if image.scores is None else [float(str(score)) for score in image.scores]
    return [
        {
            "id": place,
            "image_id": number,
            "category_id": CATEGORY["id"],
            "iscrowd": 0,
            "segmentation": {"size": mask["size"], "counts": mask["counts"].decode("ascii")},
            "area": area,
            "bbox": box,
            "score": score if np.isfinite(score) else 1.0,
        }
        for place, mask, area, box, score in zip(
            range(before + 1, before + len(masks) + 1), masks, areas, boxes, scores, strict=True
        )
    ]
