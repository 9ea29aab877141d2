"""The COCO scores of a detector on annotated images that training does not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cellkit.config import DetectSettings, Preprocessing
from cellkit.data.detection_crops import DetectionExample, load_detection
from cellkit.data.layouts import Pair
from cellkit.data.scale import scale_of
from cellkit.engine.device import Device
from cellkit.engine.inference import Tiling
from cellkit.engine.memory import MemoryLadder
from cellkit.metrics.coco import CocoImage, CocoSettings, Kind, accumulate, coco_image
from cellkit.metrics.instances import Instances, instances_of_run_lengths
from cellkit.networks.detector import Detector
from cellkit.networks.detector_inference import detect
from cellkit.ops.detections import Detections
from cellkit.ops.run_lengths import MaskRuns, encode_runs, runs_of_labels
from cellkit.stages.detecting import Finder, tile_overlap
from cellkit.stages.prediction import resize, scaled_shape

LARGEST = 1536  # pixels a side at the scale of the network that are seen in one pass; larger images in tiles
CHOICE = "coco/segm/AP"  # the score that chooses weights: the mean over IoU .50:.95, of masks
SHOWN = ("AP", "AP50")
KINDS: tuple[Kind, ...] = ("segm", "bbox")


@dataclass(frozen=True, kw_only=True)
class HeldObjects:
    """One image kept for validation, as the network sees it, with its objects at that scale.

    Attributes:
        key: of the image.
        pixels: (C, h, w); of a grey image all channels are one in memory.
        truth: objects on (h, w).
    """

    key: str
    pixels: NDArray[np.float32]
    truth: Instances


class DetectionValidation:
    """Scores a detector by COCO's average precision, at the scale at which it sees the images.

    All of each image is scored; one larger than 1,536 pixels is seen in overlapping tiles, as ``predict`` sees it.

    Args:
        pairs: annotated images, read once and kept.
        preprocessing: as for training; images are scaled as for prediction.
        settings: how many proposals and objects, and which.
        names: of the categories that the annotations tell apart.
        device: where the network runs.
        categories: whether an object must be of the right category; else all are one.

    Raises:
        InputError: an image or its annotation cannot be read, or has a category that is not among the names.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        preprocessing: Preprocessing,
        settings: DetectSettings,
        names: Sequence[str],
        device: Device,
        *,
        categories: bool = True,
    ) -> None:
        self.settings = settings
        self.device = device
        self.ladder = MemoryLadder()
        self.coco = CocoSettings(categories=categories)
        self.held = [_held(pair.key, load_detection(pair, preprocessing, names), preprocessing) for pair in pairs]

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """``coco/segm/AP``, ``coco/segm/AP50`` and the same of boxes; NaN where no image has an object."""
        if not isinstance(network, Detector):
            raise TypeError(f"a detector is validated here, not a {type(network).__name__}")
        found: dict[Kind, list[CocoImage]] = {kind: [] for kind in KINDS}
        images = ((held, held.pixels) for held in self.held)
        for held, detections in self._finder(network).objects(images):
            predicted = instances_of(detections)
            for kind, scored in found.items():
                scored.append(coco_image(held.truth, predicted, self.coco, kind, key=held.key))
        scores: dict[str, float] = {}
        for kind, scored in found.items():
            scores |= accumulate(scored, self.coco, kind)
        return {name: scores[name] for name in (f"coco/{kind}/{value}" for kind in KINDS for value in SHOWN)}

    def _finder(self, network: Detector) -> Finder:
        tiling = Tiling(tile=LARGEST, overlap=tile_overlap(network), batch=1)
        settings, device, ladder = self.settings, self.device, self.ladder
        return Finder(detector=network, settings=settings, device=device, tiling=tiling, ladder=ladder, find=detect)


def instances_of(detections: Detections) -> Instances:
    """What a detector found, as the metrics take it."""
    return instances_of_run_lengths(
        encode_runs(detections.masks, len(detections), detections.shape),
        detections.shape,
        boxes=_widths(detections.boxes),
        scores=detections.scores,
        categories=detections.categories,
    )


def _widths(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """x, y, width, height (N, 4) of boxes x0, y0, x1, y1."""
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)


def _held(key: str, example: DetectionExample, preprocessing: Preprocessing) -> HeldObjects:
    """At the scale of prediction: by the image's own diameter, where a working diameter is wanted and none is known."""
    diameter = preprocessing.typical
    if preprocessing.estimated or (diameter is None and preprocessing.diameter):
        diameter = example.scene.diameter or diameter
    shape = scaled_shape(example.scene.shape, scale_of(preprocessing, diameter))
    pixels = resize(example.image.float().numpy(), shape)
    if len(pixels) < preprocessing.channels:
        pixels = np.broadcast_to(pixels, (preprocessing.channels, *shape))
    layers = _nearest(example.layers.numpy(), shape)
    return HeldObjects(
        key=key,
        pixels=pixels,
        truth=objects_on(layers, example.categories.numpy()),
    )


def _nearest(layers: NDArray[np.integer], shape: tuple[int, int]) -> NDArray[np.integer]:
    """Layers (L, H, W) in another size (L, *shape)."""
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
        for new, old in zip(shape, layers.shape[1:], strict=True)
    )
    return layers[:, rows[:, None], columns]


def objects_on(layers: NDArray[np.integer], categories: NDArray[np.int64]) -> Instances:
    """Objects of layers (L, H, W), of which those without a pixel are left out; object i has the number i + 1."""
    found = [runs_of_labels(layer) for layer in layers]
    numbers = np.concatenate([ids for ids, _ in found]) - 1
    first = np.cumsum([0, *(len(ids) for ids, _ in found)])
    runs = MaskRuns(
        owners=np.concatenate([runs.owners + before for (_, runs), before in zip(found, first, strict=False)]),
        starts=np.concatenate([runs.starts for _, runs in found]),
        lengths=np.concatenate([runs.lengths for _, runs in found]),
    )
    shape = (int(layers.shape[1]), int(layers.shape[2]))
    masks = encode_runs(runs, len(numbers), shape)
    return instances_of_run_lengths(masks, shape, categories=categories[numbers])
