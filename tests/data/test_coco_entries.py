from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from cellkit.data.coco_entries import category_names, entries_of, entry_of, image_entry, load_json, run_length
from cellkit.errors import InputError
from cellkit.ops.run_lengths import decode

FILE = Path("truth.json")
REPAIR = "(check the file against the COCO format)"
IMAGE = {"id": 3, "file_name": "a.png", "height": 12, "width": 16}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"id": None}, f"image None lacks 'id' {REPAIR}"),
        ({"file_name": None}, f"image 3 lacks 'file_name' {REPAIR}"),
        ({"height": None}, f"image 3 lacks 'height' {REPAIR}"),
        ({"file_name": 7}, f"image 3: its id or file_name is no name {REPAIR}"),
        ({"id": [3]}, f"image [3]: its id or file_name is no name {REPAIR}"),
        ({"width": 1.5}, "image 3: its size is 12 x 1.5 (height and width are whole numbers above 0)"),
        ({"height": 0}, "image 3: its size is 0 x 16 (height and width are whole numbers above 0)"),
        (
            {"height": 100_000, "width": 100_000},
            "image 3: its size is 100000 x 100000 (height and width are whole numbers above 0)",
        ),
    ],
)
def test_wrong_images(changes, text):
    with pytest.raises(InputError) as caught:
        image_entry(FILE, IMAGE | changes, 1)
    assert str(caught.value) == f"truth.json: {text}"


def test_images_may_be_numbered_or_named():
    assert image_entry(FILE, IMAGE, 1) == (3, "a.png", (12, 16))
    assert image_entry(FILE, IMAGE | {"id": "x"}, 1).id == "x"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"id": 1}, f"'categories' is no list {REPAIR}"),
        ([{"name": "cell"}], f"category number 1 lacks 'id' {REPAIR}"),
        ([{"id": "cell"}], f"category number 1: its id 'cell' is no whole number {REPAIR}"),
        ([{"id": 1}, {"id": 1}], "two categories have the id 1 (number them anew)"),
        ([7], f"entry 1 of 'categories' is no entry with keys {REPAIR}"),
    ],
)
def test_wrong_categories(values, text):
    with pytest.raises(InputError) as caught:
        category_names(FILE, values)
    assert str(caught.value) == f"truth.json: {text}"


def test_categories_may_lack_names():
    assert category_names(FILE, [{"id": 4}, {"id": 2, "name": "cell"}]) == {4: "4", 2: "cell"}
    assert category_names(FILE, None) == {}


def test_lists_of_entries():
    assert entries_of(FILE, [{}], "images") == [{}]
    with pytest.raises(InputError, match="'images' is no list"):
        entries_of(FILE, {}, "images")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image_id": None}, f"annotation 9 lacks 'image_id' {REPAIR}"),
        ({"image_id": [1]}, f"annotation 9: its image_id is no number {REPAIR}"),
        ({"category_id": "cell"}, f"annotation 9: its category_id 'cell' is no whole number {REPAIR}"),
        ({"category_id": True}, f"annotation 9: its category_id True is no whole number {REPAIR}"),
        ({"bbox": [1, 2, 3]}, "annotation 9: its bbox is no box (x, y, width and height in pixels)"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation 9: its bbox is no box (x, y, width and height in pixels)"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 9: its bbox is no box (x, y, width and height in pixels)"),
        ({"bbox": [1, 2, -3, 4]}, "annotation 9: its bbox is -3 wide and 4 high (x, y, width, height)"),
        ({"area": "12"}, "annotation 9: its area is '12' (area is a number, neither NaN nor infinite)"),
        ({"area": -1}, "annotation 9: its area is -1 (area is a number, neither NaN nor infinite)"),
        ({"score": float("nan")}, "annotation 9: its score is nan (score is a number, neither NaN nor infinite)"),
        ({"id": "x", "image_id": None}, f"annotation number 4 lacks 'image_id' {REPAIR}"),
    ],
)
def test_wrong_annotations(changes, text):
    with pytest.raises(InputError) as caught:
        entry_of(FILE, {"id": 9, "image_id": 3, "category_id": 1} | changes, 4, "annotation")
    assert str(caught.value) == f"truth.json: {text}"


