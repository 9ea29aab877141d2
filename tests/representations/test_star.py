"""Stars: loss by hand, warped crops, decode of perfect and broken maps, settings."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from scipy.special import logit

from cellkit.data.examples import compact_fields
from cellkit.data.warp import Affine, warp
from cellkit.errors import UsageError
from cellkit.metrics import score
from cellkit.ops.polygons import RAYS
from cellkit.representations.star import STAR, StarSettings, decode, loss, stars, targets


def perfect_maps(labels: np.ndarray, kind: type = np.float16) -> np.ndarray:
    """What a perfect network would put out."""
    maps = stars(torch.from_numpy(labels.astype(np.int32))[None])[0].numpy()
    maps[RAYS] = logit(maps[RAYS].clip(0.001, 0.999))
    return maps.astype(kind)


def test_loss_by_hand():
    labels = np.array([[0, 7, 7, 0], [0, 0, 0, -1]])
    wanted = stars(torch.from_numpy(labels)[None])[0].numpy()
    outputs = np.full((33, 2, 4), 0.5, np.float32)
    error = [np.abs(outputs[:RAYS, y, x] - wanted[:RAYS, y, x]).mean() for y, x in [(0, 1), (0, 2)]]
    background = 5 * 0.5 / 8  # five pixels of eight are known to be background
    terms = loss(torch.from_numpy(outputs)[None], torch.from_numpy(targets(labels))[None])
    assert terms["distance"].item() == pytest.approx(0.2 * (np.mean(error) + 1e-4 * background), rel=1e-5)
    each = [np.log1p(np.exp(0.5)) - 0.5] * 2 + [np.log1p(np.exp(0.5))] * 5
    assert terms["cell"].item() == pytest.approx(np.mean(each), rel=1e-5)


def test_unknown_pixels_teach_nothing(two_touching_cells):
    labels = two_touching_cells.copy()
    labels[:, :45] = -1
    wanted = torch.from_numpy(compact_fields(targets(labels), ())).float()[None]
    outputs = torch.randn(1, 33, 64, 80, requires_grad=True)
    sum(loss(outputs, wanted).values()).backward()
    assert not outputs.grad[..., :45].any()
    assert outputs.grad[:, :, :, 45:].any(1).all()
    nothing = loss(outputs, torch.full_like(wanted, 0) - torch.tensor([1.0, 0, 0])[:, None, None])
    assert [term.item() for term in nothing.values()] == [0, 0]


def test_crop_that_was_turned_learns_the_stars_of_the_turned_cells(two_touching_cells):
    fields = torch.from_numpy(compact_fields(targets(two_touching_cells), STAR.vectors))
    assert fields.dtype == torch.int8, "labels are exact"
    quarter = Affine(matrix=(0.0, -1.0, 1.0, 0.0), centre=(31.5, 39.5), crop=64)
    _, warped = warp(torch.zeros(1, 64, 80), fields, STAR.vectors, quarter)
    turned = np.ascontiguousarray(np.rot90(two_touching_cells[:, 8:72], -1))
    if not np.array_equal(warped[0] > 0, turned > 0):
        turned = np.ascontiguousarray(np.rot90(two_touching_cells[:, 8:72]))
    assert np.array_equal(warped[0] > 0, turned > 0)
    outputs = torch.from_numpy(perfect_maps(turned, np.float32))[None] * (torch.from_numpy(turned) > 0)
    assert loss(outputs, warped[None])["distance"].item() < 1e-4


@pytest.mark.parametrize("situation", ["two_touching_cells", "cell_on_border", "crowded_field"])
def test_perfect_maps_give_the_cells_again(situation, request):
    labels = request.getfixturevalue(situation)
    cells = decode(perfect_maps(labels), StarSettings())
    assert score(labels, cells.labels).values["ap_dsb@0.8"] == 1
    assert np.allclose(cells.scores, 0.999, atol=1e-3)
    assert len(cells.scores) == cells.labels.max()


def test_perfect_maps_of_real_cells(data):
    for path in sorted((data / "dsb2018" / "labels").glob("*.png"))[:3]:
        labels = imageio.imread(path)[:256, :256].astype(np.int32)
        assert score(labels, decode(perfect_maps(labels), StarSettings(min_area=0)).labels).values["ap_dsb@0.5"] > 0.98


def test_score_is_that_of_the_pixel_that_proposed(two_touching_cells):
    maps = perfect_maps(two_touching_cells, np.float32)
    maps[RAYS][two_touching_cells == 1] -= logit(0.999) - logit(0.8)
    assert decode(maps, StarSettings()).scores == pytest.approx([0.8, 0.999], abs=1e-3)


def test_outlines_are_those_of_the_cells(crowded_field):
    cells = decode(perfect_maps(crowded_field, np.float32), StarSettings(min_area=80))
    assert cells.outlines.shape == (len(cells), RAYS, 2)
    for label, corners in enumerate(cells.outlines, 1):
        middle = np.argwhere(cells.labels == label).mean(0)
        assert np.hypot(*(corners.mean(0) - middle)) < 1
    assert decode(np.zeros((33, 9, 9)), StarSettings()).outlines is None


def test_empty_and_broken_maps_give_no_cells(empty_field):
    maps = perfect_maps(empty_field)
    assert len(decode(maps, StarSettings())) == 0
    assert len(decode(np.full_like(maps, np.nan), StarSettings())) == 0
    maps[RAYS, 20, 20] = 9
    maps[:RAYS, 20, 20] = np.inf
    assert decode(maps, StarSettings()).labels.all(), "a polygon larger than the image covers it"
    assert len(decode(maps, StarSettings(margin=30))) == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (StarSettings(overlap=1.5), "overlap cannot be 1.5; give a fraction of the smaller cell from 0 to 1"),
        (StarSettings(margin=-1), "margin cannot be -1; give a whole number of pixels from 0 on"),
        (StarSettings(min_area=-1), "min_area cannot be -1; give a whole number of pixels from 0 on"),
    ],
)
def test_settings_that_cannot_be_meant(settings, text):
    with pytest.raises(UsageError) as error:
        settings.check()
    assert text.split(";")[1].strip() in str(error.value)
    assert text.split(";")[0].split()[0] in str(error.value)
