"""Foreground IoU and Dice by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellkit.metrics import score, summarise


@pytest.mark.parametrize(
    ("name", "iou", "dice"),
    [
        ("perfect", 1.0, 1.0),
        ("merged_pair", 1.0, 1.0),
        ("split_cell", 1.0, 1.0),
        ("shifted_cell", 48 / 80, 96 / 128),
        ("empty_truth", 0.0, 0.0),
        ("empty_prediction", 0.0, 0.0),
        ("both_empty", 1.0, 1.0),
    ],
)
def test_situations(situation, name, iou, dice):
    values = score(*situation(name)).values
    assert (values["iou"], values["dice"]) == (iou, dice)


@given(drawn=st.data())
def test_equal_to_masks(small_labels, drawn):
    truth, prediction = (labels > 0 for labels in drawn.draw(small_labels))
    if (truth | prediction).any():
        values = score(truth, prediction).values
        assert values["iou"] == (truth & prediction).sum() / (truth | prediction).sum()
        assert values["dice"] == pytest.approx(2 * values["iou"] / (1 + values["iou"]))


def test_pooled_is_over_pixels_not_images(situation):
    report = summarise([score(*situation("shifted_cell")), score(*situation("perfect"))])
    assert report.mean["iou"] == pytest.approx((0.6 + 1) / 2)
    assert report.pooled["iou"] == (48 + 64) / (80 + 64)
    assert np.isclose(report.pooled["dice"], 2 * 112 / (128 + 128))
