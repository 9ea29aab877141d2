"""Summaries of sets and bootstrap intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from cellkit.metrics import ImageReport, SetReport, score, statistics, summarise
from cellkit.metrics.statistics import mean_intervals, summarise_values

NAN = math.nan


def report_of(**columns: list[float]) -> SetReport:
    """A report with these values of images a, b, c, ..."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    images = tuple(ImageReport(chr(ord("a") + i), row, {}) for i, row in enumerate(rows))
    known = {name: [value for value in column if not math.isnan(value)] for name, column in columns.items()}
    mean = {name: math.fsum(column) / len(column) if column else NAN for name, column in known.items()}
    return SetReport(images, mean, {"coco/segm/AP": 0.5}, {name: len(column) for name, column in known.items()})


def test_known_values():
    summary = summarise_values(report_of(dice=[0.2, 0.4, 0.9]))["dice"]
    assert (summary.n, summary.undefined) == (3, 0)
    assert summary.mean == pytest.approx(0.5)
    assert summary.median == pytest.approx(0.4)
    assert summary.std == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
    assert 0.2 <= summary.low < 0.5 < summary.high <= 0.9


def test_two_images_have_three_means():
    """Of 0 and 1 the drawn means are 0, 1/2, 1 with chances 1/4, 1/2, 1/4, so 95 % reach from 0 to 1, 40 % no way."""
    table = np.array([[0.0], [1.0]])
    assert np.ravel(mean_intervals(table)).tolist() == [0.0, 1.0]
    assert np.ravel(mean_intervals(table, level=0.4)).tolist() == [0.5, 0.5]


def test_few_images_agree_with_all_draws_counted_out():
    values = np.array([0.1, 0.35, 0.4, 0.8, 0.95])
    means = np.mean(list(itertools.product(values, repeat=5)), axis=1)
    low, high = np.ravel(mean_intervals(values[:, None], resamples=20_000))
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.011)


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(4).normal(0.6, 0.1, 30)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    ours = np.ravel(mean_intervals(values[:, None], resamples=20_000))
    assert ours == pytest.approx(theirs, abs=0.0015)  # the interval is 0.07 wide


def test_interval_covers_the_true_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3.0, 2.0, (40, 3000))
    lows, highs = mean_intervals(samples, resamples=1000)
    assert 0.92 < np.mean((lows < 3.0) & (highs > 3.0)) < 0.96
    lows, highs = mean_intervals(samples, resamples=1000, level=0.5)
    assert 0.46 < np.mean((lows < 3.0) & (highs > 3.0)) < 0.53


def test_undefined_images_are_left_out_and_counted():
    report = report_of(seg=[NAN, 0.4, NAN, 0.6], none=[NAN] * 4, one=[0.7, NAN, NAN, NAN], all=[0.1, 0.2, 0.3, 0.4])
    summaries = summarise_values(report)
    seg, none, one = summaries["seg"], summaries["none"], summaries["one"]
    assert (seg.n, seg.undefined, seg.mean, seg.median) == (2, 2, pytest.approx(0.5), pytest.approx(0.5))
    assert 0.4 <= seg.low < seg.high <= 0.6
    assert (one.n, one.undefined, one.mean, one.median) == (1, 3, 0.7, 0.7)
    assert all(math.isnan(value) for value in (one.std, one.low, one.high))
    assert (none.n, none.undefined) == (0, 4)
    assert all(math.isnan(value) for value in (none.mean, none.median, none.std, none.low, none.high))


def test_a_constant_has_no_width():
    summary = summarise_values(report_of(dice=[0.5, 0.5, 0.5]))["dice"]
    assert (summary.low, summary.high, summary.std) == (0.5, 0.5, 0.0)


def test_metrics_share_their_draws():
    values = [0.1, 0.5, 0.2, 0.9, 0.4]
    summaries = summarise_values(report_of(a=values, b=values, c=[2 * value for value in values]))
    assert summaries["a"] == summaries["b"]
    assert (summaries["c"].low, summaries["c"].high) == pytest.approx((2 * summaries["a"].low, 2 * summaries["a"].high))


def test_values_of_the_set_alone_have_no_summary():
    report = report_of(dice=[0.2, 0.4])
    of_set = SetReport(report.images, report.mean | {"coco/segm/AP": 0.5}, report.pooled, report.defined)
    assert list(summarise_values(of_set)) == ["dice"]


def test_a_set_without_images():
    assert summarise_values(summarise([])) == {}


def test_the_order_of_images_changes_no_bit(real_pairs):
    images = [score(*pair, key=f"image {i}") for i, pair in enumerate(real_pairs)]
    there, back = summarise(images), summarise(images[::-1])
    assert repr(summarise_values(there)) == repr(summarise_values(back))  # as text, NaN equals NaN


def test_seeds_differ_a_little():
    report = report_of(dice=np.random.default_rng(2).random(26).tolist())
    first, again, other = (summarise_values(report, seed=seed)["dice"] for seed in (0, 0, 1))
    assert first == again
    assert first.low != other.low
    assert first.low == pytest.approx(other.low, abs=0.1 * (first.high - first.low))


def test_blocks_change_nothing(monkeypatch):
    table = np.random.default_rng(3).random((17, 3))
    table[2, 1] = NAN
    whole = mean_intervals(table)
    monkeypatch.setattr(statistics, "BLOCK", 100)
    assert np.array(mean_intervals(table)) == pytest.approx(np.array(whole), rel=1e-12)
