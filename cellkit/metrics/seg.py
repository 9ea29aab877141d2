"""Segmentation and detection accuracy of the Cell Tracking Challenge."""

from __future__ import annotations

import numpy as np

from cellkit.metrics.counting import Counts, Values, quotient
from cellkit.metrics.intersections import Integers, Intersections

SPLITTING, ADDING, DELETING = 5.0, 10.0, 1.0  # the challenge's weights: a vertex split, a missed and a false vertex


def count_detections(table: Intersections) -> Counts:
    """The truth objects and the sum of the IoUs of those detected; splits, misses and false objects to be mended."""
    pairs = _detections(table)
    detected_by = np.bincount(table.predicted[pairs], minlength=table.predicted_ids.size)
    detecting = np.count_nonzero(detected_by)
    return {
        "seg_iou": float(table.iou[pairs].sum()),
        "seg_cells": float(table.truth_ids.size),
        "det_splits": float(pairs.size - detecting),
        "det_misses": float(table.truth_ids.size - pairs.size),
        "det_false": float(table.predicted_ids.size - detecting),
    }


def seg(counts: Counts) -> Values:
    """Mean over truth objects of the IoU with the prediction that covers more than half of it.

    A truth object R is detected by the prediction S with |R ∩ S| > |R| / 2 (strictly; there is one at most, unless
    predictions overlap each other: then that of the largest IoU) and counts |R ∩ S| / |R ∪ S|, else 0. One prediction
    may detect several truth objects (a merged pair), and predictions that detect none cost nothing, as the challenge
    has it. Per image: mean over its truth objects; pooled: sum of all IoUs over all truth objects, the challenge's
    number of a sequence. Empty truth: NaN, empty prediction: 0; both: NaN.

    Source: Ulman et al. 2017, An objective comparison of cell-tracking algorithms; equal to py-ctcmetrics.
    """
    return {"ctc/SEG": quotient(counts["seg_iou"], counts["seg_cells"])}


def det(counts: Counts) -> Values:
    """Share of the work of drawing all truth objects that the prediction saves: ctc/DET = 1 - min(D, D0) / D0.

    D = 5 NS + 10 FN + 1 FP (the challenge's AOGM-D) with FN truth objects that no prediction covers by more than half,
    FP predictions that cover none so, and NS splits needed: the objects that a prediction covers so, less one, summed
    over predictions. D0 = 10 times the truth objects: drawing them all anew. Per image, and pooled from NS, FN, FP and
    objects summed over images, the challenge's number of a sequence (it takes them from markers of tracked cells, here
    from the segmentation given). Empty truth: NaN, empty prediction: 0; both: NaN.

    Source: Matula et al. 2015, Cell tracking accuracy measurement based on comparison of acyclic oriented graphs; equal
    to py-ctcmetrics.
    """
    every = ADDING * counts["seg_cells"]
    work = SPLITTING * counts["det_splits"] + ADDING * counts["det_misses"] + DELETING * counts["det_false"]
    return {"ctc/DET": 1.0 - quotient(min(work, every), every)}


def _detections(table: Intersections) -> Integers:
    """For each truth object that is covered by more than half, the pair that covers it, ascending."""
    pairs = np.flatnonzero(2 * table.pixels > table.truth_areas[table.truth])
    truths = table.truth[pairs]
    if truths.size and (truths[1:] == truths[:-1]).any():  # predictions that overlap each other
        order = np.lexsort((table.iou[pairs], truths))
        pairs = pairs[order[np.diff(truths[order], append=-1) != 0]]
    return pairs
