"""Splits, merges and errors of count and area equal a literal count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellkit.metrics import score, summarise


def literal_splits(truth, prediction):
    """Truth objects that hold more than half of each of several predictions, pixel by pixel."""
    split = 0
    for i in np.unique(truth[truth > 0]):
        pieces = [j for j in np.unique(prediction[prediction > 0]) if (truth[prediction == j] == i).mean() > 0.5]
        split += len(pieces) > 1
    return split


@given(drawn=st.data())
def test_tiny_images_equal_a_literal_count(small_labels, drawn):
    truth, prediction = drawn.draw(small_labels)
    values = score(truth, prediction, surfaces=False).values
    assert values["splits"] == literal_splits(truth, prediction)
    assert values["merges"] == literal_splits(prediction, truth)


def test_real_images_equal_a_literal_count(real_pairs):
    found = np.zeros(2)
    for truth, prediction in (pair for pair in real_pairs if len(np.unique(pair[0])) < 60):
        values = score(truth, prediction, surfaces=False).values
        literal = literal_splits(truth, prediction), literal_splits(prediction, truth)
        assert (values["splits"], values["merges"]) == literal
        found += literal
    assert found.min() > 5


@pytest.mark.parametrize(
    ("name", "splits", "merges", "count", "area"),
    [
        ("perfect", 0, 0, 0, 0.0),
        ("merged_pair", 0, 1, -1, 0.0),
        ("unevenly_merged_pair", 0, 1, -1, 0.0),
        ("split_cell", 1, 0, 1, 0.0),
        ("shifted_cell", 0, 0, 0, 0.0),
        ("empty_truth", 0, 0, 2, math.nan),
        ("empty_prediction", 0, 0, -2, -1.0),
        ("both_empty", 0, 0, 0, 0.0),
    ],
)
def test_situations(situation, name, splits, merges, count, area):
    values = score(*situation(name)).values
    assert (values["splits"], values["merges"], values["count_error"]) == (splits, merges, count)
    assert values["area_error"] == pytest.approx(area, nan_ok=True)


def test_a_cell_in_three_pieces_is_one_split():
    truth = np.ones((1, 9), np.int32)
    prediction = np.array([[1, 1, 1, 2, 2, 2, 3, 3, 3]])
    assert score(truth, prediction).values["splits"] == 1
    assert score(prediction, truth).values["merges"] == 1


def test_a_neighbour_that_reaches_over_splits_nothing():
    truth = np.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]])
    prediction = np.array([[5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6]])
    values = score(truth, prediction).values
    assert (values["splits"], values["merges"]) == (0, 0)


def test_a_piece_of_which_exactly_half_is_inside_splits_nothing():
    truth = np.array([[1, 1, 1, 1, 0, 0]])
    assert score(truth, np.array([[5, 5, 6, 6, 6, 0]])).values["splits"] == 1
    assert score(truth, np.array([[5, 5, 6, 6, 6, 6]])).values["splits"] == 0


def test_pooled_adds_up_and_area_is_relative_to_all_truth(situation):
    report = summarise([score(*situation(name)) for name in ("split_cell", "empty_prediction", "empty_truth")])
    assert (report.pooled["splits"], report.pooled["merges"], report.pooled["count_error"]) == (1, 0, 1 - 2 + 2)
    assert report.pooled["area_error"] == (3 * 64 - 64 - 2 * 64) / 128
    assert report.defined["area_error"] == 2
    assert report.mean["area_error"] == (0 - 1) / 2
