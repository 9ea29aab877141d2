"""Segmentation accuracy of the Cell Tracking Challenge."""

from __future__ import annotations

from cellkit.metrics.counting import Counts, Values, quotient
from cellkit.metrics.intersections import Intersections


def count_seg(table: Intersections) -> Counts:
    """The sum of the IoUs of detected truth objects, and the truth objects."""
    detected = 2 * table.pixels > table.truth_areas[table.truth]
    return {"seg_iou": float(table.iou[detected].sum()), "seg_cells": float(table.truth_ids.size)}


def seg(counts: Counts) -> Values:
    """ctc/SEG: mean over truth objects of the IoU with the prediction that covers more than half of it.

    A truth object R is detected by the prediction S with |R ∩ S| > |R| / 2 (strictly; there is one at most) and counts
    |R ∩ S| / |R ∪ S|, else 0. One prediction may detect several truth objects (a merged pair), and predictions that
    detect none cost nothing, as the challenge has it. Per image: mean over its truth objects; pooled: sum of all IoUs
    over all truth objects, the challenge's number of a sequence. Empty truth: NaN, empty prediction: 0; both: NaN.

    Source: Ulman et al. 2017, An objective comparison of cell-tracking algorithms; equal to py-ctcmetrics.
    """
    return {"ctc/SEG": quotient(counts["seg_iou"], counts["seg_cells"])}
