"""A detector tuned to a few images: what learns, what stays, what is told apart, and how it is checked."""

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cellkit.config import NetworkSpec, RepresentationSpec, ShotCrops
from cellkit.data.layouts import find_pairs
from cellkit.engine import open_device
from cellkit.errors import UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cellkit.methods.settings import L2SPSettings
from cellkit.networks.detector import Detector
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.stages.detection_validation import DetectionValidation
from cellkit.stages.finetuning import finetune
from cellkit.stages.pretraining_detection import DetectionPreprocessing
from cellkit.stages.tuning import Material
from cellkit.stages.tuning_checks import Guard
from cellkit.stages.tuning_detector import DetectorFit, DetectorRecipe, DetectorTuner, DetectorTuning

SPEC_OF_SCENES = importlib.util.spec_from_file_location(
    "detection_scenes", Path(__file__).with_name("detection_scenes.py")
)
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)

CPU = open_device("cpu", "fp32")
TRUNK = "backbone.bottom_up."


def write_base(path, categories=("cell",), **preprocessing):
    """A detector that has learned nothing."""
    torch.manual_seed(0)
    spec = replace(scenes.PLAIN, classes=len(categories), anchor_sizes=(8, 16, 32, 64, 128))
    checkpoint = Checkpoint(
        network=NetworkSpec(name="detector", channels=3, outputs=0, widths=(), settings=spec.to_dict()),
        representation=RepresentationSpec(name="boxes", settings={"cell_score": 0.25}),
        preprocessing=DetectionPreprocessing(**preprocessing),
        weights=Detector(spec).state_dict(),
        card={"categories": list(categories)},
    )
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base.ckpt")


@pytest.fixture
def pairs(tmp_path):
    return find_pairs(str(scenes.write_folder(tmp_path / "cells"))).pairs


@pytest.fixture
def kinds(tmp_path):
    return find_pairs(str(scenes.write_coco(tmp_path / "kinds"))).pairs


def recipe(base, steps=2, tuning=None, **changes):
    parts = {
        "base": str(base),
        "tuning": DetectorTuning(**{"batch": 2, **(tuning or {})}),
        "augmentation": scenes.CROPS,
        "fit": DetectorFit(steps=steps, learning_rate=0.01, warmup=0),
        "detection": scenes.FEW,
    }
    return DetectorRecipe(**{**parts, **changes})


def tune(pairs, chosen, output, held=(), **options):
    return finetune(Material(shots=pairs, held=held), chosen, CPU, output, quiet=True, **options)


def changed(one, other):
    """Names of the weights that differ."""
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def test_a_tuned_detector_keeps_what_the_base_decided(tmp_path, base, pairs):
    output = tmp_path / "tuned.ckpt"
    assert tune(pairs, recipe(base), output).result.finished
    found = load_checkpoint(output)
    assert found.card["categories"] == ["cell"]
    assert found.card["shots"] == [pair.key for pair in pairs]
    assert found.representation.settings == {"cell_score": 0.25}
    assert found.network.settings["anchor_sizes"] == [8, 16, 32, 64, 128]
    assert (found.preprocessing.diameter, found.preprocessing.typical) == (None, None)
    assert any(name.startswith(TRUNK) for name in changed(base, output))
    assert found.history[-1].arguments["rescale"] is False
    assert tune(pairs, recipe(base), output) is None


@pytest.mark.parametrize("parts", [2, 5])
def test_frozen_parts_stay_as_they_are(tmp_path, base, pairs, parts):
    output = tmp_path / "tuned.ckpt"
    tune(pairs, recipe(base, tuning={"freeze_at": parts}), output)
    frozen = ("stem", "res2", "res3", "res4", "res5")[:parts]
    assert load_checkpoint(output).network.settings["freeze_at"] == parts
    learned = {name.removeprefix(TRUNK).split(".")[0] for name in changed(base, output) if name.startswith(TRUNK)}
    assert learned == set() if parts == 5 else {"res3", "res4", "res5"}
    assert not learned & set(frozen)


def test_l2sp_stays_nearer_to_the_base(tmp_path, base, pairs):
    distances = {}
    for name, chosen in (
        ("classic", recipe(base, 6)),
        ("l2sp", recipe(base, 6, tuning={"method": "l2sp"}, l2sp=L2SPSettings(strength=10.0))),
    ):
        tune(pairs, chosen, tmp_path / f"{name}.ckpt")
        own, theirs = load_checkpoint(tmp_path / f"{name}.ckpt").weights, load_checkpoint(base).weights
        trunk = [key for key in own if key.startswith(TRUNK) and own[key].is_floating_point()]
        distances[name] = sum(float((own[key] - theirs[key]).square().sum()) for key in trunk)
    assert distances["l2sp"] < 0.5 * distances["classic"]
    assert load_checkpoint(tmp_path / "l2sp.ckpt").history[-1].arguments["strength"] == 10.0


