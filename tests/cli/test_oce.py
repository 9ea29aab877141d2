"""cellkit pretrain --method oce: images without labels become a model, and the model's noisy copies become cells."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch

from cellkit.cli.app import main
from cellkit.io.checkpoints import load_checkpoint
from cellkit.io.labels import read_labels
from cellkit.io.maps import read_predictions
from cellkit.stages import large_images, large_maps

TINY = ("--set", "widths=4,12", "--set", "crop=48", "--set", "batch=2", "--device", "cpu")
COPIES = ("--set", "noise_copies=2")
SIDE = 64


def spots(seed: int, shape: tuple[int, int] = (SIDE, SIDE), radius: int = 7) -> np.ndarray:
    """Bright discs at random places on noise, uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = random.normal(20, 4, shape)
    for row, column in random.uniform(0, shape, (shape[0] * shape[1] // 700, 2)):
        image[(y - row) ** 2 + (x - column) ** 2 <= radius**2] += 100
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of three images."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        tifffile.imwrite(folder / f"{seed}.tif", spots(seed))
    return folder


@pytest.fixture(scope="module")
def oce(images, tmp_path_factory):
    """A model of two steps, for objects of 30 px: images stay as they are."""
    path = tmp_path_factory.mktemp("oce") / "oce.ckpt"
    command = ("pretrain", images, "-o", path, "--method", "oce", "--object-size", 30, "--steps", 2, *TINY, "-q")
    assert main([str(part) for part in command]) == 0
    return path


def train(images, output, *more):
    return ("pretrain", images, "-o", output, "--method", "oce", "--steps", 2, *TINY, *more)


def maps_in(path):
    (prediction,) = read_predictions(path, str(path))
    return prediction


def same_weights(one, other) -> bool:
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_checkpoint_holds_all_that_prediction_needs(oce):
    checkpoint = load_checkpoint(oce)
    assert (checkpoint.network.name, checkpoint.network.outputs) == ("mini-unet", 2)
    assert checkpoint.representation.name == "embedding"
    assert checkpoint.representation.settings == {"bandwidth": 15.0, "min_area": 70, "threshold": "otsu-log"}
    preprocessing = checkpoint.preprocessing
    assert (preprocessing.diameter, preprocessing.typical, preprocessing.noise_copies) == (30.0, 30.0, 16)
    assert checkpoint.history[0].arguments["kappa"] == 10.0
    assert {crops.shape[1:] for crops in checkpoint.contrast.values()} == {(1, SIDE, SIDE)}


def test_size_of_objects_is_estimated_and_said(cellkit, tmp_path, images):
    done = cellkit(*train(images, tmp_path / "m.ckpt"))
    assert done.code == 0
    said = done.err.splitlines()[0]
    assert said.startswith("cellkit pretrain: objects of about ")
    assert said.endswith("; --object-size sets it")
    size = float(said.removeprefix("cellkit pretrain: objects of about ").split()[0])
    assert 10 < size < 24  # they have 15 px, and overlap
    assert load_checkpoint(tmp_path / "m.ckpt").preprocessing.typical == size


def test_working_diameter_sets_kappa_and_bandwidth_and_settings_win(cellkit, tmp_path, images):
    done = cellkit(*train(images, tmp_path / "m.ckpt", "--object-size", 30, "--diameter", 24, "--set", "min_area=9"))
    assert done.code == 0
    checkpoint = load_checkpoint(tmp_path / "m.ckpt")
    assert checkpoint.history[0].arguments["kappa"] == 8.0
    assert checkpoint.representation.settings == {"bandwidth": 12.0, "min_area": 9, "threshold": "otsu-log"}


def test_interrupted_run_ends_as_an_uninterrupted_one(cellkit, tmp_path, images, oce):
    command = train(images, tmp_path / "m.ckpt", "--object-size", 30)
    stopped = cellkit(*command, "--set", "minutes=0")
    assert "m.ckpt is not finished (the time was over)" in stopped.err
    resumed = cellkit(*command, "--resume")
    assert (resumed.code, resumed.err.splitlines()[-1].endswith("is written: 2 steps")) == (0, True)
    assert same_weights(tmp_path / "m.ckpt", oce)
    assert cellkit(*command).err == f"cellkit pretrain: {tmp_path / 'm.ckpt'} is up to date\n"


def test_pipe_is_folders_is_segment(cellkit, tmp_path, images, oce):
    maps = cellkit("predict", images, "-m", oce, "-o", "-", "-q", *COPIES)
    piped = cellkit("postprocess", "-", "-o", tmp_path / "piped.h5", "-q", stdin=maps.out)
    assert (maps.code, piped.code, piped.err) == (0, 0, "")
    assert cellkit("predict", images, "-m", oce, "-o", f"{tmp_path / 'maps'}/", "-q", *COPIES).code == 0
    assert cellkit("postprocess", tmp_path / "maps", "-o", tmp_path / "filed.h5", "-q").code == 0
    assert cellkit("segment", images, "-m", oce, "-o", tmp_path / "segmented.h5", "-q", *COPIES).code == 0
    for key in "012":
        found = [read_labels(f"{tmp_path / name}.h5::/{key}/labels").labels for name in ("piped", "filed", "segmented")]
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])
        prediction = maps_in(tmp_path / "maps" / f"{key}.h5")
        assert prediction.maps.shape == (3, SIDE, SIDE)
        assert prediction.history[0].arguments == {"noise_copies": 2}


