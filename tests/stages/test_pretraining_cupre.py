"""From labelled and unlabelled images to one checkpoint: of a detector and of a dense network."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from cellkit.config import ModelSettings, Preprocessing
from cellkit.data.augment import Augmentation
from cellkit.data.layouts import find_pairs
from cellkit.data.moco_views import ViewSettings
from cellkit.engine import FitSettings, open_device
from cellkit.errors import NoInputError, UsageError
from cellkit.io.checkpoints import load_checkpoint
from cellkit.io.sources import find_sources
from cellkit.methods.cupre_settings import CupreSettings
from cellkit.methods.moco_settings import MoCoSettings
from cellkit.stages.pretraining import SupervisedRecipe
from cellkit.stages.pretraining_cupre import CupreRecipe, parts_of, pretrain_cupre
from cellkit.stages.pretraining_detection import DetectionFit, DetectionModel, DetectionPreprocessing, DetectionRecipe

SPEC_OF_SCENES = importlib.util.spec_from_file_location(
    "detection_scenes", Path(__file__).with_name("detection_scenes.py")
)
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)

CPU = open_device("cpu", "fp32")
STEPS = 10  # a warm-up of 4, two rounds of 1 and 2
OTHERS = (
    ViewSettings(view_size=32),
    MoCoSettings(projection=8),
    CupreSettings(rounds=2, warm_part=0.4, contrast_part=0.4, contrast_batch=4),
)


def detecting(steps=STEPS):
    labelled = DetectionRecipe(
        model=DetectionModel(batch=2),
        preprocessing=DetectionPreprocessing(),
        fit=DetectionFit(steps=steps, learning_rate=0.01, warmup=0, log_every=1, schedule="constant"),
        detector=scenes.TINY,
        augmentation=scenes.CROPS,
        detection=scenes.FEW,
    )
    return CupreRecipe.of(labelled, *OTHERS)


def dense(steps=STEPS):
    labelled = SupervisedRecipe(
        model=ModelSettings(network="style-unet", widths=(4, 8), batch=2, styles=0),
        preprocessing=Preprocessing(channels=1),
        fit=FitSettings(steps=steps, log_every=1, schedule="constant"),
        augmentation=Augmentation(crop=32),
    )
    return CupreRecipe.of(labelled, *OTHERS)


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    return find_pairs(str(scenes.write_folder(tmp_path_factory.mktemp("common")))).pairs


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 200, (48, 40))
        tifffile.imwrite(folder / f"{i}.tif", pixels.astype(np.uint8))
    return find_sources([str(folder)])


def run(common, cells, output, recipe, **options):
    return pretrain_cupre(common, cells, recipe, CPU, output, quiet=True, **options)


def test_a_detector_learns_both_tasks_in_turn(tmp_path, common, cells):
    assert run(common, cells, tmp_path / "c.ckpt", detecting()).finished
    found = load_checkpoint(tmp_path / "c.ckpt")
    assert (found.network.name, found.representation.name) == ("detector", "boxes")
    assert found.card == {"categories": ["cell"]}
    assert found.network.settings["anchor_sizes"][0] == pytest.approx((12 * 14) ** 0.5, abs=0.06)  # labels tell
    arguments = found.history[0].arguments
    assert (arguments["method"], arguments["labelled_images"], arguments["images"]) == ("cupre", 4, 10)
    assert (arguments["rounds"], arguments["regions"], arguments["projection"]) == (2, 16, 8)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "c.metrics.csv").read_text())))
    turns = ["contrast" if row["contrast"] else "labelled" if row["l2sp"] else "warm-up" for row in rows]
    assert turns == ["warm-up"] * 4 + (["contrast"] + ["labelled"] * 2) * 2
    assert all(row["rpn_box"] for row in rows if not row["contrast"])
    assert run(common, cells, tmp_path / "c.ckpt", detecting()) is None


def test_a_dense_network_does_as_well_and_goes_on_where_it_was(tmp_path, common, cells, monkeypatch):
    run(common, cells, tmp_path / "whole.ckpt", dense())
    whole = load_checkpoint(tmp_path / "whole.ckpt")
    assert (whole.network.name, whole.representation.name, whole.card) == ("style-unet", "flow", {})
    seen = interrupted(monkeypatch, after=6)
    with pytest.raises(KeyboardInterrupt):
        run(common, cells, tmp_path / "part.ckpt", saving_each_step(dense()))
    monkeypatch.undo()
    assert seen["steps"] == 6
    run(common, cells, tmp_path / "part.ckpt", saving_each_step(dense()))
    part = load_checkpoint(tmp_path / "part.ckpt")
    assert all(torch.equal(whole.weights[name], part.weights[name]) for name in whole.weights)


def saving_each_step(recipe):
    fit = replace(recipe.fit, save_every=1)
    return replace(recipe, fit=fit, labelled=replace(recipe.labelled, fit=fit))


def interrupted(monkeypatch, after):
    """A power cut after so many steps."""
    from cellkit.methods.cupre import Cupre

    seen, step = {"steps": 0}, Cupre.step

    def cut(self, batch, optimisers):
        if seen["steps"] == after:
            raise KeyboardInterrupt
        seen["steps"] += 1
        return step(self, batch, optimisers)

    monkeypatch.setattr(Cupre, "step", cut)
    return seen


def test_a_longer_run_is_another_run(tmp_path, common, cells):
    run(common, cells, tmp_path / "c.ckpt", dense())
    (tmp_path / "c.ckpt").unlink()
    with pytest.raises(UsageError, match=r"--steps: 20 here, but 10 in the run to go on with"):
        run(common, cells, tmp_path / "c.ckpt", dense(steps=20))


def test_labelled_images_are_divided_evenly_and_by_the_seed():
    pairs = list(range(23))
    parts = parts_of(pairs, 10, 3)
    assert Counter(map(len, parts)) == {2: 7, 3: 3}
    assert sorted(pair for part in parts for pair in part) == pairs
    assert parts == parts_of(pairs, 10, 3) != parts_of(pairs, 10, 4)
    assert sorted(parts_of([1, 2], 5, 0)) == [[1], [2]]


def test_too_few_steps_and_no_labelled_images_are_refused(tmp_path, cells):
    with pytest.raises(UsageError, match=r"--steps: 3 are too few for 2 rounds of two tasks after the warm-up"):
        dense(steps=3)
    message = r"--labelled: there is no labelled image \(give a folder with images and labels\)"
    with pytest.raises(NoInputError, match=message):
        run((), cells, tmp_path / "c.ckpt", dense())