@pytest.mark.parametrize(
    ("theirs", "chosen", "names"),
    [
        (("cell",), "kept", ["egg", "worm"]),
        (("cell",), "one", ["cell"]),
        (("egg", "spider", "worm"), "kept", ["egg", "spider", "worm"]),
    ],
)
def test_categories(tmp_path, kinds, theirs, chosen, names):
    base = write_base(tmp_path / "base.ckpt", theirs)
    material = Material(shots=kinds)
    tuner = DetectorTuner(material, recipe(base, tuning={"categories": chosen}), CPU, quiet=True)
    assert list(tuner.names) == names
    assert tuner.card_of(base=False) == {"categories": names}
    assert tuner.card_of(base=True) == {"categories": list(theirs)}
    assert tuner.spec(kinds).classes == len(names)


def test_anchors_of_the_shots(base, pairs):
    material = Material(shots=pairs)
    for chosen, first in (("base", 8), ("coco", 32), ("livecell", 4), ("data", 13)):
        tuner = DetectorTuner(material, recipe(base, tuning={"anchor_set": chosen}), CPU, quiet=True)
        assert tuner.spec(pairs).anchor_sizes[0] == pytest.approx(first, abs=0.1)
        assert isinstance(tuner.spec(pairs), DetectorSpec)


def test_scores_before_and_after_on_held_images(tmp_path, base, pairs):
    done = tune(pairs[:3], recipe(base), tmp_path / "tuned.ckpt", held=pairs[3:])
    assert (done.check.kind, done.check.choice) == ("held", "coco/segm/AP")
    assert (
        done.check.before.keys()
        == done.check.after.keys()
        == {f"coco/{kind}/{name}" for kind in ("segm", "bbox") for name in ("AP", "AP50")}
    )


def test_held_images_tell_the_course_and_choose_nothing(tmp_path, base, pairs, monkeypatch):
    scores = iter([0.9, 0.5, 0.1])  # it gets worse, and the last weights are taken all the same
    named = {f"coco/{kind}/{name}" for kind in ("segm", "bbox") for name in ("AP", "AP50")}
    monkeypatch.setattr(DetectionValidation, "__call__", lambda *_: dict.fromkeys(named, next(scores, 0.0)))
    settings = recipe(base)
    watched = replace(settings, fit=replace(settings.fit, steps=3, validate_every=1))
    tune(pairs[:3], watched, tmp_path / "watched.ckpt", held=pairs[3:])
    with (tmp_path / "watched.metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["validation"], row["coco/segm/AP"]) for row in rows] == [("1", "0.9"), ("2", "0.5"), ("3", "0.1")]
    alone = replace(settings, fit=replace(settings.fit, steps=3))
    tune(pairs[:3], alone, tmp_path / "alone.ckpt")
    weights = [load_checkpoint(tmp_path / f"{name}.ckpt").weights for name in ("watched", "alone")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_the_better_base_is_kept_with_its_categories(tmp_path, kinds, monkeypatch):
    base = write_base(tmp_path / "base.ckpt", ("cell",))
    scores = iter([{"coco/segm/AP": 0.5}, {"coco/segm/AP": 0.25}])
    monkeypatch.setattr(DetectorTuner, "scores", lambda *_: next(scores))
    done = tune(kinds[:1], recipe(base), tmp_path / "m.ckpt", held=kinds[1:], guard=Guard(keep_better=True))
    assert done.kept_base
    assert load_checkpoint(tmp_path / "m.ckpt").card["categories"] == ["cell"]
    assert changed(base, tmp_path / "m.ckpt") == set()


def test_a_base_of_a_working_diameter_gets_that_of_the_shots(tmp_path, pairs):
    base = write_base(tmp_path / "base.ckpt", diameter=30.0)
    tune(pairs, recipe(base), tmp_path / "tuned.ckpt")
    found = load_checkpoint(tmp_path / "tuned.ckpt").preprocessing
    assert found.diameter == 30.0
    assert found.typical == pytest.approx(2 * (12 * 14 / torch.pi) ** 0.5, rel=1e-3)


def test_epochs_are_of_the_images(tmp_path, base, pairs):
    done = tune(pairs, recipe(base, steps=9, tuning={"epochs": 1}), tmp_path / "tuned.ckpt")
    assert done.result.steps == 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"method": "contrastive"},
            "--method: contrastive compares styles, which a detector has not (classic or l2sp)",
        ),
        ({"train": "head"}, "--train: a detector has no part 'head' (use --set freeze_at=N, 0 to 5)"),
        ({"weigh_cells": True}, "weigh_cells: a detector has no use for it (leave it out)"),
        ({"batch_statistics": "shots"}, "batch_statistics: a detector has no use for it (leave it out)"),
        ({"freeze_at": 6}, "freeze_at: 6 is no part of a trunk (0 (nothing) to 5 (the whole trunk))"),
    ],
)
def test_settings_that_cannot_be_meant(changes, text):
    with pytest.raises(UsageError) as caught:
        DetectorTuning(**changes)
    assert str(caught.value) == text


def test_crops_of_a_grid_are_refused(base, pairs):
    with pytest.raises(UsageError) as caught:
        DetectorTuner(Material(shots=pairs), recipe(base, crops=ShotCrops(crops="grid")), CPU, quiet=True)
    assert str(caught.value) == "crops: a detector learns from random crops alone (leave it out)"
