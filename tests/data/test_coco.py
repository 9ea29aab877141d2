import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from cellkit.data.coco import read_coco
from cellkit.errors import InputError
from cellkit.ops.run_lengths import decode

SQUARE = [[2, 3, 8, 3, 8, 9, 2, 9]]


def write(folder, segmentations, **changes):
    annotations = [{"image_id": 5, "iscrowd": 0, "segmentation": s} for s in segmentations]
    images = [{"id": 5, "file_name": "a.png", "height": 12, "width": 16}]
    path = folder / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, **changes}))
    return path


def square():
    mask = np.zeros((12, 16), np.uint8, order="F")
    mask[3:9, 2:8] = 1
    return mask


def runs_of(mask):
    values = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], values, [1 - values[-1]]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


@pytest.mark.parametrize("kind", ["polygons", "runs", "compressed runs"])
def test_all_kinds_of_segmentation(tmp_path, kind):
    segmentation = {
        "polygons": SQUARE,
        "runs": {"size": [12, 16], "counts": runs_of(square())},
        "compressed runs": {"size": [12, 16], "counts": run_lengths.encode(square())["counts"].decode()},
    }[kind]
    truth = read_coco(write(tmp_path, [segmentation]))["a.png"].read((12, 16))
    np.testing.assert_array_equal(truth.labels, square())
    assert len(truth.masks) == 1


def test_crowds_and_points_are_no_objects(tmp_path):
    path = write(tmp_path, [SQUARE, [[1, 1, 4, 4]], []])
    content = json.loads(path.read_text())
    content["annotations"].append({"image_id": 5, "iscrowd": 1, "segmentation": SQUARE})
    path.write_text(json.dumps(content))
    assert len(read_coco(path)["a.png"].read().masks) == 1


def test_an_image_without_annotations_is_empty(tmp_path):
    assert not read_coco(write(tmp_path, []))["a.png"].read().labels.any()


def test_another_json_is_not_taken(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"images": 3}')
    assert read_coco(path) is None


def test_errors_name_the_file(tmp_path):
    path = write(tmp_path, [SQUARE], images=[{"id": 5, "file_name": "a.png", "height": 12}])
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert str(caught.value) == f"{path}: image 5 lacks 'width' (check the file against the COCO format)"
    path.write_text('{"images": [')
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert str(caught.value) == f"{path}: the file is no readable JSON (check the file against the COCO format)"
    with pytest.raises(InputError, match=r"gone\.json: the file is no readable JSON"):
        read_coco(tmp_path / "gone.json")


FAR_SQUARE = [[10, 3, 14, 3, 14, 9, 10, 9]]
LINE = [[2, 3, 2, 3, 2, 3]]  # three points in one place


def annotation(number, segmentation=SQUARE, **changes):
    return {"id": number, "image_id": 5, "category_id": 1, "segmentation": segmentation, **changes}


def put(folder, annotations, images=("a.png",), categories=("cell",), name="truth.json"):
    """A COCO file whose images are numbered from 5 and whose categories from 1."""
    path = folder / name
    content = {
        "images": [{"id": i, "file_name": file, "height": 12, "width": 16} for i, file in enumerate(images, 5)],
        "annotations": list(annotations),
        "categories": [{"id": i, "name": category} for i, category in enumerate(categories, 1)],
    }
    path.write_text(json.dumps(content))
    return path


def test_what_the_file_says_comes_before_what_the_mask_says(tmp_path):
    path = put(
        tmp_path,
        [
            annotation(70, area=31.5, bbox=[1.5, 2, 7, 8.25], category_id=2),
            annotation(30, FAR_SQUARE, score=0.25),
        ],
        categories=("cell", "debris"),
    )
    truth = read_coco(path, "truth")["a.png"].read((12, 16))
    found = truth.annotations
    assert len(found) == len(truth.masks) == 2
    assert found.ids.tolist() == [70, 30]
    assert found.areas.tolist() == [31.5, 24]
    assert found.boxes.tolist() == [[1.5, 2, 7, 8.25], [10, 3, 4, 6]]
    assert found.scores.tolist() == [1.0, 0.25]
    assert found.categories.tolist() == [2, 1]
    assert found.crowd.tolist() == [False, False]
    assert (found.has_masks, found.has_boxes) == (True, False)
    kinds = [getattr(found, name).dtype.str[1:] for name in ("ids", "areas", "boxes", "scores", "categories", "crowd")]
    assert kinds == ["i8", "f8", "f8", "f8", "i8", "b1"]


def test_crowds_come_last_and_only_for_scoring(tmp_path):
    path = put(tmp_path, [annotation(1, iscrowd=1), annotation(2, FAR_SQUARE)])
    scored = read_coco(path, "truth")["a.png"].read()
    assert scored.annotations.ids.tolist() == [2, 1]
    assert scored.annotations.crowd.tolist() == [False, True]
    np.testing.assert_array_equal(decode(scored.masks[1]), square())
    for purpose in ("training", "prediction"):
        other = read_coco(path, purpose)["a.png"].read()
        assert other.annotations.ids.tolist() == [2]
        assert len(other.masks) == 1
        np.testing.assert_array_equal(other.labels, scored.labels)
    assert scored.labels.max() == 1
    assert not scored.labels[square() > 0].any()


