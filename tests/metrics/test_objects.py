"""The table of objects agrees with the matching and with a literal search for the best overlap."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cellkit.metrics import score
from cellkit.metrics.intersections import intersections
from cellkit.metrics.objects import COLUMNS, object_table


def rows_of(truth, prediction, scores=None):
    return list(object_table(intersections(truth, prediction), scores).rows())


def test_perfect_pairs_every_object(situation):
    assert rows_of(*situation("perfect")) == [
        ("truth", 4, 32, 4, 4, 1.0, None),
        ("truth", 9, 32, 9, 9, 1.0, None),
        ("prediction", 4, 32, 4, 4, 1.0, None),
        ("prediction", 9, 32, 9, 9, 1.0, None),
    ]
    assert len(COLUMNS) == 7


def test_an_unmatched_object_names_its_best_overlap():
    truth = np.array([[7, 7, 7, 7, 7, 7, 0, 8, 8, 0]])
    prediction = np.array([[1, 2, 2, 0, 0, 0, 0, 0, 0, 3]])
    assert rows_of(truth, prediction, np.array([0.5, 0.25, np.nan])) == [
        ("truth", 7, 6, 0, 2, 2 / 6, None),
        ("truth", 8, 2, 0, 0, 0.0, None),
        ("prediction", 1, 1, 0, 7, 1 / 6, 0.5),
        ("prediction", 2, 2, 0, 7, 2 / 6, 0.25),
        ("prediction", 3, 1, 0, 0, 0.0, None),
    ]


def test_of_exact_halves_one_is_matched(situation):
    rows = rows_of(*situation("split_cell"))
    assert [row[5] for row in rows] == [0.5, 0.5, 0.5]
    assert sorted(row[3] for row in rows if row[0] == "prediction") == [0, 3]
    assert rows[0][3] == rows[0][4]


def test_sides_without_objects(situation):
    assert rows_of(*situation("both_empty")) == []
    assert [row[0] for row in rows_of(*situation("empty_truth"))] == ["prediction"] * 2
    assert [row[3:5] for row in rows_of(*situation("empty_prediction"))] == [(0, 0)] * 2


@given(drawn=st.data())
def test_tiny_images_equal_a_literal_search(small_labels, drawn):
    truth, prediction = drawn.draw(small_labels)
    values = score(truth, prediction, surfaces=False).counts
    rows = rows_of(truth, prediction)
    assert sum(row[3] > 0 for row in rows) == 2 * values["tp@0.5"]
    partners = {row[1]: row[3] for row in rows if row[0] == "truth" and row[3]}
    assert {row[3]: row[1] for row in rows if row[0] == "prediction" and row[3]} == partners
    for side, number, area, matched, best, iou, _ in rows:
        own, other = (truth, prediction) if side == "truth" else (prediction, truth)
        ious = {
            j: ((own == number) & (other == j)).sum() / ((own == number) | (other == j)).sum()
            for j in np.unique(other[other > 0])
        }
        assert area == (own == number).sum()
        assert iou == (ious[best] if best else 0)
        assert iou == (ious[matched] if matched else max(ious.values(), default=0))
