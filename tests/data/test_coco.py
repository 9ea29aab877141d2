import json

import numpy as np
import pytest
from pycocotools import mask as run_lengths

from cellkit.data.coco import read_coco
from cellkit.errors import InputError

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
    path = write(tmp_path, ["square"])
    with pytest.raises(InputError) as caught:
        read_coco(path)["a.png"].read()
    assert str(caught.value) == (
        f"{path}: a.png: a segmentation is neither polygons nor run lengths (check the file against the COCO format)"
    )
    path = write(tmp_path, [], images=[{"id": 1, "file_name": "a.png"}])
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert str(caught.value) == (
        f"{path}: an entry of the COCO file lacks 'height' (check the file against the COCO format)"
    )
    path.write_text('{"images": [')
    with pytest.raises(InputError) as caught:
        read_coco(path)
    assert str(caught.value) == f"{path}: the file is no readable JSON (check the file against the COCO format)"
