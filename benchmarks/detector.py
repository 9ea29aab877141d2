"""Detectors: their operators against literal versions, a whole cascade against its own layers, memory of a step."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.harness import Bench, Goal, Measurement, alternate, timed
from benchmarks.memory import peak_of
from cellkit.config import DetectSettings
from cellkit.data.detection import DetectionBatch
from cellkit.data.detection_crops import DetectionTruth
from cellkit.engine.device import Device, open_device, prepare
from cellkit.engine.optimisers import Optimisers
from cellkit.engine.settings import FitSettings
from cellkit.methods.detection import Detection, DetectionData
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.networks.detector import Detector
from cellkit.networks.detector_inference import BOX_REGIONS, MASK_REGIONS, detect
from cellkit.networks.detector_spec import RESNEST_50_CASCADE, TINY_CASCADE
from cellkit.networks.resnet_layers import GROUPS, normalised
from cellkit.networks.roi_heads import BOX_SIDE, MASK_SIDE
from cellkit.ops.boxes import iou
from cellkit.ops.boxes_nms import nms
from cellkit.ops.pasting import paste_masks
from cellkit.ops.roi_align import roi_align

NAME = "detector"
RESNEST_50 = dataclasses.replace(RESNEST_50_CASCADE, classes=1)  # cells
NMS_GOAL, CASCADE_GOAL = Goal("value", 1.0), Goal("cost", 1.3)
ROUNDS = 3
BOXES, QUICK_BOXES = 20_000, 500  # for the suppression
POOLED, QUICK_POOLED = 200, 10
MASKS, QUICK_MASKS = 300, 10
IMAGE, QUICK_IMAGE = (512, 704), (128, 160)
SIDE, QUICK_SIDE = 512, 128  # of the crops of a training step
BATCH = 2
REGIONS, QUICK_REGIONS = 512, 8
CELL = 30.0  # pixels across
OVERLAP = 0.5
GIGABYTE = 1e9
SEED = 0


def measure(bench: Bench) -> Iterator[Measurement]:
    """Operators on one thread or several as they come; the cascade in the precision of the device, untrained."""
    yield _pooling(bench)
    yield from _suppression(bench)
    yield _pasting(bench)
    yield _cascade(bench)
    yield _groups(bench)
    yield _memory(bench)


def _boxes(count: int, image: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(N, 4) of cells anywhere."""
    middles = torch.rand(count, 2, generator=generator) * torch.tensor([image[1], image[0]])
    halves = CELL * (0.3 + 0.4 * torch.rand(count, 2, generator=generator))
    return torch.cat([middles - halves, middles + halves], 1).clamp(min=0)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _pooling(bench: Bench) -> Measurement:
    """RoI align of 256 channels from a map of stride 4, against samples one by one (all channels at once)."""
    count, image = (QUICK_POOLED, QUICK_IMAGE) if bench.quick else (POOLED, IMAGE)
    generator = _generator()
    features = torch.rand(1, 256, image[0] // 4, image[1] // 4, generator=generator)
    boxes = _boxes(count, image, generator)
    images = torch.zeros(count, dtype=torch.int64)
    ours, other = alternate(
        timed(lambda: roi_align(features, boxes, images, BOX_SIDE, scale=0.25)),
        timed(lambda: _literal_pooling(features[0].numpy(), boxes.tolist(), 0.25)),
        bench.rounds(ROUNDS),
    )
    return Measurement(comparison=NAME, case=f"RoI align of {count} boxes, literal", ours=ours, other=other)


def _literal_pooling(features: NDArray[np.float32], boxes: list[list[float]], scale: float) -> NDArray[np.float32]:
    bins = np.zeros((len(boxes), features.shape[0], BOX_SIDE, BOX_SIDE), np.float32)
    for number, box in enumerate(boxes):
        x0, y0, x1, y1 = (scale * edge - 0.5 for edge in box)
        high, wide = (y1 - y0) / BOX_SIDE, (x1 - x0) / BOX_SIDE
        rows, columns = max(1, int(np.ceil(high))), max(1, int(np.ceil(wide)))
        for row, column in np.ndindex(BOX_SIDE, BOX_SIDE):
            for a, b in np.ndindex(rows, columns):
                y = y0 + (row + (a + 0.5) / rows) * high
                x = x0 + (column + (b + 0.5) / columns) * wide
                bins[number, :, row, column] += _bilinear(features, y, x) / (rows * columns)
    return bins


def _bilinear(features: NDArray[np.float32], y: float, x: float) -> NDArray[np.float32]:
    height, width = features.shape[1:]
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    low, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = features[:, top, left] * (1 - x + left) + features[:, top, right] * (x - left)
    lower = features[:, low, left] * (1 - x + left) + features[:, low, right] * (x - left)
    return cast(NDArray[np.float32], upper * (1 - y + top) + lower * (y - top))


def _suppression(bench: Bench) -> Iterator[Measurement]:
    """Non-maximum suppression, against one survivor after another."""
    count, image = (QUICK_BOXES, QUICK_IMAGE) if bench.quick else (BOXES, IMAGE)
    generator = _generator()
    boxes, scores = _boxes(count, image, generator), torch.rand(count, generator=generator)
    ours, other = alternate(
        timed(lambda: nms(boxes, scores, OVERLAP)),
        timed(lambda: _literal_suppression(boxes, scores)),
        bench.rounds(ROUNDS),
    )
    note = f"{len(nms(boxes, scores, OVERLAP))} survive, of the literal one {len(_literal_suppression(boxes, scores))}"
    yield Measurement(comparison=NAME, case=f"suppression of {count} boxes", ours=ours, goal=NMS_GOAL, note=note)
    yield Measurement(comparison=NAME, case=f"suppression of {count} boxes, literal", ours=ours, other=other)


def _literal_suppression(boxes: Tensor, scores: Tensor) -> list[int]:
    order = scores.argsort(descending=True)
    survivors = []
    while len(order):
        survivors.append(int(order[0]))
        order = order[1:][iou(boxes[order[:1]], boxes[order[1:]])[0] <= OVERLAP]
    return survivors


def _pasting(bench: Bench) -> Measurement:
    """Masks to run lengths, against each mask resampled over the whole image and encoded by pycocotools."""
    count, image = (QUICK_MASKS, QUICK_IMAGE) if bench.quick else (MASKS, IMAGE)
    generator = _generator()
    boxes = _boxes(count, image, generator)
    side = 2 * MASK_SIDE
    logits = F.avg_pool2d(torch.randn(count, 1, side + 8, side + 8, generator=generator), 9, stride=1)[:, 0]
    ours, other = alternate(
        timed(lambda: paste_masks(logits, boxes, image)),
        timed(lambda: _literal_pasting(logits, boxes, image)),
        bench.rounds(ROUNDS),
    )
    return Measurement(comparison=NAME, case=f"pasting of {count} masks, literal", ours=ours, other=other)


def _literal_pasting(logits: Tensor, boxes: Tensor, image: tuple[int, int]) -> list[object]:
    from pycocotools import mask as coco

    runs = []
    for mask, (x0, y0, x1, y1) in zip(logits.sigmoid(), boxes.tolist(), strict=True):
        y = (torch.arange(image[0]) + 0.5 - y0) / (y1 - y0) * 2 - 1
        x = (torch.arange(image[1]) + 0.5 - x0) / (x1 - x0) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)[None]
        whole = F.grid_sample(mask[None, None], grid, align_corners=False)[0, 0] >= 0.5
        runs.append(coco.encode(np.asfortranarray(whole.numpy().astype(np.uint8))))
    return runs


