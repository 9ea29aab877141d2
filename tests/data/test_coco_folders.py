import json

import imageio.v3 as iio
import numpy as np
import pytest

from cellkit.data.coco import read_coco
from cellkit.data.coco_folders import coco_alone, coco_by_key, coco_dataset, coco_files
from cellkit.data.layouts import find_pairs, find_truth
from cellkit.errors import InputError


def write(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name, "height": 12, "width": 16} for i, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": []}))
    return path


def test_keys_are_names_without_folder(tmp_path):
    path = write(tmp_path / "t.json", "train/a.png", "b_img.tif", "c.ome.tif")
    assert list(coco_by_key(read_coco(path))) == ["a", "b", "c"]


def test_equal_names_get_their_folder(tmp_path):
    names = ("train/a.png", "val/a.png", "b.png")
    path = write(tmp_path / "t.json", *names)
    assert list(coco_by_key(read_coco(path))) == ["train_a", "val_a", "b"]
    for name in names[:2]:
        (tmp_path / name).parent.mkdir()
        iio.imwrite(tmp_path / name, np.zeros((12, 16), np.uint8))
    assert [pair.key for pair in find_pairs(str(tmp_path)).pairs] == ["train_a", "val_a"]
    assert set(find_truth(str(tmp_path))) == {"train_a", "val_a"}


def test_images_that_cannot_be_told_apart(tmp_path):
    path = write(tmp_path / "t.json", "x/train/a.png", "y/train/a.png")
    with pytest.raises(InputError) as caught:
        find_truth(str(path))
    assert str(caught.value) == (f"{path}: x/train/a.png and y/train/a.png would both be called train_a (rename one)")


def test_a_folder_without_the_images(tmp_path):
    write(tmp_path / "annotations" / "t.json", "a.png", "b.png")
    (tmp_path / "settings.json").write_text("{}")
    assert [path.name for path in coco_files(tmp_path)] == ["t.json", "settings.json"]
    assert set(coco_alone(tmp_path)) == set(find_truth(str(tmp_path))) == {"a", "b"}
    assert {labels.purpose for labels in find_truth(str(tmp_path)).values()} == {"truth"}
    assert coco_dataset(tmp_path / "settings.json") is None
    write(tmp_path / "u.json", "c.png")
    with pytest.raises(InputError) as caught:
        find_truth(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: it has 2 COCO files and no images (name one of them)"
    assert coco_alone(tmp_path / "annotations" / "t.json") == {}
