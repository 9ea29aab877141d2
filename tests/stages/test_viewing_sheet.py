"""Contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.errors import UsageError
from cellkit.ops.drawing import GAP
from cellkit.ops.drawing_text import caption_height
from cellkit.ops.scale_bar import font_size
from cellkit.provenance import Record
from cellkit.stages.viewing import Picture
from cellkit.stages.viewing_sheet import LINES, SMALLEST_TILE, SheetPlan, compose, plan_sheet

SHAPES = st.lists(st.tuples(st.integers(10, 3000), st.integers(10, 3000)), min_size=2, max_size=60)


def tiles(shapes, plan):
    text = caption_height(LINES, font_size((plan.side,)))
    for number, (height, width) in enumerate(shapes):
        high = max(1, round(plan.side * height / max(height, width)))
        yield Picture(key=str(number), source="", pixels=np.zeros((high + text, plan.side, 3), np.uint8))


@given(SHAPES, st.sampled_from([1024, 2048, 4096]))
@settings(max_examples=25)
def test_sheet_is_never_larger_than_asked_for(shapes, size):
    plan = plan_sheet(shapes, size)
    pixels, _ = compose(list(tiles(shapes, plan)), plan)
    assert max(pixels.shape) <= size
    assert plan.side >= SMALLEST_TILE


def test_pictures_are_as_large_as_they_can_be():
    assert plan_sheet([(100, 100)] * 4, 2048).columns == 2
    wide = plan_sheet([(100, 1000)] * 4, 2048)
    assert wide == SheetPlan(columns=1, side=2048 - 2 * GAP)
    alone = plan_sheet([(100, 100)] * 12, 2048)
    assert (alone.columns, alone.side > 400) == (4, True)


def test_sheet_of_many_images_grows_up_to_the_largest():
    assert plan_sheet([(100, 100)] * 601, None).side >= SMALLEST_TILE
    with pytest.raises(UsageError, match=r"9000 images do not fit on a sheet of 4096 pixels \(name a folder, -o DIR/"):
        plan_sheet([(100, 100)] * 9000, None)
    with pytest.raises(UsageError, match="or give a larger --size"):
        plan_sheet([(100, 100)] * 100, 256)


def test_history_of_a_sheet_depends_on_every_picture():
    def sheet(verb):
        pictures = [
            Picture(key=key, source="", pixels=np.zeros((3, 64, 3), np.uint8), history=(Record(verb=verb),))
            for key in "ab"
        ]
        return compose(pictures, SheetPlan(columns=2, side=64))[1]

    assert sheet("view") == sheet("view")
    assert sheet("view") != sheet("other")
