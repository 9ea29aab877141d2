"""cellkit finetune of a detector, and a part of the images drawn for any model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from cellkit.cli.app import main
from cellkit.io.checkpoints import load_checkpoint

SPEC_OF_SCENES = importlib.util.spec_from_file_location(
    "detection_scenes", Path(__file__).parents[1] / "stages" / "detection_scenes.py"
)
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)

PARTS = [f"{name}={value}" for name, value in scenes.PARTS.items()]
LEARNING = ["crop=64", "batch=2", "regions=16", "proposals=30"]
STEPS = 2


def settings(*texts):
    return [word for text in texts for word in ("--set", text)]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return scenes.write_folder(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def base(tmp_path_factory, cells):
    """A detector that learned one step."""
    path = tmp_path_factory.mktemp("base") / "base.ckpt"
    tiny = settings(*PARTS, *LEARNING, "norm=group-norm", "head_norm=group-norm")
    command = ("pretrain", cells, "--method", "detection", "-o", path, "--steps", 1, "--device", "cpu", "-q", *tiny)
    assert main([str(word) for word in command]) == 0
    return path


def tune(folder, base, output, *more):
    few = settings(*LEARNING)
    return ("finetune", folder, "-m", base, "-o", output, "--steps", STEPS, "--device", "cpu", *few, *more)


@pytest.mark.parametrize("method", ["classic", "l2sp"])
def test_a_detector_is_tuned(cellkit, tmp_path, cells, base, method):
    output = tmp_path / "tuned.ckpt"
    done = cellkit(*tune(cells, base, output, "--method", method, "--set", "freeze_at=1", "--val", "0.25"))
    assert (done.code, done.out) == (0, b"")
    line = done.err.splitlines()[-1]
    assert line.startswith(f"cellkit finetune: {output} is written: {STEPS} steps; coco/segm/AP50 0.")
    assert line.endswith("on 1 held images")
    found = load_checkpoint(output)
    assert [record.verb for record in found.history] == ["pretrain", "finetune"]
    arguments = found.history[1].arguments
    assert (arguments["method"], arguments["freeze_at"]) == (method, 1)
    assert arguments["learning_rate"] == pytest.approx(0.0025)
    assert ("strength" in arguments) == (method == "l2sp")
    assert found.card["categories"] == ["cell"]
    again = cellkit(*tune(cells, base, output, "--method", method, "--set", "freeze_at=1", "--val", "0.25"))
    assert again.err == f"cellkit finetune: {output} is up to date\n"


def test_an_interrupted_run_ends_as_an_uninterrupted_one(cellkit, tmp_path, cells, base):
    constant = ("--set", "schedule=constant", "-q")
    assert cellkit(*tune(cells, base, tmp_path / "whole.ckpt", *constant, "--steps", 3)).code == 0
    assert cellkit(*tune(cells, base, tmp_path / "part.ckpt", *constant, "--steps", 1)).code == 0
    (tmp_path / "part.ckpt").unlink()
    assert cellkit(*tune(cells, base, tmp_path / "part.ckpt", *constant, "--steps", 3)).code == 0
    one, other = (load_checkpoint(tmp_path / f"{name}.ckpt").weights for name in ("whole", "part"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def drawn(path):
    return load_checkpoint(path).history[-1].arguments["drawn"]


def test_a_part_of_the_images_is_drawn_and_listed(cellkit, tmp_path, cells, base):
    few = ("--steps", 1, "-q")
    for name, more in (
        ("half", ("--fraction", 0.5)),
        ("same", ("--fraction", 0.5, "--draw", 0)),
        ("all", ("--fraction", 1)),
        ("least", ("--fraction", 0.01)),
    ):
        assert cellkit(*tune(cells, base, tmp_path / f"{name}.ckpt", *few, *more)).code == 0
    half, same, every, least = (drawn(tmp_path / f"{name}.ckpt") for name in ("half", "same", "all", "least"))
    assert (len(half), len(every), len(least)) == (2, 4, 1)
    assert half == same
    assert set(least) < set(half) < set(every)
    arguments = load_checkpoint(tmp_path / "half.ckpt").history[-1].arguments
    assert (arguments["fraction"], arguments["draw"], arguments["shots"]) == (0.5, 0, 2)


def test_parts_differ_by_the_draw_and_are_those_of_every_model(cellkit, tmp_path, cells):
    def shown(*more):
        done = cellkit("finetune", cells, "-o", tmp_path / "m.ckpt", "--dry-run", "--fraction", "0.5", *more)
        return [line.split("\t")[1] for line in done.text.splitlines() if line.startswith("shot\t") and "png" in line]

    parts = {draw: tuple(shown("--draw", draw)) for draw in range(8)}
    assert all(len(part) == 2 for part in parts.values())
    assert len(set(parts.values())) > 1


def test_a_dense_model_is_tuned_on_a_part_too(cellkit, tmp_path, crops, trained):
    base = trained(tmp_path / "base.ckpt")
    dense = ("--steps", 1, "--device", "cpu", "--set", "crop=32", "--set", "batch=2", "-q", "--fraction", "0.5")
    assert cellkit("finetune", crops, "-m", base, "-o", tmp_path / "m.ckpt", *dense).code == 0
    assert len(drawn(tmp_path / "m.ckpt")) == 2


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--fraction", 0.5, "--shots", 2), "--fraction: --shots says how many already (leave one of them out)"),
        (("--fraction", 0), "--fraction: 0 is no image (give a number above 0, up to 1)"),
        (("--method", "contrastive"), "--method: contrastive compares styles, which a detector has not"),
        (("--train", "head"), "--train: a detector has no part 'head' (use --set freeze_at=N, 0 to 5)"),
        (("--set", "strides=8,8"), "there is no setting 'strides' here"),
    ],
)
def test_what_cannot_be_meant(cellkit, tmp_path, cells, base, more, text):
    done = cellkit(*tune(cells, base, tmp_path / "m.ckpt", *more))
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert text in done.err


def test_supported_has_no_parts(cellkit, tmp_path, cells):
    parts = ("--method", "supported", "--labels", cells / "labels", "--fraction", "0.5")
    done = cellkit("finetune", cells / "images", "-o", tmp_path / "m.ckpt", *parts)
    assert done.code == 2
    assert "--fraction: the method supported has no use for it (leave it out)" in done.err


def test_settings_of_detectors_are_listed_too(cellkit):
    listed = cellkit("finetune", "--settings").text.splitlines()
    names = [line.split("=")[0] for line in listed]
    assert {"freeze_at", "anchor_set", "regions", "crop", "strength"} <= set(names)
    assert len(names) == len(set(names))
