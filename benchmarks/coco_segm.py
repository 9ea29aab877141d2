"""COCO segm: label images -> AP and AR, ours against pycocotools; and run lengths of one image."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.harness import Bench, Goal, Measurement, Seconds, alternate, timed
from cellkit.metrics.coco import CocoSettings, accumulate, coco_image
from cellkit.metrics.instances import instances_of_labels
from cellkit.ops.run_lengths import encode_labels

NAME = "coco-segm"
GOAL = Goal("faster", 50.0)
IMAGES, CELLS, PITCH = 20, 1000, 32  # pixels between the centres of cells
QUICK_IMAGES, QUICK_CELLS = 2, 60
MAX_DETS = 2000
ROUNDS = 1  # pycocotools takes minutes
ENCODING_ROUNDS = 5
LOST = 0.1  # share of the cells that the prediction misses

Labels = NDArray[np.int32]


def measure(bench: Bench) -> Iterator[Measurement]:
    """Ours starts from label images, pycocotools from run lengths; loading, IoU, matching and tables are timed."""
    images, cells = (QUICK_IMAGES, QUICK_CELLS) if bench.quick else (IMAGES, CELLS)
    pairs = [_pair(cells, seed) for seed in range(images)]
    settings = CocoSettings(max_dets=(100, MAX_DETS))
    found: dict[str, dict[str, float]] = {}

    def ours() -> None:
        found["ours"] = _scored(pairs, settings)

    ours()  # the first run pays for imports and pages; pycocotools takes too long for a run that does not count
    seconds, other = alternate(timed(ours), _pycocotools(pairs, found), bench.rounds(ROUNDS), warm_up=False)
    differing = sum(found["ours"][name] != value for name, value in found["other"].items())
    note = f"AP {found['ours']['coco/segm/AP']:.4f}; {differing} of {len(found['other'])} values differ"
    yield Measurement(
        comparison=NAME, case=f"{images} images of {cells} cells", ours=seconds, other=other, goal=GOAL, note=note
    )

    labels = pairs[0][0]
    seconds, other = alternate(
        timed(lambda: encode_labels(labels)), timed(lambda: _encoded(labels)), bench.rounds(ENCODING_ROUNDS)
    )
    same = "the same bytes" if encode_labels(labels)[1] == _encoded(labels) else "OTHER BYTES"
    yield Measurement(
        comparison=NAME, case=f"run lengths of {cells} cells", ours=seconds, other=other, goal=GOAL, note=same
    )


def _scored(pairs: list[tuple[Labels, Labels, NDArray[np.float64]]], settings: CocoSettings) -> dict[str, float]:
    matched = [
        coco_image(instances_of_labels(truth), instances_of_labels(predicted, scores), settings)
        for truth, predicted, scores in pairs
    ]
    return accumulate(matched, settings)


def _pycocotools(
    pairs: list[tuple[Labels, Labels, NDArray[np.float64]]], found: dict[str, dict[str, float]]
) -> Seconds:
    """Seconds from the list of results to the tables; the truth is read before, as its index is in real use."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (truth, predicted, scores) in enumerate(pairs):
        for code in encode_labels(truth)[1]:
            common = {"image_id": number, "category_id": 1, "segmentation": code}
            area = {"area": float(coco_masks.area(code)), "bbox": coco_masks.toBbox(code).tolist()}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, **common, **area})
        for label, code in zip(*encode_labels(predicted), strict=True):
            common = {"image_id": number, "category_id": 1, "segmentation": code}
            results.append({"score": float(scores[label - 1]), **common})
    content = {
        "images": [{"id": i, "height": len(one[0]), "width": one[0].shape[1]} for i, one in enumerate(pairs)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": annotations,
    }

    def run() -> float:
        truth, fresh = COCO(), copy.deepcopy(results)  # loadRes writes into its argument
        truth.dataset = copy.deepcopy(content)
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            return timed(lambda: found.update(other=_evaluated(truth, fresh)))()

    return run


def _evaluated(truth: Any, results: list[dict[str, Any]]) -> dict[str, float]:  # noqa: ANN401 - COCO is untyped
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.params.maxDets = [100, MAX_DETS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., 0, 1], evaluation.eval["recall"][..., 0, 1]
    few = evaluation.eval["recall"][..., 0, 0]
    tables = {"AP": precision, "AP50": precision[0], "AP75": precision[5], "AR": recall, "AR@100": few}
    return {f"coco/segm/{name}": float(np.mean(table[table > -1])) for name, table in tables.items()}


def _encoded(labels: Labels) -> list[dict[str, Any]]:
    """As users of pycocotools do it: one mask of the whole image after another."""
    ids = np.unique(labels)[1:]
    return [coco_masks.encode(np.asfortranarray(labels == i, np.uint8)) for i in ids]


def _pair(cells: int, seed: int) -> tuple[Labels, Labels, NDArray[np.float64]]:
    """Truth, prediction and scores of a field of touching cells, some of them missed."""
    rng = np.random.default_rng(seed)
    rows = int(np.ceil(cells**0.5))
    numbers = np.arange(cells)
    centres = (np.stack([numbers // rows, numbers % rows], 1) + 0.5) * PITCH + rng.uniform(-4, 4, (cells, 2))
    radii = rng.uniform(0.3, 0.55, (cells, 2)) * PITCH
    truth = _painted(centres, radii, rows * PITCH)
    predicted = _painted(centres + rng.normal(0, 2, (cells, 2)), radii * rng.normal(1, 0.1, (cells, 2)), rows * PITCH)
    kept = np.concatenate([[False], rng.random(cells) > LOST])
    return truth, np.where(kept[predicted], predicted, 0).astype(np.int32), rng.random(cells)


def _painted(centres: NDArray[np.float64], radii: NDArray[np.float64], side: int) -> Labels:
    labels = np.zeros((side, side), np.int32)
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True), 1):
        low = np.maximum(centre - 1.5 * PITCH, 0).astype(int)
        window = labels[low[0] : low[0] + 3 * PITCH, low[1] : low[1] + 3 * PITCH]
        rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
        distance = ((rows + low[0] - centre[0]) / radius[0]) ** 2 + ((columns + low[1] - centre[1]) / radius[1]) ** 2
        window[distance <= 1] = number
    return labels
