"""What is wrong with a segmentation, as biologists would count it: cells split, merged, too many, too large."""

from __future__ import annotations

import math

import numpy as np

from cellkit.metrics.counting import Counts, Values
from cellkit.metrics.intersections import Integers, Intersections


def count_mistakes(table: Intersections) -> Counts:
    """Truth objects that hold most of several predictions, and predictions that hold most of several truth objects."""
    inside_truth = 2 * table.pixels > table.predicted_areas[table.predicted]
    inside_prediction = 2 * table.pixels > table.truth_areas[table.truth]
    return {
        "split_objects": float(_several(table.truth[inside_truth])),
        "merging_predictions": float(_several(table.predicted[inside_prediction])),
    }


def splits(counts: Counts) -> Values:
    """Truth objects that are split: splits = number of truth objects G with |G ∩ S| > |S| / 2 for two or more S.

    S: predicted objects; each has more than half of its pixels in one truth object at most, so that a neighbour that
    reaches over the border splits nothing. A cell in three pieces counts once, also when one piece still matches it at
    some IoU. Per image; pooled: summed over images. 0 for an empty image, an empty truth and an empty prediction.

    Source: the detection rule of the Cell Tracking Challenge (Matula et al. 2015), from the other side. Caicedo et al.
    2019 (Cytometry A) count IoU > 0.1 with two or more predictions instead, which also finds shifted neighbours.
    """
    return {"splits": counts["split_objects"]}


def merges(counts: Counts) -> Values:
    """Predictions that merge: merges = number of predicted objects S with |G ∩ S| > |G| / 2 for two or more G.

    G: truth objects; the mirror image of ``splits``. A prediction over three cells counts once. Per image; pooled:
    summed over images. 0 for an empty image, an empty truth and an empty prediction.

    Source: the vertices to be split of the Cell Tracking Challenge (Matula et al. 2015), each counted once.
    """
    return {"merges": counts["merging_predictions"]}


def count_error(counts: Counts) -> Values:
    """Signed error of the number of objects: count_error = predicted objects - truth objects.

    Above 0: too many. In objects, not relative, so that it is defined for empty images. Per image: its mean over images
    is a bias in which errors of both signs cancel; pooled: all predicted objects - all truth objects. Empty prediction:
    minus the truth objects; empty truth: the predicted objects; both: 0.

    Source: the plain difference.
    """
    return {"count_error": counts["n_predicted"] - counts["n_true"]}


def area_error(counts: Counts) -> Values:
    """Signed relative error of the covered area: area_error = (|P| - |T|) / |T|.

    T, P: pixels of any truth object, of any predicted object; wherever they lie. Above 0: too much is called cell. Per
    image, then mean over images; pooled: pixels summed over images. Empty prediction: -1; empty truth: NaN; both: 0.

    Source: relative volume difference of Heimann et al. 2009, Comparison and evaluation of methods for liver
    segmentation, with its sign and as a fraction.
    """
    true, predicted = counts["foreground_true"], counts["foreground_predicted"]
    if true:
        return {"area_error": (predicted - true) / true}
    return {"area_error": math.nan if predicted else 0.0}


def _several(nodes: Integers) -> int:
    """How many nodes occur more than once."""
    return int(np.count_nonzero(np.bincount(nodes) > 1))
