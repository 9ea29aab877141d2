"""From labelled and unlabelled images to one checkpoint: of a detector and of a dense network."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from cellkit.config import ModelSettings, Preprocessing
from cellkit.data import detection
from cellkit.data.augment import Augmentation
from cellkit.data.layouts import find_pairs
from cellkit.data.moco_views import ViewSettings
from cellkit.engine import FitSettings, open_device
from cellkit.errors import InterruptedRunError, NoInputError, UsageError
from cellkit.io.checkpoints import load_checkpoint
from cellkit.io.sources import find_sources
from cellkit.methods.cupre import Cupre
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


RECIPES = {"detector": detecting, "dense": dense}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, common, cells):
    """Checkpoints of runs that nothing interrupted, by kind."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    for kind, recipe in RECIPES.items():
        run(common, cells, folder / f"{kind}.ckpt", recipe())
        found[kind] = load_checkpoint(folder / f"{kind}.ckpt")
    return found


def test_a_dense_network_does_as_well(whole):
    found = whole["dense"]
    assert (found.network.name, found.representation.name, found.card) == ("style-unet", "flow", {})


@pytest.mark.parametrize("kind", RECIPES)
def test_a_run_that_is_interrupted_over_and_over_ends_as_one_that_is_not(
    tmp_path, common, cells, monkeypatch, whole, kind
):
    """Signals and power cuts in all phases and between them; a power cut loses what came after the last save."""
    recipe = RECIPES[kind]()
    fit = replace(recipe.fit, save_every=3)
    recipe = replace(recipe, fit=fit, labelled=replace(recipe.labelled, fit=fit))
    ends = [  # after so many steps in all; the warm-up ends after 4, the first round after 7
        (4, signal.SIGTERM),  # before the first contrast
        (5, POWER_CUT),  # goes on from 4
        (7, signal.SIGINT),  # between the rounds
        (8, POWER_CUT),  # goes on from 7
        (9, signal.SIGTERM),  # in the midst of labelled images
    ]
    for steps, how in ends:
        with monkeypatch.context() as patch:
            cut(patch, steps, how)
            with pytest.raises(KeyboardInterrupt if how is POWER_CUT else InterruptedRunError):
                run(common, cells, tmp_path / "part.ckpt", recipe)
    assert run(common, cells, tmp_path / "part.ckpt", recipe).finished
    part = load_checkpoint(tmp_path / "part.ckpt")
    assert all(torch.equal(whole[kind].weights[name], part.weights[name]) for name in part.weights)
    assert set(part.weights) == set(whole[kind].weights)
    assert part.history == whole[kind].history
    rows = list(csv.DictReader(io.StringIO((tmp_path / "part.metrics.csv").read_text())))
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows})


POWER_CUT = None


def cut(patch, after, how):
    """Ends a run after so many steps: by a signal, or at once."""
    step = Cupre.step

    def last(self, batch, optimisers):
        place = batch.place
        plan = self.plan
        rounds = place.round * (plan.contrast + plan.labelled) + (plan.contrast if place.phase == "labelled" else 0)
        number = place.number + (0 if place.phase == "warm-up" else plan.warm + rounds)
        if how is POWER_CUT and number == after:
            raise KeyboardInterrupt
        if how is not POWER_CUT and number == after - 1:
            os.kill(os.getpid(), how)
        return step(self, batch, optimisers)

    patch.setattr(Cupre, "step", last)


def test_a_longer_run_is_another_run(tmp_path, common, cells):
    run(common, cells, tmp_path / "c.ckpt", dense())
    (tmp_path / "c.ckpt").unlink()
    with pytest.raises(UsageError, match=r"--steps: 20 here, but 10 in the run to go on with"):
        run(common, cells, tmp_path / "c.ckpt", dense(steps=20))