def _cascade(bench: Bench) -> Measurement:
    """Everything from pixels to run lengths, against the layers alone on as many regions."""
    image, cells = (QUICK_IMAGE, QUICK_MASKS) if bench.quick else (IMAGE, MASKS)
    torch.manual_seed(SEED)
    spec = TINY_CASCADE if bench.quick else RESNEST_50
    network = Detector(spec).eval()
    prepare(network, bench.device)
    pixels = torch.rand(1, spec.channels, *image, generator=_generator()).to(memory_format=torch.channels_last)
    settings = DetectSettings(least_score=0.0, most=cells, overlap=1.0)

    def whole() -> None:
        with bench.device.autocast():
            detect(network, pixels, settings)

    ours, other = alternate(timed(whole), timed(_layers(bench.device, network, pixels, settings)), bench.rounds(ROUNDS))
    case = f"{spec.trunk} cascade, {image[0]} x {image[1]}, {cells} cells, against its layers"
    note = f"both in {bench.device.precision}, {settings.proposals} regions"
    return Measurement(comparison=NAME, case=case, ours=ours, other=other, goal=CASCADE_GOAL, note=note)


def _layers(device: Device, network: Detector, pixels: Tensor, settings: DetectSettings) -> Callable[[], None]:
    """Trunk, pyramid, proposal network, and the heads on regions that are pooled already, as many at a time as ours."""
    channels = network.spec.pyramid
    regions = torch.rand(settings.proposals, channels, BOX_SIDE, BOX_SIDE).to(memory_format=torch.channels_last)
    cells = torch.rand(settings.most, channels, MASK_SIDE, MASK_SIDE).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        with device.autocast():
            network(pixels)
            for stage in range(network.spec.cascade_stages):
                for some in torch.split(regions, BOX_REGIONS):
                    network.boxes(stage, some)
            for some in torch.split(cells, MASK_REGIONS):
                network.masks(some)

    return run