def test_image_ids_and_categories_of_the_file(tmp_path):
    coco = read_coco(put(tmp_path, [], images=("a.png", "b/c.png"), categories=("cell", "debris")))
    assert coco.image_ids == {"a.png": 5, "b/c.png": 6}
    assert coco.categories == {1: "cell", 2: "debris"}
    assert len(coco) == 2
    assert coco["b/c.png"].name == f"{tmp_path / 'truth.json'}: b/c.png"


@pytest.mark.parametrize(
    ("numbers", "expected", "names"),
    [
        ({"worm": 7, "cell": 3}, [3, 9, 3], {3: "cell", 9: "egg"}),
        ({"nucleus": 1, "debris": 2}, [1, 2, 1], {1: "cell", 2: "egg"}),  # no name in common: ids are ids
        ({}, [1, 2, 1], {1: "cell", 2: "egg"}),
    ],
)
def test_categories_of_a_prediction_are_named_as_in_the_truth(tmp_path, numbers, expected, names):
    entries = [annotation(1, category_id=1), annotation(2, category_id=2), annotation(3, category_id=1)]
    coco = read_coco(put(tmp_path, entries, categories=("cell", "egg")), "prediction").named_as(numbers)
    notes = coco["a.png"].read().annotations
    assert notes.categories.tolist() == expected
    assert (notes.names, coco.categories, notes.has_categories) == (names, names, True)


def test_the_only_category_of_a_prediction_says_nothing(tmp_path):
    coco = read_coco(put(tmp_path, [annotation(1)]), "prediction").named_as({"worm": 7})
    assert not coco["a.png"].read().annotations.has_categories
    assert read_coco(put(tmp_path, [annotation(1)]), "truth")["a.png"].read().annotations.has_categories


def test_a_category_that_goes_without_saying(tmp_path):
    bare = annotation(1)
    del bare["category_id"]
    path = put(tmp_path, [bare])
    path.write_text(path.read_text().replace('{"id": 1, "name"', '{"id": 9, "name"'))
    assert read_coco(path)["a.png"].read().annotations.categories.tolist() == [9]
    assert read_coco(put(tmp_path, [bare], categories=()))["a.png"].read().annotations.categories.tolist() == [1]


def test_a_changed_file_is_read_again(tmp_path):
    assert len(read_coco(put(tmp_path, [annotation(1)]))["a.png"].entries) == 1
    assert len(read_coco(put(tmp_path, [annotation(1), annotation(2)]))["a.png"].entries) == 2


BOXES = [
    {"id": 1, "image_id": 5, "category_id": 1, "bbox": [2, 3, 6, 6]},
    {"id": 2, "image_id": 5, "category_id": 1, "bbox": [0.5, 0, 2, 3], "segmentation": [], "area": 5},
]


def test_boxes_alone_are_scored_and_not_learned(tmp_path):
    path = put(tmp_path, BOXES)
    truth = read_coco(path, "truth")["a.png"].read((12, 16))
    assert not truth.annotations.has_masks
    assert truth.annotations.has_boxes
    assert truth.annotations.boxes.tolist() == [[2, 3, 6, 6], [0.5, 0, 2, 3]]
    assert truth.annotations.areas.tolist() == [36, 5]
    assert truth.masks == ()
    np.testing.assert_array_equal(truth.labels, np.zeros((12, 16)))
    with pytest.raises(InputError) as caught:
        read_coco(path)["a.png"].read()
    assert str(caught.value) == (
        f"{path}: a.png: the annotations are boxes without masks (boxes can be scored, not learned)"
    )


@pytest.mark.parametrize(
    ("entry", "has_masks"),
    [
        (annotation(8, LINE), True),
        (annotation(8, []), True),
        (annotation(8, [[1, 1, 4, 4]]), True),
        (annotation(8, {"size": [12, 16], "counts": [192]}), True),
        ({"id": 8, "image_id": 5, "category_id": 1, "bbox": [1, 1, 0, 5]}, False),
    ],
)
def test_objects_without_a_pixel_are_left_out_with_one_warning(tmp_path, caplog, entry, has_masks):
    path = put(tmp_path, [*([annotation(1, FAR_SQUARE)] if has_masks else BOXES[:1]), entry, {**entry, "id": 9}])
    truth = read_coco(path, "truth")["a.png"].read()
    assert truth.annotations.ids.tolist() == [1]
    assert truth.labels.max() == has_masks
    text = f"{path}: a.png: 2 objects without a pixel are left out, e.g. annotation 8"
    assert [record.getMessage() for record in caplog.records] == [text]
    predicted = read_coco(path, "prediction")["a.png"].read()  # whoever predicts nothing is wrong all the same
    assert predicted.annotations.ids.tolist() == [1, 8, 9]
    assert predicted.annotations.areas.tolist()[1:] == [0, 0]
    assert len(caplog.records) == 1


