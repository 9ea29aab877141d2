"""Images of bright blobs, and the smallest detector that could learn them."""

from __future__ import annotations

import json

import imageio.v3 as iio
import numpy as np

from cellkit.data.detection import DetectionAugmentation
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.stages.pretraining_detection import TrainedDetector

SIDE = 64
PARTS = {
    "trunk": "resnet-tiny",
    "width": 8,
    "pyramid": 16,
    "hidden": 32,
    "cascade_stages": 1,
    "box_convs": 1,
    "mask_convs": 1,
    "freeze_at": 0,
}
TINY = TrainedDetector(**PARTS, norm="group-norm", head_norm="group-norm")
PLAIN = DetectorSpec(**PARTS, norm="group-norm", head_norm="group-norm", classes=1)
CROPS = DetectionAugmentation(crop=64)
FEW = DetectionSettings(before_nms=50, proposals=30, anchors=32, regions=16)


def blobs(count, seed=0):
    """Labels (64, 64) of squares that lie apart, and an image of them."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for number in range(count):
        y, x = 4 + 20 * (number // 3), 4 + 20 * (number % 3)
        labels[y : y + 14, x : x + 12] = number + 1
    image = np.random.default_rng(seed).integers(0, 60, labels.shape) + 150 * (labels > 0)
    return labels, image.astype(np.uint8)


def write_folder(root, counts=(3, 5, 9, 4)):
    """images/ and labels/ of some blobs each."""
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for index, count in enumerate(counts):
        labels, image = blobs(count, index)
        iio.imwrite(root / "images" / f"{index}.png", image)
        iio.imwrite(root / "labels" / f"{index}.png", labels)
    return root


def write_coco(root, categories=("egg", "worm"), count=4):
    """A COCO file of two images, the objects of the listed categories in turn."""
    root.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image in (1, 2):
        labels, picture = blobs(count, image)
        iio.imwrite(root / f"{image}.png", picture)
        images.append({"id": image, "file_name": f"{image}.png", "height": SIDE, "width": SIDE})
        for number in range(1, count + 1):
            y, x = (int(np.nonzero(labels == number)[axis].min()) for axis in (0, 1))
            square = [x, y, x + 12, y, x + 12, y + 14, x, y + 14]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": number % len(categories) + 1,
                    "segmentation": [square],
                }
            )
    kinds = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    content = {"images": images, "annotations": annotations, "categories": kinds}
    (root / "truth.json").write_text(json.dumps(content))
    return root
