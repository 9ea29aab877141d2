"""Properties of all metrics at once, and the tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cellkit.metrics import COUNTERS, METRICS, metric_names, score, summarise
from cellkit.metrics import surfaces as outlines
from cellkit.metrics.intersections import intersections


def same(first, second):
    return first.values == pytest.approx(second.values, rel=1e-12, abs=1e-12, nan_ok=True)


def relabelled(labels, seed):
    """Other ids in another order, with gaps."""
    ids = np.random.default_rng(seed).permutation(np.arange(1, 1000))[: labels.max()] * 7
    return np.concatenate(([0], ids))[labels].astype(np.int32)


@given(drawn=st.data(), seed=st.integers(0, 99))
def test_relabelling_changes_nothing(small_labels, drawn, seed):
    truth, prediction = drawn.draw(small_labels)
    assert same(score(truth, prediction), score(relabelled(truth, seed), relabelled(prediction, seed + 1)))


def test_relabelling_real_images_changes_nothing(real_pairs):
    for seed, (truth, prediction) in enumerate(real_pairs):
        assert same(score(truth, prediction), score(relabelled(truth, seed), relabelled(prediction, seed)))


@given(drawn=st.data())
def test_transposing_and_flipping_change_nothing(small_labels, drawn):
    truth, prediction = drawn.draw(small_labels)
    assert same(score(truth, prediction), score(truth.T, prediction.T))
    assert same(score(truth, prediction), score(truth[::-1, ::-1], prediction[::-1, ::-1]))


@given(drawn=st.data(), width=st.integers(1, 5))
def test_padding_with_background_changes_nothing(small_labels, drawn, width):
    truth, prediction = drawn.draw(small_labels)
    assert same(score(truth, prediction), score(np.pad(truth, width), np.pad(prediction, width)))


@given(drawn=st.data())
def test_truth_and_prediction_swapped_swap_precision_and_recall(small_labels, drawn):
    truth, prediction = drawn.draw(small_labels)
    there, back = score(truth, prediction).values, score(prediction, truth).values
    for name in ("ap_dsb", "f1@0.5", "pq", "aji_plus", "maji", "iou", "dice", "hd95", "asd"):
        assert there[name] == pytest.approx(back[name], nan_ok=True)
    assert (there["splits"], there["merges"]) == (back["merges"], back["splits"])
    assert there["count_error"] == -back["count_error"]
    assert there["precision@0.5"] == pytest.approx(back["recall@0.5"], nan_ok=True)


@given(drawn=st.data(), share=st.floats(0.01, 0.99))
def test_splitting_a_cell_never_raises_the_score(small_labels, drawn, share):
    """The split cell lies inside one truth cell; the others may be anything.

    Not so AJI and AJI+: they rank by IoU and sum pixels, so that another choice of pairs may share more of them.
    """
    truth, prediction = drawn.draw(small_labels)
    prediction = np.where(prediction == truth, prediction, prediction * 10)
    ids, areas = np.unique(prediction[(prediction > 0) & (prediction < 5)], return_counts=True)
    assume(areas.max(initial=0) > 1)
    inside = np.flatnonzero(prediction == ids[areas.argmax()])
    split = prediction.copy()
    split.flat[inside[: 1 + int(share * (inside.size - 1))]] = 99
    before, after = score(truth, prediction).values, score(truth, split).values
    for name in ("ap_dsb", "ap_dsb@0.5", "precision@0.5", "f1@0.5", "pq", "ctc/SEG", "ctc/DET", "maji"):
        assert not after[name] > before[name] + 1e-12
    assert after["count_error"] == before["count_error"] + 1
    for name in ("iou", "dice", "area_error", "hd95", "asd"):
        assert after[name] == pytest.approx(before[name], nan_ok=True)


def test_splitting_a_cell_of_a_perfect_prediction_lowers_the_score(crowded_field):
    split = crowded_field.copy()
    split[:, 12:][crowded_field[:, 12:] == crowded_field[12, 12]] = 999
    before, after = score(crowded_field, crowded_field).values, score(crowded_field, split).values
    names = ("ap_dsb", "ap_dsb@0.5", "ap_dsb@0.95", "precision@0.5", "f1@0.5", "pq", "ctc/SEG", "ctc/DET", "aji")
    for name in (*names, "aji_plus", "maji"):
        assert after[name] < before[name] == 1
    assert (before["splits"], after["splits"], after["merges"], after["count_error"]) == (0, 1, 0, 1)


def test_values_are_between_zero_and_one(real_pairs):
    unbounded = {"n_true", "n_predicted", "splits", "merges", "count_error", "area_error", "hd95", "asd"}
    for pair in real_pairs:
        values = score(*pair).values
        assert all(0 <= value <= 1 for name, value in values.items() if name not in unbounded)


def test_pooled_of_images_is_the_score_of_their_montage(real_pairs):
    """Side by side in one large image, with other ids, two images give the pooled values."""
    (first, first_prediction), (second, second_prediction) = sorted(real_pairs, key=lambda pair: pair[0].size)[:2]
    height = max(first.shape[0], second.shape[0])

    def montage(left, right):
        left, right = (np.pad(a, ((0, height - a.shape[0]), (0, 0))) for a in (left, right))
        return np.hstack([left, np.where(right, right + left.max(), 0)])

    report = summarise([score(first, first_prediction), score(second, second_prediction)])
    whole = score(montage(first, second), montage(first_prediction, second_prediction), surfaces=False)
    assert report.pooled == pytest.approx(whole.values, rel=1e-12)


def test_every_metric_states_its_recipe():
    for name, metric in (METRICS | {"hd95": outlines.hd95, "asd": outlines.asd}).items():
        assert metric.__doc__, name
        assert "mpty" in metric.__doc__ or "empty image" in metric.__doc__, name
        if not name.startswith("n_"):
            assert "Source: " in metric.__doc__, name
            assert "pooled" in metric.__doc__, name


def test_every_family_gives_values_of_its_name():
    assert set(METRICS) <= {name.partition("@")[0] for name in metric_names()}


def test_surfaces_are_left_out_on_request(situation):
    with_surfaces, without = score(*situation("shifted_cell")), score(*situation("shifted_cell"), surfaces=False)
    assert set(with_surfaces.values) - set(without.values) == {"hd95", "asd"}
    assert without.values == {name: with_surfaces.values[name] for name in without.values}
    in_micrometres = score(*situation("shifted_cell"), pixel_size=0.5).values
    assert tuple(in_micrometres) == metric_names()


def test_counters_share_no_name(situation):
    report = score(*situation("perfect"))
    table_sizes = [len(names) for names in map(_counted, COUNTERS)]
    assert sum(table_sizes) == len(report.counts)


def _counted(counter):
    return counter(intersections(np.ones((1, 1), int), np.ones((1, 1), int)))


def test_values_and_counts_are_plain_numbers(situation):
    report = score(*situation("shifted_cell"), key="field_7")
    assert report.key == "field_7"
    report_of_nothing = score(*situation("both_empty"), pixel_size=0.5)
    for one in (report, report_of_nothing):
        assert {type(value) for value in (*one.values.values(), *one.counts.values())} == {float}
