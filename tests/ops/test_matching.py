"""Matching: by two loops over boxes; sampling: by what may be drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cellkit.ops import matching
from cellkit.ops.matching import match, sample


def scene(seed, count, truths):
    """Candidates and true boxes on whole pixels, so that many overlaps are equal."""
    random = np.random.default_rng(seed)
    start = random.integers(0, 30, (count + truths, 2))
    boxes = torch.tensor(np.concatenate([start, start + random.integers(0, 9, start.shape)], 1), dtype=torch.float32)
    return boxes[:count], boxes[count:]


def single_iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = np.float32(max(width, 0) * max(height, 0))
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / np.float32(union) if union else np.float32(0)


def literal(candidates, truth, low, high, low_quality):
    table = [[single_iou(box, true) for true in truth.tolist()] for box in candidates.tolist()]
    index, best, labels = [], [], []
    for row in table:
        index.append(row.index(max(row)) if row else 0)
        best.append(max(row, default=np.float32(0)))
        labels.append(1 if best[-1] >= np.float32(high) else 0 if best[-1] < np.float32(low) else -1)
    for k in range(len(truth) if low_quality else 0):
        highest = max((row[k] for row in table), default=0)
        for i, row in enumerate(table):
            if row[k] == highest > 0:
                labels[i] = 1
    return index, best, labels


@pytest.mark.parametrize("low_quality", [False, True])
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(0, 12))
def test_matches_are_those_of_two_loops(low_quality, seed, count, truths):
    candidates, truth = scene(seed, count, truths)
    matches = match(candidates, truth, low=0.3, high=0.7, low_quality=low_quality)
    found = matches.truth.tolist(), matches.iou.tolist(), matches.labels.tolist()
    assert found == literal(candidates, truth, 0.3, 0.7, low_quality)


@pytest.mark.parametrize(("chunk", "pairs"), [(7, 1 << 20), (1000, 13), (5, 1)])
def test_parts_change_nothing(monkeypatch, chunk, pairs):
    candidates, truth = scene(5, 300, 25)
    expected = literal(candidates, truth, 0.3, 0.5, True)
    monkeypatch.setattr(matching, "CHUNK", chunk)
    monkeypatch.setattr(matching, "PAIRS", pairs)
    matches = match(candidates, truth, low=0.3, high=0.5, low_quality=True)
    assert (matches.truth.tolist(), matches.iou.tolist(), matches.labels.tolist()) == expected


def test_one_threshold_ignores_none():
    candidates, truth = scene(6, 200, 20)
    assert set(match(candidates, truth, low=0.5, high=0.5).labels.tolist()) == {0, 1}


def test_a_true_box_that_nothing_touches_makes_nothing_positive():
    candidates = torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 14.0, 14.0]])
    matches = match(candidates, torch.tensor([[50.0, 50.0, 60.0, 60.0]]), low=0.3, high=0.7, low_quality=True)
    assert matches.labels.tolist() == [0, 0]


def test_a_poor_candidate_that_is_the_best_for_a_true_box_stands_for_the_one_it_overlaps_most():
    candidates = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    truth = torch.tensor([[8.0, 0.0, 18.0, 10.0], [0.0, 0.0, 10.0, 4.0]])  # overlaps 1/9 and 2/5
    matches = match(candidates, truth, low=0.3, high=0.7, low_quality=True)
    assert (matches.labels.tolist(), matches.truth.tolist()) == ([1], [1])


@pytest.mark.parametrize(("low", "high"), [(0.7, 0.3), (0.0, 0.5), (0.5, 1.5)])
def test_thresholds_out_of_order_are_refused(low, high):
    with pytest.raises(ValueError, match=f"thresholds must be 0 < low <= high <= 1, not {low} and {high}"):
        match(torch.zeros(1, 4), torch.zeros(1, 4), low=low, high=high)


def drawn(labels, count, fraction, seed=0):
    positives, negatives = sample(torch.tensor(labels), count, fraction, torch.Generator().manual_seed(seed))
    return positives.tolist(), negatives.tolist()


@given(
    st.lists(st.sampled_from([-1, 0, 1, 4]), max_size=40), st.integers(0, 30), st.sampled_from([0.0, 0.25, 0.5, 1.0])
)
def test_as_many_as_asked_for_and_each_once(labels, count, fraction):
    positives, negatives = drawn(labels, count, fraction)
    assert all(labels[i] > 0 for i in positives)
    assert all(labels[i] == 0 for i in negatives)
    assert len({*positives, *negatives}) == len(positives) + len(negatives)
    assert len(positives) == min(int(count * fraction), sum(label > 0 for label in labels))
    assert len(negatives) == min(count - len(positives), labels.count(0))


def test_a_seed_gives_one_draw_and_another_seed_another():
    labels = [1, 0, 0, 1] * 50
    assert drawn(labels, 40, 0.5) == drawn(labels, 40, 0.5)
    assert drawn(labels, 40, 0.5) != drawn(labels, 40, 0.5, seed=1)


def test_every_candidate_is_drawn_about_as_often():
    generator = torch.Generator().manual_seed(7)
    labels = torch.tensor([1] * 10 + [0] * 20)
    counts = torch.zeros(30)
    for _ in range(2000):
        for indices in sample(labels, 12, 0.5, generator):
            counts[indices] += 1
    assert ((counts[:10] / 2000 - 0.6).abs() < 0.06).all()  # 5 deviations
    assert ((counts[10:] / 2000 - 0.3).abs() < 0.06).all()
