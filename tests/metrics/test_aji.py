"""AJI equals the published algorithm, written out slowly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cellkit.metrics import score


def boxes(truth, prediction):
    """(N, M) shared pixels and unions of all pairs, and the areas."""
    truths = [truth == i for i in np.unique(truth) if i]
    predictions = [prediction == i for i in np.unique(prediction) if i]
    shared = np.array([[(t & p).sum() for p in predictions] for t in truths]).reshape(len(truths), len(predictions))
    union = np.array([[(t | p).sum() for p in predictions] for t in truths]).reshape(shared.shape)
    return shared, union, [t.sum() for t in truths], [p.sum() for p in predictions]


def literal_aji(truth, prediction):
    """Algorithm 1 of Kumar et al. 2017; where predictions tie, every choice is tried and the best index kept."""
    shared, union, areas, predicted_areas = boxes(truth, prediction)
    options = []
    for i in range(len(areas)):
        ranks = [(shared[i, j] / union[i, j], shared[i, j]) for j in range(len(predicted_areas)) if shared[i, j]]
        ranked = [j for j in range(len(predicted_areas)) if shared[i, j]]
        options.append([j for j, rank in zip(ranked, ranks, strict=True) if rank == max(ranks)] or [None])
    best = -1.0
    for choice in itertools.product(*options):
        intersection = sum(shared[i, j] for i, j in enumerate(choice) if j is not None)
        total = sum(union[i, j] if j is not None else areas[i] for i, j in enumerate(choice))
        total += sum(area for j, area in enumerate(predicted_areas) if j not in choice)
        best = max(best, intersection / total)
    return best


def dense_aji_plus(truth, prediction):
    """One-to-one by the dense solver, largest sum of IoUs."""
    shared, union, areas, predicted_areas = boxes(truth, prediction)
    rows, columns = linear_sum_assignment(shared / np.maximum(union, 1), maximize=True)
    common = shared[rows, columns].sum()
    return common / (sum(areas) + sum(predicted_areas) - common)


@given(drawn=st.data())
def test_tiny_images_equal_the_literal_algorithm(small_labels, drawn):
    truth, prediction = drawn.draw(small_labels)
    if truth.any() or prediction.any():
        assert score(truth, prediction).values["aji"] == literal_aji(truth, prediction)


def test_real_images_equal_the_literal_algorithm(real_pairs):
    small = [pair for pair in real_pairs if len(np.unique(pair[0])) < 60]
    assert len(small) > 5
    for truth, prediction in small:
        values = score(truth, prediction).values
        assert values["aji"] == literal_aji(truth, prediction)
        assert values["aji_plus"] == pytest.approx(dense_aji_plus(truth, prediction), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "aji", "aji_plus"),
    [
        ("perfect", 1.0, 1.0),
        ("merged_pair", 64 / 128, 32 / 96),  # used twice; one-to-one leaves one truth cell over
        ("split_cell", 32 / 96, 32 / 96),
        ("shifted_cell", 0.6, 0.6),
        ("empty_truth", 0.0, 0.0),
        ("empty_prediction", 0.0, 0.0),
    ],
)
def test_situations(situation, name, aji, aji_plus):
    values = score(*situation(name)).values
    assert (values["aji"], values["aji_plus"]) == (aji, aji_plus)


def test_both_empty_is_undefined(situation):
    values = score(*situation("both_empty")).values
    assert math.isnan(values["aji"])
    assert math.isnan(values["aji_plus"])


def test_a_missed_cell_adds_its_area():
    truth = np.array([[1, 1, 1, 0, 2, 2]])
    prediction = np.array([[1, 1, 1, 0, 0, 0]])
    assert score(truth, prediction).values["aji"] == 3 / 5


def test_a_tie_is_settled_for_the_prediction_that_nobody_else_takes():
    """Truth 1 ties between 5 (which truth 2 takes) and 6: whichever has the lower id, 6 is not left over."""
    truth = np.array([[2, 2, 1, 1, 1, 1, 0, 0]])
    prediction = np.array([[5, 5, 5, 5, 6, 6, 6, 6]])
    other_ids = np.array([[6, 6, 6, 6, 5, 5, 5, 5]])
    expected = (2 + 2) / (6 + 4)
    assert score(truth, prediction).values["aji"] == score(truth, other_ids).values["aji"] == expected


def test_one_to_one_prefers_the_larger_sum_of_ious():
    """Truth 1 and prediction 5 fit best, but two pairs have a larger sum."""
    truth = np.array([[1] * 10 + [2] * 6])
    prediction = np.array([[6] * 5 + [5] * 11])
    shared, union = np.array([[5, 5], [0, 6]]), np.array([[10, 16], [11, 11]])
    rows, columns = linear_sum_assignment(shared / union, maximize=True)
    expected = shared[rows, columns].sum() / (32 - shared[rows, columns].sum())
    assert score(truth, prediction).values["aji_plus"] == expected == 11 / 21
