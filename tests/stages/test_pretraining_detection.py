"""From annotated images to a detector's checkpoint: what the images decide, what is chosen, what is refused."""

import csv
import importlib.util
import io
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cellkit.config import Preprocessing
from cellkit.data.layouts import find_pairs
from cellkit.engine import open_device
from cellkit.errors import ModelError, NoInputError, UsageError
from cellkit.io.checkpoints import load_checkpoint
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.stages.pretraining_detection import (
    DetectionFit,
    DetectionModel,
    DetectionPreprocessing,
    DetectionRecipe,
    TrainedDetector,
    pretrain_detection,
    rate_for,
)

SPEC_OF_SCENES = importlib.util.spec_from_file_location(
    "detection_scenes", Path(__file__).with_name("detection_scenes.py")
)
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)

CPU = open_device("cpu", "fp32")


def recipe(steps=2, model=None, fit=None, **changes):
    parts = {
        "model": DetectionModel(batch=2, **(model or {})),
        "preprocessing": DetectionPreprocessing(),
        "fit": DetectionFit(steps=steps, learning_rate=0.01, warmup=0, log_every=1, **(fit or {})),
        "detector": scenes.TINY,
        "augmentation": scenes.CROPS,
        "detection": scenes.FEW,
    }
    return DetectionRecipe(**{**parts, **changes})


@pytest.fixture
def pairs(tmp_path):
    return find_pairs(str(scenes.write_folder(tmp_path / "cells"))).pairs


@pytest.fixture
def kinds(tmp_path):
    return find_pairs(str(scenes.write_coco(tmp_path / "kinds"))).pairs


def run(pairs, output, chosen=None, held=(), **options):
    return pretrain_detection(pairs, held, chosen or recipe(), CPU, output, quiet=True, **options)


def test_a_checkpoint_of_cells(tmp_path, pairs):
    output = tmp_path / "m.ckpt"
    assert run(pairs, output).finished
    found = load_checkpoint(output)
    assert (found.network.name, found.network.outputs, found.network.widths) == ("detector", 0, ())
    assert found.representation.name == "boxes"
    assert found.card == {"categories": ["cell"]}
    spec = DetectorSpec.from_dict(found.network.settings)
    assert (spec.classes, spec.channels, spec.trunk, spec.width) == (1, 3, "resnet-tiny", 8)
    assert spec.anchor_sizes[0] == pytest.approx((12 * 14) ** 0.5, abs=0.06)
    arguments = found.history[0].arguments
    assert (arguments["method"], arguments["category_names"]) == ("detection", ["cell"])
    assert (arguments["regions"], arguments["crop"], arguments["anchor_set"]) == (16, 64, "data")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "m.metrics.csv").read_text())))
    assert {"rpn_objectness", "rpn_box", "class_0", "box_0", "mask"} <= set(rows[0])
    assert run(pairs, output) is None


def test_categories_of_the_annotations_are_kept_or_one(tmp_path, kinds):
    run(kinds, tmp_path / "kept.ckpt")
    found = load_checkpoint(tmp_path / "kept.ckpt")
    assert found.card["categories"] == ["egg", "worm"]
    assert found.weights["roi_heads.box_predictor.0.cls_score.bias"].shape == (3,)
    run(kinds, tmp_path / "one.ckpt", recipe(detector=replace(scenes.TINY, categories="one")))
    assert load_checkpoint(tmp_path / "one.ckpt").card["categories"] == ["cell"]


@pytest.mark.parametrize(
    ("choice", "sizes", "ratios"),
    [
        ("coco", (32, 64, 128, 256, 512), 3),
        ("livecell", (4, 9, 17, 31, 64, 127), 5),
        ("own", (6, 12, 24, 48, 96), 2),
    ],
)
def test_anchors_are_those_chosen(pairs, choice, sizes, ratios):
    own = {"anchor_sizes": (6, 12, 24, 48, 96), "anchor_ratios": (0.7, 1.4)} if choice == "own" else {}
    chosen = recipe(detector=replace(scenes.TINY, anchor_set=choice, **own)).fitting(pairs)
    spec = DetectorSpec.from_dict(chosen.network.settings)
    assert spec.anchor_sizes == sizes
    assert len(spec.anchor_ratios) == ratios
    assert len(spec.anchor_levels) == len(sizes)


