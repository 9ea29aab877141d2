"""Which metrics are shown, and how many cells were found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cellkit.metrics import ImageReport, SetReport, score, summarise
from cellkit.reports import columns


@pytest.fixture
def report(two_touching_cells):
    return summarise([score(two_touching_cells, two_touching_cells, "a")])


def test_the_summary_has_three_thresholds(report):
    names = columns.summary_names(report)
    assert [name for name in names if name.startswith("f1")] == ["f1@0.5", "f1@0.75", "f1@0.9"]
    assert {"ap_dsb", "n_true", "aji", "ctc/SEG"} <= set(names)


def test_every_threshold_has_a_row(report):
    rows = columns.threshold_rows(report)
    assert len(rows) == 10
    assert rows[1] == (0.55, ["ap_dsb@0.55", "f1@0.55", "precision@0.55", "recall@0.55"])


def test_coco_values_are_grouped_by_shape():
    pooled = {"aji": 1.0, "coco/segm/AP": 0.1, "coco/bbox/AP": 0.2, "coco/segm/AR@10": 0.3}
    rows = columns.coco_rows(SetReport((), {}, pooled, {}))
    assert rows == [("segm", ["coco/segm/AP", "coco/segm/AR@10"]), ("bbox", ["coco/bbox/AP"])]


def test_key_figures_are_defined_and_show_one_distance():
    mean = {"ap_dsb": 0.5, "aji": math.nan, "hd95": 3.0, "hd95_um": 1.5}
    figures = columns.key_figures(SetReport((), mean, {"ap_dsb": 0.4, "coco/segm/AP": 0.3}, {}))
    assert figures == [("ap_dsb", 0.5), ("coco/segm/AP", 0.3), ("hd95_um", 1.5)]


def test_the_worst_image_is_first_and_undefined_ones_last():
    images = [ImageReport(str(i), {"ap_dsb": s}, {}) for i, s in enumerate([0.5, math.nan, 0.2, 0.5])]
    assert [image.key for image in columns.worst_first(images)] == ["2", "0", "3", "1"]


def test_cells_are_found_missed_or_false(two_touching_cells):
    third = np.zeros_like(two_touching_cells)
    third[:5, :5] = 1
    prediction = np.where(two_touching_cells == 1, 7, third)
    values = score(two_touching_cells, prediction).values
    assert columns.outcomes(values) == {"found": 1, "missed": 1, "false": 1}


def test_without_matching_there_are_no_outcomes(empty_field):
    assert columns.outcomes(score(empty_field, empty_field).values) is None
    assert columns.outcomes({}) is None
