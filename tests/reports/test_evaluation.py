"""Which images are shown."""

from __future__ import annotations

import math

import pytest

from cellkit.metrics import ImageReport, SetReport
from cellkit.reports import choose_examples


def report_of(*scores: float) -> SetReport:
    images = tuple(ImageReport(f"image {i}", {"ap_dsb": score}, {}) for i, score in enumerate(scores))
    return SetReport(images, {}, {}, {})


def test_percentiles_of_five_images_are_all_of_them_in_ascending_order():
    chosen = choose_examples(report_of(0.5, 0.1, 0.9, 0.3, 0.7))
    assert chosen == [
        (0, "image 1", 0.1),
        (25, "image 3", 0.3),
        (50, "image 0", 0.5),
        (75, "image 4", 0.7),
        (100, "image 2", 0.9),
    ]


def test_percentiles_of_many_images():
    chosen = choose_examples(report_of(*(i / 100 for i in range(101))))
    assert [(percentile, score) for percentile, _, score in chosen] == [
        (0, 0), (25, 0.25), (50, 0.5), (75, 0.75), (100, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "percentiles"), [(0, []), (1, [0]), (2, [0, 100]), (3, [0, 50, 100])])
def test_few_images_are_shown_once_each(count, percentiles):
    chosen = choose_examples(report_of(*([0.5] * count)))
    assert [percentile for percentile, _, _ in chosen] == percentiles
    assert len({key for _, key, _ in chosen}) == count


def test_four_images_are_all_shown():
    assert [score for _, _, score in choose_examples(report_of(0.4, 0.3, 0.2, 0.1))] == [0.1, 0.2, 0.3, 0.4]


def test_percentiles_between_two_images_take_the_nearer():
    chosen = choose_examples(report_of(*(i / 10 for i in range(8))))  # the 25th percentile lies at 1.75
    assert [score for _, _, score in chosen] == [0, 0.2, 0.4, 0.5, 0.7]


def test_images_without_score_are_never_shown():
    chosen = choose_examples(report_of(math.nan, 0.2, math.nan, 0.1))
    assert [key for _, key, _ in chosen] == ["image 3", "image 1"]


def test_another_metric_orders_them():
    images = tuple(ImageReport(str(i), {"ap_dsb": i, "aji": -i}, {}) for i in range(3))
    assert choose_examples(SetReport(images, {}, {}, {}), "aji")[0] == (0, "2", -2)