def test_what_an_annotation_may_lack():
    entry = entry_of(FILE, {"image_id": 3}, 4, "annotation")
    assert entry == ("annotation number 4", 3, 4, None, None, None, None, False, 1.0)
    assert entry_of(FILE, {"image_id": 3, "id": 10**30}, 4, "result").id == 4


def segmented(segmentation):
    return entry_of(FILE, {"id": 9, "image_id": 3, "segmentation": segmentation}, 1, "annotation")


@pytest.mark.parametrize(
    "segmentation",
    [
        [[2, 3, 8, 3, 8, 9, 2, 9]],
        [[2, 3, 8, 3, 8, 9, 2, 9], [1, 1]],
        [[2, 3, 5, 3, 5, 9, 2, 9], [5, 3, 8, 3, 8, 9, 5, 9]],
        {"size": [12, 16], "counts": [27, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 99]},
    ],
)
def test_masks_of_polygons_and_run_lengths(segmentation):
    expected = np.zeros((12, 16), bool)
    expected[3:9, 2:8] = True
    mask = run_length("a.png", segmented(segmentation), (12, 16))
    np.testing.assert_array_equal(decode(mask), expected)
    assert mask["counts"] == coco_masks.encode(np.asfortranarray(expected, np.uint8))["counts"]
    compressed = {"size": [12, 16], "counts": mask["counts"].decode()}
    assert run_length("a.png", segmented(compressed), (12, 16)) == mask


def test_polygons_are_cut_at_the_border():
    mask = run_length("a.png", segmented([[-5, -5, 40, -5, 40, 40, -5, 40]]), (12, 16))
    assert decode(mask).all()


def test_what_is_no_area_has_no_pixel():
    for nothing in ([], [[1, 1, 4, 4]], [[2, 3, 2, 3, 2, 3]], {"size": [12, 16], "counts": [192]}):
        mask = run_length("a.png", segmented(nothing), (12, 16))
        assert not decode(mask).any()
        assert coco_masks.area(mask) == 0


@pytest.mark.parametrize(
    ("segmentation", "text"),
    [
        ("square", f"its segmentation is neither polygons nor run lengths {REPAIR}"),
        ([1, 2, 3, 4, 5, 6], f"its segmentation is neither polygons nor run lengths {REPAIR}"),
        ([["a", "b", 3, 4, 5, 6]], f"its segmentation is neither polygons nor run lengths {REPAIR}"),
        ({"counts": [192]}, f"its segmentation is neither polygons nor run lengths {REPAIR}"),
        ({"size": [12, 16], "counts": None}, f"its segmentation is neither polygons nor run lengths {REPAIR}"),
        ({"size": [12, 16], "counts": ""}, f"its run lengths are of 0 pixels, the image has 192 {REPAIR}"),
        ({"size": [12, 16], "counts": [-4, 196]}, f"its segmentation is neither polygons nor run lengths {REPAIR}"),
        ([[1, 2, 3, 4, 5, 6, 7]], f"a polygon has no pairs of x and y {REPAIR}"),
        ([[1, 2, 3, 4, 5, 1e9]], f"a polygon lies far outside of the image, or has NaN {REPAIR}"),
        ([[1, 2, 3, 4, 5, float("nan")]], f"a polygon lies far outside of the image, or has NaN {REPAIR}"),
        ({"size": [12, 16], "counts": [1, 2]}, f"its run lengths are of 3 pixels, the image has 192 {REPAIR}"),
        ({"size": [12, 16], "counts": [100, 200]}, f"its run lengths are of 300 pixels, the image has 192 {REPAIR}"),
        (
            {"size": [16, 12], "counts": [192]},
            "the labels have 16 x 12 pixels, the image has 12 x 16 (pair them anew)",
        ),
    ],
)
def test_segmentations_that_are_none(segmentation, text):
    with pytest.raises(InputError) as caught:
        run_length("truth.json: a.png", segmented(segmentation), (12, 16))
    assert str(caught.value) == f"truth.json: a.png: annotation 9: {text}"


def test_a_json_that_is_none(tmp_path):
    for content in (b"{", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(InputError, match="the file is no readable JSON"):
            load_json(tmp_path / "a.json")
