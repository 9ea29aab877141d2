"""AJI equals the published algorithm, written out slowly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from cellkit.metrics import score, summarise


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


def literal_maji(truth, prediction):
    """Equation 5 of Scellseg: the index of the pairs that reach each threshold, one to one by the dense solver."""
    shared, union, areas, predicted_areas = boxes(truth, prediction)
    indices = []
    for hundredths in range(50, 100, 5):
        reaching = 100 * shared >= hundredths * union
        rows, columns = linear_sum_assignment(
            np.where(reaching, 1 + shared / np.maximum(union, 1) / 9, 0), maximize=True
        )
        pairs = [(i, j) for i, j in zip(rows, columns, strict=True) if reaching[i, j] and shared[i, j]]
        total = sum(union[pair] for pair in pairs)
        total += sum(area for i, area in enumerate(areas) if i not in [pair[0] for pair in pairs])
        total += sum(area for j, area in enumerate(predicted_areas) if j not in [pair[1] for pair in pairs])
        indices.append(sum(shared[pair] for pair in pairs) / total)
    return sum(indices) / 10


@given(drawn=st.data())
def test_tiny_images_equal_equation_5(small_labels, drawn):
    truth, prediction = drawn.draw(small_labels)
    if truth.any() or prediction.any():
        assert score(truth, prediction).values["maji"] == pytest.approx(literal_maji(truth, prediction), rel=1e-12)


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
        assert values["maji"] == pytest.approx(literal_maji(truth, prediction), rel=1e-12)
        assert 0 < values["maji"] <= values["aji_plus"] + 1e-12


@pytest.mark.parametrize(
    ("name", "aji", "aji_plus", "maji"),
    [
        ("perfect", 1.0, 1.0, 1.0),
        ("merged_pair", 64 / 128, 32 / 96, 32 / 96 / 10),  # used twice; one-to-one leaves one truth cell over
        ("split_cell", 32 / 96, 32 / 96, 32 / 96 / 10),  # exactly one half: reaches 0.5 and no more
        ("shifted_cell", 0.6, 0.6, 0.6 * 3 / 10),  # reaches 0.5, 0.55, 0.6
        ("empty_truth", 0.0, 0.0, 0.0),
        ("empty_prediction", 0.0, 0.0, 0.0),
    ],
)
def test_situations(situation, name, aji, aji_plus, maji):
    values = score(*situation(name)).values
    assert (values["aji"], values["aji_plus"]) == (aji, aji_plus)
    assert values["maji"] == pytest.approx(maji)


def test_maji_is_pooled_threshold_by_threshold(situation):
    pooled = summarise([score(*situation("perfect")), score(*situation("shifted_cell"))]).pooled["maji"]
    at = [(64 + 48) / (64 + 80) if reached else 64 / (64 + 128) for reached in [True] * 3 + [False] * 7]
    assert pooled == pytest.approx(sum(at) / 10)


def test_both_empty_is_undefined(situation):
    values = score(*situation("both_empty")).values
    assert math.isnan(values["aji"])
    assert math.isnan(values["aji_plus"])
    assert math.isnan(values["maji"])


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
