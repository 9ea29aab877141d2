"""Objects of a prediction as labels that are scored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from cellkit.config import RepresentationSpec
from cellkit.data.predicted_objects import (
    counts_of_masks,
    detections_of,
    find_objects,
    is_objects,
    objects_in,
    truth_of,
)
from cellkit.errors import InputError, NoInputError
from cellkit.io.detections import ObjectPrediction, ObjectWriter

SHAPE = (12, 16)


def masks():
    found = np.zeros((3, *SHAPE), bool)
    found[0, 2:9, 3:11], found[1, 5:12, 8:14] = True, True  # they overlap; the third is empty
    return found


def prediction(names=()):
    return ObjectPrediction(
        key="a",
        representation=RepresentationSpec(name="boxes"),
        source="a.png",
        shape=SHAPE,
        pixel_size=0.5,
        boxes=np.array([[3, 2, 11, 9], [8.25, 5, 14, 12], [0, 0, 2, 2]], np.float32),
        scores=np.array([0.9, 0.5, 0.25], np.float32),
        categories=np.array([1, 0, 2], np.int32),
        masks=tuple(coco_masks.encode(np.asfortranarray(mask, np.uint8))["counts"] for mask in masks()),
        names=names,
    )


def test_objects_keep_all_that_was_predicted():
    found = truth_of(prediction(), "a.h5")
    notes = found.annotations
    assert notes.areas.tolist() == [56, 42, 0]
    assert notes.boxes.tolist() == [[3, 2, 8, 7], [8.25, 5, 5.75, 7], [0, 0, 2, 2]]
    assert notes.scores.tolist() == pytest.approx([0.9, 0.5, 0.25])
    assert notes.categories.tolist() == [2, 1, 3]
    assert [mask["counts"] for mask in found.masks] == list(prediction().masks)
    assert (found.pixel_size, found.labels.shape, notes.has_boxes, notes.has_categories) == (0.5, SHAPE, True, False)
    assert (found.labels == 2).sum() == 42  # the smaller one is on top


def test_categories_have_the_numbers_of_the_truth():
    numbers = {"dead": 18, "alive": 44}
    notes = truth_of(prediction(("alive", "dead", "debris")), "a.h5", numbers=numbers).annotations
    assert notes.categories.tolist() == [18, 44, 47]
    assert notes.has_categories
    assert notes.names == {44: "alive", 18: "dead", 47: "debris"}
    assert notes.categories[2] not in numbers.values()


def test_run_lengths_there_and_back():
    found = detections_of(prediction())
    assert counts_of_masks(found.masks, 3, SHAPE) == prediction().masks
    for owner, mask in enumerate(masks()):
        own = found.masks.owners == owner
        pixels = [np.arange(s, s + n) for s, n in zip(found.masks.starts[own], found.masks.lengths[own], strict=True)]
        expected = np.flatnonzero(mask.T.ravel())
        np.testing.assert_array_equal(np.concatenate([[], *pixels]), expected)


def test_another_size_is_refused():
    with pytest.raises(InputError, match="the labels have 12 x 16 pixels, the image has 5 x 6"):
        truth_of(prediction(), "a.h5", (5, 6))


def test_files_of_objects_are_found(tmp_path):
    with ObjectWriter(tmp_path / "a.h5") as writer:
        writer.write(prediction())
    (tmp_path / "b.h5").write_bytes(b"no HDF5")
    assert is_objects(tmp_path / "a.h5")
    assert not is_objects(tmp_path / "b.h5")
    assert not is_objects(tmp_path / "a.tif")
    (ref,) = find_objects([tmp_path / "a.h5"]).values()
    assert ref.name == f"{tmp_path / 'a.h5'}: a"
    assert ref.read(SHAPE).annotations.scores[0] == np.float32(0.9)
    with pytest.raises(InputError, match="a second prediction of a"):
        find_objects([tmp_path / "a.h5"] * 2)


def test_objects_of_a_folder_of_nothing_else(tmp_path):
    for key in ("b", "a"):
        with ObjectWriter(tmp_path / f"{key}.h5") as writer:
            writer.write(replace(prediction(), key=key))
    (tmp_path / "failed.tsv").write_text("c\tc.png\tis empty\n")
    found = objects_in(str(tmp_path))
    assert [labels.prediction.key for labels in found.values()] == list(found) == ["a", "b"]
    assert list(objects_in(str(tmp_path / "b.h5"))) == ["b"]
    (tmp_path / "c.png").write_bytes(b"an image")
    assert objects_in(str(tmp_path)) == objects_in(str(tmp_path / "c.png")) == {}


def test_a_damaged_file_among_others_costs_itself(tmp_path):
    with ObjectWriter(tmp_path / "a.h5") as writer:
        writer.write(prediction())
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:2000])
    found = objects_in(str(tmp_path))
    assert list(found) == ["a", "b"]
    assert found["b"].name == str(tmp_path / "b.h5")
    with pytest.raises(InputError, match=r"b\.h5: is truncated"):
        found["b"].read()
    with pytest.raises(InputError, match=r"b\.h5: is truncated"):
        find_objects([tmp_path / "b.h5"])
    assert objects_in(str(tmp_path / "b.h5")) == {}


def test_a_file_without_an_image(tmp_path):
    with ObjectWriter(tmp_path / "a.h5"):
        pass
    with pytest.raises(NoInputError, match=r"a\.h5: holds no image \(predict images into it\)"):
        objects_in(str(tmp_path / "a.h5"))
