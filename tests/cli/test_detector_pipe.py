"""The verbs with a detector: stream = folder = file, overlaps are scored, and what cannot be meant is said."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks

from cellkit.config import NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cellkit.io.detections import ObjectPrediction, ObjectWriter, read_objects, to_bytes
from cellkit.io.labels import read_labels
from cellkit.io.streams import StreamWriter
from cellkit.networks import build
from cellkit.networks.detector_spec import TINY_CASCADE


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """A tiny detector with random weights, which finds a few dozen objects anywhere."""
    torch.manual_seed(0)
    settings = dataclasses.replace(TINY_CASCADE, channels=1, anchor_sizes=(8, 12, 16, 24, 32)).to_dict()
    spec = NetworkSpec(name="detector", channels=1, outputs=0, widths=(), settings=settings)
    checkpoint = Checkpoint(
        network=spec,
        representation=RepresentationSpec(name="boxes", settings={"least_score": 0.1, "cell_score": 0.2, "most": 60}),
        preprocessing=Preprocessing(channels=1, colour="grey"),
        weights=build(spec).state_dict(),
        card={"categories": ["cell"]},
    )
    path = tmp_path_factory.mktemp("detector") / "tiny.ckpt"
    save_checkpoint(path, checkpoint)
    return path


def run(cellkit, *arguments, stdin=b""):
    done = cellkit(*arguments, "-q", stdin=stdin)
    assert (done.code, done.err) == (0, "")
    return done


def test_pipe_is_folders_is_file_is_segment(cellkit, tmp_path, crops, detector):
    images, truth = crops / "images", crops / "labels"
    stream = run(cellkit, "predict", images, "-m", detector, "-o", "-").out
    piped = run(cellkit, "evaluate", truth, "-", "--json", stdin=stream).text
    run(cellkit, "predict", images, "-m", detector, "-o", f"{tmp_path / 'found'}/")
    foldered = run(cellkit, "evaluate", truth, tmp_path / "found", "--json").text
    run(cellkit, "predict", images, "-m", detector, "-o", tmp_path / "found.h5")
    filed = run(cellkit, "evaluate", truth, tmp_path / "found.h5", "--json").text
    assert piped == foldered == filed
    assert json.loads(piped)["pooled"]["n_predicted"] == 4 * 60

    cells = run(cellkit, "postprocess", "-", "-o", "-", stdin=stream).out
    streamed = run(cellkit, "evaluate", truth, "-", "--json", stdin=cells).text
    run(cellkit, "postprocess", tmp_path / "found.h5", "-o", f"{tmp_path / 'cells'}/")
    run(cellkit, "segment", images, "-m", detector, "-o", f"{tmp_path / 'segmented'}/")
    for folder in ("cells", "segmented"):
        assert run(cellkit, "evaluate", truth, tmp_path / folder, "--json").text == streamed
    assert 0 < json.loads(streamed)["pooled"]["n_predicted"] < 4 * 60


def test_a_run_that_is_done_does_nothing(cellkit, tmp_path, crops, detector):
    command = ("predict", crops / "images", "-m", detector, "-o", tmp_path / "found.h5", "-v")
    assert "4 done" in cellkit(*command).err
    before = (tmp_path / "found.h5").stat().st_mtime_ns
    assert "0 done, 4 up to date" in cellkit(*command).err
    assert (tmp_path / "found.h5").stat().st_mtime_ns == before


def test_members_of_the_stream_are_the_files(cellkit, tmp_path, crops, detector):
    command = ("predict", crops / "images" / "2cfa61bef6542dd3.png", "-m", detector, "-o")
    with tarfile.open(fileobj=io.BytesIO(run(cellkit, *command, "-").out)) as tar:
        assert tar.getnames() == ["__cellkit__.json", "2cfa61bef6542dd3.h5", "__end__.json"]
        (streamed,) = read_objects(tar.extractfile("2cfa61bef6542dd3.h5").read(), "stream")
    run(cellkit, *command, f"{tmp_path}/")
    (filed,) = read_objects(tmp_path / "2cfa61bef6542dd3.h5", "file")
    assert streamed.masks == filed.masks
    np.testing.assert_array_equal(streamed.boxes, filed.boxes)
    assert (filed.count, filed.shape, filed.names) == (60, (96, 96), ("cell",))


def test_masks_have_the_size_of_the_image_at_any_scale(cellkit, tmp_path, crops, detector):
    image = crops / "images" / "356d9903d16074f1.png"
    run(cellkit, "predict", image, "-m", detector, "-o", tmp_path / "a.h5", "--diameter", "15")
    (found,) = read_objects(tmp_path / "a.h5", "a")
    assert (found.scale, found.shape) == (2.0, (96, 96))
    assert found.boxes.max() <= 96
    assert all(mask for mask in found.masks)
    run(cellkit, "postprocess", tmp_path / "a.h5", "-o", tmp_path / "a.tif")
    assert read_labels(str(tmp_path / "a.tif")).labels.shape == (96, 96)


def test_settings_of_detection_and_of_the_label_image(cellkit, tmp_path, crops, detector):
    image = crops / "images" / "356d9903d16074f1.png"
    run(cellkit, "predict", image, "-m", detector, "-o", tmp_path / "a.h5", "--set", "most=7")
    (found,) = read_objects(tmp_path / "a.h5", "a")
    assert (found.count, found.representation.settings["most"]) == (7, 7)
    assert found.history[0].arguments == {"most": 7}
    run(cellkit, "postprocess", tmp_path / "a.h5", "-o", tmp_path / "a.tif", "--set", "cell_score=1")
    assert read_labels(str(tmp_path / "a.tif")).count == 0
    assert "cell_score=0.5" in cellkit("postprocess", "--settings").text
    assert "least_score=0.05" in cellkit("predict", "--settings").text


def test_info_counts_the_objects(cellkit, tmp_path, crops, detector):
    run(cellkit, "predict", crops / "images", "-m", detector, "-o", tmp_path / "a.h5")
    facts = json.loads(cellkit("info", tmp_path / "a.h5", "--json").text)
    assert facts["instances"]["2cfa61bef6542dd3"] == {"objects": 60, "cell": 60}
    assert len(facts["instances"]) == 4
    assert "shape" not in facts
    assert facts["history"][0]["verb"] == "predict"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-m", "DETECTOR", "--set", "least_score=2"), "least_score: cannot be 2.0 (give a number from 0 to 1)"),
        (("-m", "MODEL", "--set", "least_score=0.5"), "--set: 'least_score' is no setting of 'flow' (choose from"),
        (("-m", "DETECTOR", "--set", "brightness=true"), "--set: 'brightness' has no place in a prediction of 'boxes'"),
        (("-m", "DETECTOR", "--tile", "80"), "tile: 80 pixels leave no room beside an overlap of 64"),
    ],
)
def test_what_predict_cannot_mean(cellkit, tmp_path, crops, detector, model, arguments, text):
    names = {"DETECTOR": detector, "MODEL": model}
    image = crops / "images" / "356d9903d16074f1.png"
    done = cellkit("predict", image, "-o", tmp_path / "a.h5", *(names.get(part, part) for part in arguments), "-q")
    assert done.code == 2
    assert done.err.startswith(f"cellkit predict: error: {text}")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "a.h5").exists()


def test_a_network_that_does_not_go_with_its_representation(cellkit, tmp_path, crops, detector):
    wrong = dataclasses.replace(load_checkpoint(detector), representation=RepresentationSpec(name="flow"))
    save_checkpoint(tmp_path / "wrong.ckpt", wrong)
    done = cellkit("predict", crops / "images", "-m", tmp_path / "wrong.ckpt", "-o", "-")
    problem = "its network 'detector' does not go with its representation 'flow'"
    repair = "a detector has boxes, and nothing else has"
    assert (done.code, done.err) == (5, f"cellkit predict: error: {tmp_path / 'wrong.ckpt'}: {problem} ({repair})\n")


SHAPE = (40, 60)
IDS = {"cell": 7, "debris": 3}  # in the COCO file of the truth, in no order


def discs():
    rows, columns = np.indices(SHAPE)
    return [(rows - 20) ** 2 + (columns - x) ** 2 < 100 for x in (15, 26, 45)]  # the first two overlap


def prediction(names=("debris", "cell"), categories=(1, 1, 0)):
    """All three objects, exactly; numbers of the categories are other ones than in the truth."""
    masks = [coco_masks.encode(np.asfortranarray(mask, np.uint8)) for mask in discs()]
    boxes = np.array([coco_masks.toBbox(mask) for mask in masks], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return ObjectPrediction(
        key="a",
        representation=RepresentationSpec(name="boxes"),
        source="a.png",
        shape=SHAPE,
        boxes=boxes,
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        categories=np.array(categories, np.int32),
        masks=tuple(mask["counts"] for mask in masks),
        names=names,
    )


@pytest.fixture
def coco_truth(tmp_path):
    """The same three objects as COCO has them."""
    annotations = []
    for number, (mask, name) in enumerate(zip(discs(), ("cell", "cell", "debris"), strict=True), 1):
        encoded = coco_masks.encode(np.asfortranarray(mask, np.uint8))
        segmentation = {"size": list(SHAPE), "counts": encoded["counts"].decode()}
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": IDS[name],
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": coco_masks.toBbox(encoded).tolist(),
                "segmentation": segmentation,
            }
        )
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SHAPE[0], "width": SHAPE[1]}],
        "categories": [{"id": number, "name": name} for name, number in IDS.items()],
        "annotations": annotations,
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return tmp_path / "truth.json"


def written(path, found):
    with ObjectWriter(path) as writer:
        writer.write(found)
    return path


def streamed(found):
    stream = io.BytesIO()
    with StreamWriter(stream) as writer:
        writer.write("a.h5", to_bytes(found))
    return stream.getvalue()


@pytest.mark.parametrize("through", ["file", "stream"])
@pytest.mark.parametrize(("categories", "ap"), [((1, 1, 0), 1.0), ((0, 0, 1), 0.0)])
def test_overlaps_and_categories_are_scored_by_their_names(cellkit, tmp_path, coco_truth, through, categories, ap):
    found = prediction(categories=categories)
    place = written(tmp_path / "a.h5", found) if through == "file" else "-"
    stdin = b"" if through == "file" else streamed(found)
    done = run(cellkit, "evaluate", coco_truth, place, "--json", "--categories", stdin=stdin)
    pooled = json.loads(done.text)["pooled"]
    assert (pooled["coco/segm/AP"], pooled["coco/bbox/AP"]) == (ap, ap)
    assert pooled["f1@0.9"] == 1  # whatever the categories
    plain = run(cellkit, "evaluate", coco_truth, place, "--json", "--no-categories", stdin=stdin)
    assert json.loads(plain.text)["pooled"]["coco/segm/AP"] == 1


def test_one_category_is_none(cellkit, tmp_path, coco_truth):
    place = written(tmp_path / "a.h5", prediction(names=("nucleus",), categories=(0, 0, 0)))
    done = run(cellkit, "evaluate", coco_truth, place, "--json", "--categories")
    assert json.loads(done.text)["pooled"]["coco/segm/AP"] == 1


@pytest.mark.parametrize("place", ["a.h5", "found/"])
def test_predictions_become_a_coco_file(cellkit, tmp_path, coco_truth, place):
    (tmp_path / "found").mkdir()
    written(tmp_path / "found" / "a.h5" if place == "found/" else tmp_path / place, prediction())
    run(cellkit, "convert", f"{tmp_path}/{place}", "-o", tmp_path / "a.json")
    entries = json.loads((tmp_path / "a.json").read_text())["annotations"]
    assert [entry["score"] for entry in entries] == pytest.approx([0.9, 0.8, 0.7])
    assert [entry["segmentation"]["counts"].encode() for entry in entries] == list(prediction().masks)
    done = run(cellkit, "evaluate", coco_truth, tmp_path / "a.json", "--json", "--no-categories")
    assert json.loads(done.text)["pooled"]["coco/segm/AP"] == 1


@pytest.mark.parametrize("through", ["file", "stream"])
def test_their_coco_file_scores_as_they_do(cellkit, tmp_path, coco_truth, through):
    """Categories of the model by their names, boxes that are none of the masks, and an object without a pixel."""
    found = prediction(categories=(1, 0, 0))
    empty = coco_masks.encode(np.zeros(SHAPE, np.uint8, order="F"))["counts"]
    found = dataclasses.replace(found, masks=(*found.masks[:2], empty), boxes=found.boxes + np.float32(0.3))
    place = written(tmp_path / "a.h5", found)
    stdin = streamed(found) if through == "stream" else b""
    run(cellkit, "convert", "-" if through == "stream" else place, "-o", tmp_path / "a.json", stdin=stdin)
    content = json.loads((tmp_path / "a.json").read_text())
    assert {entry["id"]: entry["name"] for entry in content["categories"]} == {1: "debris", 2: "cell"}
    assert [entry["category_id"] for entry in content["annotations"]] == [2, 1, 1]
    for counted in ("--categories", "--no-categories"):
        direct, exported = (
            json.loads(run(cellkit, "evaluate", coco_truth, file, "--json", counted).text)["pooled"]
            for file in (place, tmp_path / "a.json")
        )
        assert exported == direct
        assert 0 < direct["coco/segm/AP"] < 1


def test_annotations_keep_their_categories(cellkit, tmp_path, coco_truth):
    run(cellkit, "convert", coco_truth, "-o", tmp_path / "again.json")
    again, before = (json.loads(path.read_text()) for path in (tmp_path / "again.json", coco_truth))
    assert {entry["id"]: entry["name"] for entry in again["categories"]} == {number: n for n, number in IDS.items()}
    for name in ("category_id", "bbox", "area", "segmentation"):
        assert [entry[name] for entry in again["annotations"]] == [entry[name] for entry in before["annotations"]]


LARGER = coco_masks.encode(np.asfortranarray(np.pad(discs()[2], 40), np.uint8))["counts"]


@pytest.mark.parametrize("mask", [b"P", LARGER], ids=["cut", "of a larger image"])
def test_a_damaged_mask_costs_its_image(cellkit, tmp_path, coco_truth, mask):
    broken = dataclasses.replace(prediction(), masks=(*prediction().masks[:2], mask))
    place = written(tmp_path / "a.h5", broken)
    for command in (("evaluate", coco_truth, place), ("postprocess", place, "-o", tmp_path / "a.tif")):
        done = cellkit(*command, "-q")
        assert done.code == 5
        assert ": a mask is damaged" in done.err
        assert done.err.count("\n") == 1


def test_a_prediction_of_another_image(cellkit, tmp_path):
    iio.imwrite(tmp_path / "a.png", np.ones((8, 9), np.uint8))
    done = cellkit("evaluate", tmp_path / "a.png", written(tmp_path / "a.h5", prediction()), "-q")
    assert done.code == 5
    assert "the labels have 40 x 60 pixels, the image has 8 x 9" in done.err


def test_two_files_of_one_image(cellkit, tmp_path):
    iio.imwrite(tmp_path / "a.png", np.ones(SHAPE, np.uint8))
    (tmp_path / "found").mkdir()
    for name in ("one.h5", "two.h5"):
        written(tmp_path / "found" / name, prediction())
    done = cellkit("evaluate", tmp_path / "a.png", tmp_path / "found", "-q")
    assert done.code == 5
    assert "a second prediction of a (give one prediction per image)" in done.err


def test_objects_have_nothing_to_search(cellkit, tmp_path):
    iio.imwrite(tmp_path / "a.png", np.ones(SHAPE, np.uint8))
    place = written(tmp_path / "a.h5", prediction())
    done = cellkit("postprocess", place, "-o", tmp_path / "a.tif", "--search", tmp_path / "a.png", "-q")
    problem = "a holds the objects of a detector, which have no thresholds of maps"
    repair = "leave it out, and choose --set cell_score=NUMBER"
    assert (done.code, done.err) == (2, f"cellkit postprocess: error: --search: {problem} ({repair})\n")


def test_objects_of_a_representation_of_maps(cellkit, tmp_path):
    place = written(tmp_path / "a.h5", prediction())
    with h5py.File(place, "r+") as file:
        file["a"].attrs["representation"] = "flow"
    done = cellkit("postprocess", place, "-o", tmp_path / "a.tif", "-q")
    assert (
        done.err == "cellkit postprocess: error: a.png: objects, but 'flow' has dense maps (predict the image again)\n"
    )
