"""Selection of cells, labels as digits, and that the command line and large maps work with each representation."""

from __future__ import annotations

import logging

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from cellkit.cli.app import main
from cellkit.cli.showing import SAMPLES
from cellkit.config import RepresentationSpec
from cellkit.io.checkpoints import load_checkpoint
from cellkit.io.label_image import whole
from cellkit.io.maps import Prediction
from cellkit.ops.hover_maps import hover_maps
from cellkit.ops.labelling import relabel_in_raster_order
from cellkit.ops.map_pictures import paint_maps, ramp
from cellkit.representations import REPRESENTATIONS
from cellkit.representations.border import border_classes
from cellkit.representations.mask_cells import CellSettings, digits_of, labels_from, selected
from cellkit.stages import large_maps, postprocessing

NAMES = ("mask", "border", "hover")


@settings(max_examples=30)
@given(arrays(np.int64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.sampled_from([0, 1, 300, 70000])))
def test_labels_come_back_from_their_digits_in_raster_order(labels):
    digits = digits_of(labels)
    assert digits.max() < 128
    assert np.array_equal(labels_from(torch.from_numpy(digits)[None])[0].numpy(), relabel_in_raster_order(labels)[0])


def test_digits_of_many_cells():
    labels = np.arange(1, 40_001, dtype=np.int32).reshape(200, 200)
    assert np.array_equal(labels_from(torch.from_numpy(digits_of(labels))[None])[0].numpy(), labels)


def test_small_large_and_border_cells_can_be_dropped(cell_on_border):
    ones = np.ones(cell_on_border.shape, np.float32)
    large, small = sorted(np.bincount(cell_on_border.ravel())[1:].tolist(), reverse=True)
    assert large > small
    assert len(selected(cell_on_border, ones, CellSettings(min_area=small))) == 2
    assert len(selected(cell_on_border, ones, CellSettings(min_area=small + 1))) == 1
    assert len(selected(cell_on_border, ones, CellSettings(max_fraction=(large - 1) / cell_on_border.size))) == 1
    inside = selected(cell_on_border, ones, CellSettings(exclude_border=True))
    assert np.array_equal(inside.labels > 0, cell_on_border == 2)


def test_hole_is_filled_unless_told_otherwise_and_scores_are_means(two_touching_cells):
    labels = two_touching_cells.copy()
    labels[32, 26] = 0
    probability = np.where(two_touching_cells == 1, 0.25, 0.75).astype(np.float32)
    kept = selected(labels, probability, CellSettings())
    assert kept.labels[32, 26] == 1
    assert kept.scores.tolist() == [0.25, 0.75]
    assert kept.scores.dtype == np.float32
    assert selected(labels, probability, CellSettings(fill_holes=False)).labels[32, 26] == 0


def test_largest_cell_of_a_plane_is_the_largest_in_its_windows():
    assert CellSettings(max_fraction=0.1).for_window((50, 40), (100, 100)).max_fraction == pytest.approx(0.5)
    assert CellSettings(max_fraction=0.1).for_window((10, 10), (100, 100)).max_fraction == 1


def perfect_maps(name: str, labels: np.ndarray) -> np.ndarray:
    if name == "hover":
        return np.concatenate([5 * hover_maps(labels), 12.0 * (labels != 0)[None] - 6]).astype(np.float16)
    classes = border_classes(torch.from_numpy(labels)[None])[0].numpy() if name == "border" else (labels != 0)
    count = REPRESENTATIONS[name].channels
    return np.stack([12.0 * (classes == c) - 6 for c in range(count)]).astype(np.float16)


@pytest.mark.parametrize("name", NAMES)
def test_large_maps_give_the_cells_of_the_whole(name, crowded_field, monkeypatch):
    monkeypatch.setattr(large_maps, "CORE", 48)
    monkeypatch.setattr(large_maps, "HALO", 40)
    monkeypatch.setattr(postprocessing, "is_large", lambda size: True)
    maps = perfect_maps(name, crowded_field)
    prediction = Prediction(
        key="a", maps=maps, representation=RepresentationSpec(name=name), source="a.tif", shape=(128, 128), scale=1.0
    )
    representation = REPRESENTATIONS[name]
    expected = representation.decode(maps, representation.settings())
    found = postprocessing.decode(prediction)
    assert np.array_equal(whole(found), expected.labels)
    assert np.allclose(found.scores, expected.scores)


@pytest.fixture
def crops(tmp_path):
    """A folder of one image of 96 x 96 pixels and its labels."""
    for part in ("images", "labels"):
        (tmp_path / "crops" / part).mkdir(parents=True)
        picture = imageio.imread(SAMPLES / part / "356d9903d16074f1.png")[80:176, 80:176]
        imageio.imwrite(tmp_path / "crops" / part / "a.png", picture)
    return tmp_path / "crops"


@pytest.fixture
def package_log():
    """What a command sets up for its own process is gone after the test."""
    log = logging.getLogger("cellkit")
    before = (log.handlers[:], log.level, log.propagate)
    yield
    log.handlers[:], log.level, log.propagate = before


@pytest.mark.parametrize("name", NAMES)
def test_pretrain_and_segment(name, crops, tmp_path, package_log, capsys):
    model, cells = tmp_path / "m.ckpt", tmp_path / "cells.tif"
    tiny = ("widths=4,8", "crop=32", "batch=2", "channels=3", "colour=rgb", "cell_threshold=0.5")
    options = [part for value in tiny for part in ("--set", value)]
    train = ["pretrain", str(crops), "-o", str(model), "--representation", name, "--steps", "3", "--device", "cpu"]
    assert main([*train, *options, "-q"]) == 0
    checkpoint = load_checkpoint(model)
    assert checkpoint.representation == RepresentationSpec(name=name, settings={"cell_threshold": 0.5})
    assert checkpoint.network.outputs == REPRESENTATIONS[name].channels
    assert main(["segment", str(crops / "images" / "a.png"), "-m", str(model), "-o", str(cells), "-q"]) == 0
    assert tmp_path.joinpath("cells.tif").exists()
    assert imageio.imread(cells).shape == (96, 96)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["mask", "border"])
def test_classes_are_painted_as_the_probability_of_each(name, two_touching_cells):
    maps = perfect_maps(name, two_touching_cells).astype(np.float32)
    maps -= maps[0]
    panels = {panel.name.split()[0]: panel.picture for panel in paint_maps(maps, name)}
    wanted = {"cell": 1} if name == "mask" else {"inner": 1, "border": 2}
    assert set(panels) == set(wanted)
    for kind, number in wanted.items():
        assert np.array_equal(panels[kind], ramp(softmax(maps, axis=0)[number]))
