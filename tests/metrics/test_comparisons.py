"""Two predictions of the same truth, image by image."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cellkit.errors import UsageError
from cellkit.metrics import ImageReport, SetReport, score, summarise
from cellkit.metrics.comparisons import compare, most_changed, signed_rank, unpaired

NAN = math.nan


def report_of(values: dict[str, float], metric: str = "dice") -> SetReport:
    """A report with one metric of these images."""
    images = tuple(ImageReport(key, {metric: value}, {}) for key, value in values.items())
    known = [value for value in values.values() if not math.isnan(value)]
    return SetReport(images, {metric: math.fsum(known) / len(known)}, {}, {metric: len(known)})


FIRST = report_of({"a": 0.5, "b": 0.6, "c": 0.7, "d": NAN, "only first": 0.1})
SECOND = report_of({"only second": 1.0, "d": 0.9, "c": 0.6, "b": 0.6, "a": 0.9})


def test_known_values():
    comparison = compare(FIRST, SECOND)["dice"]
    assert comparison.n == 3
    assert comparison.first == pytest.approx(0.6)
    assert comparison.second == pytest.approx(0.7)
    assert comparison.difference == pytest.approx(0.1)
    assert (comparison.improved, comparison.worse, comparison.equal) == (1, 1, 1)
    assert (
        comparison.p == 1.0
    )  # ranks 1 and 2: the larger rank sum of 2 or more of 3 has three of four choices, two-sided 1
    assert -0.1 <= comparison.low < 0.1 < comparison.high <= 0.4


def test_images_that_only_one_has_are_listed():
    assert unpaired(FIRST, SECOND) == (("only first",), ("only second",))
    assert unpaired(SECOND, FIRST) == (("only second",), ("only first",))
    assert unpaired(FIRST, FIRST) == ((), ())


def test_most_changed():
    changes = most_changed(FIRST, SECOND, "dice")
    assert [change.key for change in changes] == ["a", "c"]
    assert [change.difference for change in changes] == pytest.approx([0.4, -0.1])
    assert [change.key for change in most_changed(FIRST, SECOND, "dice", 1)] == ["a"]


def test_equal_changes_are_in_the_order_of_names():
    first, second = report_of(dict.fromkeys("cab", 0.7)), report_of({"b": 0.6, "c": 0.8, "a": 0.8})
    assert [change.key for change in most_changed(first, second, "dice")] == ["a", "b", "c"]


def test_most_changed_wants_a_value_of_images():
    with pytest.raises(UsageError, match=r"dicee: no such metric \(did you mean dice"):
        most_changed(FIRST, SECOND, "dicee")
    with pytest.raises(UsageError) as error:
        most_changed(FIRST, SECOND, "pooled/dice")
    assert str(error.value) == "pooled/dice: a pooled value is not of one image (give dice)"


def test_a_prediction_equals_itself(real_pairs):
    report = summarise(score(*pair, key=str(i)) for i, pair in enumerate(real_pairs))
    for comparison in compare(report, report).values():
        assert comparison.difference == comparison.low == comparison.high == 0
        assert comparison.p == 1
        assert comparison.equal == comparison.n
    assert most_changed(report, report, "dice") == []


def test_swapping_turns_signs(real_pairs, perturbed):
    images = [[score(truth, worse, key=str(i)) for i, (truth, worse) in enumerate(real_pairs)]]
    images.append([score(truth, perturbed(truth, i + 50), key=str(i)) for i, (truth, _) in enumerate(real_pairs)])
    first, second = map(summarise, images)
    there, back = compare(first, second), compare(second, first)
    changed = 0
    for name, one in there.items():
        other = back[name]
        assert (one.n, one.p, one.equal) == (other.n, other.p, other.equal)
        assert (one.improved, one.worse) == (other.worse, other.improved)
        assert (one.first, one.second, one.difference) == (other.second, other.first, -other.difference)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
        changed += one.difference != 0
    assert changed > 20


def test_the_order_of_images_changes_no_bit(real_pairs, perturbed):
    first = [score(*pair, key=str(i)) for i, pair in enumerate(real_pairs)]
    second = [score(truth, perturbed(truth, i + 50), key=str(i)) for i, (truth, _) in enumerate(real_pairs)]
    there = compare(summarise(first), summarise(second))
    assert there == compare(summarise(first[::-1]), summarise(second[::-1]))
    assert there == compare(summarise(first), summarise(second[::-1]))


@pytest.mark.parametrize(
    ("metric", "before", "after", "improved", "worse"),
    [
        ("dice", 0.5, 0.6, 1, 0),
        ("hd95", 5.0, 6.0, 0, 1),
        ("splits", 3.0, 1.0, 1, 0),
        ("count_error", -3.0, 2.0, 1, 0),
        ("count_error", -2.0, 2.0, 0, 0),
        ("n_predicted", 3.0, 4.0, None, None),
    ],
)
def test_what_better_means(metric, before, after, improved, worse):
    comparison = compare(report_of({"a": before}, metric), report_of({"a": after}, metric))[metric]
    assert (comparison.improved, comparison.worse) == (improved, worse)
    assert comparison.difference == pytest.approx(after - before)
    assert comparison.equal == (improved == worse == 0)


def test_one_image_has_no_interval():
    comparison = compare(report_of({"a": 0.5}), report_of({"a": 0.75}))["dice"]
    assert (comparison.n, comparison.difference, comparison.p) == (1, 0.25, 1.0)
    assert math.isnan(comparison.low)
    assert math.isnan(comparison.high)


def test_no_common_image():
    comparison = compare(report_of({"a": 0.5}), report_of({"b": 0.5}))["dice"]
    assert (comparison.n, comparison.improved, comparison.worse, comparison.equal) == (0, 0, 0, 0)
    assert all(math.isnan(value) for value in (comparison.first, comparison.difference, comparison.low, comparison.p))


def test_rounding_is_no_difference():
    comparison = compare(report_of({"a": 0.3, "b": 0.3}), report_of({"a": 0.1 + 0.2, "b": 0.3}))["dice"]
    assert (comparison.equal, comparison.improved, comparison.p) == (2, 0, 1.0)


def test_interval_covers_the_true_difference():
    generator = np.random.default_rng(1)
    keys = [str(i) for i in range(40)]
    hits = 0
    for _ in range(150):
        easy = generator.random(40)  # images differ far more than the predictions do
        first = report_of(dict(zip(keys, easy, strict=True)))
        second = report_of(dict(zip(keys, easy + generator.normal(0.01, 0.05, 40), strict=True)))
        comparison = compare(first, second, resamples=300)["dice"]
        hits += comparison.low < 0.01 < comparison.high
    assert 0.88 < hits / 150 < 0.99


def test_equal_differences_are_ties_in_spite_of_rounding():
    """Three times 0.1 and once -0.1: 10 of the 16 choices of signs are at least as far out."""
    first = report_of({"a": 0.7, "b": 0.6, "c": 0.3, "d": 0.3})
    second = report_of({"a": 0.8, "b": 0.7, "c": 0.4, "d": 0.2})
    assert compare(first, second)["dice"].p == 10 / 16


# Wilcoxon's signed ranks


def test_all_signs_alike():
    """Of the 2^5 choices of signs two are as far out as this one."""
    assert signed_rank(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == 2 / 2**5


def test_only_zeros_and_nothing():
    assert signed_rank(np.zeros(4)) == 1.0
    assert math.isnan(signed_rank(np.zeros(0)))


def test_zeros_are_left_out():
    differences = np.array([0.1, 0.2, -0.3, 0.4, 0.5])
    assert signed_rank(np.append(differences, [0, 0, 0])) == signed_rank(differences)


@pytest.mark.parametrize("n", [1, 2, 7, 25, 50, 120, 200])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_exact_without_ties_agrees_with_scipy(n, shift):
    differences = np.random.default_rng(n).normal(shift, 1.0, n)
    assert signed_rank(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=1e-9)


@given(st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=9))
def test_exact_with_ties_agrees_with_all_signs(differences):
    sizes = np.abs(differences)
    ranks = [np.mean([(sizes < size).sum() + 1, (sizes <= size).sum()]) for size in sizes]
    half = sum(ranks) / 2
    seen = abs(sum(r for r, d in zip(ranks, differences, strict=True) if d > 0) - half)
    sums = [sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in _signs(len(ranks))]
    assert signed_rank(np.array(differences, float)) == pytest.approx(np.mean([abs(s - half) >= seen for s in sums]))


def _signs(n):
    return itertools.product((False, True), repeat=n)


def test_many_images_agree_with_the_exact_p():
    differences = np.random.default_rng(8).normal(0.1, 1.0, 300)
    assert signed_rank(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, abs=0.002)
    ties = np.round(differences, 1)
    assert signed_rank(ties) == pytest.approx(signed_rank(differences), abs=0.02)


def test_chance_alone_is_seldom_significant():
    generator = np.random.default_rng(5)
    rate = np.mean([signed_rank(generator.normal(size=30)) < 0.05 for _ in range(600)])
    assert 0.02 < rate < 0.08
