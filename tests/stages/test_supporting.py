"""Supported supervision as a stage: crops have the scale of prediction and show labelled cells; bases and records."""

from __future__ import annotations

import math

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from cellkit.config import ModelSettings, NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.data.augment import Augmentation
from cellkit.data.scale import scale_of
from cellkit.data.supported import halves, match_labels
from cellkit.engine import open_device
from cellkit.errors import NoInputError, UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cellkit.io.sources import find_sources
from cellkit.methods.settings import SupportedSettings
from cellkit.networks import NETWORKS, build
from cellkit.representations import REPRESENTATIONS
from cellkit.stages.supporting import (
    SEEK,
    SupportedFit,
    SupportedModel,
    SupportedPreprocessing,
    SupportedRecipe,
    _set,
    base_parts,
    fresh_widths,
    support,
)

SIDE = 300
CPU = open_device("cpu", "fp32")


def recipe(**parts) -> SupportedRecipe:
    given = {
        "model": SupportedModel(widths=(4, 8), batch=2),
        "preprocessing": SupportedPreprocessing(typical=15.0),
        "fit": SupportedFit(steps=1, learning_rate=1e-3),
        "augmentation": Augmentation(crop=24, scale=(1.0, 1.0), rotate=False, flip=False, probability=0.0),
    }
    return SupportedRecipe(**(given | parts))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A large image with one small labelled cell, 6 px wide, where typical cells have 15 px."""
    root = tmp_path_factory.mktemp("large")
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[200:206, 40:46] = 1
    for kind in ("images", "labels"):
        (root / kind).mkdir()
        iio.imwrite(root / kind / "a.png", labels * 200 + 20)
    iio.imwrite(root / "labels" / "a.png", labels)
    sources = find_sources([str(root / "images")])
    return halves(sources, 30, sparse=match_labels(str(root / "labels"), sources).labels)


def test_crops_have_the_scale_of_prediction_whatever_the_cells_of_one_image(large):
    chosen = recipe()
    data = _set(large.sparse, chosen, REPRESENTATIONS["flow"], CPU, seek=SEEK)
    assert scale_of(chosen.preprocessing, None) == 2.0
    cells = [int((next(data.batches(step, batch=1)).targets[:, 2] > 0).sum()) for step in range(8)]
    assert max(cells) == pytest.approx(144, abs=15)  # 6 x 6 px twice as large; not 30 px wide


def test_every_crop_of_sparse_labels_shows_a_labelled_cell(large):
    wider = recipe(augmentation=Augmentation(crop=48, scale=(1.0, 1.0), rotate=False))
    sought = _set(large.sparse, wider, REPRESENTATIONS["flow"], CPU, seek=SEEK)
    for step in range(20):
        assert bool((next(sought.batches(step, batch=1)).targets[:, 2] > 0).any())
    taken = _set(large.sparse, wider, REPRESENTATIONS["flow"], CPU)
    empty = [not bool((next(taken.batches(step, batch=1)).targets[:, 2] > 0).any()) for step in range(20)]
    assert any(empty)  # without seeking, some show none


def test_a_checkpoint_is_written_and_its_predictions_become_cells(large, tmp_path):
    chosen = recipe(supported=SupportedSettings(alpha=0.0, background=math.inf))
    result = support(large, (), chosen, CPU, tmp_path / "m.ckpt", quiet=True)
    assert result is not None
    assert result.finished
    made = load_checkpoint(tmp_path / "m.ckpt")
    assert made.history[0].arguments["background"] == "inf"
    network = build(made.network)
    network.load_state_dict(made.weights)
    star = REPRESENTATIONS["star"]
    with torch.no_grad():
        maps = network(torch.rand(1, 1, 40, 40)).maps[0].numpy()
    assert star.decode(maps, star.settings()).labels.shape == (40, 40)
    assert support(large, (), chosen, CPU, tmp_path / "m.ckpt", quiet=True) is None


def test_a_base_fixes_network_preprocessing_and_decoding(tmp_path):
    spec = NetworkSpec(name="unet", channels=2, outputs=3, widths=(4, 8))
    checkpoint = Checkpoint(
        network=spec,
        representation=RepresentationSpec(name="flow", settings={"min_area": 3, "steps": 50}),
        preprocessing=Preprocessing(channels=2, percentiles=(2.0, 98.0), typical=44.0),
        weights=build(spec).state_dict(),
    )
    save_checkpoint(tmp_path / "base.ckpt", checkpoint)
    model, preprocessing, decoding = base_parts(str(tmp_path / "base.ckpt"), {"min_area": 7})
    assert (model.network, model.representation, model.widths) == ("unet", "flow", (4, 8))
    assert model.init == str(tmp_path / "base.ckpt")
    assert (preprocessing.percentiles, preprocessing.diameter, preprocessing.typical) == ((2.0, 98.0), 30.0, None)
    assert decoding == {"min_area": 7, "steps": 50}


def test_every_network_has_widths():
    assert fresh_widths("mini-unet") != (24, 72)  # which sees 18 px
    assert fresh_widths("unet") == ModelSettings().widths
    assert all(fresh_widths(name) for name in NETWORKS)


def test_a_recipe_is_sized_by_the_cells_unless_the_user_has_said():
    bare = recipe(preprocessing=SupportedPreprocessing())
    assert bare.sized(24.0).preprocessing.typical == 24.0
    assert recipe().sized(24.0).preprocessing.typical == 15.0
    with pytest.raises(NoInputError, match="no image shows a cell"):
        bare.sized(None)
    with pytest.raises(UsageError, match="--diameter: 1000 px is beyond what a model of 30 px can be rescaled to"):
        bare.sized(1000.0)