def test_bandwidth_changes_without_the_network(cellkit, tmp_path, images, oce):
    assert cellkit("predict", images / "0.tif", "-m", oce, "-o", tmp_path / "p.h5", "-q", *COPIES).code == 0
    counts = {}
    for bandwidth in (4, 40):
        out = tmp_path / f"{bandwidth}.tif"
        settings = [f"--set={text}" for text in (f"bandwidth={bandwidth}", "post=none", "min_area=0", "threshold=1e4")]
        assert cellkit("postprocess", tmp_path / "p.h5", "-o", out, "-q", *settings).code == 0
        counts[bandwidth] = read_labels(str(out)).count
    assert counts[4] > counts[40] >= 1


def test_noise_follows_its_seed(cellkit, tmp_path, images, oce):
    for name, more in (("a", ()), ("b", ()), ("c", ("--set", "noise_seed=1"))):
        command = ("predict", images / "0.tif", "-m", oce, "-o", tmp_path / f"{name}.h5", "-q", *COPIES)
        assert cellkit(*command, *more).code == 0
    one, same, other = (maps_in(tmp_path / f"{name}.h5").maps[:] for name in "abc")
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_windows_are_the_whole(cellkit, tmp_path, oce, monkeypatch):
    tifffile.imwrite(tmp_path / "large.tif", spots(5, (200, 240)))
    decoding = ("--set", "post=none", "--set", "min_area=20", "--set", "sample=1")
    predict = ("predict", tmp_path / "large.tif", "-m", oce, "-q", *COPIES)
    assert cellkit(*predict, "-o", tmp_path / "whole.h5").code == 0
    for module, name, value in (
        (large_images, "LARGE", 20_000),
        (large_images, "CORE", 96),
        (large_maps, "CORE", 128),
        (large_maps, "HALO", 64),
    ):
        monkeypatch.setattr(module, name, value)
    assert cellkit(*predict, "-o", tmp_path / "windows.h5").code == 0
    whole, windows = (maps_in(tmp_path / f"{name}.h5").maps[:].astype(np.float32) for name in ("whole", "windows"))
    np.testing.assert_allclose(windows, whole, atol=0.02, rtol=0.02)
    assert cellkit("postprocess", tmp_path / "windows.h5", "-o", tmp_path / "two.tif", "-q", *decoding).code == 0
    segment = ("segment", tmp_path / "large.tif", "-m", oce, "-q", *COPIES, *decoding)
    assert cellkit(*segment, "-o", tmp_path / "one.tif").code == 0
    one, two = (read_labels(str(tmp_path / f"{name}.tif")).labels for name in ("one", "two"))
    assert ((one > 0) == (two > 0)).mean() > 0.99  # the threshold of the plane comes from maps that differ by rounding


