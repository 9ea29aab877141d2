"""Objects that overlap become cells of a label image; expected pixels are painted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.errors import UsageError
from cellkit.ops.detections import Detections
from cellkit.ops.run_lengths import MaskRuns, runs_of_labels
from cellkit.representations.boxes import BoxesSettings, flatten

SHAPE = (24, 40)


def disc(y, x, radius):
    rows, columns = np.indices(SHAPE)
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def detections(*found):
    """Of (mask, score), best first."""
    runs = [runs_of_labels(mask.astype(np.int32))[1] for mask, _ in found]
    owners = [np.full(len(own.starts), number) for number, own in enumerate(runs)]
    whole = {name: np.concatenate([getattr(own, name) for own in runs] or [[]]) for name in ("starts", "lengths")}
    masks = MaskRuns(owners=np.concatenate(owners or [[]]).astype(int), **{n: v.astype(int) for n, v in whole.items()})
    return Detections(
        shape=SHAPE,
        boxes=np.zeros((len(found), 4), np.float32),
        scores=np.array([score for _, score in found], np.float32),
        categories=np.zeros(len(found), np.int32),
        masks=masks,
    )


def cells(*found, **settings):
    return flatten(detections(*found), BoxesSettings(**settings))


def test_the_better_one_is_on_top():
    better, worse = disc(12, 14, 8), disc(12, 24, 8)
    result = cells((better, 0.9), (worse, 0.8))
    expected = np.zeros(SHAPE, np.int32)
    for y, x in np.argwhere(worse):
        expected[y, x] = 2
    for y, x in np.argwhere(better):
        expected[y, x] = 1
    np.testing.assert_array_equal(result.labels, expected)
    assert result.scores.tolist() == pytest.approx([0.9, 0.8])


def test_numbers_go_from_top_to_bottom_whatever_the_scores():
    result = cells((disc(18, 10, 4), 0.9), (disc(5, 30, 4), 0.7))
    assert (result.labels[5, 30], result.labels[18, 10]) == (1, 2)
    assert result.scores.tolist() == pytest.approx([0.7, 0.9])


def test_a_cell_that_is_mostly_hidden_is_none():
    front, hidden, behind = disc(12, 15, 8), disc(12, 19, 7), disc(12, 28, 8)
    result = cells((front, 0.9), (hidden, 0.8), (behind, 0.7))
    assert result.scores.tolist() == pytest.approx([0.9, 0.7])
    assert result.labels[12, 24] == 2  # what the hidden one would have kept of it is free
    assert len(cells((front, 0.9), (hidden, 0.8), (behind, 0.7), least_visible=0.05)) == 3


def test_the_same_cell_twice_is_one():
    assert cells((disc(12, 15, 8), 0.9), (disc(12, 15, 8), 0.9)).scores.tolist() == pytest.approx([0.9])


def test_unsure_small_large_and_bordering_cells():
    found = (disc(12, 10, 6), 0.9), (disc(12, 26, 2), 0.8), (disc(12, 36, 6), 0.6), (disc(4, 20, 3), 0.4)
    assert cells(*found, min_area=0).scores.tolist() == pytest.approx([0.9, 0.6, 0.8])
    assert cells(*found).scores.tolist() == pytest.approx([0.9, 0.6])
    assert cells(*found, min_area=0, cell_score=0.0).scores.tolist() == pytest.approx([0.4, 0.9, 0.6, 0.8])
    assert cells(*found, exclude_border=True).scores.tolist() == pytest.approx([0.9])
    assert cells(*found, min_area=0, max_fraction=0.1).scores.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(("fill", "pixel"), [(True, 1), (False, 0)])
def test_holes(fill, pixel):
    ring = disc(12, 15, 8) & ~disc(12, 15, 3)
    assert cells((ring, 0.9), fill_holes=fill).labels[12, 15] == pixel


def test_an_empty_mask_is_no_cell_and_nothing_is_nothing():
    assert len(cells((disc(12, 15, 5), 0.9), (np.zeros(SHAPE, bool), 0.8), min_area=0)) == 1
    nothing = cells()
    assert (len(nothing), nothing.labels.shape, nothing.labels.any()) == (0, SHAPE, False)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cell_score": 1.5}, "cell_score: cannot be 1.5 (give a number from 0 to 1)"),
        ({"overlap": -0.1}, "overlap: cannot be -0.1 (give a number from 0 to 1)"),
        ({"most": 0}, "most: cannot be 0 (give a whole number of boxes from 1 on)"),
        ({"mask_threshold": 0.0}, "mask_threshold: cannot be 0.0 (give a probability above 0 and up to 1)"),
        ({"min_area": -1}, "min_area: cannot be -1 (give a whole number of pixels from 0 on)"),
    ],
)
def test_settings_that_cannot_be_meant(settings, text):
    with pytest.raises(UsageError) as error:
        BoxesSettings(**settings).check()
    assert str(error.value) == text


def test_settings_travel():
    settings = BoxesSettings(cell_score=0.25)
    settings.check()
    assert BoxesSettings.from_dict(settings.to_dict()) == settings
