"""The proof that detectors learn: a tiny cascade finds the nuclei of the ten real images that it learned from."""

from __future__ import annotations

import contextlib
import io
import itertools

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellkit.config import DetectSettings
from cellkit.data.detection import DetectionBatch
from cellkit.data.detection_crops import DetectionTruth
from cellkit.engine import FitSettings, RunFiles, fit, open_device
from cellkit.methods.detection import Detection
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.networks.detector import Detector
from cellkit.networks.detector_inference import detect
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.ops.run_lengths import encode_labels, encode_runs

CROP, IMAGES, BATCH, STEPS = 128, 10, 5, 180
LEAST = 20  # pixels of what the edge of a crop leaves of a nucleus
TINY = DetectorSpec(
    trunk="resnest-tiny",
    width=8,
    pyramid=16,
    hidden=64,
    channels=1,
    norm="group-norm",
    head_norm="group-norm",
    freeze_at=0,
    classes=1,
    anchor_sizes=(8, 16, 32, 64, 128),
    box_convs=1,
    mask_convs=2,
)
SETTINGS = DetectionSettings(anchors=128, before_nms=300, proposals=200, regions=64, region_fraction=0.5)


def crops(data):
    """The middles of the first grey images with three nuclei: pixels from 0 to 1 (H, W), labels (H, W)."""
    for path in sorted((data / "dsb2018" / "images").iterdir()):
        image = iio.imread(path)
        if image.ndim == 2:
            middle = tuple(slice((side - CROP) // 2, (side + CROP) // 2) for side in image.shape)
            pixels, labels = image[middle].astype(np.float32), np.zeros((CROP, CROP), np.int32)
            annotated = iio.imread(next((data / "dsb2018" / "labels").glob(f"{path.stem}*")))[middle]
            sizes = np.bincount(annotated.ravel())
            for number, nucleus in enumerate(np.flatnonzero(sizes[1:] >= LEAST) + 1, 1):
                labels[annotated == nucleus] = number
            low, high = np.percentile(pixels, (1, 99.8))
            if labels.max() >= 3:
                yield ((pixels - low) / (high - low)).astype(np.float32), labels


def truth_of(labels):
    boxes = []
    for number in range(1, labels.max() + 1):
        y, x = np.nonzero(labels == number)
        boxes.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
    places = [(0, number) for number in range(1, labels.max() + 1)]
    return DetectionTruth(
        boxes=torch.tensor(boxes, dtype=torch.float32),
        categories=torch.zeros(len(boxes), dtype=torch.int64),
        layers=torch.from_numpy(labels)[None],
        places=torch.tensor(places),
    )


class Ten:
    """All images once in two steps, in an order of their own, as they are."""

    def __init__(self, images, truths):
        self.images, self.truths = images, truths

    def batches(self, start, *, batch, seed, rank, world_size):
        for step in itertools.count(start):
            epoch, part = divmod(step, IMAGES // batch)
            order = np.random.default_rng((seed, epoch)).permutation(IMAGES)[part * batch : (part + 1) * batch].tolist()
            seeds = tuple(step * batch + place for place in range(batch))
            yield DetectionBatch(self.images[order], tuple(self.truths[i] for i in order), seeds)


def precision(network, images, labels, kind):
    """AP50 of pycocotools."""
    results, pictures, annotations = [], [], []
    for number, (image, truth) in enumerate(zip(images, labels, strict=True), 1):
        pictures.append({"id": number, "height": CROP, "width": CROP})
        _, masks = encode_labels(truth)
        for mask, (x0, y0, x1, y1) in zip(masks, truth_of(truth).boxes.tolist(), strict=True):
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            shape = {"segmentation": mask, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            annotations.append(place | shape)
        (found,) = detect(network, image[None], DetectSettings())
        masks = encode_runs(found.masks, len(found), found.shape)
        for mask, score, (x0, y0, x1, y1) in zip(masks, found.scores.tolist(), found.boxes.tolist(), strict=True):
            place = {"image_id": number, "category_id": 1, "score": score}
            results.append(place | {"segmentation": mask, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    truth = COCO()
    truth.dataset = {"images": pictures, "annotations": annotations, "categories": [{"id": 1}], "info": {}}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(results), kind)
        scored.evaluate()
        scored.accumulate()
    return scored.eval["precision"][0, :, 0, 0, -1].mean()  # at an overlap of 0.5, all areas, 100 detections an image


@pytest.mark.slow
def test_a_tiny_cascade_finds_the_nuclei_that_it_learned_from(data, tmp_path):
    pixels, labels = zip(*itertools.islice(crops(data), IMAGES), strict=True)
    images = torch.from_numpy(np.stack(pixels))[:, None]
    torch.manual_seed(0)
    network = Detector(TINY)
    method = Detection(network, Ten(images, [truth_of(one) for one in labels]), SETTINGS, batch=BATCH, seed=0)
    settings = FitSettings(
        steps=STEPS, optimiser="adam", learning_rate=3e-3, weight_decay=0.0, warmup=20, clip=10.0, save_every=STEPS
    )
    files = RunFiles(last=tmp_path / "last", best=tmp_path / "best", metrics=tmp_path / "metrics.csv")
    fit(method, settings, open_device("cpu", "fp32"), files=files, save=lambda *_: None, quiet=True)
    network.eval()
    scores = {kind: precision(network, images, labels, kind) for kind in ("bbox", "segm")}
    assert scores["bbox"] > 0.9, scores
    assert scores["segm"] > 0.9, scores