def test_bright_part_of_nuclei_needs_the_image(cellkit, tmp_path, images, oce):
    predict = ("predict", images / "0.tif", "-m", oce, "-q", *COPIES)
    nucleus = ("--set", "post=nucleus", "--set", "min_area=0")
    assert cellkit(*predict, "-o", tmp_path / "p.h5").code == 0
    bare = cellkit("postprocess", tmp_path / "p.h5", "-o", tmp_path / "l.tif", *nucleus)
    assert bare.code == 2
    assert "post: 'nucleus' needs the brightness of the image" in bare.err
    assert cellkit(*predict, "-o", tmp_path / "q.h5", "--set", "brightness=true").code == 0
    assert maps_in(tmp_path / "q.h5").maps.shape == (4, SIDE, SIDE)
    assert cellkit("postprocess", tmp_path / "q.h5", "-o", tmp_path / "l.tif", "-q", *nucleus).code == 0
    segment = ("segment", images / "0.tif", "-m", oce, "-o", tmp_path / "s.tif", "-q", *COPIES, *nucleus)
    assert cellkit(*segment).code == 0
    assert np.array_equal(read_labels(str(tmp_path / "l.tif")).labels, read_labels(str(tmp_path / "s.tif")).labels)


@pytest.mark.parametrize("shape", [(40, 50), (5, 7)])
def test_black_image_has_no_cells(cellkit, tmp_path, oce, shape):
    tifffile.imwrite(tmp_path / "black.tif", np.zeros(shape, np.uint8))
    done = cellkit("segment", tmp_path / "black.tif", "-m", oce, "-o", tmp_path / "l.tif", "-q", *COPIES)
    assert (done.code, done.err) == (0, "")
    assert read_labels(str(tmp_path / "l.tif")).labels.tolist() == np.zeros(shape, int).tolist()


def test_image_smaller_than_the_field_of_view_is_predicted(cellkit, tmp_path, oce):
    tifffile.imwrite(tmp_path / "small.tif", spots(0, (9, 11), radius=2))
    done = cellkit("segment", tmp_path / "small.tif", "-m", oce, "-o", tmp_path / "l.tif", "-q", *COPIES)
    assert (done.code, done.err) == (0, "")
    assert read_labels(str(tmp_path / "l.tif")).labels.shape == (9, 11)


def test_dry_run_names_the_images(cellkit, tmp_path, images):
    done = cellkit(*train(images, tmp_path / "m.ckpt", "--dry-run"))
    expected = ["learn\t3 images", *(f"learn\t{key}\t{images / key}.tif" for key in "012")]
    assert done.text.splitlines() == [*expected, f"-> {tmp_path / 'm.ckpt'}"]
    assert list(tmp_path.iterdir()) == []


def test_settings_are_those_of_the_method(cellkit):
    own = cellkit("pretrain", "--method", "oce", "--settings").text
    assert "kappa=10.0\t" in own
    assert "crop=128\t" in own
    assert "noise_copies=16\t" in own
    assert "kappa" not in cellkit("pretrain", "--settings").text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--network", "unet"), "--network: the method oce trains 'mini-unet' alone (use --network mini-unet)"),
        (
            ("--representation", "flow"),
            "--representation: the method oce trains 'embedding' alone (use --representation embedding)",
        ),
        (("--val", "0.2"), "--val: the method oce has no use for it (leave it out)"),
        (
            ("--object-size", "2000"),
            "--object-size: 2000 px is beyond what a model of 30 px can be rescaled to (give 1.875 to 480)",
        ),
        (
            ("--object-size", "70"),
            "--object-size: 70 px is as large as the images (give the diameter of one object in pixels)",
        ),
        (("--set", "typical=20"), "--set: 'typical' has an option of its own (use --object-size)"),
        (("--set", "bandwidth=0"), "bandwidth: cannot be 0.0 (give a number of pixels above 0, about half the size"),
        (
            ("--set", "crop=20", "--object-size", "30"),
            "crop: 20 pixels leave no room for pairs (use a crop of 37 or more)",
        ),
        (("--set", "kappa=0"), "kappa: 0 px reach no neighbour"),
        (
            ("--set", "noise_copies=0"),
            "noise_copies: 0 copies for 2 values have no spread (give a number such as 16)",
        ),
        (("--set", "noise_fraction=2"), "noise_fraction: 2 is out of range (give a number from 0 to 1, e.g. 0.01)"),
    ],
)
def test_what_cannot_be_meant_is_one_line(cellkit, tmp_path, images, options, message):
    done = cellkit(*train(images, tmp_path / "m.ckpt", "-q", *options))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"cellkit pretrain: error: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pixels", "options", "code", "message"),
    [
        (np.zeros((50, 50), np.uint8), ("--object-size", 30), 4, "training: none of 1 images shows anything"),
        (np.zeros((50, 50), np.uint8), (), 2, "--object-size: the images do not tell how large their objects are"),
        (
            spots(0, (12, 12), 2),
            ("--object-size", 30),
            5,
            "images: the largest has 12 pixels a side at the working scale, the network sees 18",
        ),
    ],
)
def test_images_that_teach_nothing(cellkit, tmp_path, pixels, options, code, message):
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    done = cellkit(*train(tmp_path / "a.tif", tmp_path / "m.ckpt", "-q", *options))
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert done.err.startswith(f"cellkit pretrain: error: {message}")


