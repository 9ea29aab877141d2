"""Flows: loss by hand, decode of perfect, broken and empty maps, agreement with cellpose 3.1."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from cellkit.errors import UsageError
from cellkit.metrics import score
from cellkit.ops.diffusion import flows_from_labels
from cellkit.ops.labelling import relabel_in_raster_order
from cellkit.overlap import ordered_map
from cellkit.representations.flow import FLOW_SCALE, PIECE, FlowSettings, decode, loss, targets

GOLDEN = Path(__file__).parent.parent / "golden" / "cellpose_flows.npz"
IMAGES = ["094afe36759e7daf", "4217e25defac94ff", "4d09672bcf5a2661", "d910b2b1be8406ca"]
FLOW_STEPS, MAP_STEPS = 100, 16  # of the golden integers


def perfect_maps(labels: np.ndarray, kind: type = np.float16) -> np.ndarray:
    """What a perfect network would put out."""
    maps = targets(labels)
    return np.concatenate([FLOW_SCALE * maps[:2], 12 * maps[2:] - 6]).astype(kind)


@pytest.fixture
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def test_targets_hold_unit_flows_and_the_mask(two_touching_cells):
    maps = targets(two_touching_cells)
    assert np.array_equal(maps[2], two_touching_cells > 0)
    assert np.array_equal(maps[:2], flows_from_labels(two_touching_cells))


def test_loss_by_hand():
    outputs = torch.zeros(1, 3, 1, 2)
    outputs[0, 0, 0, 0] = 1.0
    wanted = torch.zeros(1, 3, 1, 2)
    wanted[0, :, 0, 0] = torch.tensor([1.0, 0.0, 1.0])
    terms = loss(outputs, wanted)
    assert terms["flow"].item() == pytest.approx(0.5 * (5 - 1) ** 2 / 4)
    assert terms["cell"].item() == pytest.approx(np.log(2))


def test_loss_of_perfect_outputs_is_nothing(crowded_field):
    wanted = torch.from_numpy(targets(crowded_field))[None]
    outputs = torch.cat([FLOW_SCALE * wanted[:, :2], 200 * wanted[:, 2:] - 100], 1)
    assert sum(loss(outputs, wanted).values()).item() < 1e-30


@pytest.mark.parametrize("situation", ["two_touching_cells", "cell_on_border", "crowded_field"])
def test_perfect_maps_give_the_cells_again(situation, request):
    labels = request.getfixturevalue(situation)
    cells = decode(perfect_maps(labels), FlowSettings())
    assert np.array_equal(cells.labels, relabel_in_raster_order(labels)[0])
    assert cells.labels.dtype == np.int32
    assert np.allclose(cells.scores, 1 / (1 + np.exp(-6)), atol=1e-4)


def test_real_cells_come_back(data):
    paths = sorted((data / "dsb2018" / "labels").glob("*.png"))[:120:10]
    values = []
    for path in paths:
        labels = imageio.imread(path).astype(np.int32)[:400, :400]
        values.append(score(labels, decode(perfect_maps(labels), FlowSettings(min_area=0)).labels).values["ap_dsb@0.9"])
    assert np.mean(values) >= 0.98


def test_empty_maps_have_no_cells(empty_field):
    cells = decode(perfect_maps(empty_field), FlowSettings())
    assert cells.labels.shape == empty_field.shape
    assert not cells.labels.any()
    assert len(cells) == 0


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 40), (40, 1)])
def test_tiny_maps(shape):
    cells = decode(perfect_maps(np.ones(shape, np.int32)), FlowSettings(min_area=0))
    assert cells.labels.shape == shape
    assert cells.labels.max() == len(cells.scores) <= 1


def test_half_and_single_precision_agree(crowded_field):
    maps = perfect_maps(crowded_field)
    half, single = (decode(maps.astype(kind), FlowSettings()) for kind in (np.float16, np.float32))
    assert np.array_equal(half.labels, single.labels)
    assert np.array_equal(half.scores, single.scores)


def test_maps_are_left_as_they_are(crowded_field):
    maps = perfect_maps(crowded_field, np.float32)
    before = maps.copy()
    decode(maps, FlowSettings())
    assert np.array_equal(maps, before)


def test_numbers_that_are_none_do_no_harm(two_touching_cells):
    maps = perfect_maps(two_touching_cells)
    maps[0, 30, 20:24] = np.nan
    maps[1, 31, 20:24] = np.inf
    maps[2, 40, 20:24] = np.nan
    maps[2, 32, 26] = np.inf
    cells = decode(maps, FlowSettings())
    assert len(cells) == 2
    assert np.isfinite(cells.scores).all()


def test_score_of_a_cell_of_many_pixels_is_its_mean_probability():
    labels = np.ones((150, 160), np.int32)
    maps = targets(labels)
    maps[2] = np.random.default_rng(0).normal(1, 0.2, labels.shape)
    maps[:2] *= FLOW_SCALE
    (score,) = decode(maps, FlowSettings(flow_threshold=0)).scores
    assert maps[2].size > PIECE
    assert maps[2].min() > 0
    assert score == pytest.approx((1 / (1 + np.exp(-maps[2].astype(float)))).mean(), abs=1e-6)


def test_threads_give_what_one_gives(crowded_field, two_touching_cells):
    fields = [crowded_field, two_touching_cells] * 6
    maps = [perfect_maps(labels) for labels in fields]
    for cells, labels in zip(ordered_map(lambda m: decode(m, FlowSettings()), maps, 4), fields, strict=True):
        assert np.array_equal(cells.labels, relabel_in_raster_order(labels)[0])


def test_threshold_of_cells_is_a_logit(two_touching_cells):
    maps = perfect_maps(two_touching_cells)
    maps[2, two_touching_cells == 2] = 1.0
    assert len(decode(maps, FlowSettings(cell_threshold=0.9))) == 2
    assert len(decode(maps, FlowSettings(cell_threshold=1.0))) == 1
    assert decode(maps, FlowSettings()).scores[1] == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-3)


def test_cell_whose_flow_disagrees_is_dropped(two_touching_cells):
    maps = perfect_maps(two_touching_cells)
    second = two_touching_cells == 2
    maps[:2, second] *= 0.2  # half as long as a fifth: squared error 0.64
    assert len(decode(maps, FlowSettings())) == 1
    assert len(decode(maps, FlowSettings(flow_threshold=0))) == 2
    assert len(decode(maps, FlowSettings(flow_threshold=0.7))) == 2


def test_hole_is_filled_unless_told_otherwise(two_touching_cells):
    maps = perfect_maps(two_touching_cells)
    maps[2, 32, 26] = -3
    assert decode(maps, FlowSettings()).labels[32, 26] == 1
    assert decode(maps, FlowSettings(fill_holes=False)).labels[32, 26] == 0


def test_small_large_and_border_cells_can_be_dropped(cell_on_border):
    maps = perfect_maps(cell_on_border)
    large, small = sorted(np.bincount(cell_on_border.ravel())[1:].tolist(), reverse=True)
    assert large > small
    assert len(decode(maps, FlowSettings(min_area=small))) == 2
    assert len(decode(maps, FlowSettings(min_area=small + 1))) == 1
    assert len(decode(maps, FlowSettings(max_fraction=(large - 1) / cell_on_border.size))) == 1
    inside = decode(maps, FlowSettings(exclude_border=True))
    assert np.array_equal(inside.labels > 0, cell_on_border == 2)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"cell_threshold": float("nan")}, "cell_threshold: cannot be nan (give a finite number, a logit)"),
        ({"flow_threshold": -0.1}, "flow_threshold: cannot be -0.1 (give a number from 0 (keep all) on)"),
        ({"steps": 0}, "steps: cannot be 0 (give a whole number from 1 on)"),
        ({"steps": 2.5}, "steps: cannot be 2.5 (give a whole number from 1 on)"),
        ({"min_area": -1}, "min_area: cannot be -1 (give a whole number of pixels from 0 on)"),
        (
            {"max_fraction": 0.0},
            "max_fraction: cannot be 0.0 (give a fraction of the image above 0 and up to 1 (keep all))",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changed, text):
    with pytest.raises(UsageError) as caught:
        FlowSettings(**changed).check()
    assert str(caught.value) == text


@pytest.mark.parametrize("name", IMAGES)
def test_flows_agree_with_cellpose(name, golden):
    theirs = golden[f"{name}_flows"] / FLOW_STEPS
    ours = flows_from_labels(golden[f"{name}_labels"])
    both = (np.hypot(*theirs) > 0.5) & (np.hypot(*ours) > 0.5)
    assert both.sum() > 0.98 * (golden[f"{name}_labels"] > 0).sum()
    cosine = (theirs * ours).sum(0)[both]
    assert cosine.mean() > 0.985
    assert np.quantile(cosine, 0.05) > 0.9


@pytest.mark.parametrize("name", IMAGES)
def test_cells_agree_with_cellpose(name, golden):
    maps = (golden[f"{name}_maps"] / MAP_STEPS).astype(np.float16)
    cells = decode(maps, FlowSettings())
    assert score(golden[f"{name}_masks"].astype(np.int32), cells.labels).values["ap_dsb@0.9"] >= 0.98


def test_largest_cell_of_a_plane_is_the_largest_in_its_windows():
    settings = FlowSettings(max_fraction=0.1, min_area=3)
    assert settings.for_window((50, 40), (100, 100)) == FlowSettings(max_fraction=0.5, min_area=3)
    assert settings.for_window((10, 10), (100, 100)).max_fraction == 1


def test_targets_of_sparse_labels(two_touching_cells):
    sparse = np.where(two_touching_cells == 2, -1, two_touching_cells)
    maps = targets(sparse)
    assert np.array_equal(maps[2], np.sign(sparse))
    assert np.array_equal(maps[:2], flows_from_labels(np.where(two_touching_cells == 1, 1, 0)))


def test_loss_of_sparse_targets_by_hand():
    outputs = torch.zeros(1, 3, 1, 3)
    outputs[0, 0, 0, 0] = 1.0
    outputs[0, :, 0, 2] = 7.0
    wanted = torch.zeros(1, 3, 1, 3)
    wanted[0, :, 0, 0] = torch.tensor([1.0, 0.0, 1.0])
    wanted[0, 2, 0, 2] = -1.0
    terms = loss(outputs, wanted)
    assert terms["flow"].item() == pytest.approx(0.5 * (5 - 1) ** 2 / 4)
    assert terms["cell"].item() == pytest.approx(np.log(2))
