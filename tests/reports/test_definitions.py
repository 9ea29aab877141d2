"""Every name in a report has its meaning."""

from __future__ import annotations

import math

import pytest

from cellkit.metrics import metric_names
from cellkit.reports.definitions import DEFINITIONS, MANUAL, UNDEFINED, definition, shown


@pytest.mark.parametrize("name", [*metric_names(), "hd95", "asd", "hd95_um", "asd_um"])
def test_every_metric_is_defined(name):
    assert MANUAL not in definition(name).text, f"add {name} to cellkit.reports.definitions.DEFINITIONS"


def test_a_name_from_elsewhere_is_looked_up_in_the_manual():
    assert MANUAL in definition("novel").text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coco/segm/AP", "average precision of masks, mean over IoU 0.50 to 0.95"),
        ("coco/bbox/AP75", "average precision of boxes at IoU ≥ 0.75"),
        ("coco/segm/ARs", "average recall of masks, of small cells alone"),
        ("coco/segm/AR@500", "average recall of masks, of the 500 best predictions of an image"),
    ],
)
def test_the_names_of_coco_are_spelt_out(name, words):
    assert words in definition(name).text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("f1@0.5", 0.12345, "0.123"),
        ("f1@0.5", 1.0, "1.000"),
        ("n_true", 26625.0, "26,625"),
        ("hd95", 1234.567, "1,234.57"),
        ("area_error", -0.0001, "0.000"),
        ("area_error", -0.25, "-0.250"),
        ("aji", math.nan, UNDEFINED),
    ],
)
def test_values_are_written_by_their_kind(name, value, text):
    assert shown(name, value) == text


def test_means_of_counts_have_a_decimal():
    assert shown("n_true", 12.0, averaged=True) == "12.0"


def test_no_definition_is_a_fragment():
    assert all(entry.text.endswith((".", ".)")) for entry in DEFINITIONS.values())