def test_areas_of_predictions_are_measured(tmp_path):
    path = put(tmp_path, [annotation(1, area=5000)])
    assert read_coco(path, "prediction")["a.png"].read().annotations.areas.tolist() == [36]


def test_annotations_of_an_unknown_image_are_left_out_with_one_warning(tmp_path, caplog):
    path = put(tmp_path, [annotation(1), annotation(2, image_id=99), annotation(3, image_id="5")])
    for _ in range(2):  # however often it is asked for
        assert read_coco(path)["a.png"].read().annotations.ids.tolist() == [1]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 2 of 3 annotations are of images that it does not list and are left out, "
        "e.g. annotation 2 of image 99"
    ]


def test_annotations_without_numbers_are_counted(tmp_path):
    path = put(tmp_path, [annotation("x"), annotation(1, FAR_SQUARE)])
    assert read_coco(path)["a.png"].read().annotations.ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("annotations", "images", "text"),
    [
        ([annotation(3), annotation(3)], ["a.png"], "two annotations have the id 3 (number them anew)"),
        ([], ["a.png", "a.png"], "two images are called a.png (list each image once)"),
        (
            [annotation(3, category_id=4)],
            ["a.png"],
            "annotation 3 has the category 4, which the file does not list "
            "(add it to 'categories', or take the annotation out)",
        ),
        (
            [annotation(3, category_id=None)],
            ["a.png"],
            "annotation 3 lacks 'category_id' (check the file against the COCO format)",
        ),
        (
            [annotation(3), annotation(4, None, bbox=[1, 1, 2, 2])],
            ["a.png"],
            "annotation 4 lacks 'segmentation' (all entries have masks, or all boxes alone)",
        ),
    ],
)
def test_entries_that_contradict_each_other(tmp_path, annotations, images, text):
    path = put(tmp_path, annotations, images, ("cell", "debris"))
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert str(caught.value) == f"{path}: {text}"


def test_two_images_of_one_number(tmp_path):
    path = put(tmp_path, [], ["a.png", "b.png"])
    path.write_text(path.read_text().replace('"id": 6', '"id": 5'))
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert str(caught.value) == f"{path}: two images have the id 5 (number them anew)"


def test_an_empty_file_has_no_objects(tmp_path):
    for purpose in ("truth", "prediction"):
        truth = read_coco(put(tmp_path, []), purpose)["a.png"].read()
        assert truth.masks == ()
        assert len(truth.annotations) == 0
        assert truth.annotations.boxes.shape == (0, 4)
        assert truth.annotations.has_masks


def places(value, place=()):
    """Every place in a JSON document."""
    if place:
        yield place
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*place, key))


JUNK = (None, True, -1, 0, 2**70, 1e308, float("nan"), "", "5", [], [[]], [[1, 2]], {}, 1.5, [[1e5] * 6], "~~~~")


@given(st.data())
def test_whatever_is_wrong_is_an_input_error_or_read(tmp_path_factory, data):
    path = put(tmp_path_factory.mktemp("coco"), BASE, ["a.png", "b.png"], ("cell", "debris"))
    content = json.loads(path.read_text())
    *above, last = data.draw(st.sampled_from(list(places(content))))
    part = content
    for key in above:
        part = part[key]
    part[last] = data.draw(st.sampled_from(JUNK))
    path.write_text(json.dumps(content))
    with contextlib.suppress(InputError):  # and nothing else
        for labels in (read_coco(path, "truth") or {}).values():
            truth = labels.read((12, 16))
            assert len(truth.masks) == len(truth.annotations)


BASE = (
    annotation(1, area=36, bbox=[2, 3, 6, 6], iscrowd=0),
    annotation(2, {"size": [12, 16], "counts": [27, 6, 159]}, iscrowd=1),
    annotation(3, {"size": [12, 16], "counts": run_lengths.encode(square())["counts"].decode()}, score=0.5),
)


@pytest.mark.parametrize(("folder", "file"), [("livecell", "annotations.json"), ("coco", "instances.json")])
def test_real_files_are_read_as_pycocotools_reads_them(data, folder, file):
    path = data / folder / file
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO(str(path))
    coco = read_coco(path, "truth")
    assert set(coco) == {image["file_name"] for image in oracle.dataset["images"]}
    for name in coco:
        truth = coco[name].read()
        found = truth.annotations
        known = oracle.loadAnns(oracle.getAnnIds(imgIds=[coco.image_ids[name]]))
        assert sorted(found.ids.tolist()) == sorted(entry["id"] for entry in known)
        for index, number in enumerate(found.ids.tolist()):
            entry = oracle.anns[number]
            counts = oracle.annToRLE(entry)["counts"]
            assert truth.masks[index]["counts"] == (counts.encode() if isinstance(counts, str) else counts)
            assert found.areas[index] == entry["area"]
            assert found.boxes[index].tolist() == entry["bbox"]
            assert found.categories[index] == entry["category_id"]
            assert found.crowd[index] == bool(entry["iscrowd"])
