"""Aggregated Jaccard index, as published and one-to-one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellkit.metrics.assignment import assign
from cellkit.metrics.counting import Counts, Values, quotient
from cellkit.metrics.intersections import Integers, Intersections

TIE = 1e-9  # weighs less than any difference of IoU, more than rounding


def count_aji(table: Intersections) -> Counts:
    """Aggregated intersection and union of both indices, in pixels."""
    best = _best_pairs(table)
    intersection = table.pixels[best].sum()
    missed = np.ones(table.truth_ids.size, bool)
    missed[table.truth[best]] = False
    union = table.unions[best].sum() + table.truth_areas[missed].sum()
    union += table.predicted_areas[~_used(table)].sum()
    objects = int(table.truth_areas.sum() + table.predicted_areas.sum())
    shared = int(table.pixels[_one_to_one(table)].sum())
    return {
        "aji_intersection": float(intersection),
        "aji_union": float(union),
        "aji_plus_intersection": float(shared),
        "aji_plus_union": float(objects - shared),
    }


def aji(counts: Counts) -> Values:
    """Aggregated Jaccard index: each truth object with the prediction of best IoU.

    aji = C / U with C = sum over truth objects G of |G ∩ S| and U = sum of |G ∪ S| + areas of the predictions that no
    truth object chose, where S is the prediction of the largest IoU with G, at any IoU above 0. As in the paper's
    algorithm 1, a prediction may be chosen by several truth objects. A truth object that no prediction touches adds its
    area to U. Ties of IoU: the larger intersection, then the choice that leaves the smallest area unchosen, so that the
    ids do not matter. Per image; pooled: C and U summed over images. Empty truth or empty prediction: 0; both: NaN.

    Source: Kumar et al. 2017, A dataset and a technique for generalized nuclear segmentation, algorithm 1.
    """
    return {"aji": quotient(counts["aji_intersection"], counts["aji_union"])}


def aji_plus(counts: Counts) -> Values:
    """Aggregated Jaccard index with one-to-one pairs (AJI+).

    As ``aji``, but the pairs are the one-to-one assignment of the largest sum of IoUs, at any IoU above 0, and all
    objects left over add their area to U. Of several such assignments the one of the largest intersection counts. Per
    image; pooled: C and U summed over images. Empty truth or empty prediction: 0; both: NaN.

    Source: Graham et al. 2019, HoVer-Net; its public ``get_fast_aji_plus``.
    """
    return {"aji_plus": quotient(counts["aji_plus_intersection"], counts["aji_plus_union"])}


def _best_pairs(table: Intersections) -> Integers:
    """For each truth object that any prediction touches, a pair of the largest IoU, then intersection."""
    order = np.lexsort((table.pixels, table.iou, table.truth))
    last = np.diff(table.truth[order], append=-1) != 0
    best: Integers = order[last]
    return best


def _used(table: Intersections) -> NDArray[np.bool_]:
    """(M,) the predictions that are chosen by a truth object."""
    best = _best_pairs(table)
    best_of = np.empty(table.truth_ids.size, np.int64)
    best_of[table.truth[best]] = best
    rival = best_of[table.truth]
    tied = (table.iou == table.iou[rival]) & (table.pixels == table.pixels[rival])
    free = np.bincount(table.truth[tied], minlength=table.truth_ids.size)[table.truth] > 1
    used = np.zeros(table.predicted_ids.size, bool)
    used[table.predicted[tied & ~free]] = True
    options = np.flatnonzero(tied & free & ~used[table.predicted])
    areas = table.predicted_areas[table.predicted[options]].astype(np.float64)
    used[table.predicted[options[assign(table.truth[options], table.predicted[options], areas)]]] = True
    return used


def _one_to_one(table: Intersections) -> Integers:
    weights = table.iou + TIE * table.pixels / max(1, table.pixels.max(initial=0))
    return assign(table.truth, table.predicted, weights)
