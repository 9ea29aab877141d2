"""cellkit pretrain --method moco and --method cupre: images without labels, alone and beside labelled ones."""

from __future__ import annotations

import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from cellkit.io.checkpoints import load_checkpoint

SIDE = 64
DETECTOR = (
    "trunk=resnet-tiny", "width=4", "pyramid=8", "hidden=8", "box_convs=1", "mask_convs=1", "cascade_stages=1",
    "anchor_set=livecell", "norm=group-norm", "head_norm=group-norm",
)  # fmt: skip
VIEWS = ("view_size=32", "projection=8")
COMMON = (*DETECTOR, "crop=64", "batch=2", "before_nms=50", "proposals=30", "anchors=32", "regions=16", "warmup=0")
TURNS = (*VIEWS, "rounds=2", "warm_part=0.2", "contrast_batch=4")
UNET = ("widths=4,8", "channels=1")


def scene(seed):
    """Labels (64, 64) of squares that lie apart, and an image of them."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for number in range(3 + seed % 4):
        y, x = 4 + 20 * (number // 3), 4 + 20 * (number % 3)
        labels[y : y + 14, x : x + 12] = number + 1
    image = np.random.default_rng(seed).integers(0, 60, labels.shape) + 150 * (labels > 0)
    return labels, image.astype(np.uint8)


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    folder = tmp_path_factory.mktemp("common")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for seed in range(4):
        labels, image = scene(seed)
        iio.imwrite(folder / "images" / f"{seed}.png", image)
        iio.imwrite(folder / "labels" / f"{seed}.png", labels)
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    for seed in range(10):
        iio.imwrite(folder / f"{seed}.png", scene(100 + seed)[1])
    return folder


def command(data, output, method, settings, *more, steps=2):
    sets = [word for setting in settings for word in ("--set", setting)]
    return ("pretrain", data, "-o", output, "--method", method, "--steps", steps, "--device", "cpu", *sets, *more)


def test_a_trunk_is_learned_from_images_alone(cellkit, tmp_path, cells):
    done = cellkit(*command(cells, tmp_path / "m.ckpt", "moco", (*DETECTOR, *VIEWS, "batch=4")))
    assert done.code == 0, done.err
    found = load_checkpoint(tmp_path / "m.ckpt")
    assert (found.network.name, found.representation.name, found.card) == (
        "detector",
        "boxes",
        {"categories": ["cell"]},
    )
    assert found.history[0].arguments["learning_rate"] == pytest.approx(0.03 * 4 / 256)
    assert "m.ckpt is written: 2 steps" in done.err
    again = cellkit(*command(cells, tmp_path / "m.ckpt", "moco", (*DETECTOR, *VIEWS, "batch=4")))
    assert "up to date" in again.err


def test_version_1_has_views_of_its_own(cellkit, tmp_path, cells):
    settings = (*UNET, *VIEWS, "batch=4", "version=v1", "view_hue=0.2")
    done = cellkit(*command(cells, tmp_path / "m.ckpt", "moco", settings, "--network", "style-unet"))
    assert done.code == 0, done.err
    found = load_checkpoint(tmp_path / "m.ckpt")
    assert (found.network.name, found.representation.name) == ("style-unet", "flow")
    arguments = found.history[0].arguments
    assert (arguments["view_jitter"], arguments["view_blur"], arguments["view_hue"]) == (1.0, 0.0, 0.2)


@pytest.fixture(scope="module")
def coco(tmp_path_factory, common):
    """A detector of one step on common objects."""
    from cellkit.cli.app import main

    path = tmp_path_factory.mktemp("coco") / "coco.ckpt"
    assert main([str(word) for word in (*command(common, path, "detection", COMMON, steps=1), "-q")]) == 0
    return path


def test_a_detector_gets_another_trunk_and_keeps_its_heads(cellkit, tmp_path, cells, coco):
    done = cellkit(*command(cells, tmp_path / "m.ckpt", "moco", (*VIEWS, "batch=4", f"init={coco}"), "--lr", "0.05"))
    assert done.code == 0, done.err
    base, found = load_checkpoint(coco), load_checkpoint(tmp_path / "m.ckpt")
    assert found.network == base.network
    assert found.preprocessing == base.preprocessing
    same = {name for name in base.weights if torch.equal(base.weights[name], found.weights[name])}
    assert same >= {name for name in base.weights if not name.startswith("backbone.bottom_up.")}
    assert same != set(base.weights)


def test_labelled_and_unlabelled_images_take_turns(cellkit, tmp_path, cells, common, coco):
    settings = (*COMMON, *TURNS, "warm_part=0", f"init={coco}")
    done = cellkit(*command(cells, tmp_path / "c.ckpt", "cupre", settings, "--labelled", common, "-v", steps=4))
    assert done.code == 0, done.err
    assert "0 steps of warm-up, then 2 rounds of 1 on unlabelled and 1 on labelled images" in done.err
    found = load_checkpoint(tmp_path / "c.ckpt")
    assert found.network == load_checkpoint(coco).network
    arguments = found.history[0].arguments
    assert (arguments["method"], arguments["images"], arguments["labelled_images"]) == ("cupre", 10, 4)
    assert arguments["contrast_rate"] == pytest.approx(0.03 * 4 / 256)
    assert arguments["learning_rate"] == pytest.approx(0.02 * 2 / 16)


def test_a_checkpoint_can_be_fine_tuned(cellkit, tmp_path, cells, common):
    base = tmp_path / "c.ckpt"
    done = cellkit(*command(cells, base, "cupre", (*COMMON, *TURNS), "--labelled", common, "-q", steps=5))
    assert done.code == 0, done.err
    tuning = ("--set", "crop=64", "--set", "batch=2", "--set", "regions=16", "--set", "proposals=30")
    words = ("--fraction", 0.5, "--steps", 1, "--device", "cpu", "-q", *tuning)
    done = cellkit("finetune", common, "-m", base, "-o", tmp_path / "t.ckpt", *words)
    assert done.code == 0, done.err
    assert load_checkpoint(tmp_path / "t.ckpt").network.name == "detector"


def test_a_dense_network_takes_turns_as_well(cellkit, tmp_path, cells, common):
    settings = (*UNET, *TURNS, "crop=32", "batch=2", "freeze_trunk=true", "foreground=0", "rotate=false")
    more = ("--labelled", common, "--network", "style-unet", "--representation", "mask")
    done = cellkit(*command(cells, tmp_path / "c.ckpt", "cupre", settings, *more, steps=5))
    assert done.code == 0, done.err
    found = load_checkpoint(tmp_path / "c.ckpt")
    assert (found.network.name, found.representation.name) == ("style-unet", "mask")
    assert found.history[0].arguments["contrast_rate"] is None
    assert found.history[0].arguments["rotate"] is False


def test_a_dry_run_shows_both_kinds_of_images(cellkit, tmp_path, cells, common):
    words = command(cells, tmp_path / "c.ckpt", "cupre", (*COMMON, *TURNS), "--labelled", common, "--dry-run", steps=5)
    done = cellkit(*words)
    assert done.code == 0, done.err
    lines = done.text.splitlines()
    assert lines[0] == "labelled\t4 images"
    assert "unlabelled\t10 images" in lines
    assert lines[-1] == f"-> {tmp_path / 'c.ckpt'}"
    assert not (tmp_path / "c.ckpt").exists()


def test_settings_are_listed(cellkit):
    moco, cupre = (cellkit("pretrain", "--method", method, "--settings") for method in ("moco", "cupre"))
    assert "key_momentum=0.999\t" in moco.text
    assert "view_region=512\t" in moco.text
    assert "rounds=10\t" in cupre.text
    assert "sp_balance=0.9\t" in cupre.text


@pytest.mark.parametrize(
    ("method", "settings", "more", "message"),
    [
        ("cupre", (), (), "--labelled: the method cupre learns from labelled images, too (add --labelled DIR)"),
        ("moco", (), ("--labelled", "x"), "--labelled: the method moco has no use for it (add --method cupre)"),
        ("moco", (), ("--val", "0.1"), "--val: the method moco has no use for it (leave it out)"),
        ("moco", ("rounds=3",), (), "--set: there is no setting 'rounds' here (choose from"),
        ("moco", (*DETECTOR, "batch=2"), (), "key_groups: 2 groups of 2 keys have fewer than 2 (give a larger batch"),
        ("moco", (), ("--network", "detector", "--representation", "flow"), "--representation: the method detection"),
        ("moco", ("init=nowhere.ckpt",), (), "nowhere.ckpt"),
    ],
)
def test_what_cannot_be_meant_costs_one_line(cellkit, tmp_path, cells, method, settings, more, message):
    done = cellkit(*command(cells, tmp_path / "m.ckpt", method, settings, *more))
    assert done.code in (2, 5)
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_cells_need_images_and_turns_need_steps(cellkit, tmp_path, cells, common):
    (tmp_path / "empty").mkdir()
    done = cellkit(*command(tmp_path / "empty", tmp_path / "m.ckpt", "moco", ()))
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "no image to learn from" in done.err
    done = cellkit(*command(cells, tmp_path / "c.ckpt", "cupre", TURNS, "--labelled", common, steps=4))
    assert "--steps: 4 are too few for 2 rounds of two tasks after the warm-up" in done.err
    done = cellkit(*command(cells, tmp_path / "c.ckpt", "cupre", TURNS, "--labelled", tmp_path / "empty", steps=5))
    assert done.code == 4
    assert f"--labelled {tmp_path / 'empty'}" in done.err


def test_metrics_tell_both_tasks(cellkit, tmp_path, cells, common):
    settings = (*COMMON, *TURNS, "log_every=1")
    assert cellkit(*command(cells, tmp_path / "c.ckpt", "cupre", settings, "--labelled", common, steps=5)).code == 0
    header = (tmp_path / "c.metrics.csv").read_text().splitlines()[0].split(",")
    assert {"contrast", "accuracy", "l2sp", "mask"} <= set(header)
    info = cellkit("info", tmp_path / "c.ckpt", "--json")
    assert json.loads(info.text)
