"""What the recipes do with images: look them over, split them, bring them to one size."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellkit.data.diameter import diameter_of
from cellkit.data.layouts import find_pairs
from cellkit.errors import InputError, NoInputError, UsageError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))


def recipe(name: str):
    """The Python beside the scripts, imported as the scripts' own imports find it."""
    return importlib.import_module(f"scellseg_{name}")


def write_pair(folder: Path, name: str, labels: np.ndarray, value: float = 1.0) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "images" / f"{name}.tif", ((labels > 0) * 100 * value).astype(np.uint8))
    tifffile.imwrite(folder / "labels" / f"{name}.tif", labels.astype(np.uint16))


@pytest.fixture(scope="module")
def field():
    """Labels (48, 60): two cells of one size that do not touch."""
    y, x = np.ogrid[:48, :60]
    first, second = ((y - cy) ** 2 + (x - cx) ** 2 <= 11**2 for cy, cx in ((20, 16), (28, 44)))
    return (first + 2 * second).astype(np.int32)


@pytest.fixture
def target(tmp_path, field):
    """A folder with pool/ (three images) and test/ (two)."""
    return written_target(tmp_path / "worms", field)


def written_target(folder: Path, field: np.ndarray) -> Path:
    for number in range(3):
        write_pair(folder / "pool", f"p{number}", field, 1 + number / 10)
    for number in range(2):
        write_pair(folder / "test", f"t{number}", field, 2 + number / 10)
    return folder


def test_the_images_of_an_experiment_are_listed_with_their_diameter(target, tmp_path, field):
    recipe("target").look_over(str(target / "pool"), str(target / "test"), tmp_path / "run")
    listed = (tmp_path / "run/test.txt").read_text().splitlines()
    assert [Path(line).name for line in listed] == ["t0.tif", "t1.tif"]
    areas = [np.count_nonzero(field == label) for label in (1, 2)]
    expected = np.median([math.sqrt(4 * area / math.pi) for area in areas])
    assert float((tmp_path / "run/diameter.txt").read_text()) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("name", "value"), [("p1", 9.0), ("other", 1.1)], ids=["by its name", "by its content"])
def test_an_image_of_the_pool_is_no_test_image(target, tmp_path, field, name, value):
    write_pair(target / "test", name, field, value)
    with pytest.raises(UsageError) as caught:
        recipe("target").look_over(str(target / "pool"), str(target / "test"), tmp_path / "run")
    assert str(caught.value) == (
        f"{target}/test/images/{name}.tif: it is in the pool too, as {target}/pool/images/p1.tif "
        "(never score on images that may be learned from: take one away)"
    )
    assert not (tmp_path / "run").exists()


def test_runs_with_other_settings_or_images_do_not_mix(target, tmp_path, field):
    check = recipe("target").look_over
    arguments = (str(target / "pool"), str(target / "test"), tmp_path / "run")
    check(*arguments, ["steps=100"])
    check(*arguments, ["steps=100"])
    with pytest.raises(UsageError, match="had other settings: steps 100, now 50"):
        check(*arguments, ["steps=50"])
    write_pair(target / "pool", "p9", field, 1.9)
    with pytest.raises(UsageError, match="had other settings: images of the pool"):
        check(*arguments, ["steps=100"])


def test_a_pool_without_cells_has_no_diameter(target, tmp_path, empty_field):
    write_pair(tmp_path / "empty", "nothing", empty_field)
    with pytest.raises(NoInputError, match=r"no image holds a labelled cell \(outline some cells first\)"):
        recipe("target").look_over(str(tmp_path / "empty"), str(target / "test"), tmp_path / "run")


def test_a_split_is_whole_apart_and_repeatable(target, tmp_path, field):
    source = target / "pool"
    for name in ("one", "same"):
        assert recipe("split").split(str(source), tmp_path / name, 2, seed=5) == (2, 1)
    parts = {
        name: [{pair.key for pair in find_pairs(str(tmp_path / name / part)).pairs} for part in ("pool", "test")]
        for name in ("one", "same")
    }
    assert parts["one"] == parts["same"]
    assert parts["one"][0] | parts["one"][1] == {"p0", "p1", "p2"}
    assert not parts["one"][0] & parts["one"][1]
    pair = find_pairs(str(tmp_path / "one/test")).pairs[0]
    assert np.array_equal(pair.labels.read().labels, field)
    assert Path(pair.image).resolve() == source / "images" / f"{pair.key}.tif"


def test_a_split_that_leaves_nothing_to_test_is_refused(target, tmp_path):
    with pytest.raises(UsageError, match=r"a pool of 3 leaves nothing of 3 images to test \(give 0 to 2\)"):
        recipe("split").split(str(target / "pool"), tmp_path / "new", 3)
    with pytest.raises(UsageError, match=r"exists already \(choose another name, or remove it\)"):
        recipe("split").split(str(target / "pool"), target, 1)


@pytest.mark.parametrize("diameter", [9.0, 60.0])
def test_rescaled_images_have_cells_of_one_size_and_keep_their_values(target, tmp_path, field, diameter):
    assert recipe("rescale").rescale(str(target / "pool"), tmp_path / "new", diameter) == 3
    for pair in find_pairs(str(tmp_path / "new")).pairs:
        labels, pixels = pair.labels.read().labels, pair.read().pixels
        assert pixels.shape == (1, *labels.shape)
        assert labels.shape[0] / field.shape[0] == pytest.approx(diameter / diameter_of(field), rel=0.03)
        assert diameter_of(labels) == pytest.approx(diameter, rel=0.05)
        assert np.unique(labels).tolist() == [0, 1, 2]
        assert pixels[0][labels > 0].mean() > 5 * pixels[0][labels == 0].mean()  # both were moved alike


def test_rescaled_colours_stay_colours_and_images_without_cells_are_left_out(tmp_path, field, empty_field):
    write_pair(tmp_path / "data", "stained", field)
    write_pair(tmp_path / "data", "nothing", empty_field)
    stained = np.stack([(field > 0) * value for value in (50, 100, 200)], axis=-1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "data/images/stained.tif", stained, photometric="rgb")
    assert recipe("rescale").rescale(str(tmp_path / "data"), tmp_path / "new", 40) == 1
    (pair,) = find_pairs(str(tmp_path / "new")).pairs
    image = pair.read()
    assert image.rgb
    assert image.pixels[:].max(axis=(1, 2)).tolist() == [50, 100, 200]


def test_a_rescaling_that_fails_leaves_nothing_to_be_taken_for_one(tmp_path, empty_field):
    write_pair(tmp_path / "data", "nothing", empty_field)
    with pytest.raises(NoInputError, match="no image holds a labelled cell"):
        recipe("rescale").rescale(str(tmp_path / "data"), tmp_path / "new", 30)
    assert not (tmp_path / "new").exists()


def test_ids_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(InputError) as caught:
        recipe("split").write_labels(tmp_path / "x.tif", np.array([[0, 70_000]]), "cells.h5")
    assert str(caught.value) == "cells.h5: an id is above 65535 (number the cells from 1)"
