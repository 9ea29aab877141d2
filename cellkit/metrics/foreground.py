"""Agreement of the foregrounds, whatever the instances."""

from __future__ import annotations

from cellkit.metrics.counting import Counts, Values
from cellkit.metrics.intersections import Intersections


def count_foreground(table: Intersections) -> Counts:
    """Foreground pixels of the truth, of the prediction, and of both."""
    return {
        "foreground_true": float(table.truth_foreground),
        "foreground_predicted": float(table.predicted_foreground),
        "foreground_common": float(table.common_foreground),
    }


def iou(counts: Counts) -> Values:
    """Intersection over union of the foregrounds: iou = |T ∩ P| / |T ∪ P|.

    T, P: pixels of any truth object, of any predicted object. Per image, then mean over images (few-shot
    meta-learning, CULPICO); pooled: pixels summed over images. Empty truth or empty prediction: 0; both: 1, the limit
    of the papers' smoothed quotients (they add 1e-4 and 1e-6 above and below; here nothing is added).

    Source: Dawoud et al. 2021, Few-shot microscopy image cell segmentation; Miyaki et al., CULPICO.
    """
    common = counts["foreground_common"]
    union = counts["foreground_true"] + counts["foreground_predicted"] - common
    return {"iou": common / union if union else 1.0}


def dice(counts: Counts) -> Values:
    """Dice coefficient of the foregrounds: dice = 2 |T ∩ P| / (|T| + |P|) = 2 iou / (1 + iou).

    Per image, then mean over images (CULPICO); pooled: pixels summed over images. Empty truth or empty prediction: 0;
    both: 1, as ``iou``.

    Source: Dice 1945; CULPICO reports it per image.
    """
    areas = counts["foreground_true"] + counts["foreground_predicted"]
    return {"dice": 2 * counts["foreground_common"] / areas if areas else 1.0}
