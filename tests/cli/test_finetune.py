"""cellkit finetune: what it writes, how it goes on, what it says of the labels, and that a tuned model stands alone."""

from __future__ import annotations

import json
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import torch

from cellkit.io.atomic import lock_file
from cellkit.io.checkpoints import load_checkpoint, model_path

TINY = ("--set", "crop=32", "--set", "batch=2", "--device", "cpu")
STEPS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory, trained):
    """A tiny style-aware model that learned four steps; it carries crops of its images."""
    return trained(tmp_path_factory.mktemp("base") / "base.ckpt", "--network", "style-unet", "--set", "styles=2")


@pytest.fixture(scope="module")
def mask_base(tmp_path_factory, trained):
    """The same with masks, whose threshold is searched."""
    return trained(tmp_path_factory.mktemp("base") / "mask.ckpt", "--representation", "mask")


def tune(crops, base, output, *more):
    return ("finetune", crops, "-m", base, "-o", output, "--steps", STEPS, *TINY, *more)


def same_weights(one, other) -> bool:
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_checkpoint_stands_alone(cellkit, tmp_path, crops, base):
    output = tmp_path / "tuned.ckpt"
    done = cellkit(*tune(crops, base, output, "--set", "half=true"))
    assert (done.code, done.out) == (0, b"")
    assert done.err.splitlines()[-1] == f"cellkit finetune: {output} is written: {STEPS} steps"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned.ckpt", "tuned.last.ckpt", "tuned.metrics.csv"]
    tuned, before = load_checkpoint(output), load_checkpoint(base)
    assert [record.verb for record in tuned.history] == ["pretrain", "finetune"]
    assert tuned.history[1].arguments["method"] == "classic"
    assert tuned.preprocessing.diameter == 30.0
    assert 5 < tuned.preprocessing.typical < 60
    assert tuned.contrast.keys() == before.contrast.keys()
    assert not same_weights(output, base)
    image = next((crops / "images").iterdir())
    (tmp_path / "alone").mkdir()
    shutil.move(output, tmp_path / "alone" / "m.ckpt")
    assert cellkit("segment", image, "-m", tmp_path / "alone" / "m.ckpt", "-o", tmp_path / "l.tif", "-q").code == 0


def test_images_are_scaled_by_the_diameter_of_the_shots(cellkit, tmp_path, crops, base):
    output = tmp_path / "tuned.ckpt"
    assert cellkit(*tune(crops, base, output, "--diameter", 60, "-q")).code == 0
    assert load_checkpoint(output).preprocessing.typical == 60.0
    image = next((crops / "images").iterdir())
    for name, more in (("own", ()), ("given", ("--diameter", 60)), ("other", ("--diameter", 30))):
        assert cellkit("predict", image, "-m", output, "-o", tmp_path / f"{name}.h5", "-q", *more).code == 0
    sizes = []
    for name in ("own", "given", "other"):
        found = json.loads(cellkit("info", tmp_path / f"{name}.h5", "--json").text)
        sizes.append(found["history"][-1]["arguments"].get("diameter"))
    assert sizes == [None, 60.0, 30.0]


def test_second_call_says_up_to_date_and_a_corrected_outline_is_another_run(cellkit, tmp_path, crops, base):
    root = tmp_path / "shots"
    shutil.copytree(crops, root)
    output = tmp_path / "tuned.ckpt"
    assert cellkit(*tune(root, base, output, "-q")).code == 0
    again = cellkit(*tune(root, base, output))
    assert again.err.splitlines()[-1] == f"cellkit finetune: {output} is up to date"
    label = root / "labels" / "356d9903d16074f1.png"
    picture = iio.imread(label)
    picture[picture == picture.max()] = 0
    iio.imwrite(label, picture)
    other = cellkit(*tune(root, base, output))
    assert other.code == 2
    assert "exists and was made by other settings (use --on-exists overwrite, or another -o)" in other.err


def test_an_interrupted_run_ends_as_an_uninterrupted_one(cellkit, tmp_path, crops, base):
    whole, parts = tmp_path / "whole.ckpt", tmp_path / "parts.ckpt"
    assert cellkit(*tune(crops, base, whole, "-q", "--set", "save_every=2")).code == 0
    cut = cellkit(*tune(crops, base, parts, "--set", "minutes=0", "--set", "save_every=2"))
    assert "is not finished (the time was over); run the same command again to go on: 1 steps" in cut.err
    assert not parts.exists()
    assert cellkit(*tune(crops, base, parts, "-q", "--set", "save_every=2")).code == 0
    assert same_weights(whole, parts)


