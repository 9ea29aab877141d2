"""Masks: loss by hand, pieces, thresholds."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from scipy import ndimage

from cellkit.errors import UsageError
from cellkit.metrics import score
from cellkit.ops.labelling import relabel_in_raster_order
from cellkit.representations.mask import MaskSettings, decode, loss, targets


def perfect_maps(labels: np.ndarray, kind: type = np.float16) -> np.ndarray:
    """What a perfect network would put out."""
    mask = labels != 0
    return np.stack([6 - 12 * mask, 12 * mask - 6]).astype(kind)


def apart(labels: np.ndarray) -> np.ndarray:
    """Only the cells that touch no other."""
    pieces, count = ndimage.label(labels != 0, np.ones((3, 3)))
    table = np.unique(np.stack([pieces[labels != 0], labels[labels != 0]]), axis=1)
    alone = np.bincount(table[0], minlength=count + 1) == 1
    whole = np.bincount(table[1], minlength=labels.max() + 1) == 1
    return np.where(alone[pieces] & whole[labels], labels, 0)


def test_loss_by_hand():
    outputs = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])
    terms = loss(outputs, torch.tensor([[[[0.0, 1.0]]]]))
    expected = (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(-1))) / 2
    assert terms["cell"].item() == pytest.approx(expected, rel=1e-6)


def test_loss_of_perfect_outputs_is_nothing(crowded_field):
    outputs = torch.from_numpy(perfect_maps(crowded_field, np.float32) * 20)[None]
    assert loss(outputs, torch.from_numpy(targets(crowded_field))[None])["cell"].item() < 1e-30


def test_cells_that_do_not_touch_come_back(cell_on_border):
    cells = decode(perfect_maps(cell_on_border), MaskSettings())
    assert np.array_equal(cells.labels, relabel_in_raster_order(cell_on_border)[0])
    assert cells.labels.dtype == np.int32
    assert np.allclose(cells.scores, 1 / (1 + np.exp(-12)), atol=1e-4)


def test_cells_that_touch_become_one(two_touching_cells):
    assert len(decode(perfect_maps(two_touching_cells), MaskSettings())) == 1


def test_real_cells_that_stand_apart_come_back(data):
    for path in sorted((data / "dsb2018" / "labels").glob("*.png"))[::60]:
        labels = apart(imageio.imread(path).astype(np.int32)[:400, :400])
        cells = decode(perfect_maps(labels), MaskSettings(min_area=0, fill_holes=False))
        assert score(labels, cells.labels).values["ap_dsb@0.9"] == 1, path.name


def test_empty_maps_have_no_cells(empty_field):
    cells = decode(perfect_maps(empty_field), MaskSettings())
    assert cells.labels.shape == empty_field.shape
    assert len(cells) == cells.labels.max() == 0


def test_threshold_is_a_difference_of_logits(cell_on_border):
    maps = perfect_maps(cell_on_border)
    maps[:, cell_on_border == 2] = [[3.0], [4.0]]
    assert len(decode(maps, MaskSettings(cell_threshold=0.9))) == 2
    assert len(decode(maps, MaskSettings(cell_threshold=1.0))) == 1
    assert decode(maps, MaskSettings()).scores[1] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-3)


def test_numbers_that_are_none_do_no_harm(cell_on_border):
    maps = perfect_maps(cell_on_border)
    maps[:, 30, 30] = np.inf
    maps[0, 31, 30:33] = np.nan
    maps[1, 1, 1] = np.nan
    cells = decode(maps, MaskSettings())
    assert len(cells) == 2
    assert np.isfinite(cells.scores).all()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"cell_threshold": float("inf")}, "cell_threshold: cannot be inf (give a finite number, a logit)"),
        ({"min_area": 1.5}, "min_area: cannot be 1.5 (give a whole number of pixels from 0 on)"),
        (
            {"max_fraction": 2},
            "max_fraction: cannot be 2 (give a fraction of the image above 0 and up to 1 (keep all))",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changed, text):
    with pytest.raises(UsageError) as caught:
        MaskSettings(**changed).check()
    assert str(caught.value) == text
