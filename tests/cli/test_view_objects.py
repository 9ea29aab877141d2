"""cellkit view of what a detector predicted: the cells of postprocess, on their images."""

from __future__ import annotations

import io
import json

import imageio.v3 as iio
import numpy as np
import pytest
from pycocotools import mask as coco_masks

from cellkit.config import RepresentationSpec
from cellkit.io.detections import ObjectPrediction, ObjectWriter, to_bytes
from cellkit.io.streams import StreamWriter

SHAPE = (40, 60)
NAMES = ("a", "b")
REFUSED = "holds the objects of a detector, which are drawn on their images (name the images first, then the objects)"


def discs():
    rows, columns = np.indices(SHAPE)
    return [(rows - 20) ** 2 + (columns - x) ** 2 < 100 for x in (15, 26, 45)]  # the first two overlap


def prediction(key, scores=(0.9, 0.8, 0.3)):
    """Three objects, of which the last is too unsure to be a cell."""
    masks = [coco_masks.encode(np.asfortranarray(mask, np.uint8)) for mask in discs()]
    return ObjectPrediction(
        key=key,
        representation=RepresentationSpec(name="boxes", settings={"cell_score": 0.4}),
        source=f"{key}.png",
        shape=SHAPE,
        boxes=np.zeros((3, 4), np.float32),
        scores=np.array(scores, np.float32),
        categories=np.zeros(3, np.int32),
        masks=tuple(mask["counts"] for mask in masks),
        names=("cell",),
    )


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed).integers(0, 255, SHAPE, np.uint8)
        iio.imwrite(tmp_path / "images" / f"{name}.png", pixels)
    return tmp_path / "images"


@pytest.fixture
def objects(tmp_path):
    """The same predictions in one file, in a folder, and in a stream."""
    folder, stream = tmp_path / "found", io.BytesIO()
    folder.mkdir()
    with ObjectWriter(tmp_path / "found.h5") as writer, StreamWriter(stream) as members:
        for name in NAMES:
            writer.write(prediction(name))
            members.write(f"{name}.h5", to_bytes(prediction(name)))
            with ObjectWriter(folder / f"{name}.h5") as alone:
                alone.write(prediction(name))
    return {"file": tmp_path / "found.h5", "folder": folder, "stream": stream.getvalue()}


@pytest.mark.parametrize("kind", ["file", "folder", "stream"])
def test_they_are_drawn_as_the_cells_that_postprocess_makes(cellkit, tmp_path, images, objects, kind):
    cellkit("postprocess", objects["file"], "-o", f"{tmp_path / 'cells'}/")
    cellkit("view", images, tmp_path / "cells", "-o", f"{tmp_path / 'expected'}/")
    stdin = objects["stream"] if kind == "stream" else b""
    place = "-" if kind == "stream" else objects[kind]
    done = cellkit("view", images, place, "-o", f"{tmp_path / 'drawn'}/", "--json", stdin=stdin)
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line)["cells"] for line in done.text.splitlines()] == [2, 2]
    for name in NAMES:
        drawn, expected = (iio.imread(tmp_path / part / f"{name}.png") for part in ("drawn", "expected"))
        np.testing.assert_array_equal(drawn, expected)


def test_one_image_of_many(cellkit, tmp_path, images, objects):
    for number, place in enumerate((objects["file"], objects["folder"] / "b.h5")):
        done = cellkit("view", images / "b.png", place, "-o", tmp_path / f"{number}.png")
        assert (done.code, done.err) == (0, "")
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_objects_as_truth_show_where_two_detectors_differ(cellkit, tmp_path, images, objects):
    with ObjectWriter(tmp_path / "other.h5") as writer:
        writer.write(prediction("a", scores=(0.9, 0.8, 0.7)))
    command = ("view", images / "a.png", objects["folder"] / "a.h5", "--truth", tmp_path / "other.h5")
    done = cellkit(*command, "-o", tmp_path / "both.png", "--json")
    assert (done.code, json.loads(done.text)["cells"]) == (0, 2)
    cellkit("postprocess", tmp_path / "other.h5", "-o", tmp_path / "other.tif")
    cellkit("view", *command[1:3], "--truth", tmp_path / "other.tif", "-o", tmp_path / "same.png")
    np.testing.assert_array_equal(iio.imread(tmp_path / "both.png"), iio.imread(tmp_path / "same.png"))


@pytest.mark.parametrize("kind", ["file", "folder", "stream"])
def test_objects_alone_are_no_picture(cellkit, tmp_path, objects, kind):
    stdin = objects["stream"] if kind == "stream" else b""
    place = "-" if kind == "stream" else objects[kind]
    done = cellkit("view", place, "-o", tmp_path / "out.png", stdin=stdin)
    assert (done.code, done.err) == (2, f"cellkit view: error: {place}: {REFUSED}\n")
    assert not (tmp_path / "out.png").exists()


def test_objects_of_an_image_of_another_shape(cellkit, tmp_path, images, objects):
    iio.imwrite(images / "a.png", np.zeros((8, 9), np.uint8))
    place = objects["folder"] / "a.h5"
    done = cellkit("view", images / "a.png", place, "-o", tmp_path / "out.png", "-q")
    problem = "the labels have 40 x 60 pixels, the image has 8 x 9 (pair them anew)"
    assert (done.code, done.err) == (5, f"cellkit view: error: {place}: a: {problem}\n")


def test_a_damaged_file_of_a_folder_costs_its_image(cellkit, tmp_path, images, objects):
    file = objects["folder"] / "a.h5"
    file.write_bytes(file.read_bytes()[:3000])
    done = cellkit("view", images, objects["folder"], "-o", f"{tmp_path / 'drawn'}/")
    assert done.code == 3
    assert f"cellkit view: warning: {file}: is truncated (make it again, or copy it again)\n" in done.err
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["b.png", "failed.tsv"]
