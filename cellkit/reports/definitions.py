"""What the names in a report mean, in a sentence each, and how their values are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["share", "count", "length"]

UNDEFINED = "–"  # noqa: RUF001  (the dash that people read as "no value")
MANUAL = "man cellkit-metrics"


@dataclass(frozen=True)
class Definition:
    """One metric.

    Attributes:
        text: what it is; ``t`` stands for the IoU threshold after the @.
        kind: a share, a count, or a length; how it is written.
    """

    text: str
    kind: Kind = "share"


DEFINITIONS: dict[str, Definition] = {
    "n_true": Definition("True cells.", "count"),
    "n_predicted": Definition("Predicted cells.", "count"),
    "ap_dsb": Definition(
        "TP / (TP + FP + FN) of cells matched one to one at IoU ≥ t; without @ the mean over t = 0.50 to 0.95. The "
        "papers call it average precision, though it is no area under a curve (2018 Data Science Bowl, Cellpose)."
    ),
    "precision": Definition("Share of the predicted cells that match a true cell at IoU ≥ t: TP / (TP + FP)."),
    "recall": Definition("Share of the true cells that are matched at IoU ≥ t: TP / (TP + FN)."),
    "f1": Definition("Harmonic mean of precision and recall at IoU ≥ t: 2 TP / (2 TP + FP + FN)."),
    "pq": Definition("Panoptic quality, sq x rq (Kirillov 2019)."),
    "sq": Definition("Segmentation quality: mean IoU of the cells matched at IoU ≥ 0.5."),
    "rq": Definition("Recognition quality: the F1 at IoU ≥ 0.5."),
    "ctc/SEG": Definition(
        "Cell Tracking Challenge: mean over the true cells of the IoU with the prediction that covers more than half "
        "of the cell; 0 where there is none. False cells cost nothing."
    ),
    "ctc/DET": Definition(
        "Cell Tracking Challenge: 1 minus the weighted cost of adding missed, deleting false and splitting merged "
        "cells, relative to the cost of adding all."
    ),
    "aji": Definition(
        "Aggregated Jaccard index: intersections over unions, summed over true cells and their best predictions; "
        "unmatched predictions add to the unions (Kumar 2017)."
    ),
    "aji_plus": Definition("As aji, with each prediction used once at most."),
    "maji": Definition(
        "Mean over t = 0.50 to 0.95 of the aggregated Jaccard index whose matches must reach IoU t (Scellseg, eq. 5)."
    ),
    "iou": Definition("Intersection over union of the foreground, whichever cell a pixel belongs to."),
    "dice": Definition("Dice coefficient of the foreground, whichever cell a pixel belongs to."),
    "hd95": Definition(
        "95th percentile of the distances between the surfaces of both foregrounds, in pixels; 0 is best.", "length"
    ),
    "asd": Definition("Mean distance between the surfaces of both foregrounds, in pixels; 0 is best.", "length"),
    "hd95_um": Definition("As hd95, in micrometres.", "length"),
    "asd_um": Definition("As asd, in micrometres.", "length"),
    "splits": Definition(
        "True cells that are split: two or more predicted cells have most of their pixels in it.", "count"
    ),
    "merges": Definition(
        "Predicted cells that merge: two or more true cells have most of their pixels in it.", "count"
    ),
    "count_error": Definition("Predicted minus true number of cells; 0 is best, above it there are too many.", "count"),
    "area_error": Definition(
        "Predicted minus true area of the foreground, as a share of the true one; 0 is best, above it too much is "
        "called cell."
    ),
}

COCO_SHAPES = {"segm": "masks", "bbox": "boxes"}
COCO_SIZES = {"s": "small", "m": "medium-sized", "l": "large"}
COCO_SUMS = {"AP": "average precision", "AR": "average recall"}


def definition(name: str) -> Definition:
    """What the value of that name is; of a name that is not known only where to look it up."""
    if name.startswith("coco/"):
        return Definition(_coco(name))
    return DEFINITIONS.get(name.partition("@")[0], Definition(f"See {MANUAL}."))


def _coco(name: str) -> str:
    _, shape, value = name.split("/", 2)
    text = f"COCO {COCO_SUMS.get(value[:2], value[:2])} of {COCO_SHAPES.get(shape, shape)}"
    rest = value[2:]
    if rest in COCO_SIZES:
        return f"{text}, of {COCO_SIZES[rest]} cells alone, mean over IoU 0.50 to 0.95."
    if rest.startswith("@"):
        return f"{text}, of the {rest[1:]} best predictions of an image, mean over IoU 0.50 to 0.95."
    return f"{text} at IoU ≥ 0.{rest}." if rest else f"{text}, mean over IoU 0.50 to 0.95."


def shown(name: str, value: float, *, averaged: bool = False) -> str:
    """A value as people read it: shares in three decimals, lengths in two, counts in none, or averaged in one."""
    if math.isnan(value):
        return UNDEFINED
    kind = definition(name).kind
    if kind == "count":
        return f"{value:z,.1f}" if averaged else counted(value)
    return f"{value:z.3f}" if kind == "share" else f"{value:z,.2f}"


def counted(value: float) -> str:
    """A count, with thousands set apart."""
    return f"{value:z,.0f}"