def test_held_images_choose_the_best_weights_by_coco(tmp_path, pairs):
    result = run(pairs[:2], tmp_path / "m.ckpt", recipe(fit={"validate_every": 1}), held=pairs[2:])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "m.metrics.csv").read_text())))
    scores = [float(row["coco/segm/AP"]) for row in rows]
    assert result.best_score == pytest.approx(max(scores))
    assert {"coco/segm/AP50", "coco/bbox/AP", "coco/bbox/AP50"} <= set(rows[0])


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, pairs):
    run(pairs, tmp_path / "whole.ckpt", recipe(steps=4, fit={"schedule": "constant"}))
    (tmp_path / "parts").mkdir()
    part = tmp_path / "parts" / "m.ckpt"
    run(pairs, part, recipe(steps=2, fit={"schedule": "constant"}))
    part.unlink()
    run(pairs, part, recipe(steps=4, fit={"schedule": "constant"}))
    one, other = (load_checkpoint(path).weights for path in (tmp_path / "whole.ckpt", part))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_base_gives_what_fits(tmp_path, pairs, kinds, caplog):
    base = tmp_path / "base.ckpt"
    run(pairs, base)
    caplog.set_level(logging.WARNING, "cellkit")
    begun = recipe(model={"init": str(base)}, detector=replace(scenes.TINY, freeze_at=5)).fitting(kinds).initial()
    stored = load_checkpoint(base).weights
    own = begun.state_dict()
    assert all(torch.equal(own[name], value) for name, value in stored.items() if "bottom_up" in name and name in own)
    assert caplog.messages[0] == (
        f"{base}: does not fit everywhere; the layers of the categories (2 outputs there, 3 here) begin anew"
    )
    assert caplog.messages[1] == f"{base}: has learned cell; egg, worm are learned here"
    with pytest.raises(ModelError, match="none of its weights fits the detector"):
        recipe(model={"init": "nuclei"}).fitting(kinds).initial()


def test_categories_of_a_base_keep_its_order(tmp_path, kinds):
    base, part = tmp_path / "base.ckpt", "roi_heads.box_predictor.0.cls_score.weight"
    run(kinds, base, recipe(steps=1))
    others = find_pairs(str(scenes.write_coco(tmp_path / "others", ("worm", "egg")))).pairs
    chosen = recipe(model={"init": str(base)}).fitting(others)
    assert (recipe().fitting(others).names, chosen.names) == (("worm", "egg"), ("egg", "worm"))
    assert torch.equal(chosen.initial().state_dict()[part], load_checkpoint(base).weights[part])
    fewer = find_pairs(str(scenes.write_coco(tmp_path / "fewer", ("worm",)))).pairs
    assert recipe(model={"init": str(base)}).fitting(fewer).names == ("worm",)


def test_the_rate_follows_the_batch():
    assert [rate_for(batch) for batch in (2, 4, 16, 32)] == pytest.approx([0.0025, 0.005, 0.02, 0.04])


def test_the_published_schedule():
    fit = DetectionFit()
    assert (fit.optimiser, fit.momentum, fit.weight_decay, fit.schedule) == ("sgd", 0.9, 1e-4, "late-tenths")


def test_nothing_is_frozen_where_nothing_was_learned():
    assert TrainedDetector().freeze_at == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"model": DetectionModel(network="unet")},
            "--network: the method detection trains 'detector' alone (use --network detector)",
        ),
        (
            {"model": DetectionModel(representation="flow")},
            "--representation: the method detection trains 'boxes' alone (use --representation boxes)",
        ),
        ({"model": DetectionModel(widths=(4, 8))}, "widths: the method detection has no use for it (leave it out)"),
        ({"model": DetectionModel(styles=7)}, "styles: the method detection has no use for it (leave it out)"),
        (
            {"preprocessing": Preprocessing(noise_copies=2)},
            "noise_copies: noisy copies are for models that learn without labels (leave it out, or use --method oce)",
        ),
    ],
)
def test_settings_that_cannot_be_meant(changes, text):
    with pytest.raises(UsageError) as caught:
        replace(recipe(), **changes)
    assert str(caught.value) == text


def test_images_without_any_object(tmp_path):
    pairs = find_pairs(str(scenes.write_folder(tmp_path / "empty", counts=(0, 0)))).pairs
    with pytest.raises(NoInputError) as caught:
        run(pairs, tmp_path / "m.ckpt")
    expected = "anchors: there is no object whose size could tell them (outline some first)"
    assert str(caught.value) == expected
    with pytest.raises(NoInputError, match="none of 2 annotated images shows an object"):
        run(pairs, tmp_path / "m.ckpt", recipe(detector=replace(scenes.TINY, anchor_set="coco")))
