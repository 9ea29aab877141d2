"""Damaged predictions of detectors: one line, one image lost, and no input overwritten."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest
from pycocotools import mask as coco_masks

from cellkit.config import RepresentationSpec
from cellkit.io.detections import ObjectPrediction, ObjectWriter
from cellkit.io.labels import read_labels

SHAPE = (40, 60)
NAMES = ("a", "b", "c")


def discs():
    rows, columns = np.indices(SHAPE)
    return [(rows - 20) ** 2 + (columns - x) ** 2 < 100 for x in (15, 26, 45)]


def prediction(key):
    masks = [coco_masks.encode(np.asfortranarray(mask, np.uint8)) for mask in discs()]
    return ObjectPrediction(
        key=key,
        representation=RepresentationSpec(name="boxes"),
        source=f"{key}.png",
        shape=SHAPE,
        boxes=np.zeros((3, 4), np.float32),
        scores=np.array([0.9, 0.8, 0.1], np.float32),
        categories=np.zeros(3, np.int32),
        masks=tuple(mask["counts"] for mask in masks),
        names=("cell",),
    )


@pytest.fixture
def objects(tmp_path):
    """One file of three images."""
    with ObjectWriter(tmp_path / "found.h5") as writer:
        for name in NAMES:
            writer.write(prediction(name))
    return tmp_path / "found.h5"


@pytest.fixture
def folder(tmp_path):
    """A file for each image."""
    (tmp_path / "found").mkdir()
    for name in NAMES:
        with ObjectWriter(tmp_path / "found" / f"{name}.h5") as writer:
            writer.write(prediction(name))
    return tmp_path / "found"


def damaged(path, **attributes):
    """The first image of a file says something else than it should."""
    with h5py.File(path, "r+") as file:
        file["a"].attrs.update(attributes)


SETTINGS = "was predicted with settings that 'boxes' does not have (upgrade cellkit, or predict the image again)"
PIXELS = "an image of 2147483648 x 2147483648 pixels has no run-length masks (predict the image again)"


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"settings": '{"brand_new": 3}'}, f"a.png: {SETTINGS}"),
        ({"settings": '{"cell_score": "high"}'}, f"a.png: {SETTINGS}"),
        ({"shape": (1 << 31, 1 << 31)}, f"FILE: 'a': {PIXELS}"),
        ({"shape": (10, 10)}, "a.png: a mask is damaged: it leaves the image (predict the image again)"),
    ],
    ids=["unknown setting", "no number", "huge", "small"],
)
def test_the_other_images_of_a_file_are_done(cellkit, tmp_path, objects, attributes, text):
    damaged(objects, **attributes)
    done = cellkit("postprocess", objects, "-o", f"{tmp_path / 'cells'}/")
    assert done.code == 3
    first, last = done.err.splitlines()
    assert first == f"cellkit postprocess: warning: {text.replace('FILE', str(objects))}"
    assert last.endswith("1 of 3 images failed: a (the others are done; failed.tsv says why)")
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == ["b.tif", "c.tif", "failed.tsv"]


@pytest.mark.parametrize("verb", ["evaluate", "convert"])
def test_a_truncated_file_of_a_folder_costs_its_image(cellkit, tmp_path, objects, folder, verb):
    cellkit("postprocess", objects, "-o", f"{tmp_path / 'truth'}/")
    (folder / "a.h5").write_bytes((folder / "a.h5").read_bytes()[:3000])
    commands = {
        "evaluate": ("evaluate", tmp_path / "truth", folder, "--json"),
        "convert": ("convert", folder, "-o", tmp_path / "out.json"),
    }
    done = cellkit(*commands[verb])
    assert done.code == 3
    assert f"{folder / 'a.h5'}: is truncated (make it again, or copy it again)" in done.err
    if verb == "convert":
        content = json.loads((tmp_path / "out.json").read_text())
        assert [image["file_name"] for image in content["images"]] == ["b.png", "c.png"]
    else:
        assert [image["image"] for image in json.loads(done.text)["images"]] == ["b", "c"]


def test_what_predict_left_in_a_folder_beside_them(cellkit, tmp_path, folder):
    (folder / "failed.tsv").write_text("d\td.png\tis truncated\n")
    done = cellkit("convert", folder, "-o", tmp_path / "out.json")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("more", [(), ("--on-exists", "overwrite")])
def test_no_input_is_overwritten(cellkit, objects, folder, more):
    before = objects.read_bytes()
    done = cellkit("convert", objects, "-o", objects, *more)
    problem = "the output would take the place of an input (choose another -o)"
    assert (done.code, done.err) == (2, f"cellkit convert: error: {objects}: {problem}\n")
    assert objects.read_bytes() == before
    done = cellkit("convert", folder, "-o", f"{folder}/", "--to", "h5", *more)
    assert (done.code, done.err) == (2, f"cellkit convert: error: {folder / 'a.h5'}: {problem}\n")


def test_label_images_are_the_cells_of_postprocess(cellkit, tmp_path, objects):
    cellkit("postprocess", objects, "-o", f"{tmp_path / 'cells'}/")
    done = cellkit("convert", objects, "-o", f"{tmp_path / 'converted'}/")
    assert (done.code, done.err) == (0, "")
    for name in NAMES:
        mine, expected = (read_labels(str(tmp_path / part / f"{name}.tif")) for part in ("converted", "cells"))
        np.testing.assert_array_equal(mine.labels, expected.labels)
        assert mine.count == 2
        np.testing.assert_array_equal(mine.scores, expected.scores)
    assert [record.verb for record in mine.history] == ["convert"]


def test_a_setting_that_boxes_do_not_have_is_one_line(cellkit, tmp_path, objects):
    done = cellkit("postprocess", objects, "-o", f"{tmp_path / 'cells'}/", "--set", "flow_threshold=0.4")
    assert done.code == 2
    assert done.err.startswith("cellkit postprocess: error: --set: 'flow_threshold' is no setting of 'boxes' (choose ")
    assert done.err.count("\n") == 1


def test_a_file_of_no_image(cellkit, tmp_path, objects):
    with h5py.File(objects, "r+") as file:
        for name in NAMES:
            del file[name]
    done = cellkit("convert", objects, "-o", tmp_path / "out.json")
    problem = "holds no image (predict images into it)"
    assert (done.code, done.err) == (4, f"cellkit convert: error: {objects}: {problem}\n")


def test_objects_are_neither_images_nor_labels(cellkit, tmp_path, objects, model):
    done = cellkit("predict", objects, "-m", model, "-o", tmp_path / "out.h5")
    problem = "holds the objects of a detector, and no image (name the images)"
    assert (done.code, done.err) == (5, f"cellkit predict: error: {objects}: {problem}\n")
    shutil.copy(objects, tmp_path / "truth.h5")
    done = cellkit("evaluate", tmp_path / "truth.h5", objects)
    problem = "holds the objects of a detector, not labels (make labels of them with 'cellkit postprocess')"
    assert (done.code, done.err) == (5, f"cellkit evaluate: error: {tmp_path / 'truth.h5'}: {problem}\n")