def test_what_is_for_other_models_is_refused(cellkit, tmp_path, images, crops, oce, model):
    wrong = cellkit("segment", images, "-m", model, "-o", f"{tmp_path / 'out'}/", *COPIES)
    assert (wrong.code, wrong.err) == (
        2,
        "cellkit segment: error: --set: 'noise_copies' is nothing to a model that makes no noisy copies "
        "(leave it out, or give a model of 'pretrain --method oce')\n",
    )
    bright = cellkit("predict", images, "-m", model, "-o", f"{tmp_path / 'out'}/", "--set", "brightness=true")
    assert "'brightness' has no place in a prediction of 'flow'" in bright.err
    tuned = cellkit("finetune", crops, "-m", oce, "-o", tmp_path / "t.ckpt", "--steps", 1, "-q")
    assert (tuned.code, tuned.err.count("\n")) == (5, 1)
    assert "oce.ckpt: has learned without labels" in tuned.err
    labelled = cellkit("pretrain", crops, "-o", tmp_path / "m.ckpt", "--object-size", 30)
    assert "--object-size: the method supervised has no use for it (add --method oce)" in labelled.err
    noisy = cellkit("pretrain", crops, "-o", tmp_path / "m.ckpt", *COPIES)
    assert "noise_copies: noisy copies are for models that learn without labels" in noisy.err
    streamed = cellkit(*train("-", tmp_path / "m.ckpt"))
    assert "-: a stream cannot be learned from (name files or folders)" in streamed.err
    zero = cellkit("segment", images, "-m", oce, "-o", f"{tmp_path / 'out'}/", "--set", "bandwidth=0")
    assert (zero.code, zero.err.count("\n")) == (2, 1)


def test_search_takes_what_suits_labels_best_for_all(cellkit, tmp_path, images, oce):
    assert cellkit("predict", images, "-m", oce, "-o", f"{tmp_path / 'maps'}/", "-q", *COPIES).code == 0
    (tmp_path / "labels").mkdir()
    tifffile.imwrite(tmp_path / "labels" / "1.tif", (spots(1) > 80).astype(np.uint16))
    command = ("postprocess", tmp_path / "maps", "-o", f"{tmp_path / 'out'}/", "--search", tmp_path / "labels")
    done = cellkit(*command)
    assert done.code == 0
    assert done.err.startswith("cellkit postprocess: bandwidth=")
    assert " suits 1 image best (score " in done.err
    chosen = read_labels(str(tmp_path / "out" / "0.tif")).history[-1].arguments
    assert set(chosen) == {"bandwidth", "shrink"}
    assert {read_labels(str(path)).history[-1].arguments["shrink"] for path in (tmp_path / "out").glob("*.tif")} == {
        chosen["shrink"]
    }
    saved = tmp_path / "chosen.txt"
    again = (*command[:3], f"{tmp_path / 'again'}/")
    assert cellkit(*again, "--search", tmp_path / "labels", "--save-settings", saved, "-q").code == 0
    assert saved.read_text().startswith("# what suits 1 image of ")
    assert cellkit(*command[:3], f"{tmp_path / 'third'}/", "--set", f"@{saved}", "-q").code == 0
    second, third = (read_labels(str(tmp_path / folder / "0.tif")) for folder in ("again", "third"))
    assert np.array_equal(second.labels, third.labels)
    assert third.history[-1].arguments == chosen
    alone = cellkit(*again, "--save-settings", saved)
    assert alone.err.endswith("--save-settings: there is nothing to save without a search (add --search LABELS)\n")
    streamed = cellkit("postprocess", "-", "-o", "-", "--search", tmp_path / "labels", stdin=b"")
    assert "--search: a stream cannot be read twice (write the predictions to files first)" in streamed.err
    (tmp_path / "labels" / "1.tif").rename(tmp_path / "labels" / "x.tif")
    none = cellkit(*command)
    assert (none.code, none.err.count("\n")) == (4, 1)
    assert "no prediction has labels of its name here (name label images as the images)" in none.err
