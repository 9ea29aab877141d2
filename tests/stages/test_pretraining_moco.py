"""From images alone to a checkpoint whose encoder has learned: detectors, dense networks, bases, refusals."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from cellkit.config import ModelSettings, Preprocessing
from cellkit.data.moco_views import ViewSettings
from cellkit.engine import open_device
from cellkit.errors import ModelError, UsageError
from cellkit.io.checkpoints import load_checkpoint
from cellkit.io.sources import find_sources
from cellkit.methods.moco_settings import MoCoSettings
from cellkit.networks import build
from cellkit.stages.pretraining_detection import DetectionPreprocessing, TrainedDetector
from cellkit.stages.pretraining_moco import MoCoFit, MoCoModel, MoCoRecipe, pretrain_moco, rate_for

CPU = open_device("cpu", "fp32")
TINY = TrainedDetector(
    trunk="resnet-tiny", width=4, pyramid=8, hidden=8, cascade_stages=1, box_convs=1, mask_convs=1
)  # fmt: skip
SMALL = {
    "views": ViewSettings(view_size=32),
    "moco": MoCoSettings(projection=8),
    "fit": MoCoFit(steps=3, learning_rate=0.05, log_every=1),
}
UNET = MoCoModel(network="style-unet", widths=(4, 8), batch=4)
DETECTOR = MoCoModel(network="detector", representation="boxes", widths=(), batch=4)


def dense(model=UNET, **changes):
    return MoCoRecipe(**{"model": model, "preprocessing": Preprocessing(channels=1), **SMALL, **changes})


def detecting(model=DETECTOR, detector=TINY, **changes):
    parts = {"model": model, "preprocessing": DetectionPreprocessing(), "detector": detector}
    return MoCoRecipe(**{**SMALL, **parts, **changes})


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 200, (48, 40))
        tifffile.imwrite(folder / f"{i}.tif", pixels.astype(np.uint8))
    return find_sources([str(folder)])


def run(cells, output, recipe, **options):
    return pretrain_moco(cells, recipe, CPU, output, quiet=True, **options)


def untrained(recipe):
    torch.manual_seed(recipe.fit.seed)
    return recipe.initial().state_dict()


def changed(recipe, weights):
    before = untrained(recipe)
    assert set(before) == set(weights)
    return {name for name in weights if not torch.equal(before[name], weights[name])}


def test_the_encoder_of_a_dense_network_is_trained_and_its_decoder_is_as_it_was(tmp_path, cells):
    assert run(cells, tmp_path / "m.ckpt", dense()).finished
    found = load_checkpoint(tmp_path / "m.ckpt")
    assert (found.network.name, found.network.widths, found.representation.name) == ("style-unet", (4, 8), "flow")
    moved = changed(dense(), found.weights)
    assert moved
    assert all(name.startswith("down.") for name in moved)
    build(found.network).load_state_dict(found.weights)
    arguments = found.history[0].arguments
    assert (arguments["method"], arguments["version"], arguments["view_size"]) == ("moco", "v2", 32)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "m.metrics.csv").read_text())))
    assert {"contrast", "accuracy"} <= set(rows[0])
    assert run(cells, tmp_path / "m.ckpt", dense()) is None


def test_the_trunk_of_a_detector_is_trained_and_its_heads_are_as_they_were(tmp_path, cells):
    run(cells, tmp_path / "m.ckpt", detecting())
    found = load_checkpoint(tmp_path / "m.ckpt")
    assert (found.network.name, found.representation.name) == ("detector", "boxes")
    assert found.card == {"categories": ["cell"]}
    assert found.network.settings["anchor_sizes"] == [4, 9, 17, 31, 64, 127]  # of LIVECell: no label tells others
    moved = changed(detecting(), found.weights)
    assert any(name.startswith("backbone.bottom_up.res5") and name.endswith("weight") for name in moved)
    assert all(name.startswith("backbone.bottom_up.") for name in moved)


def test_a_base_gives_all_weights_to_begin_with(tmp_path, cells):
    run(cells, tmp_path / "base.ckpt", detecting(fit=replace(SMALL["fit"], seed=5)))
    base = load_checkpoint(tmp_path / "base.ckpt").weights
    after = detecting(replace(DETECTOR, init=str(tmp_path / "base.ckpt")))
    run(cells, tmp_path / "m.ckpt", after)
    found = load_checkpoint(tmp_path / "m.ckpt").weights
    heads = [name for name in base if not name.startswith("backbone.bottom_up.")]
    assert heads
    assert all(torch.equal(base[name], found[name]) for name in heads)
    assert not all(torch.equal(base[name], found[name]) for name in base)
    other = dense(replace(UNET, init=str(tmp_path / "base.ckpt")))
    with pytest.raises(ModelError, match="is another network than style-unet"):
        run(cells, tmp_path / "n.ckpt", other)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, cells):
    constant = MoCoFit(steps=4, learning_rate=0.05, schedule="constant")
    run(cells, tmp_path / "whole.ckpt", dense(fit=constant))
    run(cells, tmp_path / "part.ckpt", dense(fit=replace(constant, steps=2)))
    (tmp_path / "part.ckpt").unlink()
    run(cells, tmp_path / "part.ckpt", dense(fit=constant))
    whole, part = (load_checkpoint(tmp_path / f"{name}.ckpt").weights for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_the_rate_follows_the_batch():
    assert rate_for(256) == 0.03
    assert rate_for(64) == pytest.approx(0.0075)


def test_noisy_copies_are_refused():
    with pytest.raises(UsageError, match=r"noise_copies: noisy copies are for --method oce \(leave it out\)"):
        dense(preprocessing=Preprocessing(noise_copies=4))


def test_a_network_that_cannot_learn_alone_is_no_detector():
    with pytest.raises(UsageError, match="widths: the method detection has no use for it"):
        detecting(ModelSettings(network="detector", representation="boxes", styles=0))
