"""Annotations in a COCO JSON file: polygons, run lengths plain or compressed, boxes, crowds.

What a file may lack or say wrongly, and what becomes of it:

- an error, which names the entry: keys that are needed, two images or annotations of one id, two images of one name, a
  category that the file does not list, a segmentation that is none, a box or area that is no number, an annotation
  without segmentation among others that have one;
- left out with a warning: annotations of images that the file does not list, and objects without a pixel (empty
  lists, polygons without area, boxes of no width or height);
- right: an image without annotations (it is empty), annotations without id (their place is their id), without area or
  bbox (those of the mask), without category where the file lists at most one, and files of boxes alone: they are
  scored as boxes, and refused for training.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from cellkit.data.annotations import Annotations, numbers_by_name
from cellkit.data.coco_entries import (
    REPAIR,
    Entry,
    ImageEntry,
    category_names,
    entries_of,
    entry_of,
    image_entry,
    load_json,
    run_length,
)
from cellkit.data.truth import Truth, check_shape, left_out, paint
from cellkit.errors import InputError

Purpose = Literal["training", "truth", "prediction"]

DEFAULT_CATEGORY = 1
KEPT_FILES = 4  # that are not read again; their annotations are in memory anyway while they are used

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoLabels:
    """The objects of one image of a COCO file, or of a list of results.

    Attributes:
        file: the JSON file.
        image: the ``file_name`` of the image.
        size: height and width.
        entries: annotations of the image, in the order of the file.
        has_masks: False: the file has boxes alone.
        purpose: ``training`` leaves crowds out and refuses boxes alone; ``truth`` has the crowds after the objects;
            ``prediction`` has no crowds, keeps objects without a pixel (they were predicted, and are wrong), and takes
            areas from the masks or boxes as pycocotools does, whatever the file says.
        image_id: id of the image in the file; it decides where COCO's rules leave a tie between images.
        categories: names of the categories that the file lists, by their ids.
        has_categories: False: categories say nothing.
    """

    file: Path
    image: str
    size: tuple[int, int]
    entries: tuple[Entry, ...] = field(repr=False)
    has_masks: bool = True
    purpose: Purpose = "training"
    image_id: Hashable = None
    categories: Mapping[int, str] = field(default_factory=dict, repr=False, hash=False)
    has_categories: bool = True

    @property
    def name(self) -> str:
        """``FILE.json: IMAGE``, for messages."""
        return f"{self.file}: {self.image}"

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`cellkit.data.truth.LabelRef`.

        Of boxes alone, the labels are all background and the masks none: the boxes are in the annotations.
        """
        check_shape(self.name, self.size, shape)
        if not self.has_masks and self.purpose == "training":
            raise InputError(self.name, "the annotations are boxes without masks", "boxes can be scored, not learned")
        entries = [entry for entry in self.entries if not entry.crowd]
        if self.purpose == "truth":
            entries += [entry for entry in self.entries if entry.crowd]
        return self._read_masks(entries) if self.has_masks else self._read_boxes(entries)

    def renumbered(self, table: Mapping[int, int], *, has_categories: bool) -> CocoLabels:
        """The same with other ids of the categories, which may say nothing."""
        entries = self.entries
        if any(number != new for number, new in table.items()):
            entries = tuple(
                e if e.category is None else e._replace(category=table.get(e.category, e.category)) for e in entries
            )
        names = {table[number]: name for number, name in self.categories.items()}
        return replace(self, entries=entries, categories=names, has_categories=has_categories)

    def _read_masks(self, entries: Sequence[Entry]) -> Truth:
        masks = [run_length(self.name, entry, self.size) for entry in entries]
        pixels = np.array([coco_masks.area(mask) for mask in masks], np.float64)  # of a list, it overflows at 256
        kept = self._kept(entries, pixels > 0)
        entries, masks = [entries[i] for i in kept], [masks[i] for i in kept]
        boxes = np.array([coco_masks.toBbox(mask) for mask in masks], np.float64).reshape(-1, 4)
        truth = paint([mask for mask, entry in zip(masks, entries, strict=True) if not entry.crowd], self.size)
        return replace(truth, masks=tuple(masks), annotations=self._annotations(entries, pixels[kept], boxes))

    def _read_boxes(self, entries: Sequence[Entry]) -> Truth:
        boxes = np.array([entry.box for entry in entries], np.float64).reshape(-1, 4)
        areas = boxes[:, 2] * boxes[:, 3]
        kept = self._kept(entries, areas > 0)
        annotations = self._annotations([entries[i] for i in kept], areas[kept], boxes[kept])
        return Truth(labels=np.zeros(self.size, np.int32), masks=(), annotations=annotations)

    def _kept(self, entries: Sequence[Entry], covering: NDArray[np.bool_]) -> list[int]:
        """Which entries stay: those that cover something; of predictions all."""
        empty = np.flatnonzero(~covering)
        if self.purpose == "prediction" or not empty.size:
            return list(range(len(entries)))
        logger.warning("%s: %s, e.g. %s", self.name, left_out(empty.size, "object"), entries[empty[0]].where)
        return [int(index) for index in np.flatnonzero(covering)]

    def _annotations(
        self, entries: Sequence[Entry], pixels: NDArray[np.float64], boxes: NDArray[np.float64]
    ) -> Annotations:
        areas = [
            measured if entry.area is None or self.purpose == "prediction" else entry.area
            for entry, measured in zip(entries, pixels, strict=True)
        ]
        stated = [box if entry.box is None else entry.box for entry, box in zip(entries, boxes, strict=True)]
        categories = [DEFAULT_CATEGORY if entry.category is None else entry.category for entry in entries]
        return Annotations(
            ids=np.array([entry.id for entry in entries], np.int64),
            areas=np.array(areas, np.float64),
            boxes=np.array(stated, np.float64).reshape(-1, 4),
            scores=np.array([entry.score for entry in entries], np.float64),
            categories=np.array(categories, np.int64),
            crowd=np.array([entry.crowd for entry in entries], bool),
            has_masks=self.has_masks,
            has_boxes=all(entry.box is not None for entry in entries),
            has_categories=self.has_categories,
            names=self.categories,
        )


