"""cellkit adapt: from two folders to a checkpoint that segments, with one line for what is wrong."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import torch

from cellkit.cli.app import main
from cellkit.cli.showing import SAMPLES
from cellkit.io.atomic import lock_file
from cellkit.io.checkpoints import load_checkpoint

CORNERS = {"2cfa61bef6542dd3": (320, 140), "56d0da5b663ddd49": (260, 220), "356d9903d16074f1": (200, 180)}
SIDE = 48
TINY = ("--set", "widths=4,8", "--set", "crop=16", "--set", "batch=2", "--set", "validate_every=1", "--device", "cpu")
STEPS = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """source/ and target/ with three nuclei images each: as they are, and inverted."""
    root = tmp_path_factory.mktemp("domains")
    for kind in ("source", "target"):
        for part in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
        for number, (name, (y, x)) in enumerate(CORNERS.items()):
            picture = iio.imread(SAMPLES / "images" / f"{name}.png")[y : y + SIDE, x : x + SIDE]
            grey = picture if picture.ndim == 2 else picture[:, :, 0]
            labels = iio.imread(SAMPLES / "labels" / f"{name}.png")[y : y + SIDE, x : x + SIDE]
            iio.imwrite(root / kind / "images" / f"{kind}{number}.png", grey if kind == "source" else 255 - grey)
            iio.imwrite(root / kind / "labels" / f"{kind}{number}.png", labels)
    return root


def command(folders, output, *more, source=True, target=True):
    sides = (
        *(("--source", folders / "source") if source else ()),
        *(("--target", folders / "target") if target else ()),
    )
    return ("adapt", *sides, "-o", output, "--steps", STEPS, "--precision", "fp32", *TINY, *more)


@pytest.fixture(scope="module")
def adapted(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapted") / "adapted.ckpt"
    more = ("-q", "--monitor", folders / "target", "--pictures", path.parent / "pictures")
    assert main([str(part) for part in command(folders, path, *more)]) == 0
    return path


def rows(path):
    return list(csv.DictReader(io.StringIO(path.with_suffix(".metrics.csv").read_text())))


def same_weights(one, other):
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_metrics_and_pictures_tell_how_it_went(adapted):
    found = rows(adapted)
    assert [row["step"] for row in found] == ["1", "2", "3"]
    names = {"held_score", "monitor_iou", "monitor_ap_dsb", "pseudo_iou_1", "pseudo_iou_2", "monitor_discrepancy"}
    assert names <= set(found[-1])
    assert all(found[-1][name] for name in names)
    pictures = sorted(path.name for path in (adapted.parent / "pictures").iterdir())
    assert pictures[:3] == [f"target0_step00000{step}.png" for step in (1, 2, 3)]
    assert len(pictures) == 9


def test_adapted_model_segments_and_is_scored(cellkit, tmp_path, folders, adapted):
    labels = tmp_path / "labels"
    assert cellkit("segment", folders / "target", "-m", adapted, "-o", f"{labels}/", "-q", "--device", "cpu").code == 0
    done = cellkit("evaluate", folders / "target", labels, "--json")
    assert done.code == 0
    assert 0 <= json.loads(done.text)["mean"]["iou"] <= 1


def test_info_tells_both_domains(cellkit, adapted):
    facts = json.loads(cellkit("info", adapted, "--json").text)
    assert facts["network"]["members"] == 2
    assert facts["card"]["source"] == {"name": "source", "images": 2, "held out": 1}
    assert facts["card"]["target"] == {"name": "target", "images": 3}
    assert facts["history"][0]["verb"] == "adapt"


def test_finetune_goes_on_from_it(cellkit, tmp_path, folders, adapted):
    shots = ("--set", "crop=16", "--set", "batch=2", "--steps", 2, "--device", "cpu", "-q")
    output = tmp_path / "tuned.ckpt"
    done = cellkit("finetune", folders / "target", "-m", adapted, "-o", output, *shots)
    assert (done.code, done.err) == (0, "")
    found = load_checkpoint(output)
    assert [record.verb for record in found.history] == ["adapt", "finetune"]
    assert found.network.members == 2


def test_what_is_watched_changes_nothing_and_a_stopped_run_goes_on(cellkit, tmp_path, folders, adapted):
    again = command(folders, tmp_path / "m.ckpt")
    stopped = cellkit(*again, "--set", "minutes=0")
    assert "m.ckpt is not finished (the time was over)" in stopped.err
    line = cellkit(*again, "--resume").err.splitlines()[-1]
    best = -max(float(row["held_score"]) for row in rows(tmp_path / "m.ckpt"))
    loss = f"loss on held-out images of the source {best:.4f}"
    assert line == f"cellkit adapt: {tmp_path / 'm.ckpt'} is written: {STEPS} steps, {loss}"
    assert same_weights(tmp_path / "m.ckpt", adapted)
    assert cellkit(*again).err == f"cellkit adapt: {tmp_path / 'm.ckpt'} is up to date\n"


def test_flow_is_adapted_from_a_base(cellkit, tmp_path, folders, model):
    based = ("-m", model, "--set", "crop=16", "--set", "batch=2", "--steps", 1, "--device", "cpu", "-q")
    sides = ("--source", folders / "source", "--target", folders / "target")
    done = cellkit("adapt", *sides, "-o", tmp_path / "m.ckpt", *based)
    assert (done.code, done.err) == (0, "")
    found = load_checkpoint(tmp_path / "m.ckpt")
    assert (found.network.name, found.network.members, found.representation.name) == ("unet", 2, "flow")
    assert (found.preprocessing.channels, found.preprocessing.normalisation) == (2, "percentile")
    assert found.history[-1].model == str(model)


def test_diameter_of_the_target_brings_all_cells_to_one_size(cellkit, tmp_path, folders):
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--diameter", 15, "--steps", 1, "-q"))
    assert (done.code, done.err) == (0, "")
    found = load_checkpoint(tmp_path / "m.ckpt").preprocessing
    assert (found.diameter, found.typical, found.estimated) == (30.0, 15.0, False)


def test_working_diameter_alone_is_an_assumption_that_is_said(cellkit, tmp_path, folders):
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--set", "diameter=20", "--steps", 1))
    words = "cells of the target are taken to have 20 px, as the model wants them; --diameter says otherwise"
    assert done.err.splitlines()[0] == f"cellkit adapt: {words}"


def test_two_runs_never_make_one_checkpoint(cellkit, tmp_path, folders):
    with lock_file(tmp_path / "m.ckpt"):
        done = cellkit(*command(folders, tmp_path / "m.ckpt", "-q"))
    refused(done, 75, f"{tmp_path / 'm.ckpt'}: another run is making it (wait for it to end, or choose another -o)")


def test_dry_run_names_the_images_of_each_part(cellkit, tmp_path, folders):
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--val", 0.34, "--monitor", folders / "target", "--dry-run"))
    heads = [line for line in done.text.splitlines() if line.count("\t") == 1]
    assert heads == ["learn\t2 images", "validate\t1 image", "monitor\t3 images", "target\t3 images"]
    assert done.text.splitlines()[-1] == f"-> {tmp_path / 'm.ckpt'}"
    assert not any(tmp_path.iterdir())


def test_without_held_out_images_the_last_weights_are_written(cellkit, tmp_path, folders):
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--val", 0))
    assert done.err.splitlines()[-1] == f"cellkit adapt: {tmp_path / 'm.ckpt'} is written: {STEPS} steps"
    assert "held_score" not in rows(tmp_path / "m.ckpt")[0]


def only_first(folders, root):
    """The same domains with one image each."""
    for kind in ("source", "target"):
        for part in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
            shutil.copy(folders / kind / part / f"{kind}0.png", root / kind / part)
    return root


def test_one_image_each_is_enough(cellkit, tmp_path, folders):
    few = only_first(folders, tmp_path / "few")
    done = cellkit(*command(few, tmp_path / "m.ckpt"))
    words = "one labelled image alone: none is held out, the last weights are written"
    assert (done.code, done.err.splitlines()[0]) == (0, f"cellkit adapt: {words}")
    asked = cellkit(*command(few, tmp_path / "n.ckpt", "--val", 0.25))
    refused(asked, 2, "--val: 1 images cannot be split (give at least 2 images, or 0)")


def test_bounds_need_one_domain_alone(cellkit, tmp_path, folders):
    lower = command(folders, tmp_path / "lower.ckpt", "--method", "source-only", "-q", target=False)
    assert cellkit(*lower).code == 0
    shown = command(folders, tmp_path / "shown.ckpt", "--method", "source-only", "-q")
    assert cellkit(*shown).code == 0
    assert same_weights(tmp_path / "lower.ckpt", tmp_path / "shown.ckpt")
    upper = command(folders, tmp_path / "upper.ckpt", "--method", "target-only", "-q", source=False)
    assert cellkit(*upper).code == 0
    assert load_checkpoint(tmp_path / "upper.ckpt").card["source"] == {"name": "target", "images": 2, "held out": 1}


def refused(done, code, text):
    assert (done.code, done.err) == (code, f"cellkit adapt: error: {text}\n")


def test_domains_that_are_not_named_are_asked_for(cellkit, tmp_path, folders):
    text = "--source: the method culpico learns from labelled images (add --source DIR)"
    refused(cellkit(*command(folders, tmp_path / "m.ckpt", source=False)), 2, text)
    problem = "the method culpico learns from images of the target, without their labels"
    text = f"--target: {problem} (add --target DIR, or use --method source-only)"
    refused(cellkit(*command(folders, tmp_path / "m.ckpt", target=False)), 2, text)


def test_statistics_of_a_target_need_one(cellkit, tmp_path, folders):
    more = ("--method", "source-only", "--set", "bound_statistics=target")
    text = "--target: bound_statistics=target measures images of the target (add --target DIR)"
    refused(cellkit(*command(folders, tmp_path / "m.ckpt", *more, target=False)), 2, text)


def test_target_without_images_is_refused(cellkit, tmp_path, folders):
    (tmp_path / "empty").mkdir()
    more = ("--target", tmp_path / "empty")
    done = cellkit(*command(folders, tmp_path / "m.ckpt", *more, target=False))
    assert done.code == 4
    begin = f"cellkit adapt: error: --target {tmp_path / 'empty'}: no image to learn from (looked for "
    assert done.err.startswith(begin)
    assert done.err.count("\n") == 1


def test_target_that_is_a_stream_is_refused(cellkit, tmp_path, folders):
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--target", "-", target=False))
    refused(done, 2, "-: a stream cannot be learned from (name files or folders)")


def test_source_without_labels_is_refused(cellkit, tmp_path, folders):
    bare = tmp_path / "bare"
    shutil.copytree(folders / "source" / "images", bare)
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--source", bare, source=False))
    assert done.code == 4
    begin = f"cellkit adapt: error: --source {bare}: no annotated images are recognised (known: "
    assert done.err.startswith(begin)
    assert done.err.count("\n") == 1


def test_pictures_go_into_a_folder(cellkit, tmp_path, folders):
    (tmp_path / "file").write_text("")
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--pictures", tmp_path / "file"))
    refused(done, 2, f"--pictures {tmp_path / 'file'}: is a file (name a folder, there or not)")


def test_upper_bound_needs_labels(cellkit, tmp_path, folders):
    bare = tmp_path / "bare"
    shutil.copytree(folders / "target" / "images", bare)
    more = ("--target", bare, "--method", "target-only")
    done = cellkit(*command(folders, tmp_path / "m.ckpt", *more, target=False))
    assert done.code == 4
    assert done.err.startswith(f"cellkit adapt: error: --target {bare}: no annotated images are recognised (known: ")


def test_target_of_other_channels_is_refused(cellkit, tmp_path, folders):
    two = tmp_path / "two"
    two.mkdir()
    tifffile.imwrite(two / "a.tif", np.zeros((2, 32, 32), np.uint16), metadata={"axes": "CYX"})
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--target", two, target=False))
    first = folders / "source" / "images" / "source"
    assert done.code == 2
    begin = f"cellkit adapt: error: {two / 'a.tif'}: its images have 2 channels, those of the source, such as {first}"
    assert done.err.startswith(begin)
    assert done.err.endswith("1 channel (choose with --channels, or take all as one grey: --set colour=grey)\n")


def test_intensities_of_another_order_are_said(cellkit, tmp_path, folders):
    wide = tmp_path / "wide"
    wide.mkdir()
    for path in (folders / "target" / "images").iterdir():
        tifffile.imwrite(wide / f"{path.stem}.tif", iio.imread(path).astype(np.uint16) * 200)
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--target", wide, "--steps", 1, target=False))
    line = done.err.splitlines()[0]
    found = re.fullmatch(r"cellkit adapt: intensities of source and target are spread (\d+)-fold apart: (.+)", line)
    assert found[2] == "each image is normalised by itself"
    assert 100 < int(found[1]) < 400  # 200-fold, but for what one image more in the target makes of its median


def test_target_that_is_the_source_is_warned_of(cellkit, tmp_path, folders):
    done = cellkit(*command(folders, tmp_path / "m.ckpt", "--target", folders / "source", "--steps", 1, target=False))
    words = "source: 3 images of it in the source, too: there is little to adapt to"
    assert (done.code, done.err.splitlines()[0]) == (0, f"cellkit adapt: warning: {words}")


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (
            ("-m", "nuclei", "--network", "unet"),
            2,
            "--network: a base has a network and a representation of its own (leave --network or --model out)",
        ),
        (
            ("-m", "nuclei", "--representation", "mask"),
            2,
            "--representation: a base has a network and a representation of its own "
            "(leave --representation or --model out)",
        ),
        (
            ("-m", "nuclei"),
            2,
            "--set: 'widths' is that of the base (leave it out, or begin anew with --network)",
        ),
        (("--set", "init=nuclei"), 2, "--set: 'init' has an option of its own (use --model)"),
        (("--set", "typical=30"), 2, "--set: 'typical' has an option of its own (use --diameter)"),
        (
            ("--representation", "embedding"),
            2,
            "--representation: 'embedding' has no map of the probability of a cell "
            "(choose from mask, border, flow, hover, star)",
        ),
        (("--val", "1.5"), 2, "--val: 1.5 is no share of the images (give a number from 0 to below 1)"),
    ],
)
def test_choices_that_cannot_be_meant_are_refused(cellkit, tmp_path, folders, more, code, text):
    refused(cellkit(*command(folders, tmp_path / "m.ckpt", *more)), code, text)
    assert not any(tmp_path.iterdir())


def test_settings_are_listed(cellkit):
    listed = cellkit("adapt", "--settings").text
    names = [line.partition("=")[0] for line in listed.splitlines()]
    assert {"crop", "batch", "statistics", "discrepancy", "validate_every", "widths", "normalisation"} <= set(names)
    assert not {"steps", "network", "representation", "learning_rate", "typical", "init"} & set(names)
    assert "normalisation=minmax\t" in listed
    assert "rotate=false\t" in listed


def test_a_setting_of_another_method_is_said_to_be_of_no_use(cellkit, tmp_path, folders):
    done = cellkit(*command(folders, tmp_path / "a.ckpt", "--set", "mcd_n=2", "--set", "ramp=2", "--dry-run"))
    assert done.code == 0
    assert done.err == "cellkit adapt: warning: --set mcd_n: the method culpico has no use for it\n"
