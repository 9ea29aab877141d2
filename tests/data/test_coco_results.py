import json

import numpy as np
import pytest

from cellkit.data.coco_results import image_ids, read_results
from cellkit.errors import InputError

IMAGES = {5: ("a", (12, 16)), 6: ("b", (10, 10))}
SQUARE = [[2, 3, 8, 3, 8, 9, 2, 9]]
RUNS = {"size": [12, 16], "counts": [27, 6, 159]}
FORM = "(a list of entries with image_id, category_id, score and segmentation or bbox)"


def result(**changes):
    values = {"image_id": 5, "category_id": 1, "segmentation": SQUARE, "score": 0.5, **changes}
    return {key: value for key, value in values.items() if value is not ...}


def write(folder, *values):
    path = folder / "results.json"
    path.write_text(json.dumps(list(values)))
    return path


def test_masks_and_boxes_of_one_list(tmp_path):
    path = write(
        tmp_path,
        result(bbox=[1, 2, 30, 4], score=0.25, id=77),
        result(segmentation=RUNS, category_id=3, score=-1, iscrowd=1, area=1),
        result(image_id=6),
    )
    found = read_results(path, IMAGES)
    assert list(found) == ["a", "b"]
    truth = found["a"].read((12, 16))
    about = truth.annotations
    assert about.ids.tolist() == [1, 2]  # numbers of the list, as pycocotools has it
    assert about.boxes.tolist() == [[1, 2, 30, 4], [2, 3, 1, 6]]
    assert about.areas.tolist() == [36, 6]  # of the masks
    assert about.scores.tolist() == [0.25, -1]
    assert about.categories.tolist() == [1, 3]
    assert about.crowd.tolist() == [False, False]
    assert (about.has_masks, about.has_boxes) == (True, False)
    assert len(truth.masks) == 2
    assert found["b"].name == f"{path}: b"
    assert found["b"].read().annotations.has_boxes is False


def test_boxes_alone(tmp_path):
    found = read_results(write(tmp_path, result(segmentation=..., bbox=[1, 2, 3, 4])), IMAGES)["a"].read((12, 16))
    assert found.annotations.boxes.tolist() == [[1, 2, 3, 4]]
    assert found.annotations.areas.tolist() == [12]
    assert not found.annotations.has_masks
    np.testing.assert_array_equal(found.labels, np.zeros((12, 16)))


def test_nothing_found_is_an_empty_prediction(tmp_path):
    for values in ([], [result()]):
        found = read_results(write(tmp_path, *values), IMAGES)
        assert list(found) == ["a", "b"]
        assert len(found["b"].read((10, 10)).annotations) == 0


def test_results_without_a_pixel_stay(tmp_path, caplog):
    found = read_results(write(tmp_path, result(segmentation={"size": [12, 16], "counts": [192]}), result()), IMAGES)
    truth = found["a"].read()
    assert truth.annotations.areas.tolist() == [0, 36]
    assert np.unique(truth.labels).tolist() == [0, 2]
    assert not caplog.records


def test_the_only_category_goes_without_saying(tmp_path):
    path = write(tmp_path, result(category_id=...))
    assert read_results(path, IMAGES, {7})["a"].read().annotations.categories.tolist() == [7]
    assert read_results(path, IMAGES)["a"].read().annotations.categories.tolist() == [1]
    with pytest.raises(InputError) as caught:
        read_results(path, IMAGES, {7, 8})
    assert str(caught.value) == f"{path}: result number 1 lacks 'category_id' {FORM}"


def test_unknown_categories_are_told(tmp_path, caplog):
    path = write(tmp_path, result(), result(category_id=9), result(category_id=9))
    assert read_results(path, IMAGES, {1})["a"].read().annotations.categories.tolist() == [1, 9, 9]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 2 of 3 results have a category that the truth does not list, e.g. result number 2 has 9"
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            [result(), result(image_id=9), result(image_id="5")],
            "2 of 3 results are of images that the truth does not have, e.g. result number 2 of image_id 9 "
            "(give the COCO file that the results were made for)",
        ),
        ([result(), result(score=...)], f"result number 2 lacks 'score' {FORM}"),
        ([result(score=None)], f"result number 1 lacks 'score' {FORM}"),
        (
            [result(score=float("nan"))],
            "result number 1: its score is nan (score is a number, neither NaN nor infinite)",
        ),
        (
            [result(score=float("inf"))],
            "result number 1: its score is inf (score is a number, neither NaN nor infinite)",
        ),
        (
            [result(score="0.5")],
            "result number 1: its score is '0.5' (score is a number, neither NaN nor infinite)",
        ),
        ([result(segmentation=...)], f"result number 1 has neither segmentation nor bbox {FORM}"),
        (
            [result(), result(segmentation=..., bbox=[1, 2, 3, 4])],
            "result number 2 lacks 'segmentation' (all entries have masks, or all boxes alone)",
        ),
        ([result(image_id=...)], "result number 1 lacks 'image_id' (check the file against the COCO format)"),
        ([7], f"the JSON is no list of results {FORM}"),
    ],
)
def test_lists_that_are_wrong(tmp_path, values, text):
    path = write(tmp_path, *values)
    with pytest.raises(InputError) as caught:
        read_results(path, IMAGES)
    assert str(caught.value) == f"{path}: {text}"


def test_another_json_is_no_list(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text('{"images": []}')
    with pytest.raises(InputError) as caught:
        read_results(path, IMAGES)
    assert str(caught.value) == f"{path}: the JSON is no list of results {FORM}"


def test_a_mask_of_another_size(tmp_path):
    path = write(tmp_path, result(image_id=6, segmentation=RUNS))
    with pytest.raises(InputError) as caught:
        read_results(path, IMAGES)["b"].read((10, 10))
    assert str(caught.value) == (
        f"{path}: b: result number 1: the labels have 12 x 16 pixels, the image has 10 x 10 (pair them anew)"
    )


def test_image_ids_of_whatever_is_listed():
    assert image_ids([{"image_id": 4}, 7, {"image_id": [1]}, {}]) == {4, None}