@dataclass(frozen=True, eq=False)
class CocoFile(Mapping[str, CocoLabels]):
    """The annotated images of a COCO file by file name, in its order.

    Attributes:
        path: the file.
        labels: annotations by the ``file_name`` of their image.
        image_ids: id of each image, by its ``file_name``.
        categories: name of each category, by its id; empty where the file lists none.
        has_masks: False: it has boxes alone.
    """

    path: Path
    labels: Mapping[str, CocoLabels] = field(repr=False)
    image_ids: Mapping[str, Hashable] = field(repr=False)
    categories: Mapping[int, str]
    has_masks: bool = True

    def meant_for(self, purpose: Purpose) -> Self:
        """The same, read for something else."""
        labels = {name: replace(labels, purpose=purpose) for name, labels in self.labels.items()}
        return replace(self, labels=labels)

    def named_as(self, numbers: Mapping[str, int]) -> Self:
        """The same with the categories of a truth, by their names; one category alone says nothing.

        Args:
            numbers: of the categories of the truth, by their names. Where none of them is in this file, ids are ids.
        """
        table = {number: number for number in self.categories}
        if numbers.keys() & set(self.categories.values()):
            table = dict(zip(table, numbers_by_name(self.categories.values(), numbers), strict=True))
        told = len(table) != 1
        labels = {name: labels.renumbered(table, has_categories=told) for name, labels in self.labels.items()}
        names = {table[number]: name for number, name in self.categories.items()}
        return replace(self, labels=labels, categories=names)

    def __getitem__(self, name: str) -> CocoLabels:
        return self.labels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)


def read_coco(path: Path, purpose: Purpose = "training") -> CocoFile | None:
    """The annotated images of a COCO file; None when the JSON is something else.

    Args:
        path: the file.
        purpose: what the objects are for; see :class:`CocoLabels`.

    Raises:
        InputError: the file is no JSON, or an entry is wrong; see the head of this module.
    """
    try:
        stamp = path.stat()
        found = _read(path, stamp.st_mtime_ns, stamp.st_size)
    except OSError as error:
        raise InputError(path, "the file is no readable JSON", REPAIR) from error
    return found if found is None or purpose == "training" else found.meant_for(purpose)


