"""COCO files of objects with categories, boxes and scores, read by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from cellkit.io.export_coco import CocoImage, encode_coco

SHAPE = (20, 30)


def masks(*columns):
    found = []
    for column in columns:
        mask = np.zeros(SHAPE, np.uint8, order="F")
        mask[5:9, column : column + 3] = 1
        found.append(coco_masks.encode(mask))
    return found


def image(name, columns, categories=None, names=None, **more):
    numbers = None if categories is None else np.array(categories)
    return CocoImage(name=name, shape=SHAPE, masks=masks(*columns), categories=numbers, names=names or {}, **more)


def content(*images):
    return json.loads(encode_coco(images))


def listed(found):
    return {entry["id"]: entry["name"] for entry in found["categories"]}


def test_categories_keep_their_numbers_also_those_without_an_object():
    found = content(image("a.png", (1, 9), [7, 3], {7: "cell", 3: "debris", 12: "bubble"}))
    assert listed(found) == {3: "debris", 7: "cell", 12: "bubble"}
    assert [entry["category_id"] for entry in found["annotations"]] == [7, 3]


def test_objects_of_which_nobody_says_what_they_are():
    assert listed(content(image("a.png", (1,)))) == {1: "cell"}
    assert listed(content(image("a.png", (1, 5), [1, 4]))) == {1: "cell", 4: "category 4"}
    assert listed(content(image("a.png", ()))) == {1: "cell"}


def test_a_name_has_one_number_in_all_images():
    found = content(
        image("a.png", (1, 9), [1, 2], {1: "cell", 2: "debris"}),
        image("b.png", (1, 9), [1, 2], {1: "debris", 2: "egg"}),
    )
    assert listed(found) == {1: "cell", 2: "debris", 3: "egg"}
    assert [entry["category_id"] for entry in found["annotations"]] == [1, 2, 2, 3]


def test_pycocotools_takes_them_as_results(tmp_path):
    boxes = np.array([[1.25, 4.5, 3, 4], [9, 5, 2.75, 4.125]])
    scores = np.array([0.9, 0.3], np.float32)
    names = {1: "cell", 2: "debris"}
    found = content(image("a.png", (1, 9), [2, 1], names, boxes=boxes, scores=scores), image("b.png", (), [], names))
    (tmp_path / "a.json").write_text(json.dumps(found))
    with contextlib.redirect_stdout(io.StringIO()):
        results = COCO(tmp_path / "a.json").loadRes(found["annotations"])
    read = results.loadAnns(results.getAnnIds())
    assert [entry["category_id"] for entry in read] == [2, 1]
    assert [entry["bbox"] for entry in read] == boxes.tolist()
    assert [entry["score"] for entry in read] == [0.9, 0.3]
    assert [int(coco_masks.area(entry["segmentation"])) for entry in read] == [12, 12]
    assert sorted(results.imgs) == [1, 2]