def test_two_runs_never_make_one_checkpoint(cellkit, tmp_path, crops, base):
    with lock_file(tmp_path / "m.ckpt"):
        done = cellkit(*tune(crops, base, tmp_path / "m.ckpt"))
    assert done.code == 75
    assert f"{tmp_path / 'm.ckpt'}: another run is making it" in done.err
    assert not list(tmp_path.glob("m.*"))


@pytest.mark.parametrize("part", ["decoder", "head"])
def test_only_the_part_asked_for_learns(cellkit, tmp_path, crops, base, part):
    output = tmp_path / "tuned.ckpt"
    assert cellkit(*tune(crops, base, output, "--train", part, "-q")).code == 0
    before, after = load_checkpoint(base).weights, load_checkpoint(output).weights
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "down" not in changed
    assert "head" in changed
    assert (changed == {"head"}) == (part == "head")


@pytest.mark.parametrize("method", ["contrastive", "l2sp"])
def test_methods_run_and_are_named_in_the_history(cellkit, tmp_path, crops, base, method):
    output = tmp_path / "tuned.ckpt"
    more = ("--query", crops / "images") if method == "contrastive" else ()
    done = cellkit(*tune(crops, base, output, "--method", method, *more))
    assert (done.code, done.out) == (0, b"")
    tuned = load_checkpoint(output)
    assert tuned.history[-1].arguments["method"] == method
    assert set(tuned.extra) == ({"alpha"} if method == "contrastive" else set())
    assert tuned.weights.keys() == load_checkpoint(base).weights.keys()
    head = (tmp_path / "tuned.metrics.csv").read_text().splitlines()[0]
    assert {"contrastive": "contrast", "l2sp": "l2sp"}[method] in head.split(",")


def test_contrast_from_folders_of_styles(cellkit, tmp_path, crops, base):
    styles = tmp_path / "styles"
    for name, image in zip("ab", sorted((crops / "images").iterdir())[:2], strict=True):
        (styles / name).mkdir(parents=True)
        shutil.copy(image, styles / name)
    more = ("--method", "contrastive", "--query", crops / "images", "--contrast", styles, "-q")
    assert cellkit(*tune(crops, base, tmp_path / "tuned.ckpt", *more)).code == 0


def test_shots_are_drawn_the_same_for_every_model(cellkit, tmp_path, crops, base, mask_base):
    drawn = []
    for model in (base, mask_base):
        done = cellkit(*tune(crops, model, tmp_path / "t.ckpt", "--shots", 2, "--draw", 7, "--dry-run"))
        drawn.append([line for line in done.text.splitlines() if line.startswith("shot\t")])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 3
    assert drawn[0][0].startswith("shot\t2 images")
    assert not (tmp_path / "t.ckpt").exists()


def test_thresholds_are_searched_on_the_shots_and_stored(cellkit, tmp_path, crops, mask_base):
    output = tmp_path / "tuned.ckpt"
    assert cellkit(*tune(crops, mask_base, output, "-q")).code == 0
    searched = load_checkpoint(output).representation.settings
    assert searched["cell_threshold"] in np.arange(-4, 4.5, 0.5)
    fixed = tmp_path / "fixed.ckpt"
    more = ("--set", "search=false", "--set", "cell_threshold=1.25")
    assert cellkit(*tune(crops, mask_base, fixed, "-q", *more)).code == 0
    assert load_checkpoint(fixed).representation.settings["cell_threshold"] == 1.25


def test_scores_before_and_after_on_held_images(cellkit, tmp_path, crops, base):
    (tmp_path / "held.txt").write_text("356d9903d16074f1\n")
    output = tmp_path / "tuned.ckpt"
    done = cellkit(*tune(crops, base, output, "--val", tmp_path / "held.txt"))
    assert done.code == 0
    assert "before" in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].endswith("after on 1 held images")
    card = json.loads(cellkit("info", output, "--json").text)["card"]
    assert card["check"]["kind"] == "held"
    assert "356d9903d16074f1" not in card["shots"]
    assert len(card["shots"]) == 3


def test_leave_one_out_scores_each_shot_and_leaves_nothing_behind(cellkit, tmp_path, crops, base):
    output = tmp_path / "tuned.ckpt"
    done = cellkit(*tune(crops, base, output, "--leave-one-out", "--set", "rounds=2"))
    assert done.code == 0
    assert done.err.splitlines()[-1].endswith("after on 2 shots left out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned.ckpt", "tuned.last.ckpt", "tuned.metrics.csv"]