@lru_cache(maxsize=KEPT_FILES)
def _read(path: Path, changed: int, size: int) -> CocoFile | None:
    """Read a file, once while it does not change: truth, prediction and pictures ask for the same."""
    content = load_json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    listed = entries_of(path, content["images"], "images")
    images = _by_id(path, [image_entry(path, value, place) for place, value in enumerate(listed, 1)])
    categories = category_names(path, content.get("categories"))
    values = entries_of(path, content["annotations"], "annotations")
    entries = [entry_of(path, value, place, "annotation") for place, value in enumerate(values, 1)]
    entries = _with_category(path, _numbered(path, entries, values), categories)
    has_masks = masked(path, entries)
    grouped = by_image(path, entries, images, "annotation")
    return CocoFile(
        path=path,
        labels={
            image.name: CocoLabels(
                path,
                image.name,
                image.size,
                grouped[image.id],
                has_masks,
                image_id=image.id,
                categories=categories,
            )
            for image in images.values()
        },
        image_ids={image.name: image.id for image in images.values()},
        categories=categories,
        has_masks=has_masks,
    )


def masked(path: Path, entries: Sequence[Entry]) -> bool:
    """Whether a file has masks: False where it has boxes alone.

    Raises:
        InputError: some entries have a segmentation, and another has none.
    """
    if not any(entry.segmentation for entry in entries) and all(entry.box is not None for entry in entries):
        return not entries
    missing = next((entry for entry in entries if entry.segmentation is None), None)
    if missing is not None:
        raise InputError(path, f"{missing.where} lacks 'segmentation'", "all entries have masks, or all boxes alone")
    return True


def by_image(
    path: Path, entries: Sequence[Entry], images: Mapping[Hashable, ImageEntry], kind: str
) -> defaultdict[Hashable, tuple[Entry, ...]]:
    """Entries of each image, in order; those of images that are not listed are left out with a warning."""
    found: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.image].append(entry)
    strange = [entry for image, group in found.items() if image not in images for entry in group]
    if strange:
        message = "%s: %d of %d %ss are of images that it does not list and are left out, e.g. %s of image %s"
        logger.warning(message, path, len(strange), len(entries), kind, strange[0].where, strange[0].image)
    return defaultdict(tuple, {image: tuple(group) for image, group in found.items()})


def _by_id(path: Path, images: Sequence[ImageEntry]) -> dict[Hashable, ImageEntry]:
    found: dict[Hashable, ImageEntry] = {}
    names: set[str] = set()
    for image in images:
        if image.id in found:
            raise InputError(path, f"two images have the id {image.id}", "number them anew")
        if image.name in names:
            raise InputError(path, f"two images are called {image.name}", "list each image once")
        found[image.id] = image
        names.add(image.name)
    return found


def _numbered(path: Path, entries: list[Entry], values: Sequence[Mapping[str, object]]) -> list[Entry]:
    """With ids that are unique: those of the file, or the places where one lacks its id."""
    if any(entry.id != value.get("id") for entry, value in zip(entries, values, strict=True)):
        return [entry._replace(id=place) for place, entry in enumerate(entries, 1)]
    seen: set[int] = set()
    for entry in entries:
        if entry.id in seen:
            raise InputError(path, f"two annotations have the id {entry.id}", "number them anew")
        seen.add(entry.id)
    return entries


def _with_category(path: Path, entries: list[Entry], categories: Mapping[int, str]) -> list[Entry]:
    only = next(iter(categories)) if len(categories) == 1 else None
    for entry in entries:
        if entry.category is None and len(categories) > 1:
            raise InputError(path, f"{entry.where} lacks 'category_id'", REPAIR)
        if entry.category is not None and categories and entry.category not in categories:
            problem = f"{entry.where} has the category {entry.category}, which the file does not list"
            raise InputError(path, problem, "add it to 'categories', or take the annotation out")
    return entries if only is None else [e if e.category is not None else e._replace(category=only) for e in entries]
