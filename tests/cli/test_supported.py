"""cellkit finetune --method supported: labels of some cells and a segmentation become a model that stands alone."""

from __future__ import annotations

import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import torch

from cellkit.io.checkpoints import load_checkpoint
from cellkit.io.labels import read_labels

COLOUR = ("--set", "channels=3", "--set", "colour=rgb")
SIZES = ("--set", "crop=32", "--set", "batch=4", "--device", "cpu")
TINY = (*SIZES, *COLOUR, "--set", "widths=4,8")
STEPS = 4
KEYS = ["2cfa61bef6542dd3", "2dd3356f2dcf470a", "56d0da5b663ddd49", "356d9903d16074f1"]  # in natural order


@pytest.fixture(scope="module")
def labels(crops, tmp_path_factory):
    """sparse/ with one cell of three of four images, and pseudo/ with all cells of all of them, grown together."""
    root = tmp_path_factory.mktemp("labels")
    for kind in ("sparse", "pseudo"):
        (root / kind).mkdir()
    for number, key in enumerate(KEYS):
        full = iio.imread(crops / "labels" / f"{key}.png").astype(np.int16)
        inner = np.bincount(full[full > 0]).argmax()
        sparse = np.where(full == inner, 1, np.where(full > 0, -1, 0)).astype(np.int16)
        if number < 3:
            tifffile.imwrite(root / "sparse" / f"{key}.tif", sparse)
        tifffile.imwrite(root / "pseudo" / f"{key}.tif", np.where(full > 0, full // 2 + 1, 0).astype(np.uint16))
    return root


def command(crops, labels, output, *more, sparse=True, pseudo=True):
    kinds = (*(("--labels", labels / "sparse") if sparse else ()), *(("--pseudo", labels / "pseudo") if pseudo else ()))
    return ("finetune", crops, "-o", output, "--method", "supported", *kinds, "--steps", STEPS, *more)


def fresh(crops, labels, output, *more, **kinds):
    return command(crops, labels, output, "--network", "mini-unet", *TINY, *more, **kinds)


def same_weights(one, other) -> bool:
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def terms_of(path) -> list[str]:
    header = path.with_name(path.stem + ".metrics.csv").read_text().splitlines()[0].split(",")
    return [name for name in header if name.startswith(("sparse", "pseudo"))]


def test_a_fresh_network_stands_alone(cellkit, tmp_path, crops, labels):
    output = tmp_path / "m.ckpt"
    done = cellkit(*fresh(crops, labels, output))
    assert (done.code, done.out) == (0, b"")
    assert done.err.splitlines()[-1] == f"cellkit finetune: {output} is written: {STEPS} steps"
    made = load_checkpoint(output)
    assert (made.network.name, made.network.outputs, made.representation.name) == ("mini-unet", 33, "star")
    assert made.preprocessing.diameter == 30.0
    assert 5 < made.preprocessing.typical < 60
    (record,) = made.history
    assert (record.verb, record.model) == ("finetune", None)
    expected = {"method": "supported", "alpha": 0.5, "background": 30.0, "schedule": "tenths", "optimiser": "adam"}
    assert expected.items() <= record.arguments.items()
    assert (record.arguments["sparse_images"], record.arguments["pseudo_images"]) == (3, 4)
    assert terms_of(output) == ["sparse distance", "sparse cell", "pseudo distance", "pseudo cell"]
    image = crops / "images" / f"{KEYS[0]}.png"
    assert cellkit("segment", image, "-m", output, "-o", tmp_path / "l.tif", "-q", "--device", "cpu").code == 0
    assert read_labels(str(tmp_path / "l.tif")).shape == (96, 96)


def test_each_image_can_have_a_size_of_its_own(cellkit, tmp_path, crops, labels):
    one, own = tmp_path / "one.ckpt", tmp_path / "own.ckpt"
    assert cellkit(*fresh(crops, labels, one)).code == 0
    assert cellkit(*fresh(crops, labels, own, "--set", "estimated=true")).code == 0
    assert load_checkpoint(own).preprocessing.estimated
    assert not same_weights(one, own)


def test_widths_of_a_fresh_network_let_it_see_two_cells_side_by_side(cellkit, tmp_path, crops, labels):
    from cellkit.networks import build

    small = ("--set", "batch=2", "--steps", 1, "-q")
    assert (
        cellkit(*command(crops, labels, tmp_path / "m.ckpt", "--network", "mini-unet", *SIZES, *COLOUR, *small)).code
        == 0
    )
    network = build(load_checkpoint(tmp_path / "m.ckpt").network)
    assert network.field_of_view >= 60
    assert sum(parameter.numel() for parameter in network.parameters()) < 2_000_000


def test_flow_and_images_chosen_by_name(cellkit, tmp_path, crops, labels):
    (tmp_path / "names.txt").write_text(f"{KEYS[1]}\n{KEYS[2]}.png\n")
    more = ("--representation", "flow", "--names", tmp_path / "names.txt")
    output = tmp_path / "m.ckpt"
    assert cellkit(*fresh(crops, labels, output, *more, "-q")).code == 0
    arguments = load_checkpoint(output).history[0].arguments
    assert (arguments["sparse_images"], arguments["pseudo_images"]) == (2, 2)
    assert terms_of(output) == ["sparse flow", "sparse cell", "pseudo flow", "pseudo cell"]


def test_interrupted_run_ends_as_an_uninterrupted_one(cellkit, tmp_path, crops, labels):
    whole, parts = tmp_path / "whole.ckpt", tmp_path / "parts.ckpt"
    assert cellkit(*fresh(crops, labels, whole, "-q")).code == 0
    cut = cellkit(*fresh(crops, labels, parts, "--set", "minutes=0"))
    assert "is not finished (the time was over); run the same command again to go on: 1 steps" in cut.err
    assert cellkit(*fresh(crops, labels, parts, "--resume", "-q")).code == 0
    assert same_weights(whole, parts)
    assert cellkit(*fresh(crops, labels, parts)).err == f"cellkit finetune: {parts} is up to date\n"


def test_a_corrected_outline_is_another_run(cellkit, tmp_path, crops, labels):
    shutil.copytree(labels, tmp_path / "labels")
    output = tmp_path / "m.ckpt"
    assert cellkit(*fresh(crops, tmp_path / "labels", output, "-q")).code == 0
    path = tmp_path / "labels" / "pseudo" / f"{KEYS[0]}.tif"
    tifffile.imwrite(path, np.zeros_like(tifffile.imread(path)))
    other = cellkit(*fresh(crops, tmp_path / "labels", output))
    assert other.code == 2
    assert "exists and was made by other settings (use --on-exists overwrite, or another -o)" in other.err


@pytest.mark.parametrize(
    ("sparse", "pseudo", "half", "alpha"), [(True, False, "sparse", 0), (False, True, "pseudo", 1)]
)
def test_one_kind_of_labels_is_enough(cellkit, tmp_path, crops, labels, sparse, pseudo, half, alpha):
    output = tmp_path / "m.ckpt"
    assert cellkit(*fresh(crops, labels, output, "-q", sparse=sparse, pseudo=pseudo)).code == 0
    assert load_checkpoint(output).history[0].arguments["alpha"] == alpha
    assert terms_of(output) == [f"{half} distance", f"{half} cell"]


def test_with_alpha_0_pseudo_labels_change_nothing(cellkit, tmp_path, crops, labels):
    bare, given = tmp_path / "bare.ckpt", tmp_path / "given.ckpt"
    assert cellkit(*fresh(crops, labels, bare, "-q", pseudo=False)).code == 0
    assert cellkit(*fresh(crops, labels, given, "-q", "--alpha", 0)).code == 0
    assert same_weights(bare, given)


def test_a_base_is_the_start(cellkit, tmp_path, crops, labels, trained):
    base = trained(tmp_path / "base.ckpt", "--set", "styles=2", "--set", "cell_threshold=0.25")
    output = tmp_path / "m.ckpt"
    more = (*SIZES, "-m", base, "--diameter", 20, "-q", "--lr", 0)
    assert cellkit(*command(crops, labels, output, *more)).code == 0
    made, before = load_checkpoint(output), load_checkpoint(base)
    assert (made.network, made.representation.name) == (before.network, "flow")
    assert made.representation.settings["cell_threshold"] == 0.25
    assert (made.preprocessing.diameter, made.preprocessing.typical) == (30.0, 20.0)
    assert made.preprocessing.channels == 3
    assert (made.history[-1].model, made.history[-1].verb) == (str(base), "finetune")
    assert made.history[-1].model_digest is not None
    assert made.contrast.keys() == before.contrast.keys() != set()
    convolutions = [name for name in made.weights if name.endswith("weight")]
    assert all(torch.equal(made.weights[name], before.weights[name]) for name in convolutions)


def test_held_images_choose_the_best_weights(cellkit, tmp_path, crops, labels):
    (tmp_path / "held.txt").write_text(f"{KEYS[3]}\n")
    output = tmp_path / "m.ckpt"
    done = cellkit(*fresh(crops, labels, output, "--val", tmp_path / "held.txt", "--set", "validate_every=2"))
    assert done.code == 0
    assert ", best score " in done.err.splitlines()[-1]
    arguments = load_checkpoint(output).history[0].arguments
    assert (arguments["validation_images"], arguments["pseudo_images"]) == (1, 3)
    folder = cellkit(*fresh(crops, labels, tmp_path / "n.ckpt", "--val", crops, "--dry-run"))
    assert (folder.code, folder.err.count("\n")) == (4, 1)  # all images are held, none is left


def test_dry_run_shows_both_halves(cellkit, tmp_path, crops, labels):
    done = cellkit(*fresh(crops, labels, tmp_path / "m.ckpt", "--dry-run"))
    lines = [line.split("\t") for line in done.text.splitlines()]
    heads = [line[:2] for line in lines if len(line) > 1 and line[1].endswith(" images")]
    assert heads == [["sparse", "3 images"], ["pseudo", "4 images"], ["validate", "0 images"]]
    assert [line[1] for line in lines if line[0] == "sparse"][1:] == KEYS[:3]
    assert [line[1] for line in lines if line[0] == "pseudo"][1:] == KEYS
    assert lines[1][3] == str(labels / "sparse" / f"{KEYS[0]}.tif")
    assert not list(tmp_path.iterdir())


def test_labels_of_no_image_are_counted(cellkit, tmp_path, crops, labels):
    shutil.copytree(labels, tmp_path / "labels")
    shutil.copy(labels / "sparse" / f"{KEYS[0]}.tif", tmp_path / "labels" / "sparse" / "other.tif")
    done = cellkit(*fresh(crops, tmp_path / "labels", tmp_path / "m.ckpt", "--dry-run"))
    said = f"{tmp_path / 'labels' / 'sparse'}: no image for 1 of 4 label images"
    assert (done.code, done.err) == (0, f"cellkit finetune: warning: {said}\n")


def test_settings_are_those_of_the_method(cellkit):
    lines = cellkit("finetune", "--method", "supported", "--settings").text.splitlines()
    names = {line.split("=")[0] for line in lines}
    assert "background=30.0" in {line.split("\t")[0] for line in lines}
    assert {"widths=24,48,96,192", "schedule=tenths", "channels=1"} <= {line.split("\t")[0] for line in lines}
    assert not {"alpha", "steps", "network", "init", "typical", "epsilon", "rounds"} & names
    assert "alpha=0.2" in {line.split("\t")[0] for line in cellkit("finetune", "--settings").text.splitlines()}


FRESH = ("--network", "mini-unet")
REFUSED = {
    "query": ((*FRESH, "--query", "x"), 2, "--query: the method supported has no use for it (leave it out)"),
    "contrast": ((*FRESH, "--contrast", "x"), 2, "--contrast: the method supported has no use for it (leave it out)"),
    "shots": ((*FRESH, "--shots", 2), 2, "--shots: the method supported has no use for it (leave it out)"),
    "draw": ((*FRESH, "--draw", 2), 2, "--draw: the method supported has no use for it (leave it out)"),
    "pairs": ((*FRESH, "--pairs", "x"), 2, "--pairs: the method supported has no use for it (leave it out)"),
    "train": ((*FRESH, "--train", "head"), 2, "--train: the method supported has no use for it (leave it out)"),
    "leave one out": (
        (*FRESH, "--leave-one-out"),
        2,
        "--leave-one-out: the method supported has no use for it (leave it out)",
    ),
    "keep better": (
        (*FRESH, "--keep-better"),
        2,
        "--keep-better: the method supported has no use for it (leave it out)",
    ),
    "two starts": (
        (*FRESH, "-m", "nuclei"),
        2,
        "--network: a base has a network and a representation of its own (leave --network or --model out)",
    ),
    "another representation than the base": (
        ("--representation", "star", "-m", "nuclei"),
        2,
        "--representation: a base has a network and a representation of its own "
        "(leave --representation or --model out)",
    ),
    "widths of a base": (
        ("--set", "widths=4,8"),
        2,
        "--set: 'widths' is that of the base (leave it out, or begin anew with --network)",
    ),
    "a part": (
        (*FRESH, "--val", "0.1"),
        2,
        "--val: '0.1' is no file or folder: sparse labels cannot score a part of the images "
        "(give images of which all cells are labelled)",
    ),
    "styles": ((*FRESH, "--set", "styles=3"), 2, "styles: the method supported has no use for it (leave it out)"),
    "noise": (
        (*FRESH, "--set", "noise_copies=2"),
        2,
        "noise_copies: the method supported has no use for it (leave it out)",
    ),
    "diameters": (
        (*FRESH, "--set", "diameters=20,40"),
        2,
        "diameters: the method supported has one scale for all images, that of prediction (use scale)",
    ),
    "no working diameter": ((*FRESH, "--set", "diameter=none"), 2, "diameter: none is no size (give pixels, e.g. 30)"),
    "alpha as a setting": ((*FRESH, "--set", "alpha=1"), 2, "--set: 'alpha' has an option of its own (use --alpha)"),
    "a setting of another representation": (
        (*FRESH, "--set", "flow_threshold=1"),
        2,
        "--set: 'flow_threshold' is no setting of 'star' "
        "(choose from cell_threshold, min_area, max_fraction, fill_holes, exclude_border, overlap, margin)",
    ),
    "an odd batch": (
        (*FRESH, *TINY, "--set", "batch=3"),
        2,
        "batch: 3 crops cannot be halved (give an even number such as 4)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_one_line(cellkit, tmp_path, crops, labels, case):
    more, code, message = REFUSED[case]
    done = cellkit(*command(crops, labels, tmp_path / "m.ckpt", *more))
    assert (done.code, done.err) == (code, f"cellkit finetune: error: {message}\n")
    assert not (tmp_path / "m.ckpt").exists()


KINDS = {
    "none": (
        (),
        False,
        False,
        "--method: supported learns from labels of some cells and from a segmentation "
        "(add --labels SPARSE, --pseudo PSEUDO, or both)",
    ),
    "no pseudo": (
        ("--alpha", 0.5),
        True,
        False,
        "--alpha: 0.5 needs pseudo labels too (add --pseudo, or leave --alpha out)",
    ),
    "no sparse": (
        ("--alpha", 0.5),
        False,
        True,
        "--alpha: 0.5 needs labelled cells too (add --labels, or leave --alpha out)",
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_labels_that_alpha_needs(cellkit, tmp_path, crops, labels, case):
    more, sparse, pseudo, message = KINDS[case]
    done = cellkit(*fresh(crops, labels, tmp_path / "m.ckpt", *more, sparse=sparse, pseudo=pseudo))
    assert (done.code, done.err) == (2, f"cellkit finetune: error: {message}\n")


@pytest.mark.parametrize(
    ("option", "value"),
    [("labels", "x"), ("pseudo", "x"), ("alpha", 0.5), ("network", "unet"), ("representation", "star")],
)
def test_other_methods_have_no_use_for_support(cellkit, tmp_path, crops, option, value):
    done = cellkit("finetune", crops, "-o", tmp_path / "m.ckpt", f"--{option}", value)
    message = f"--{option}: the method classic has no use for it (add --method supported)"
    assert (done.code, done.err) == (2, f"cellkit finetune: error: {message}\n")


def test_no_label_has_the_name_of_an_image(cellkit, tmp_path, crops, labels):
    (tmp_path / "sparse").mkdir()
    (tmp_path / "pseudo").mkdir()
    shutil.copy(labels / "sparse" / f"{KEYS[0]}.tif", tmp_path / "sparse" / "other.tif")
    shutil.copy(labels / "sparse" / f"{KEYS[1]}.tif", tmp_path / "sparse" / "another.tif")
    done = cellkit(*fresh(crops, tmp_path, tmp_path / "m.ckpt"))
    problem = (
        f"{tmp_path / 'sparse'}: none of 2 label images has the name of an image (name label images as the images)"
    )
    assert (done.code, done.err) == (4, f"cellkit finetune: error: {problem}\n")


def test_labels_without_any_cell(cellkit, tmp_path, crops, labels):
    (tmp_path / "sparse").mkdir()
    tifffile.imwrite(tmp_path / "sparse" / f"{KEYS[0]}.tif", np.full((96, 96), -1, np.int16))
    done = cellkit(*fresh(crops, tmp_path, tmp_path / "m.ckpt", pseudo=False))
    problem = f"{tmp_path / 'sparse'}: no image shows a labelled cell (outline some cells first)"
    assert (done.code, done.err) == (4, f"cellkit finetune: error: {problem}\n")
    tifffile.imwrite(tmp_path / "sparse" / f"{KEYS[0]}.tif", np.zeros((96, 96), np.uint16))
    (tmp_path / "sparse").rename(tmp_path / "pseudo")
    empty = cellkit(*fresh(crops, tmp_path, tmp_path / "m.ckpt", sparse=False))
    problem = "labels: no image shows a cell (give labels with cells, or the --diameter of the cells)"
    assert (empty.code, empty.err) == (4, f"cellkit finetune: error: {problem}\n")


def test_images_that_are_not_there_and_names_that_are_none(cellkit, tmp_path, crops, labels):
    (tmp_path / "empty").mkdir()
    none = cellkit(*fresh(tmp_path / "empty", labels, tmp_path / "m.ckpt"))
    assert none.code == 4
    assert none.err.startswith(f"cellkit finetune: error: {tmp_path / 'empty'}: no image to learn from (")
    (tmp_path / "names.txt").write_text("nobody\n")
    named = cellkit(*fresh(crops, labels, tmp_path / "m.ckpt", "--names", tmp_path / "names.txt"))
    problem = f"list of images: 'nobody' is no image (one of 4, e.g. {KEYS[0]})"
    assert (named.code, named.err) == (2, f"cellkit finetune: error: {problem}\n")
    (tmp_path / "names.txt").write_text(f"{KEYS[3]}\n")
    unlabelled = cellkit(*fresh(crops, labels, tmp_path / "m.ckpt", "--names", tmp_path / "names.txt"))
    assert (unlabelled.code, unlabelled.err.count("\n")) == (4, 1)
    streamed = cellkit(*fresh("-", labels, tmp_path / "m.ckpt"))
    assert "-: a stream cannot be learned from (name files or folders)" in streamed.err


def test_labels_of_another_shape(cellkit, tmp_path, crops, labels):
    shutil.copytree(labels, tmp_path / "labels")
    path = tmp_path / "labels" / "pseudo" / f"{KEYS[3]}.tif"
    tifffile.imwrite(path, np.ones((9, 9), np.uint16))
    done = cellkit(*fresh(crops, tmp_path / "labels", tmp_path / "m.ckpt", "-q"))
    problem = f"{path}: the labels have 9 x 9 pixels, the image has 96 x 96 (pair them anew)"
    assert (done.code, done.err) == (5, f"cellkit finetune: error: {problem}\n")


def test_a_base_that_has_learned_without_labels(cellkit, tmp_path, crops, labels):
    oce = tmp_path / "oce.ckpt"
    more = ("--method", "oce", "--object-size", 30, "--steps", 1, "--set", "widths=4,8", "--set", "crop=48")
    pretrained = cellkit("pretrain", crops, "-o", oce, *more, *COLOUR, "--set", "batch=1", "--device", "cpu", "-q")
    assert (pretrained.code, pretrained.err) == (0, "")
    done = cellkit(*command(crops, labels, tmp_path / "m.ckpt", "-m", oce))
    problem = (
        f"{oce}: has learned without labels: its network has no map of where cells are, to be learned from some "
        "(take a model that has learned from labels, or a fresh one by --network)"
    )
    assert (done.code, done.err) == (5, f"cellkit finetune: error: {problem}\n")