def test_keep_better_keeps_the_base_and_says_so(cellkit, tmp_path, crops):
    (tmp_path / "held.txt").write_text("356d9903d16074f1\n2cfa61bef6542dd3\n")
    output = tmp_path / "tuned.ckpt"
    ruined = ("--lr", "1000", "--keep-better", "--val", tmp_path / "held.txt")  # such a rate leaves nothing of a model
    done = cellkit(*tune(crops, "nuclei", output, *ruined))
    assert done.code == 0
    assert done.err.splitlines()[-1].endswith("; the base was better and is what was written")
    kept, nuclei = load_checkpoint(output), load_checkpoint(model_path("nuclei"))
    assert all(torch.equal(kept.weights[name], nuclei.weights[name]) for name in nuclei.weights)
    assert kept.card["kept"] == "base"
    assert kept.card["check"]["after"]["ap_dsb@0.5"] < 0.1 < kept.card["check"]["before"]["ap_dsb@0.5"]
    assert kept.preprocessing.typical is not None


def test_one_shot_that_is_scored_on_itself_is_warned_of(cellkit, tmp_path, crops, base):
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--shots", 1, "--keep-better"))
    assert done.code == 0
    assert "warning: one shot cannot be left out: the scores are those of the shot learned from (add --val)" in done.err
    assert "on the shot itself" in done.err.splitlines()[-1]


@pytest.fixture
def folder(tmp_path, crops):
    """A copy of two shots that may be spoiled."""
    root = tmp_path / "shots"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
        for name in ("356d9903d16074f1", "2cfa61bef6542dd3"):
            shutil.copy(crops / part / f"{name}.png", root / part)
    return root


def test_labels_without_any_cell(cellkit, tmp_path, folder, base):
    for path in (folder / "labels").iterdir():
        iio.imwrite(path, np.zeros_like(iio.imread(path)))
    done = cellkit(*tune(folder, base, tmp_path / "t.ckpt"))
    assert done.code in (4, 5)
    assert done.err.count("\n") == 1
    assert "outline some cells first" in done.err
    assert not list(tmp_path.glob("t.*"))


def test_binary_masks_are_warned_of(cellkit, tmp_path, folder, base):
    for path in (folder / "labels").iterdir():
        iio.imwrite(path, (iio.imread(path) > 0).astype(np.uint8) * 255)
    done = cellkit(*tune(folder, base, tmp_path / "t.ckpt"))
    assert "warning: " in done.err
    assert "binary" in done.err


def test_more_shots_than_there_are(cellkit, tmp_path, crops, base):
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--shots", 9))
    assert (done.code, done.err) == (
        2,
        "cellkit finetune: error: --shots: 9 asked for, 4 labelled images there (give 1 to 4, or label more)\n",
    )


def test_contrastive_without_query(cellkit, tmp_path, crops, base):
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--method", "contrastive"))
    assert (done.code, done.err) == (
        2,
        "cellkit finetune: error: --method: contrastive learns from images without labels too (add --query DIR)\n",
    )


def test_query_folder_without_images(cellkit, tmp_path, crops, base):
    (tmp_path / "empty").mkdir()
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--method", "contrastive", "--query", tmp_path / "empty"))
    assert done.code == 4
    assert done.err.startswith(f"cellkit finetune: error: {tmp_path / 'empty'}: no query image (")


def test_query_that_nothing_learns_from(cellkit, tmp_path, crops, base):
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--query", crops / "images"))
    assert (done.code, done.err) == (
        2,
        "cellkit finetune: error: --query: the method classic has no use for it (add --method contrastive)\n",
    )


def test_statistics_of_a_query_that_is_missing(cellkit, tmp_path, crops, base):
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--set", "batch_statistics=query"))
    assert (done.code, done.err) == (
        2,
        "cellkit finetune: error: batch_statistics: 'query' measures images without labels (add --query DIR)\n",
    )


def test_statistics_of_query_images(cellkit, tmp_path, crops, base):
    more = ("--set", "batch_statistics=query", "--query", crops / "images", "-q")
    assert cellkit(*tune(crops, base, tmp_path / "t.ckpt", *more)).code == 0


