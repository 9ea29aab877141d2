"""Borders: classes against a distance transform, loss by hand, decode of perfect and odd maps."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from cellkit.data.diameter import diameter_of
from cellkit.errors import UsageError
from cellkit.metrics import score
from cellkit.ops.labelling import relabel_in_raster_order, resize_labels
from cellkit.representations.border import BorderSettings, border_classes, decode, loss, targets


def classes_of(labels: np.ndarray) -> np.ndarray:
    return border_classes(torch.from_numpy(labels)[None])[0].numpy()


def perfect_maps(labels: np.ndarray, kind: type = np.float16) -> np.ndarray:
    """What a perfect network would put out."""
    return np.stack([12 * (classes_of(labels) == c) - 6 for c in range(3)]).astype(kind)


def slow_classes(labels: np.ndarray) -> np.ndarray:
    """Cell by cell: distance to what is not of the cell."""
    classes = (labels != 0).astype(int)
    for cell in set(labels[labels > 0].tolist()):
        own = np.pad(labels == cell, 3, mode="edge")
        if not own.all():
            classes[(labels == cell) & (distance_transform_edt(own)[3:-3, 3:-3] <= 2)] = 2
    return classes


@pytest.mark.parametrize("situation", ["two_touching_cells", "cell_on_border", "crowded_field", "empty_field"])
def test_border_is_within_two_pixels_of_what_is_not_of_the_cell(situation, request):
    labels = request.getfixturevalue(situation)
    assert np.array_equal(classes_of(labels), slow_classes(labels))


def test_cut_cell_has_no_border_along_the_edge(cell_on_border):
    assert classes_of(cell_on_border)[0, 20] == 1


def test_crops_of_a_batch_do_not_meet(two_touching_cells):
    labels = torch.from_numpy(np.stack([two_touching_cells, np.zeros_like(two_touching_cells)]))
    both = border_classes(labels)
    assert torch.equal(both[0], border_classes(labels[:1])[0])
    assert not both[1].any()


def test_loss_by_hand():
    wanted = torch.from_numpy(targets(np.ones((1, 2), np.int32)))[None]  # a cell cut on all sides: class 1
    outputs = torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]], [[0.0, 0.0]]]])
    expected = (np.log(2 + np.exp(2)) - 2 + np.log(2 + np.exp(1))) / 2
    assert loss(outputs, wanted)["class"].item() == pytest.approx(expected, rel=1e-6)


def test_loss_of_perfect_outputs_is_nothing(crowded_field):
    outputs = torch.from_numpy(perfect_maps(crowded_field, np.float32) * 20)[None]
    assert loss(outputs, torch.from_numpy(targets(crowded_field))[None])["class"].item() < 1e-30


@pytest.mark.parametrize("situation", ["two_touching_cells", "cell_on_border", "crowded_field"])
def test_perfect_maps_give_the_cells_again(situation, request):
    labels = request.getfixturevalue(situation)
    cells = decode(perfect_maps(labels), BorderSettings())
    assert score(labels, cells.labels).values["ap_dsb@0.75"] == 1
    assert np.array_equal(cells.labels > 0, labels > 0)


def test_cells_that_touch_are_cut_where_they_touch(two_touching_cells):
    cells = decode(perfect_maps(two_touching_cells), BorderSettings())
    assert (cells.labels != relabel_in_raster_order(two_touching_cells)[0]).mean() < 0.005


def test_real_cells_come_back(data):
    """At the diameter of 30 pixels at which models work."""
    values = []
    for path in sorted((data / "dsb2018" / "labels").glob("*.png"))[::50]:
        labels = imageio.imread(path).astype(np.int32)[:400, :400]
        labels = resize_labels(labels, tuple(round(side * 30 / diameter_of(labels)) for side in labels.shape))
        found = score(labels, decode(perfect_maps(labels), BorderSettings(min_area=0)).labels).values
        values.append([found[f"ap_dsb@{threshold}"] for threshold in (0.5, 0.75, 0.9)])
    assert (np.median(values, axis=0) == 1).all()
    assert (np.mean(values, axis=0) >= [0.99, 0.985, 0.98]).all()


def test_thin_cell_without_inner_part_is_found(empty_field):
    labels = empty_field.copy()
    labels[5:9, 5:30] = 1
    assert set(np.unique(classes_of(labels))) == {0, 2}
    labels[20:36, 10:26] = 2
    cells = decode(perfect_maps(labels), BorderSettings())
    assert np.array_equal(cells.labels, labels)


def test_relabelling_changes_nothing(crowded_field):
    renumbered = np.where(crowded_field, 9000 - 71 * crowded_field, 0).astype(np.int32)
    assert np.array_equal(perfect_maps(crowded_field), perfect_maps(renumbered))
    outputs = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    one, other = (loss(outputs, torch.from_numpy(targets(x))[None])["class"] for x in (crowded_field, renumbered))
    assert one == other


def test_same_number_added_to_all_logits_changes_nothing(crowded_field):
    maps = perfect_maps(crowded_field, np.float32)
    one, other = decode(maps, BorderSettings()), decode(maps + 3, BorderSettings())
    assert np.array_equal(one.labels, other.labels)
    assert np.allclose(one.scores, other.scores)


def test_border_threshold_moves_the_outline(two_touching_cells):
    maps = perfect_maps(two_touching_cells)
    border = classes_of(two_touching_cells) == 2
    maps[0, border], maps[2, border] = 0.0, 1.0
    assert np.array_equal(decode(maps, BorderSettings(border_threshold=0.5)).labels > 0, two_touching_cells > 0)
    assert not decode(maps, BorderSettings(border_threshold=1.5)).labels[border].any()


def test_empty_and_broken_maps(empty_field, two_touching_cells):
    assert len(decode(perfect_maps(empty_field), BorderSettings())) == 0
    maps = perfect_maps(two_touching_cells)
    maps[0, 30, 20:24] = np.nan
    maps[1, 31, 20:24] = np.inf
    maps[:, 1, 1] = np.inf
    cells = decode(maps, BorderSettings())
    assert len(cells) == 2
    assert np.isfinite(cells.scores).all()


def test_spur_with_a_seed_of_its_own_stays_with_its_cell(empty_field):
    labels = empty_field.copy()
    labels[10:30, 5:25] = 1
    labels[18:21, 25:32] = 1
    labels[17:22, 32:37] = 1  # one inner pixel
    maps = perfect_maps(labels)
    assert len(decode(maps, BorderSettings(min_area=0))) == 1
    assert len(decode(maps, BorderSettings(min_area=0, seed_area=0))) == 2


def test_threshold_that_cannot_be_meant_is_refused():
    with pytest.raises(UsageError) as caught:
        BorderSettings(border_threshold=float("nan")).check()
    assert str(caught.value) == "border_threshold: cannot be nan (give a finite number, a logit)"
