"""Aggregated Jaccard index: as published, one-to-one, and over IoU thresholds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cellkit.metrics.assignment import assign
from cellkit.metrics.counting import Counts, Values, quotient
from cellkit.metrics.intersections import Integers, Intersections
from cellkit.metrics.matching import MATCHED_PIXELS

TIE = 1e-9  # weighs less than any difference of IoU, more than rounding


def count_aji(table: Intersections) -> Counts:
    """Aggregated intersections and unions, in pixels: of each truth object's best partner, and of one-to-one pairs."""
    best = _best_pairs(table)
    intersection = table.pixels[best].sum()
    missed = np.ones(table.truth_ids.size, bool)
    missed[table.truth[best]] = False
    union = table.unions[best].sum() + table.truth_areas[missed].sum()
    union += table.predicted_areas[~_used(table, best)].sum()
    return {
        "object_pixels": float(table.truth_areas.sum() + table.predicted_areas.sum()),
        "aji_intersection": float(intersection),
        "aji_union": float(union),
        "aji_plus_intersection": float(table.pixels[_one_to_one(table)].sum()),
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
    shared = counts["aji_plus_intersection"]
    return {"aji_plus": quotient(shared, counts["object_pixels"] - shared)}


def maji(counts: Counts) -> Values:
    """Mean over t = 0.50:0.05:0.95 of the aggregated Jaccard index whose pairs must reach the IoU t.

    aji@t = C / U with C = sum over matched pairs of |G ∩ S| and U = sum of |G ∪ S| + areas of all truth and all
    predicted objects left over; maji = (aji@0.50 + aji@0.55 + ... + aji@0.95) / 10. The pairs are those of
    ``ap_dsb@t``: one to one, IoU >= t (Scellseg takes AP and AJI from one matching); a pair below t shares nothing, and
    both objects add their areas to U. Of a cell cut into exact halves one half is matched at 0.5; either choice is
    worth the same. Per image, then mean over images; pooled: C and U summed over images for each t. Empty truth or
    empty prediction: 0; both: NaN.

    The paper's code computes one index at 0.5 instead, over the union of the foregrounds; the equation counts here.

    Source: Xun et al., Scellseg, eq. 5; the index itself: Kumar et al. 2017.
    """
    objects = counts["object_pixels"]
    shared = [counts[name] for name in MATCHED_PIXELS]
    return {"maji": math.fsum(quotient(c, objects - c) for c in shared) / len(shared)}


def _best_pairs(table: Intersections) -> Integers:
    """For each truth object that any prediction touches, a pair of the largest IoU, then intersection."""
    if table.truth.size == 0:
        return table.truth
    firsts = table.truth_firsts
    largest = np.zeros(table.truth_ids.size)
    largest[table.truth[firsts]] = np.maximum.reduceat(table.iou, firsts)
    best = np.flatnonzero(table.iou == largest[table.truth])
    if best.size > firsts.size:
        best = best[np.lexsort((table.pixels[best], table.truth[best]))]
        best = best[np.diff(table.truth[best], append=-1) != 0]
    return best


def _used(table: Intersections, best: Integers) -> NDArray[np.bool_]:
    """(M,) the predictions that are chosen by a truth object; those that tie with its best pair are as good."""
    best_of = np.zeros(table.truth_ids.size, np.int64)
    best_of[table.truth[best]] = best
    rival = best_of[table.truth]
    tied = np.flatnonzero((table.iou == table.iou[rival]) & (table.pixels == table.pixels[rival]))
    used = np.zeros(table.predicted_ids.size, bool)
    if tied.size == best.size:
        used[table.predicted[best]] = True
        return used
    free = np.bincount(table.truth[tied], minlength=table.truth_ids.size)[table.truth[tied]] > 1
    used[table.predicted[tied[~free]]] = True
    options = tied[free]
    options = options[~used[table.predicted[options]]]
    areas = table.predicted_areas[table.predicted[options]].astype(np.float64)
    used[table.predicted[options[assign(table.truth[options], table.predicted[options], areas)]]] = True
    return used


def _one_to_one(table: Intersections) -> Integers:
    weights = table.iou + TIE * table.pixels / max(1, table.pixels.max(initial=0))
    return assign(table.truth, table.predicted, weights)