def test_labelled_images_are_divided_evenly_and_by_the_seed():
    shows = [True] * 23
    parts = parts_of(shows, 10, 3)
    assert Counter(map(len, parts)) == {2: 7, 3: 3}
    assert sorted(index for part in parts for index in part) == list(range(23))
    assert parts == parts_of(shows, 10, 3) != parts_of(shows, 10, 4)
    assert sorted(parts_of([True, True], 5, 0)) == [[0], [1]]


@pytest.mark.parametrize("seed", range(20))
def test_each_part_shows_objects(seed):
    shows = [index in (4, 11, 17) for index in range(23)]
    parts = parts_of(shows, 3, seed)
    assert [sum(shows[index] for index in part) for part in parts] == [1, 1, 1]
    assert sorted(map(len, parts)) == [7, 8, 8]
    fewer = parts_of(shows, 10, seed)  # they come again
    assert [sum(shows[index] for index in part) for part in fewer] == [1, 1, 1]
    assert sorted(index for part in fewer for index in part) == list(range(23))
    assert sorted(map(len, parts_of([False] * 7, 3, seed))) == [2, 2, 3]  # maps can be learned without any


@pytest.mark.parametrize("kind", RECIPES)
def test_labelled_images_of_which_one_alone_shows_objects_serve_all_rounds(tmp_path, cells, caplog, kind):
    sparse = find_pairs(str(scenes.write_folder(tmp_path / "sparse", (0, 3, 0, 0)))).pairs
    recipe = RECIPES[kind]()
    with caplog.at_level("WARNING", logger="cellkit"):
        assert run(sparse, cells, tmp_path / "c.ckpt", recipe).finished
    words = "fewer labelled images show objects (1) than there are rounds (2): parts of them come again"
    assert caplog.messages == [words]


def test_labelled_images_without_any_object_are_refused_before_training(tmp_path, cells):
    none = find_pairs(str(scenes.write_folder(tmp_path / "none", (0, 0)))).pairs
    message = r"--labelled: none of 2 annotated images shows an object \(outline some objects first\)"
    with pytest.raises(NoInputError, match=message):
        run(none, cells, tmp_path / "c.ckpt", replace(detecting(), labelled=livecell(detecting().labelled)))
    assert [path.name for path in tmp_path.iterdir()] == ["none"]


def livecell(labelled):
    """Anchors that no object has to tell."""
    return replace(labelled, detector=replace(labelled.detector, anchor_set="livecell"))


def test_labelled_images_are_read_once(tmp_path, common, cells, monkeypatch):
    read, load = [], detection.load_detection
    monkeypatch.setattr(detection, "load_detection", lambda pair, *rest: read.append(pair.key) or load(pair, *rest))
    run(common, cells, tmp_path / "c.ckpt", detecting())
    assert sorted(read) == sorted(pair.key for pair in common)


@pytest.mark.parametrize(
    ("batch", "contrast_batch", "message"),
    [
        (3, 4, r"^batch: 3 crops cannot be shared by 2 processes \(give a multiple of 2\)"),
        (2, 7, r"^contrast_batch: 7 crops cannot be shared by 2 processes \(give a multiple of 2\)"),
    ],
)
def test_a_batch_that_processes_cannot_share_is_refused_before_training(
    tmp_path, common, cells, monkeypatch, batch, contrast_batch, message
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = dense()
    recipe = replace(
        recipe,
        model=replace(recipe.model, batch=batch),
        cupre=replace(recipe.cupre, contrast_batch=contrast_batch),
    )
    with pytest.raises(UsageError, match=message):
        run(common, cells, tmp_path / "c.ckpt", recipe)
    assert not list(tmp_path.iterdir())


def test_too_few_steps_and_no_labelled_images_are_refused(tmp_path, cells):
    with pytest.raises(UsageError, match=r"--steps: 3 are too few for 2 rounds of two tasks after the warm-up"):
        dense(steps=3)
    message = r"--labelled: there is no labelled image \(give a folder with images and labels\)"
    with pytest.raises(NoInputError, match=message):
        run((), cells, tmp_path / "c.ckpt", dense())
