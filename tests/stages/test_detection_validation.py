import importlib.util
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths
from scipy.ndimage import label

from cellkit.config import DetectSettings, Preprocessing
from cellkit.data.layouts import find_pairs
from cellkit.engine import open_device
from cellkit.networks.detector import Detector
from cellkit.ops.detections import Detections
from cellkit.ops.run_lengths import runs_of_labels
from cellkit.stages import detection_validation
from cellkit.stages.detection_validation import DetectionValidation, objects_on

SPEC_OF_SCENES = importlib.util.spec_from_file_location(
    "detection_scenes", Path(__file__).with_name("detection_scenes.py")
)
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)
PLAIN = scenes.PLAIN
SIDE = scenes.SIDE
blobs = scenes.blobs
write_coco = scenes.write_coco
write_folder = scenes.write_folder

CPU = open_device("cpu", "fp32")
GREY = Preprocessing(channels=3, colour="rgb")


def found(labels, scores, categories):
    """What a detector would give: the objects of a label image, best first."""
    ids, runs = runs_of_labels(labels)
    order = np.argsort(-np.asarray(scores), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    boxes = []
    for number in ids:
        y, x = np.nonzero(labels == number)
        boxes.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
    return Detections(
        shape=labels.shape,
        boxes=np.array(boxes, np.float32).reshape(-1, 4)[order],
        scores=np.array(scores, np.float32)[order],
        categories=np.array(categories, np.int32)[order],
        masks=type(runs)(owners=place[runs.owners], starts=runs.starts, lengths=runs.lengths),
    )


@pytest.fixture
def told(monkeypatch):
    """A function that sets what the detector finds, image by image."""

    def tell(answers):
        queue = iter(answers)
        seen = []

        def answer(network, images, settings, shapes):
            seen.append((tuple(images.shape), shapes))
            return [next(queue)]

        monkeypatch.setattr(detection_validation, "detect", answer)
        return seen

    return tell


def test_what_is_there_scores_one(tmp_path, told):
    pairs = find_pairs(str(write_folder(tmp_path, counts=(3, 5)))).pairs
    seen = told([found(blobs(count)[0], [0.9] * count, [0] * count) for count in (3, 5)])
    validate = DetectionValidation(pairs, GREY, DetectSettings(), ("cell",), CPU)
    scores = validate(Detector(PLAIN).eval())
    assert scores == {f"coco/{kind}/{name}": 1.0 for kind in ("segm", "bbox") for name in ("AP", "AP50")}
    assert seen == [((1, 3, SIDE, SIDE), [(SIDE, SIDE)])] * 2


def test_half_of_the_objects_found(tmp_path, told):
    """Precision 1 up to a recall of 1/2, which is 51 of 101 points."""
    pairs = find_pairs(str(write_folder(tmp_path, counts=(4,)))).pairs
    labels = blobs(4)[0]
    told([found(np.where(labels > 2, 0, labels), [0.9, 0.8], [0, 0])])
    scores = DetectionValidation(pairs, GREY, DetectSettings(), ("cell",), CPU)(Detector(PLAIN).eval())
    assert scores["coco/segm/AP"] == pytest.approx(51 / 101)


@pytest.mark.parametrize(("counting", "score"), [(True, 0.0), (False, 1.0)])
def test_categories_count_where_they_are_asked_for(tmp_path, told, counting, score):
    pairs = find_pairs(str(write_coco(tmp_path, count=4))).pairs
    told([found(blobs(4)[0], [0.9] * 4, [0, 1, 0, 1])] * 2)  # the file has 1, 0, 1, 0
    validate = DetectionValidation(pairs, GREY, DetectSettings(), ("egg", "worm"), CPU, categories=counting)
    assert validate(Detector(PLAIN).eval())["coco/segm/AP"] == pytest.approx(score)


def test_images_are_scored_at_the_scale_of_the_network(tmp_path):
    pairs = find_pairs(str(write_folder(tmp_path, counts=(1,)))).pairs
    typical = Preprocessing(channels=3, colour="rgb", diameter=30.0, typical=20.0)
    (held,) = DetectionValidation(pairs, typical, DetectSettings(), ("cell",), CPU).held
    assert held.pixels.shape == (3, 96, 96)
    assert held.truth.boxes.tolist() == [[6, 6, 18, 21]]
    assert held.truth.pixels.tolist() == [18 * 21]


def bright(network, images, settings, shapes):
    """Finds the bright blobs that a tile shows, cut by its edge where they reach over it."""
    ((height, width),) = shapes
    labels = label(images[0, 0, :height, :width].numpy() > images[0, 0, :height, :width].numpy().mean())[0]
    return [found(labels, [0.9] * labels.max(), [0] * labels.max())]


def test_all_of_a_large_image_is_scored(tmp_path, monkeypatch):
    labels = np.zeros((200, 260), np.uint8)
    for number, (y, x) in enumerate(((y, x) for y in range(4, 190, 24) for x in range(6, 250, 25)), 1):
        labels[y : y + 14, x : x + 12] = number
    for part, values in (("images", np.where(labels > 0, 220, 20)), ("labels", labels)):
        (tmp_path / part).mkdir()
        iio.imwrite(tmp_path / part / "a.png", values.astype(np.uint8))
    monkeypatch.setattr(detection_validation, "LARGEST", 128)
    monkeypatch.setattr(detection_validation, "tile_overlap", lambda detector: 32)
    seen = []
    monkeypatch.setattr(detection_validation, "detect", lambda *a: seen.append(a[1].shape) or bright(*a))
    validate = DetectionValidation(find_pairs(str(tmp_path)).pairs, GREY, DetectSettings(), ("cell",), CPU)
    assert validate.held[0].pixels.shape == (3, 200, 260)
    assert len(validate.held[0].truth) == labels.max() == 80
    assert validate(Detector(PLAIN).eval())["coco/segm/AP"] == 1
    assert len(seen) > 4
    assert max(max(shape[2:]) for shape in seen) <= 128


def test_no_object_at_all_is_no_number(tmp_path, told):
    pairs = find_pairs(str(write_folder(tmp_path, counts=(0,)))).pairs
    told([found(blobs(0)[0], [], [])])
    scores = DetectionValidation(pairs, GREY, DetectSettings(), ("cell",), CPU)(Detector(PLAIN).eval())
    assert all(np.isnan(value) for value in scores.values())


def test_objects_of_layers_keep_masks_and_categories():
    layers = np.zeros((2, 8, 9), np.int16)
    layers[0, 1:5, 1:5], layers[1, 3:7, 3:7], layers[1, 0, 8] = 1, 4, 2  # the third has no pixel left
    found = objects_on(layers, np.array([5, 6, 7, 8]))
    assert found.categories.tolist() == [5, 6, 8]
    masks = [layers[0] == 1, layers[1] == 2, layers[1] == 4]
    assert found.pixels.tolist() == [int(mask.sum()) for mask in masks]
    expected = [run_lengths.toBbox(run_lengths.encode(np.asfortranarray(m, np.uint8))).tolist() for m in masks]
    assert found.boxes.tolist() == expected


def test_over_the_image_lies_the_ground_of_the_detector(tmp_path, monkeypatch):
    write_folder(tmp_path, counts=(3,))
    for part in ("images", "labels"):
        iio.imwrite(tmp_path / part / "0.png", iio.imread(tmp_path / part / "0.png")[:30, :50])
    detector = Detector(PLAIN).eval()
    detector.ground = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    seen = []
    monkeypatch.setattr(detection_validation, "detect", lambda *a: seen.append(a[1][0]) or bright(*a))
    DetectionValidation(find_pairs(str(tmp_path)).pairs, GREY, DetectSettings(), ("cell",), CPU)(detector)
    (whole,) = seen
    assert whole.shape == (3, 32, 64)
    assert torch.equal(whole[:, 31, 63], torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(whole[0, :30, :50], whole[2, :30, :50])


def test_another_network_is_a_mistake_of_the_caller(tmp_path):
    validate = DetectionValidation([], GREY, DetectSettings(), ("cell",), CPU)
    with pytest.raises(TypeError, match="a detector is validated here, not a Linear"):
        validate(torch.nn.Linear(1, 1))