def test_query_of_other_channels(cellkit, tmp_path, folder, base):
    (tmp_path / "query").mkdir()
    colour = tmp_path / "query" / "colour.png"
    iio.imwrite(colour, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    (folder / "images" / "2cfa61bef6542dd3.png").unlink()
    (folder / "labels" / "2cfa61bef6542dd3.png").unlink()
    grey = folder / "images" / "356d9903d16074f1.png"
    iio.imwrite(grey, iio.imread(grey).reshape(96, 96, -1)[..., 0])
    done = cellkit(*tune(folder, base, tmp_path / "t.ckpt", "--method", "contrastive", "--query", tmp_path / "query"))
    assert done.code == 5
    assert done.err.splitlines()[-1] == (
        f"cellkit finetune: error: {colour}: has 3 channels, but the shots have 1 "
        "(give images of the experiment that the shots are of)"
    )


def test_channels_are_chosen_as_for_prediction(cellkit, tmp_path, folder, base):
    for path in (folder / "images").iterdir():
        grey = iio.imread(path).reshape(96, 96, -1)[..., 0]
        stack = np.stack([np.zeros_like(grey), grey, grey // 2, grey])
        tifffile.imwrite(path.with_suffix(".tif"), stack, photometric="minisblack", metadata={"axes": "CYX"})
        path.unlink()
    done = cellkit(*tune(folder, base, tmp_path / "t.ckpt"))
    assert done.code == 5
    assert "4 channels, but the model wants 3 (choose them with --channels, e.g. --channels 0,1,2)" in done.err
    assert cellkit(*tune(folder, base, tmp_path / "t.ckpt", "--channels", "1", "-q")).code == 0
    assert load_checkpoint(tmp_path / "t.ckpt").history[-1].arguments["channels"] == "1"


def test_contrast_folder_with_one_style(cellkit, tmp_path, crops, base):
    (tmp_path / "styles" / "only").mkdir(parents=True)
    shutil.copy(crops / "images" / "356d9903d16074f1.png", tmp_path / "styles" / "only")
    more = ("--method", "contrastive", "--query", crops / "images", "--contrast", tmp_path / "styles")
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", *more))
    assert done.code != 0
    assert done.err.splitlines()[-1].startswith(f"cellkit finetune: error: {tmp_path / 'styles'}: ")
    assert "has images of 1 style, and contrast needs 2 or more" in done.err


def test_a_base_without_contrast_crops(cellkit, tmp_path, crops, trained):
    bare = trained(tmp_path / "bare.ckpt", "--set", "styles=0")
    done = cellkit(*tune(crops, bare, tmp_path / "t.ckpt", "--method", "contrastive", "--query", crops / "images"))
    assert (done.code, done.err.splitlines()[-1]) == (
        5,
        f"cellkit finetune: error: {bare}: carries crops of no styles, and contrast needs 2 or more "
        "(give --contrast DIR with a folder of images per style)",
    )


def test_an_unknown_setting(cellkit, tmp_path, crops, base):
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--set", "alhpa=1"))
    assert (done.code, done.err) == (
        2,
        "cellkit finetune: error: --set: there is no setting 'alhpa' here (did you mean alpha?)\n",
    )
    other = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--set", "border_threshold=1"))
    assert other.code == 2
    assert "'border_threshold' is no setting of 'flow'" in other.err


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("strides=8,8",), "--set: 'strides' is of crops of a grid (add --set crops=grid)"),
        (
            ("crops=grid", "rotate=false"),
            "--set: 'rotate' means nothing for crops of a grid (leave it or crops=grid out)",
        ),
        (("crops=grid", "strides=0,8"), "strides: (0, 8) are no strides (give pixels down and right, e.g. 64,64)"),
        (("epochs=0",), "epochs: 0 is none (give 1 or more, or leave it out for --steps)"),
    ],
)
def test_crops_that_cannot_be_meant(cellkit, tmp_path, crops, base, settings, text):
    more = [part for setting in settings for part in ("--set", setting)]
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", *more))
    assert (done.code, done.err.splitlines()[-1]) == (2, f"cellkit finetune: error: {text}")
    assert not (tmp_path / "t.ckpt").exists()


def test_epochs_of_a_grid(cellkit, tmp_path, crops, mask_base):
    output = tmp_path / "t.ckpt"
    grid = ("crops=grid", "strides=64,64", "cell_pixels=1", "epochs=2", "batch=999")
    done = cellkit(*tune(crops, mask_base, output, *(part for setting in grid for part in ("--set", setting))))
    assert done.code == 0
    assert done.err.splitlines()[-1] == f"cellkit finetune: {output} is written: 2 steps"


def test_settings_are_listed_with_their_defaults_here(cellkit):
    lines = cellkit("finetune", "--settings").text.splitlines()
    assert any(line.startswith("optimiser=adam\t") for line in lines)
    assert any(line.startswith("schedule=halving\t") for line in lines)
    assert any(line.startswith("alpha=0.2\t") for line in lines)
    young = {"epochs=none", "affine=auto", "batch_statistics=auto", "crops=random", "strides=64,64", "rescale=auto"}
    assert young <= {line.split("\t")[0] for line in lines}
    assert not any(line.startswith("steps=100\t") and "gradient" in line for line in lines)


def test_held_images_may_stand_in_a_table(cellkit, tmp_path, crops, base):
    name = "356d9903d16074f1.png"
    table = tmp_path / "held.csv"
    table.write_text(f"image,labels\n{crops / 'images' / name},{crops / 'labels' / name}\n")
    done = cellkit(*tune(crops, base, tmp_path / "t.ckpt", "--val", table, "--dry-run"))
    assert [line.split("\t")[:2] for line in done.text.splitlines()[:1]] == [["shot", "3 images"]]
    assert f"score\t{name.removesuffix('.png')}\t{crops / 'images' / name}" in done.text
