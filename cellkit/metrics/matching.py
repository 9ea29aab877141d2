"""One-to-one matching of objects at IoU thresholds, and the metrics of matched and unmatched objects.

Written TP, FP and FN: matched pairs, predicted objects without partner, truth objects without partner. A pair may match
when its IoU >= t, as in stardist.matching; the 2018 Data Science Bowl and panoptic quality ask for > t, which differs
only where an IoU equals the threshold exactly. An image with neither truth nor predicted cells has no value (NaN); in
every other image a metric without a matched pair is 0, as in stardist.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cellkit.metrics.assignment import assign
from cellkit.metrics.counting import Counts, Values, quotient
from cellkit.metrics.intersections import Integers, Intersections

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # literals: a sum of steps misses 0.6 by one bit
AT = tuple(f"{t:g}" for t in THRESHOLDS)
TRUE_POSITIVES = tuple(f"tp@{t}" for t in AT)  # names of counts
MATCHED_PIXELS = tuple(f"matched_pixels@{t}" for t in AT)


def match(table: Intersections, threshold: float) -> Integers:
    """The pairs of the largest one-to-one matching of objects with IoU >= threshold; of those, of the largest IoU sum.

    The number of pairs is that of stardist.matching at any threshold, and from 0.5 on the IoUs are too: there each
    object has one partner at most, but for a cell cut into exact halves, where both choices are worth the same. (Below
    0.5 stardist breaks ties also by pairs that do not reach the threshold; that changes no count.)

    Args:
        table: intersections of the objects.
        threshold: (0, 1].

    Returns:
        (L,) positions of the matched pairs in ``table.truth``, ``table.predicted`` and ``table.iou``, ascending.

    Source: Schmidt et al. 2018, Cell detection with star-convex polygons; stardist.matching.
    """
    candidates = np.flatnonzero(table.iou >= threshold)
    if _is_one_to_one(table, candidates):
        return candidates
    # one more pair outweighs any change of the IoUs of the others: their sum stays below 1/2
    weights = 1.0 + table.iou[candidates] / (2.0 * max(1, candidates.size))
    return candidates[assign(table.truth[candidates], table.predicted[candidates], weights)]


def count_matches(table: Intersections) -> Counts:
    """TP and the pixels they share at each threshold, the IoUs matched at 0.5, and the objects of either side."""
    pairs = np.flatnonzero(table.iou >= THRESHOLDS[0])
    if _is_one_to_one(table, pairs):
        reached = table.iou[pairs] >= np.asarray(THRESHOLDS)[:, None]
        found, pixels = np.count_nonzero(reached, axis=1).tolist(), (reached @ table.pixels[pairs]).tolist()
    else:  # instances that overlap each other, or a cell cut into exact halves
        matches = [match(table, threshold) for threshold in THRESHOLDS]
        pairs, found = matches[0], [matched.size for matched in matches]
        pixels = [int(table.pixels[matched].sum()) for matched in matches]
    return {
        "n_true": float(table.truth_ids.size),
        "n_predicted": float(table.predicted_ids.size),
        "matched_iou": float(table.iou[pairs].sum()),
        **dict(zip(TRUE_POSITIVES, map(float, found), strict=True)),
        **dict(zip(MATCHED_PIXELS, map(float, pixels), strict=True)),
    }


def _is_one_to_one(table: Intersections, pairs: Integers) -> bool:
    truths, predictions = np.zeros(table.truth_ids.size, bool), np.zeros(table.predicted_ids.size, bool)
    truths[table.truth[pairs]] = True
    predictions[table.predicted[pairs]] = True
    return bool(np.count_nonzero(truths) == pairs.size == np.count_nonzero(predictions))


def n_true(counts: Counts) -> Values:
    """Truth objects, whatever their size; pooled: of all images. 0 for an empty image."""
    return {"n_true": counts["n_true"]}


def n_predicted(counts: Counts) -> Values:
    """Predicted objects, whatever their size; pooled: of all images. 0 for an empty image."""
    return {"n_predicted": counts["n_predicted"]}


def ap_dsb(counts: Counts) -> Values:
    """IoU-threshold accuracy ap_dsb@t, and ap_dsb, its mean over t = 0.50:0.05:0.95.

    ap_dsb@t = TP / (TP + FP + FN), a pair matches when IoU >= t. The papers call it average precision, though there is
    no curve of precision. Per image, then mean over images (2018 Data Science Bowl, Cellpose, Scellseg); pooled: TP, FP
    and FN summed over images first. Empty truth or empty prediction: 0; both: NaN.

    Source: Caicedo et al. 2019, Nucleus segmentation across imaging experiments; stardist's ``accuracy``.
    """
    at = _at_thresholds(counts, lambda tp, true, predicted: quotient(tp, true + predicted - tp))
    return {"ap_dsb": math.fsum(at.values()) / len(at), **{f"ap_dsb@{t}": value for t, value in at.items()}}


def precision(counts: Counts) -> Values:
    """Share of the predicted objects that match: precision@t = TP / (TP + FP), IoU >= t.

    Per image, and pooled from summed TP and FP (stardist, Cellulus). Empty truth or empty prediction: 0; both: NaN.

    Source: stardist's ``precision``.
    """
    at = _at_thresholds(counts, lambda tp, true, predicted: _share(tp, predicted, true))
    return {f"precision@{t}": value for t, value in at.items()}


def recall(counts: Counts) -> Values:
    """Share of the truth objects that match: recall@t = TP / (TP + FN), IoU >= t.

    Per image, and pooled from summed TP and FN (stardist, Cellulus). Empty truth or empty prediction: 0; both: NaN.

    Source: stardist's ``recall``.
    """
    at = _at_thresholds(counts, lambda tp, true, predicted: _share(tp, true, predicted))
    return {f"recall@{t}": value for t, value in at.items()}


def f1(counts: Counts) -> Values:
    """Harmonic mean of precision and recall: f1@t = 2 TP / (2 TP + FP + FN), IoU >= t.

    Per image, and pooled from summed TP, FP and FN (Cellulus, with IoU > 0.5). Empty truth or empty prediction: 0;
    both: NaN.

    Source: stardist's ``f1``; Wolf et al. 2023, Unsupervised learning of object-centric embeddings (Cellulus).
    """
    at = _at_thresholds(counts, lambda tp, true, predicted: quotient(2 * tp, true + predicted))
    return {f"f1@{t}": value for t, value in at.items()}


def panoptic(counts: Counts) -> Values:
    """Panoptic quality at 0.5: pq = sq * rq.

    sq = sum of the IoUs of matched pairs / TP; rq = TP / (TP + FP/2 + FN/2) = f1@0.5; a pair matches when IoU >= 0.5
    (stardist; the paper has > 0.5). Per image, and pooled from summed IoUs, TP, FP and FN. Empty truth or empty
    prediction, or nothing matched: all three 0; both empty: NaN.

    Source: Kirillov et al. 2019, Panoptic segmentation, eq. 1; stardist's ``panoptic_quality``.
    """
    tp, matched_iou = counts["tp@0.5"], counts["matched_iou"]
    objects = counts["n_true"] + counts["n_predicted"]
    return {
        "pq": quotient(2 * matched_iou, objects),
        "sq": _share(matched_iou, tp, objects),
        "rq": quotient(2 * tp, objects),
    }


def _at_thresholds(counts: Counts, value: Callable[[float, float, float], float]) -> Values:
    """The value of (TP, truth objects, predicted objects) for each threshold, by its name."""
    true, predicted = counts["n_true"], counts["n_predicted"]
    return {t: value(counts[name], true, predicted) for t, name in zip(AT, TRUE_POSITIVES, strict=True)}


def _share(part: float, whole: float, others: float) -> float:
    """The quotient; without a whole 0 if the other side has objects, else NaN."""
    return quotient(part, whole) if whole or not others else 0.0