def _groups(bench: Bench) -> Measurement:
    """Group normalisation of regions, there and back, against torch's own in the same precision."""
    regions, channels = (QUICK_REGIONS, 32) if bench.quick else (REGIONS, 256)
    norm = nn.GroupNorm(GROUPS, channels)
    kind = torch.get_autocast_dtype("cpu") if bench.device.precision == "bf16" else torch.float32
    pooled = torch.rand(regions, channels, BOX_SIDE, BOX_SIDE, generator=_generator()).to(kind)
    pooled = pooled.to(memory_format=torch.channels_last).requires_grad_()

    def learn(made: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(made(pooled).sum(), pooled)

    ours, other = alternate(timed(learn(lambda x: normalised(x, norm))), timed(learn(norm)), bench.rounds(ROUNDS))
    case = f"group normalisation of {regions} regions, there and back, torch's own"
    return Measurement(comparison=NAME, case=case, ours=ours, other=other, note=f"both of {bench.device.precision}")


def _memory(bench: Bench) -> Measurement:
    """Peak of a process that takes a training step."""
    side, kind = (QUICK_SIDE, "quick") if bench.quick else (SIDE, "full")
    _, peak = peak_of([sys.executable, "-m", "benchmarks.detector", kind])
    case = f"training step, {BATCH} crops of {side}, peak memory"
    note = f"in {bench.device.precision}, torch and the program itself included"
    return Measurement(comparison=NAME, case=case, ours=(peak / GIGABYTE,), unit="GB", note=note)


def _truth(side: int, generator: torch.Generator) -> DetectionTruth:
    """Cells on a grid."""
    pitch = int(2 * CELL)
    layers, boxes = torch.zeros(1, side, side, dtype=torch.int32), []
    for y in range(0, side - pitch, pitch):
        for x in range(0, side - pitch, pitch):
            width, height = torch.randint(int(CELL / 2), int(CELL), (2,), generator=generator).tolist()
            boxes.append([x, y, x + width, y + height])
            layers[0, y : y + height, x : x + width] = len(boxes)
    places = torch.tensor([[0, number] for number in range(1, len(boxes) + 1)])
    return DetectionTruth(torch.tensor(boxes).float(), torch.zeros(len(boxes), dtype=torch.int64), layers, places)


def training_step(*, quick: bool) -> None:
    """What the training loop of the engine does in one step, at full size or tiny."""
    side, spec = (QUICK_SIDE, TINY_CASCADE) if quick else (SIDE, RESNEST_50)
    device, generator = open_device("cpu"), _generator()
    torch.manual_seed(SEED)
    network = Detector(spec)
    prepare(network, device)
    data = cast(DetectionData, None)  # the batch is there already
    method = Detection(network, data, DetectionSettings(), batch=BATCH, seed=SEED)
    optimisers = Optimisers(method.parameter_groups(), FitSettings(optimiser="sgd", learning_rate=1e-3), device)
    images = torch.rand(BATCH, spec.channels, side, side, generator=generator)
    batch = DetectionBatch(images, tuple(_truth(side, generator) for _ in range(BATCH)), tuple(range(BATCH)))
    with device.autocast():
        losses = method.losses(batch)
    optimisers.minimise(losses)


if __name__ == "__main__":
    training_step(quick=sys.argv[1] == "quick")
