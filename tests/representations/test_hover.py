"""Distances: loss by hand, warped crops, decode of perfect, noisy and broken maps."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from cellkit.data.examples import compact_fields
from cellkit.data.warp import Affine, warp
from cellkit.errors import UsageError
from cellkit.metrics import score
from cellkit.ops.hover_maps import hover_maps
from cellkit.ops.labelling import relabel_in_raster_order
from cellkit.representations.hover import HOVER, HOVER_SCALE, HoverSettings, decode, distances, loss, targets


def perfect_maps(labels: np.ndarray, kind: type = np.float16) -> np.ndarray:
    """What a perfect network would put out."""
    return np.concatenate([HOVER_SCALE * hover_maps(labels), 12.0 * (labels != 0)[None] - 6]).astype(kind)


def test_loss_by_hand():
    wanted = torch.from_numpy(targets(np.array([[7, 7, 7], [0, 0, 0]])))[None]
    outputs = torch.zeros(1, 3, 2, 3)
    outputs[0, 1, 0, 2] = 4.0
    terms = loss(outputs, wanted)
    assert terms["distance"].item() == pytest.approx(0.5 * (5**2 + (5 - 4) ** 2) / 12)
    assert terms["cell"].item() == pytest.approx(np.log(2))


def test_loss_of_perfect_outputs_is_nothing(crowded_field):
    outputs = torch.from_numpy(perfect_maps(crowded_field, np.float32))[None]
    outputs[:, 2] *= 20
    assert sum(loss(outputs, torch.from_numpy(targets(crowded_field))[None]).values()).item() < 1e-30


def test_distances_of_a_batch_are_those_of_its_crops(two_touching_cells):
    labels = torch.from_numpy(np.stack([two_touching_cells, two_touching_cells[::-1].copy()]))
    both = distances(labels)
    for crop, maps in zip(labels, both, strict=True):
        assert np.array_equal(maps[:2].numpy(), hover_maps(crop.numpy()))
        assert torch.equal(maps[2] > 0, crop > 0)


def test_crop_that_was_turned_learns_the_distances_of_the_turned_cells(two_touching_cells):
    fields = torch.from_numpy(compact_fields(targets(two_touching_cells), HOVER.vectors))
    assert fields.dtype == torch.int8, "labels are exact"
    quarter = Affine(matrix=(0.0, -1.0, 1.0, 0.0), centre=(31.5, 39.5), crop=64)
    _, warped = warp(torch.zeros(1, 64, 80), fields, HOVER.vectors, quarter)
    turned = np.rot90(two_touching_cells[:, 8:72], -1)
    if not np.array_equal(warped[0] > 0, turned > 0):
        turned = np.rot90(two_touching_cells[:, 8:72])
    assert np.array_equal(warped[0] > 0, turned > 0)
    outputs = torch.from_numpy(perfect_maps(np.ascontiguousarray(turned), np.float32))[None]
    assert loss(outputs, warped[None])["distance"].item() == 0


def test_cell_that_is_mirrored_beyond_the_border_is_two_cells():
    labels = np.zeros((20, 20), np.int32)
    labels[4:8, 5:15] = 3
    fields = torch.from_numpy(targets(labels))
    above = Affine(matrix=(1.0, 0.0, 0.0, 1.0), centre=(0.0, 9.5), crop=20)
    _, warped = warp(torch.zeros(1, 20, 20), fields, (), above)
    numbers = (warped[0] > 0).numpy().astype(np.int32)
    numbers[:9] *= 2
    assert set(np.unique(numbers)) == {0, 1, 2}
    outputs = torch.from_numpy(perfect_maps(numbers, np.float32))[None]
    assert loss(outputs, warped[None])["distance"].item() == 0


def test_more_cells_than_half_precision_can_count():
    labels = np.zeros((200, 200), np.int32)
    labels[::2, ::2] = np.arange(10_000).reshape(100, 100) + 1
    labels[1::2] = labels[::2]
    wanted = distances(torch.from_numpy(labels)[None])
    maps = perfect_maps(labels, np.float32)
    fields = torch.from_numpy(compact_fields(targets(labels), ())).float()[None]
    assert np.array_equal(wanted[0, :2].numpy(), maps[:2] / HOVER_SCALE)
    assert loss(torch.from_numpy(maps)[None], fields)["distance"].item() == 0


@pytest.mark.parametrize("situation", ["two_touching_cells", "cell_on_border", "crowded_field"])
def test_perfect_maps_give_the_cells_again(situation, request):
    labels = request.getfixturevalue(situation)
    cells = decode(perfect_maps(labels), HoverSettings())
    assert score(labels, cells.labels).values["ap_dsb@0.9"] == 1
    assert np.array_equal(cells.labels > 0, labels > 0)
    assert np.allclose(cells.scores, 1 / (1 + np.exp(-6)), atol=1e-4)


def test_axes_the_wrong_way_round_do_not(data):
    """What HoVer of the published code does, and why its baseline is weak."""
    path = sorted((data / "dsb2018" / "labels").glob("*.png"))[100]
    labels = imageio.imread(path).astype(np.int32)[:400, :400]
    maps = perfect_maps(labels)
    right, wrong = (len(decode(m, HoverSettings(min_area=0))) for m in (maps, maps[[1, 0, 2]]))
    assert abs(wrong - labels.max()) > abs(right - labels.max())


def test_real_cells_come_back(data):
    values = []
    for path in sorted((data / "dsb2018" / "labels").glob("*.png"))[::50]:
        labels = imageio.imread(path).astype(np.int32)[:400, :400]
        found = score(labels, decode(perfect_maps(labels), HoverSettings(min_area=0)).labels).values
        values.append([found[f"ap_dsb@{threshold}"] for threshold in (0.5, 0.75, 0.9)])
    assert (np.median(values, axis=0) == 1).all()
    assert (np.mean(values, axis=0) >= [0.995, 0.99, 0.985]).all()


def test_relabelling_changes_nothing(crowded_field):
    renumbered = np.where(crowded_field, 9000 - 71 * crowded_field, 0).astype(np.int32)
    outputs = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    one, other = (loss(outputs, torch.from_numpy(targets(x))[None]) for x in (crowded_field, renumbered))
    assert one == other


def test_empty_and_broken_maps(empty_field, two_touching_cells):
    assert len(decode(perfect_maps(empty_field), HoverSettings())) == 0
    maps = perfect_maps(two_touching_cells)
    maps[0, 30, 20:22] = np.nan
    maps[1, 31, 20:22] = np.inf
    maps[2, 32, 26] = np.inf
    maps[2, 1, 1] = np.nan
    cells = decode(maps, HoverSettings())
    assert len(cells) == 2
    assert np.isfinite(cells.scores).all()


def test_half_and_single_precision_agree(crowded_field):
    half, single = (decode(perfect_maps(crowded_field, kind), HoverSettings()) for kind in (np.float16, np.float32))
    assert (half.labels != single.labels).mean() < 0.001


def test_seeds_below_the_threshold_of_edges(two_touching_cells):
    maps = perfect_maps(two_touching_cells)
    assert len(decode(maps, HoverSettings())) == 2
    assert len(decode(maps, HoverSettings(edge_threshold=5.0))) == 1
    assert len(decode(maps, HoverSettings(seed_area=10_000))) == 1
    order, _ = relabel_in_raster_order(two_touching_cells)
    assert len(np.unique(decode(maps, HoverSettings()).labels[order == 1])) <= 2


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"edge_threshold": 0.0}, "edge_threshold: cannot be 0.0 (give a number above 0)"),
        ({"smoothing": -1.0}, "smoothing: cannot be -1.0 (give a number of pixels above 0)"),
        ({"seed_area": -1}, "seed_area: cannot be -1 (give a whole number of pixels from 0 on)"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changed, text):
    with pytest.raises(UsageError) as caught:
        HoverSettings(**changed).check()
    assert str(caught.value) == text
