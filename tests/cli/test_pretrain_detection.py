"""cellkit pretrain --method detection: what it writes, what it takes from a base, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from cellkit.cli.pretrain_detection import recipe
from cellkit.cli.training import Choices
from cellkit.io.checkpoints import load_checkpoint

SPEC_OF_SCENES = importlib.util.spec_from_file_location(
    "detection_scenes", Path(__file__).parents[1] / "stages" / "detection_scenes.py"
)
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)

PARTS = [f"{name}={value}" for name, value in scenes.PARTS.items()]
LEARNING = ["norm=group-norm", "head_norm=group-norm", "crop=64", "batch=2", "regions=16", "proposals=30"]
TINY = [word for setting in (*PARTS, *LEARNING) for word in ("--set", setting)]
STEPS = 2


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return scenes.write_folder(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return scenes.write_coco(tmp_path_factory.mktemp("kinds"))


def train(folder, output, *more):
    return (
        "pretrain",
        folder,
        "--method",
        "detection",
        "-o",
        output,
        "--steps",
        STEPS,
        "--device",
        "cpu",
        *TINY,
        *more,
    )


def warnings(done):
    return [line for line in done.err.splitlines() if "warning" in line]


def choices(**changes):
    known = {"network": None, "representation": None, "diameter": None, "steps": 9, "lr": 1.0, "seed": 0}
    return Choices(**known | changes)


def test_a_detector_of_cells(cellkit, tmp_path, cells):
    output = tmp_path / "m.ckpt"
    done = cellkit(*train(cells, output, "--val", "0.25", "--set", "validate_every=1"))
    assert (done.code, done.out) == (0, b"")
    assert done.err.splitlines()[-1].startswith(f"cellkit pretrain: {output} is written: {STEPS} steps, best score 0.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.ckpt", "m.last.ckpt", "m.metrics.csv"]
    found = load_checkpoint(output)
    assert (found.network.name, found.representation.name) == ("detector", "boxes")
    assert found.card["categories"] == ["cell"]
    assert found.history[0].arguments["learning_rate"] == pytest.approx(0.02 * 2 / 16)
    image = cells / "images" / "0.png"
    assert cellkit("segment", image, "-m", output, "-o", tmp_path / "labels.tif", "--device", "cpu", "-q").code == 0
    again = cellkit(*train(cells, output, "--val", "0.25", "--set", "validate_every=1"))
    assert again.err == f"cellkit pretrain: {output} is up to date\n"


def test_a_base_of_other_categories_is_two_lines(cellkit, tmp_path, cells, kinds):
    base = tmp_path / "base.ckpt"
    assert cellkit(*train(cells, base, "-q")).code == 0
    output = tmp_path / "m.ckpt"
    steps = ("--steps", 1, "--device", "cpu", "--set", f"init={base}", "--set", "crop=64", "--set", "batch=2")
    done = cellkit("pretrain", kinds, "--method", "detection", "-o", output, *steps)
    assert done.code == 0
    assert warnings(done) == [
        f"cellkit pretrain: warning: {base}: does not fit everywhere; "
        "the layers of the categories (2 outputs there, 3 here) begin anew",
        f"cellkit pretrain: warning: {base}: has learned cell; egg, worm are learned here",
    ]
    own, theirs = load_checkpoint(output), load_checkpoint(base)
    assert own.card["categories"] == ["egg", "worm"]
    assert own.network.settings["trunk"] == theirs.network.settings["trunk"] == "resnet-tiny"
    assert own.weights.keys() == theirs.weights.keys()


def test_missing_images_of_a_coco_file_are_told(cellkit, tmp_path, kinds):
    part = scenes.write_coco(tmp_path / "part")
    (part / "2.png").unlink()
    done = cellkit(*train(part, tmp_path / "m.ckpt", "--dry-run"))
    assert done.code == 0
    assert done.err == f"cellkit pretrain: warning: {part}: no image for {part / 'truth.json'}: 2.png\n"
    (part / "1.png").unlink()
    none = cellkit(*train(part, tmp_path / "m.ckpt"))
    assert none.code == 4
    assert none.err.count("\n") <= 3
    assert none.err.splitlines()[-1].startswith("cellkit pretrain: error: ")


def test_odd_annotations_are_one_line_each(cellkit, tmp_path):
    folder = scenes.write_coco(tmp_path / "odd")
    path = folder / "truth.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[3, 3, 9, 9]]
    content["annotations"][5]["segmentation"] = [[90, 90, 99, 90, 99, 99]]
    path.write_text(json.dumps(content))
    done = cellkit(*train(folder, tmp_path / "m.ckpt"))
    assert done.code == 0
    assert sorted(warnings(done)) == [  # images are read side by side
        f"cellkit pretrain: warning: {path}: 1.png: 1 object without a pixel is left out, e.g. annotation 1",
        f"cellkit pretrain: warning: {path}: 2.png: 1 object without a pixel is left out, e.g. annotation 6",
    ]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--set", "classes=3"), "--set: 'classes' has an option of its own (use the categories of the annotations, "),
        (("--set", "widths=4,8"), "widths: the method detection has no use for it (leave it out)"),
        (("--set", "crop=100"), "crop: 100 is no multiple of 32 (e.g. 96)"),
        (("--network", "unet"), "--network: the method detection trains 'detector' alone (use --network detector)"),
        (("--object-size", "12"), "--object-size: the method detection has no use for it (add --method oce)"),
        (("--set", "trunk=vgg"), "trunk=vgg is not one of resnet-18,"),
        (("--set", "freeze_at=9"), "detector: freeze_at 9 (0 (nothing) to 5 (the whole trunk))"),
    ],
)
def test_what_cannot_be_meant(cellkit, tmp_path, cells, more, text):
    done = cellkit(*train(cells, tmp_path / "m.ckpt", *more))
    assert done.code in (2, 5)
    assert done.err.count("\n") == 1
    assert text in done.err


@pytest.mark.parametrize("method", ["supervised", "oce"])
@pytest.mark.parametrize(("option", "value"), [("--network", "detector"), ("--representation", "boxes")])
def test_other_methods_train_no_detector(cellkit, tmp_path, cells, method, option, value):
    done = cellkit("pretrain", cells, "-o", tmp_path / "m.ckpt", "--method", method, option, value)
    assert done.code == 2
    expected = f"{option}: the method {method} trains no {value} (add --method detection)\n"
    assert done.err == f"cellkit pretrain: error: {expected}"


def test_own_anchors_need_no_further_word():
    own = recipe(["anchor_sizes=6,12,24,48,96"], choices(), None)
    assert (own.detector.anchor_set, own.detector.anchor_sizes) == ("own", (6, 12, 24, 48, 96))
    assert recipe([], choices(), None).detector.anchor_set == "data"


def test_the_rate_follows_the_batch_unless_it_is_chosen():
    assert recipe(["batch=16"], choices(), None).fit.learning_rate == pytest.approx(0.02)
    assert recipe(["batch=16"], choices(), 0.5).fit.learning_rate == 0.5


def test_settings_of_decoding_travel_and_those_of_learning_do_not():
    made = recipe(["proposals=77", "cell_score=0.25"], choices(), None)
    assert made.detection.proposals == 77
    assert made.decoding == {"cell_score": 0.25}


def test_settings_are_listed(cellkit):
    listed = cellkit("pretrain", "--method", "detection", "--settings").text.splitlines()
    names = {line.split("=")[0] for line in listed}
    assert {"trunk", "freeze_at", "anchor_set", "categories", "crop", "regions", "cell_score", "schedule"} <= names
    assert not {"classes", "learning_rate", "seed"} & names
    assert all("\t" in line and line.split("\t")[1] for line in listed)


def test_weights_are_those_of_the_seed(cellkit, tmp_path, cells):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cellkit(*train(cells, tmp_path / f"{name}.ckpt", "--seed", seed, "-q")).code == 0
    one, same, other = (load_checkpoint(tmp_path / f"{name}.ckpt").weights for name in "abc")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
