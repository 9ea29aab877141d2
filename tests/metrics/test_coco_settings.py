"""Settings of COCO evaluation: presets, what users write, what cannot be meant."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from cellkit.errors import UsageError
from cellkit.metrics.coco import AREAS, CocoSettings, coco_names, parse_areas
from cellkit.metrics.coco_settings import COCO_THRESHOLDS, RECALLS


def ranges(areas):
    return [[area.lowest, area.highest] for area in areas]


def test_defaults_are_those_of_pycocotools():
    params = Params("segm")
    assert ranges(CocoSettings().areas) == params.areaRng
    assert [area.name for area in CocoSettings().areas] == params.areaRngLbl
    assert list(COCO_THRESHOLDS) == params.iouThrs.tolist()
    assert RECALLS.tolist() == params.recThrs.tolist()
    assert np.count_nonzero(np.isin(COCO_THRESHOLDS, [0.5, 0.75])) == 2  # AP50 and AP75 find their thresholds


@pytest.mark.parametrize(
    ("text", "small", "large"),
    [
        ("coco", 1024, 9216),
        ("livecell", 324, 961),
        ("324,961", 324, 961),
        ("18^2, 31^2", 324, 961),
        ("10.5,1e3", 10.5, 1000),
    ],
)
def test_area_ranges_as_users_write_them(text, small, large):
    assert ranges(parse_areas(text)) == [[0, 1e10], [0, small], [small, large], [large, 1e10]]


@pytest.mark.parametrize(
    "text",
    ["", "cells", "324", "324,", "961,324", "324,324", "0,9", "-1,9", "1,2,3", "a,b", "18^3,31^3", "9,nan", "9,1e11"],
)
def test_area_ranges_that_cannot_be_meant(text):
    with pytest.raises(UsageError) as caught:
        parse_areas(text)
    assert str(caught.value) == (
        f"{text}: no such area ranges (choices: coco, livecell, or two ascending areas such as 324,961)"
    )


@pytest.mark.parametrize("max_dets", [(), (0,), (100, -1)])
def test_detections_that_cannot_be_judged(max_dets):
    given = ",".join(map(str, max_dets)) or "none"
    with pytest.raises(UsageError) as caught:
        CocoSettings(max_dets=max_dets)
    assert str(caught.value) == f"max_dets: {given} detections cannot be judged (give numbers of at least 1)"


@pytest.mark.parametrize("thresholds", [(), (0.0, 0.5), (0.5, 1.5)])
def test_thresholds_are_above_0_and_up_to_1(thresholds):
    with pytest.raises(UsageError, match="area ranges and IoU thresholds are needed"):
        CocoSettings(thresholds=thresholds)


def test_names_of_values():
    bare = "AP AP50 AP75 APs APm APl AR AR50 AR75 ARs ARm ARl"
    assert coco_names(CocoSettings()) == tuple(f"coco/segm/{name}" for name in bare.split())
    many = CocoSettings(max_dets=(2000, 100, 500), areas=AREAS["livecell"])
    assert coco_names(many, "bbox") == tuple(f"coco/bbox/{name}" for name in [*bare.split(), "AR@100", "AR@500"])
