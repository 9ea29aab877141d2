"""Annotations in a COCO JSON file: polygons, run lengths plain or compressed; crowds are left out."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_masks

from cellkit.data.truth import Truth, check_shape, flatten
from cellkit.errors import InputError
from cellkit.ops.run_lengths import RunLength

POLYGON_NUMBERS = 6  # three points; pycocotools would take four numbers for a box
REPAIR = "check the file against the COCO format"


@dataclass(frozen=True)
class CocoLabels:
    """The objects of one image of a COCO file.

    Attributes:
        name: ``FILE.json: IMAGE``, for messages.
        size: height and width.
        segmentations: one entry per object, as in the file.
    """

    name: str
    size: tuple[int, int]
    segmentations: tuple[Any, ...] = field(repr=False)

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`cellkit.data.truth.LabelRef`."""
        check_shape(self.name, self.size, shape)
        return flatten([mask for mask in map(self._run_length, self.segmentations) if mask is not None], self.size)

    def _run_length(self, segmentation: Any) -> RunLength | None:  # noqa: ANN401 - JSON
        height, width = self.size
        try:
            if isinstance(segmentation, list):
                polygons = [polygon for polygon in segmentation if len(polygon) >= POLYGON_NUMBERS]
                return coco_masks.merge(coco_masks.frPyObjects(polygons, height, width)) if polygons else None
            size, counts = segmentation["size"], segmentation["counts"]
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(self.name, "a segmentation is neither polygons nor run lengths", REPAIR) from error
        check_shape(self.name, tuple(size), self.size)
        if isinstance(counts, list):
            return coco_masks.frPyObjects(segmentation, height, width)  # type: ignore[no-any-return]
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}


def read_coco(path: Path) -> dict[str, CocoLabels] | None:
    """The annotated images of a COCO file by file name, in its order; None when the JSON is something else.

    Raises:
        InputError: the file is no JSON, or its entries lack what they need.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(path, "the file is no readable JSON", REPAIR) from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    segmentations: dict[Any, list[Any]] = defaultdict(list)
    try:
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                segmentations[annotation["image_id"]].append(annotation["segmentation"])
        return {
            image["file_name"]: CocoLabels(
                f"{path}: {image['file_name']}",
                (int(image["height"]), int(image["width"])),
                tuple(segmentations[image["id"]]),
            )
            for image in content["images"]
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(path, f"an entry of the COCO file lacks {error}", REPAIR) from error
