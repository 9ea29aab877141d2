"""One row per object: what it was matched with, and how well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellkit.metrics.intersections import Floats, Integers, Intersections
from cellkit.metrics.matching import THRESHOLDS, match

TRUTH, PREDICTION = "truth", "prediction"
COLUMNS = (
    "side",
    "id",
    "area",
    "matched_id",
    "best_id",
    "iou",
    "score",
)  # of a file; the image's name goes before them
NOBODY = 0  # id of no object


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectTable:
    """The objects of one image: first those of the truth, then those of the prediction, each in the order of its table.

    Attributes:
        is_truth: (R,) whether the object belongs to the truth, else to the prediction.
        id: (R,) its id.
        area: (R,) its pixels.
        matched_id: (R,) id of its partner on the other side in the one-to-one matching at IoU >= 0.5; 0: unmatched.
        best_id: (R,) id of its partner, or where there is none, of the object on the other side of the largest IoU
            (then the largest intersection, then the first) with it; 0: nothing touches it.
        iou: (R,) IoU with ``best_id``, 0 where there is none. From 0.5 on an object is matched, but for halves of a
            cell cut exactly in two and for instances that overlap each other.
        score: (R,) confidence of a predicted object; NaN for the truth and where scores are not known.
    """

    is_truth: NDArray[np.bool_]
    id: Integers
    area: Integers
    matched_id: Integers
    best_id: Integers
    iou: Floats
    score: Floats

    def rows(self) -> Iterator[tuple[str, int, int, int, int, float, float | None]]:
        """Plain values in the order of :data:`COLUMNS`, row by row; an unknown score is None."""
        sides = np.where(self.is_truth, TRUTH, PREDICTION).tolist()
        scores = [
            None if unknown else score for unknown, score in zip(np.isnan(self.score), self.score.tolist(), strict=True)
        ]
        columns = (self.id, self.area, self.matched_id, self.best_id, self.iou)
        return zip(sides, *(column.tolist() for column in columns), scores, strict=True)


def object_table(table: Intersections, scores: Floats | None = None) -> ObjectTable:
    """The objects of both sides with their partners, as ``n_true`` to ``pq`` count them.

    Args:
        table: intersections of the objects.
        scores: (M,) confidence of the predicted objects in the order of ``table.predicted_ids``, or None.
    """
    matched = match(table, THRESHOLDS[0])
    truths, predictions = table.truth_ids.size, table.predicted_ids.size
    unknown = np.full(truths, np.nan)
    known = np.full(predictions, np.nan) if scores is None else np.asarray(scores, np.float64)
    of_truth = _partners(table, matched, table.truth, table.predicted_ids[table.predicted], truths)
    of_prediction = _partners(table, matched, table.predicted, table.truth_ids[table.truth], predictions)
    return ObjectTable(
        is_truth=np.arange(truths + predictions) < truths,
        id=np.concatenate((table.truth_ids, table.predicted_ids)),
        area=np.concatenate((table.truth_areas, table.predicted_areas)),
        matched_id=np.concatenate((of_truth[0], of_prediction[0])),
        best_id=np.concatenate((of_truth[1], of_prediction[1])),
        iou=np.concatenate((of_truth[2], of_prediction[2])),
        score=np.concatenate((unknown, known)),
    )


def _partners(
    table: Intersections, matched: Integers, nodes: Integers, other_ids: Integers, count: int
) -> tuple[Integers, Integers, Floats]:
    """Of one side: partner's id, id of the partner or the best overlap, IoU with that.

    Args:
        table: intersections of the objects.
        matched: positions of the matched pairs.
        nodes: (K,) object of this side in each pair.
        other_ids: (K,) id of the other object in each pair.
        count: objects of this side.
    """
    order = np.lexsort((-np.arange(nodes.size), table.pixels, table.iou))  # the best comes last and stays
    pair = np.full(count, -1)
    pair[nodes[order]] = order
    matched_ids = np.full(count, NOBODY)
    matched_ids[nodes[matched]] = other_ids[matched]
    pair[nodes[matched]] = matched
    touched = pair >= 0
    best_ids, iou = np.full(count, NOBODY), np.zeros(count)
    best_ids[touched] = other_ids[pair[touched]]
    iou[touched] = table.iou[pair[touched]]
    return matched_ids, best_ids, iou
