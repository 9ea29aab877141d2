"""Matching in rounds is the greedy loop over detections, literally."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellkit.metrics.coco_matching import match_greedily
from cellkit.metrics.coco_pairs import Pairs
from cellkit.metrics.coco_settings import COCO_THRESHOLDS

IOUS = [0.0, 0.3, 0.5, 0.55, 0.6, 0.75, 0.95, 1.0]


def greedy(iou, ignored, crowd, threshold):
    """The loop of COCOeval.evaluateImg, told in words: for each detection the best truth object, or -1."""
    free, chosen = [True] * iou.shape[1], []
    for row in iou:
        open_to_it = [g for g in range(iou.shape[1]) if (free[g] or crowd[g]) and row[g] >= min(threshold, 1 - 1e-10)]
        best = max(open_to_it, key=lambda g: (not ignored[g], row[g], g), default=-1)
        chosen.append(best)
        if best >= 0:
            free[best] = False
    return chosen


def matched(iou, ignored, crowd, thresholds):
    predicted, truth = np.nonzero(iou)
    shuffled = np.random.default_rng(0).permutation(truth.size)
    pairs = Pairs(truth=truth[shuffled], predicted=predicted[shuffled], iou=iou[predicted, truth][shuffled])
    return match_greedily(pairs, ignored, crowd, thresholds, len(iou))


@st.composite
def scenes(draw):
    detections, truths = draw(st.integers(0, 7)), draw(st.integers(0, 5))
    iou = draw(arrays(float, (detections, truths), elements=st.sampled_from(IOUS)))
    crowd = draw(arrays(bool, truths))
    return iou, draw(arrays(bool, (2, truths))) | crowd, crowd


@given(scenes(), st.sampled_from([COCO_THRESHOLDS, (0.3,), (1.0, 0.95)]))
def test_rounds_equal_the_loop(scene, thresholds):
    iou, ignored, crowd = scene
    chosen = matched(iou, ignored, crowd, thresholds)
    assert chosen.shape == (len(thresholds), 2, len(iou))
    for level, threshold in enumerate(thresholds):
        for area in range(2):
            assert chosen[level, area].tolist() == greedy(iou, ignored[area], crowd, threshold)


def test_a_chain_of_contested_objects():
    """Each detection prefers what the one before it took."""
    iou = np.zeros((60, 60))
    steps = np.arange(60)
    iou[steps, steps] = 0.6
    iou[steps[1:], steps[:-1]] = 0.9
    nothing = np.zeros((1, 60), bool)
    assert matched(iou, nothing, nothing[0], (0.5,))[0, 0].tolist() == list(range(60))
    assert matched(iou, nothing, nothing[0], (0.7,))[0, 0].tolist() == [-1, *range(59)]


def test_many_detections_of_one_object():
    iou = np.full((50, 1), 0.8)
    nothing = np.zeros((1, 1), bool)
    assert matched(iou, nothing, nothing[0], (0.5,))[0, 0].tolist() == [0] + [-1] * 49
    assert matched(iou, ~nothing, ~nothing[0], (0.5,))[0, 0].tolist() == [0] * 50  # a crowd has room for all


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3)])
def test_one_side_is_empty(shape):
    chosen = matched(np.zeros(shape), np.zeros((2, shape[1]), bool), np.zeros(shape[1], bool), (0.5, 0.75))
    assert chosen.shape == (2, 2, shape[0])
    assert (chosen == -1).all()


def test_at_threshold_1_rounding_is_forgiven():
    nothing = np.zeros((1, 1), bool)
    for iou, chosen in ((1 - 5e-11, 0), (1 - 2e-10, -1)):
        assert matched(np.array([[iou]]), nothing, nothing[0], (1.0,))[0, 0].tolist() == [chosen]
