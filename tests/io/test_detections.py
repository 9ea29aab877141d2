"""Prediction files of detectors: what is written is read, and what is not as the format says is refused in one line."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from pycocotools import mask as coco_masks

from cellkit.config import RepresentationSpec
from cellkit.errors import InputError, UsageError
from cellkit.io.detections import (
    ObjectPrediction,
    ObjectWriter,
    counts_of,
    kind_of,
    read_any_predictions,
    read_each,
    read_object,
    read_objects,
    to_bytes,
)
from cellkit.io.maps import Prediction, PredictionWriter, read_predictions
from cellkit.io.sinks import open_sink
from cellkit.provenance import Record

AGAIN = "(predict the image again)"


def objects(key="a", count=3):
    """Discs that overlap, on 20 x 30 pixels; the last is empty."""
    rows, columns = np.indices((20, 30))
    masks = [(rows - 9) ** 2 + (columns - 8 - 5 * i) ** 2 < 30 for i in range(count)]
    if count:
        masks[-1][:] = False
    return ObjectPrediction(
        key=key,
        representation=RepresentationSpec(name="boxes", settings={"cell_score": 0.25}),
        source=f"in/{key}.png",
        shape=(20, 30),
        axes="YXS",
        scale=0.5,
        pixel_size=0.25,
        diameter=12.0,
        history=(Record(verb="predict", arguments={"tile": 64}, input_digest=key),),
        boxes=np.array([[3.5 + 5 * i, 4, 13, 14.25] for i in range(count)], np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.5, count).astype(np.float32),
        categories=np.arange(count, dtype=np.int32) % 2,
        masks=tuple(coco_masks.encode(np.asfortranarray(mask, np.uint8))["counts"] for mask in masks),
        names=("alive", "dead"),
    )


def assert_same(one, other):
    for name in ("boxes", "scores", "categories"):
        assert getattr(one, name).dtype == getattr(other, name).dtype
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("key", "representation", "source", "shape", "axes", "scale", "pixel_size", "diameter", "history"):
        assert getattr(one, name) == getattr(other, name)
    assert (one.masks, one.names, one.count) == (other.masks, other.names, other.count)


@pytest.fixture
def file(tmp_path):
    with ObjectWriter(tmp_path / "a.h5") as writer:
        writer.write(objects("b"))
        writer.write(objects("a", 0))
    return tmp_path / "a.h5"


def test_what_is_written_is_read(file):
    first, second = read_objects(file, "a.h5")
    assert_same(first, objects("b"))
    assert_same(second, objects("a", 0))
    assert_same(read_object(file, "a"), objects("a", 0))
    assert counts_of(file) == {"b": 3, "a": 0}
    assert kind_of(file, "a.h5") == "instances"


def test_pycocotools_reads_the_masks(file):
    with h5py.File(file) as root:
        group = root["b"]
        ends = np.cumsum(group["mask_bytes"])
        text = group["masks"][()].tobytes()
        mask = {"size": group.attrs["shape"].tolist(), "counts": text[: ends[0]]}
    rows, columns = np.indices((20, 30))
    disc = (rows - 9) ** 2 + (columns - 8) ** 2 < 30
    assert coco_masks.area(mask) == disc.sum()
    assert coco_masks.toBbox(mask).tolist() == [3, 4, 11, 11]


def test_a_member_of_a_stream_is_the_file():
    ((key, found),) = read_any_predictions(to_bytes(objects()), "a.h5")
    assert key == found.key
    assert_same(found, objects())


def test_files_of_both_kinds_are_told_apart(tmp_path, file):
    maps = Prediction(
        key="m", maps=np.ones((3, 8, 9), np.float16), representation=RepresentationSpec(), source="m", shape=(8, 9)
    )
    with PredictionWriter(tmp_path / "m.h5") as writer:
        writer.write(maps)
    assert [type(one) for _, one in read_any_predictions(tmp_path / "m.h5", "m")] == [Prediction]
    assert [type(one) for _, one in read_any_predictions(file, "a")] == [ObjectPrediction] * 2
    with pytest.raises(InputError, match="holds instances, not maps"):
        list(read_predictions(file, "a.h5"))
    with pytest.raises(InputError, match=r"holds maps, not instances \(give a file that 'cellkit predict' wrote\)"):
        list(read_objects(tmp_path / "m.h5", "m.h5"))


def altered(group, name, values):
    del group[name]
    group[name] = values


CHANGES = {
    "boxes": (lambda g: altered(g, "boxes", np.ones((2, 4), "f4")), "'b': boxes (2, 4) for 3 scores"),
    "columns": (lambda g: altered(g, "boxes", np.ones((3, 5), "f4")), "'b': boxes (3, 5) for 3 scores"),
    "flat": (lambda g: altered(g, "boxes", np.ones(12, "f4")), "the boxes of 'b' are 1-D float32"),
    "text": (lambda g: altered(g, "scores", np.array([b"x"] * 3)), "the scores of 'b' are 1-D |S1"),
    "nan": (
        lambda g: altered(g, "boxes", np.full((3, 4), np.nan)),
        "'b': a box or a score is no number that it can be",
    ),
    "sure": (
        lambda g: altered(g, "scores", np.array([2.0, 1, 0])),
        "'b': a box or a score is no number that it can be",
    ),
    "order": (lambda g: altered(g, "scores", np.array([0.1, 1, 0])), "'b': its objects are not sorted by their scores"),
    "category": (
        lambda g: altered(g, "categories", np.array([0, 1, 2])),
        "'b': a category is none of 2 that there are",
    ),
    "negative": (
        lambda g: altered(g, "categories", np.array([0, -1, 1])),
        "'b': a category is none of 2 that there are",
    ),
    "short": (lambda g: altered(g, "mask_bytes", np.ones(3, "u4")), "'b': its masks have"),
    "missing": (lambda g: g.pop("masks"), "'b' has no masks"),
    "names": (lambda g: g.attrs.__setitem__("category_names", "{"), "'b' has damaged names of categories"),
    "shape": (lambda g: g.attrs.pop("shape"), "'b' does not say the shape of its source and its scale"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_as_the_format_says(file, name):
    change, text = CHANGES[name]
    with h5py.File(file, "r+") as root:
        change(root["b"])
    with pytest.raises(InputError) as error:
        list(read_objects(file, "a.h5"))
    assert str(error.value).startswith(f"a.h5: {text}")
    assert str(error.value).endswith(AGAIN)


def test_an_image_that_is_damaged_costs_itself(file):
    with h5py.File(file, "r+") as root:
        del root["b"]["masks"]
    (key, error), (other, found) = read_each(file, "a.h5")
    assert (key, other) == ("b", "a")
    assert str(error) == f"a.h5: 'b' has no masks {AGAIN}"
    assert_same(found, objects("a", 0))


def test_newer_truncated_and_foreign_files(file, tmp_path):
    (tmp_path / "cut.h5").write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError, match="truncated"):
        list(read_any_predictions(tmp_path / "cut.h5", "cut.h5"))
    with h5py.File(file, "r+") as root:
        root.attrs["format_version"] = 2
    with pytest.raises(InputError, match="is of format 2; this cellkit reads up to 1"):
        list(read_any_predictions(file, "a.h5"))
    with pytest.raises(InputError, match="is no HDF5 file"):
        list(read_any_predictions(b"nothing", "a.h5"))


def test_an_image_that_the_file_does_not_have(file):
    with pytest.raises(InputError, match=r"holds no image 'c' \(predict the image again\)"):
        read_object(file, "c")


@pytest.mark.parametrize("place", ["out/", "out.h5"])
def test_sinks_write_objects_and_know_them_again(tmp_path, place):
    output = f"{tmp_path}/{place}"
    with open_sink(output, "maps") as sink:
        for key in ("a", "b"):
            sink.write(objects(key))
    with open_sink(output, "maps") as sink:
        assert sink.is_done("a", objects("a").history)
        sink.write(objects("c"))
    files = sorted((tmp_path / "out").iterdir()) if place == "out/" else [tmp_path / "out.h5"]
    found = {one.key: one for path in files for one in read_objects(path, str(path))}
    assert sorted(found) == ["a", "b", "c"]
    assert_same(found["a"], objects("a"))


def test_a_file_of_maps_takes_no_objects(tmp_path):
    maps = Prediction(
        key="m", maps=np.ones((3, 8, 9), np.float16), representation=RepresentationSpec(), source="m", shape=(8, 9)
    )
    output = tmp_path / "out.h5"
    with open_sink(str(output), "maps") as sink:
        sink.write(maps)
    before = output.read_bytes()
    with pytest.raises(UsageError) as error, open_sink(str(output), "maps") as sink:
        sink.write(objects())
    expected = f"{output}: holds maps, and the model gives instances (add --on-exists overwrite, or choose another -o)"
    assert str(error.value) == expected
    assert output.read_bytes() == before
