"""Matched counts and their quotients equal stardist's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellkit.metrics import score, summarise
from cellkit.metrics.intersections import Intersections, intersections
from cellkit.metrics.matching import THRESHOLDS, count_matches, match

PAIRS = {"ap_dsb": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1"}


def check_against(stardist, truth, prediction):
    report = score(truth, prediction)
    theirs = stardist.matching(truth, prediction, thresh=THRESHOLDS)
    for t, peer in zip(THRESHOLDS, theirs, strict=True):
        assert report.counts[f"tp@{t:g}"] == peer.tp
        assert report.values["n_true"] - peer.tp == peer.fn
        assert report.values["n_predicted"] - peer.tp == peer.fp
        for ours, name in PAIRS.items():
            assert report.values[f"{ours}@{t:g}"] == getattr(peer, name)
    assert report.values["ap_dsb"] == pytest.approx(np.mean([peer.accuracy for peer in theirs]), abs=1e-15)
    # stardist holds its IoUs in single precision
    assert report.values["pq"] == pytest.approx(theirs[0].panoptic_quality, rel=1e-6)
    assert report.values["sq"] == pytest.approx(theirs[0].mean_matched_score, rel=1e-6)


def test_real_images_equal_stardist(real_pairs, stardist):
    tps = [score(*pair).counts["tp@0.5"] for pair in real_pairs]
    assert sum(tps) > 100
    for truth, prediction in real_pairs:
        check_against(stardist, truth, prediction)


@given(drawn=st.data())
def test_tiny_images_equal_stardist(small_labels, stardist, drawn):
    truth, prediction = drawn.draw(small_labels)
    if truth.any() or prediction.any():
        check_against(stardist, truth, prediction)


@pytest.mark.parametrize(
    "name", ["perfect", "merged_pair", "split_cell", "shifted_cell", "empty_truth", "empty_prediction"]
)
def test_situations_equal_stardist(situation, stardist, name):
    check_against(stardist, *situation(name))


@given(drawn=st.data(), threshold=st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4]))
def test_low_thresholds_match_as_many_as_stardist(small_labels, stardist, drawn, threshold):
    truth, prediction = drawn.draw(small_labels)
    table = intersections(truth, prediction)
    found = match(table, threshold)
    assert found.size == stardist.matching(truth, prediction, thresh=threshold).tp
    assert np.unique(table.truth[found]).size == np.unique(table.predicted[found]).size == found.size
    assert (table.iou[found] >= threshold).all()


def test_low_threshold_prefers_more_pairs_then_larger_iou():
    truth = np.array([[1, 1, 1, 1, 1, 1, 2, 2, 0, 0]])
    prediction = np.array([[5, 5, 6, 6, 6, 6, 6, 6, 0, 0]])
    table = intersections(truth, prediction)  # 1-5: 2/6, 1-6: 4/8, 2-6: 2/6
    matched = match(table, 0.3)
    assert table.iou[matched].tolist() == [2 / 6, 2 / 6]  # two pairs, though 1-6 has the largest IoU
    assert table.iou[match(table, 0.4)].tolist() == [0.5]


def test_sets_equal_stardist_pooled_and_by_image(real_pairs, stardist):
    report = summarise(score(*pair) for pair in real_pairs)
    truths, predictions = zip(*real_pairs, strict=True)
    for by_image, ours in ((True, report.mean), (False, report.pooled)):
        theirs = stardist.matching_dataset(truths, predictions, THRESHOLDS, by_image=by_image, show_progress=False)
        for t, peer in zip(THRESHOLDS, theirs, strict=True):
            for mine, name in PAIRS.items():
                assert ours[f"{mine}@{t:g}"] == pytest.approx(getattr(peer, name), rel=1e-12)
        assert ours["pq"] == pytest.approx(theirs[0].panoptic_quality, rel=1e-6)


def test_perfect(situation):
    values = score(*situation("perfect")).values
    flawless = ("splits", "merges", "count_error", "area_error", "hd95", "asd")
    assert {values[name] for name in values if name not in ("n_true", "n_predicted", *flawless)} == {1.0}
    assert {values[name] for name in flawless} == {0.0}
    assert (values["n_true"], values["n_predicted"]) == (2, 2)


def test_merged_pair_has_one_true_positive_at_exactly_one_half(situation):
    values = score(*situation("merged_pair")).values
    assert (values["ap_dsb@0.5"], values["ap_dsb@0.55"], values["ap_dsb"]) == (0.5, 0.0, 0.05)
    assert (values["precision@0.5"], values["recall@0.5"], values["f1@0.5"]) == (1.0, 0.5, pytest.approx(2 / 3))
    assert (values["pq"], values["sq"], values["rq"]) == pytest.approx((1 / 3, 1 / 2, 2 / 3))


def test_split_cell_has_one_true_positive_at_exactly_one_half(situation):
    values = score(*situation("split_cell")).values
    assert (values["precision@0.5"], values["recall@0.5"], values["ap_dsb@0.5"]) == (0.5, 1.0, 0.5)
    assert values["ap_dsb@0.55"] == 0


def test_shifted_cell_reaches_its_iou_and_no_more(situation):
    values = score(*situation("shifted_cell")).values  # IoU 48 / 80
    assert [values[f"ap_dsb@{t}"] for t in ("0.5", "0.55", "0.6", "0.65")] == [1, 1, 1, 0]
    assert values["ap_dsb"] == 0.3
    assert values["pq"] == 0.6


@pytest.mark.parametrize("name", ["empty_truth", "empty_prediction"])
def test_one_side_empty_is_zero(situation, name):
    values = score(*situation(name)).values
    for metric in ("ap_dsb", "ap_dsb@0.5", "precision@0.5", "recall@0.5", "f1@0.95", "pq", "sq", "rq"):
        assert values[metric] == 0


def test_both_empty_is_undefined(situation):
    values = score(*situation("both_empty")).values
    for metric in ("ap_dsb", "ap_dsb@0.5", "precision@0.5", "recall@0.5", "f1@0.95", "pq", "sq", "rq"):
        assert math.isnan(values[metric])
    assert values["n_true"] == values["n_predicted"] == 0


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_an_iou_equal_to_the_threshold_matches(threshold):
    hundredths = round(100 * threshold)
    truth = np.ones((1, 100), np.int32)
    prediction = (np.arange(100)[None] < hundredths).astype(np.int32)
    assert score(truth, prediction).values[f"ap_dsb@{threshold:g}"] == 1
    prediction[0, hundredths - 1] = 0
    assert score(truth, prediction).values[f"ap_dsb@{threshold:g}"] == 0


def test_instances_that_overlap_are_matched_anew_at_each_threshold():
    """At 0.5 two pairs are possible, 1-6 and 2-5; at 0.9 only 1-5 reaches it."""
    table = Intersections(
        truth_ids=np.array([1, 2]),
        predicted_ids=np.array([5, 6]),
        truth_areas=np.array([100, 70]),
        predicted_areas=np.array([100, 100]),
        truth=np.array([0, 0, 1]),
        predicted=np.array([0, 1, 0]),
        pixels=np.array([95, 75, 65]),  # IoU 95/105, 75/125, 65/105
        truth_foreground=110,
        predicted_foreground=120,
        common_foreground=100,
    )
    counts = count_matches(table)
    assert [counts[f"tp@{t:g}"] for t in THRESHOLDS] == [2, 2, 2, 1, 1, 1, 1, 1, 1, 0]
    assert [counts[f"matched_pixels@{t:g}"] for t in THRESHOLDS] == [140, 140, 140, 95, 95, 95, 95, 95, 95, 0]
    assert counts["matched_iou"] == pytest.approx(75 / 125 + 65 / 105)
