"""Stars end to end: pretrain, predict, postprocess, segment, evaluate, view; large fields in windows."""

from __future__ import annotations

import json

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from matplotlib.path import Path
from scipy.special import logit

from cellkit.config import RepresentationSpec
from cellkit.io.checkpoints import load_checkpoint
from cellkit.io.labels import read_labels
from cellkit.io.maps import Prediction, PredictionWriter, read_predictions
from cellkit.ops.polygons import RAYS
from cellkit.representations.star import stars
from cellkit.stages import large_images, large_maps

ALL = ("--min-size", 0)


@pytest.fixture(scope="module")
def star(trained, tmp_path_factory):
    """A tiny model of which every pixel in the middle of an image proposes a cell: its threshold is so low."""
    path = tmp_path_factory.mktemp("star") / "star.ckpt"
    return trained(
        path, "--representation", "star", "--network", "unet", "--set", "cell_threshold=-9", "--set", "margin=38"
    )


def perfect_maps(labels: np.ndarray) -> np.ndarray:
    """What a perfect network would put out."""
    maps = stars(torch.from_numpy(labels.astype(np.int32))[None])[0].numpy()
    maps[RAYS] = logit(maps[RAYS].clip(0.001, 0.999))
    return maps.astype(np.float16)


def written(path, labels: np.ndarray, zoom: int = 1) -> None:
    """The file of a perfect prediction, of an image that is larger than its maps."""
    prediction = Prediction(
        key=path.stem,
        maps=perfect_maps(labels),
        representation=RepresentationSpec(name="star"),
        source=f"{path.stem}.tif",
        shape=(zoom * labels.shape[0], zoom * labels.shape[1]),
        axes="YX",
        scale=1 / zoom,
        pixel_size=None,
        history=(),
        diameter=None,
    )
    with PredictionWriter(path) as writer:
        writer.write(prediction)


def test_checkpoint_says_what_it_is(star):
    checkpoint = load_checkpoint(star)
    assert checkpoint.representation == RepresentationSpec(name="star", settings={"cell_threshold": -9.0, "margin": 38})
    assert checkpoint.network.outputs == RAYS + 1


def test_pipe_is_folders_is_segment(cellkit, tmp_path, crops, star):
    maps = cellkit("predict", crops / "images", "-m", star, "-o", "-", "-q")
    piped = cellkit("postprocess", "-", "-o", tmp_path / "piped.h5", "-q", *ALL, stdin=maps.out)
    assert (maps.code, piped.code, piped.err) == (0, 0, "")
    assert cellkit("predict", crops / "images", "-m", star, "-o", f"{tmp_path / 'maps'}/", "-q").code == 0
    assert cellkit("postprocess", tmp_path / "maps", "-o", tmp_path / "filed.h5", "-q", *ALL).code == 0
    assert cellkit("segment", crops / "images", "-m", star, "-o", tmp_path / "segmented.h5", "-q", *ALL).code == 0
    for image in (crops / "images").iterdir():
        key = image.stem
        found = [read_labels(f"{tmp_path / name}.h5::/{key}/labels") for name in ("piped", "filed", "segmented")]
        assert found[0].count > 0
        assert all(np.array_equal(found[0].labels, other.labels) for other in found[1:])
        assert all(np.array_equal(found[0].scores, other.scores) for other in found[1:])
        (prediction,) = read_predictions(tmp_path / "maps" / f"{key}.h5", key)
        assert prediction.maps.shape == (RAYS + 1, 96, 96)


def test_perfect_maps_are_scored_as_perfect(cellkit, tmp_path, crops):
    (tmp_path / "maps").mkdir()
    for path in (crops / "labels").iterdir():
        written(tmp_path / "maps" / f"{path.stem}.h5", iio.imread(path).astype(np.int32))
    done = cellkit("postprocess", tmp_path / "maps", "-o", f"{tmp_path / 'cells'}/", "--min-size", 0)
    assert (done.code, done.err) == (0, "")
    values = json.loads(cellkit("evaluate", crops / "labels", tmp_path / "cells", "--json", "-q").text)
    assert values["pooled"]["f1@0.5"] > 0.98
    assert values["pooled"]["f1@0.75"] > 0.9


def test_settings_change_cells_without_the_network(cellkit, tmp_path, two_touching_cells):
    written(tmp_path / "two.h5", two_touching_cells)
    found = {}
    for name, more in {
        "own": (),
        "none": ("overlap=0",),
        "high": ("cell_threshold=99",),
        "edge": ("margin=31",),
    }.items():
        options = [part for setting in more for part in ("--set", setting)]
        assert cellkit("postprocess", tmp_path / "two.h5", "-o", tmp_path / f"{name}.tif", *options).code == 0
        found[name] = read_labels(str(tmp_path / f"{name}.tif"))
    assert {name: image.count for name, image in found.items()} == {"own": 2, "none": 2, "high": 0, "edge": 2}
    assert found["none"].history[-1].arguments == {"overlap": 0}
    wrong = cellkit("postprocess", tmp_path / "two.h5", "-o", tmp_path / "x.tif", "--set", "overlap=1.5")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "overlap: cannot be 1.5 (give a fraction of the smaller cell from 0 to 1)" in wrong.err


def test_search_chooses_threshold_and_overlap(cellkit, tmp_path, crops):
    (tmp_path / "maps").mkdir()
    for path in sorted((crops / "labels").iterdir())[:2]:
        written(tmp_path / "maps" / f"{path.stem}.h5", iio.imread(path).astype(np.int32))
    done = cellkit("postprocess", tmp_path / "maps", "-o", f"{tmp_path / 'out'}/", "--search", crops / "labels")
    assert done.code == 0, done.err
    record = read_labels(str(next((tmp_path / "out").glob("*.tif")))).history[-1]
    assert set(record.arguments) <= {"cell_threshold", "overlap"}
    assert record.arguments


def field(shape: tuple[int, int]) -> np.ndarray:
    """Labels of ellipses of 8 to 60 px that touch, of any direction."""
    random = np.random.default_rng(4)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for label, (row, column) in enumerate(random.uniform(0, shape, (80, 2)), 1):
        turn, long, wide = random.uniform(0, np.pi), random.uniform(4, 30), random.uniform(0.4, 1)
        along = (y - row) * np.sin(turn) + (x - column) * np.cos(turn)
        across = (y - row) * np.cos(turn) - (x - column) * np.sin(turn)
        labels[((along / long) ** 2 + (across / (long * wide)) ** 2 <= 1) & (labels == 0)] = label
    return labels


def test_large_fields_in_windows_are_the_whole(cellkit, tmp_path, monkeypatch):
    labels = field((260, 300))
    written(tmp_path / "field.h5", labels)
    assert cellkit("postprocess", tmp_path / "field.h5", "-o", tmp_path / "whole.tif").code == 0
    monkeypatch.setattr(large_images, "LARGE", 10_000)
    monkeypatch.setattr(large_maps, "CORE", 100)
    monkeypatch.setattr(large_maps, "HALO", 64)
    assert cellkit("postprocess", tmp_path / "field.h5", "-o", tmp_path / "windows.tif", "-j", 2).code == 0
    whole, windows = (read_labels(str(tmp_path / f"{name}.tif")) for name in ("whole", "windows"))
    assert whole.count > 40
    assert np.array_equal(whole.labels, windows.labels)
    assert np.array_equal(whole.scores, windows.scores)


@pytest.fixture
def two(cellkit, tmp_path, two_touching_cells):
    """Label files of two cells, alone and with their polygons."""
    written(tmp_path / "two.h5", two_touching_cells)
    for name in ("two.tif", "cells.h5"):
        assert cellkit("postprocess", tmp_path / "two.h5", "-o", tmp_path / name).code == 0
    return tmp_path


def features(cellkit, source, folder) -> list[dict]:
    done = cellkit("convert", source, "-o", f"{folder}/", "--to", "geojson")
    assert (done.code, done.err) == (0, "")
    return json.loads(next(folder.glob("*.geojson")).read_text())["features"]


def test_label_files_keep_the_polygons(two):
    tiff, hdf5 = read_labels(str(two / "two.tif")), read_labels(f"{two / 'cells.h5'}::/two/labels")
    assert tiff.outlines.shape == (2, RAYS, 2)
    assert tiff.outlines.dtype == np.float32
    assert np.array_equal(tiff.outlines, hdf5.outlines)


@pytest.mark.parametrize("source", ["two.tif", "cells.h5"])
def test_geojson_has_the_polygons_of_the_stars(cellkit, two, source):
    labels = read_labels(str(two / "two.tif")).labels
    found = features(cellkit, two / source, two / "geojson")
    assert [feature["properties"]["name"] for feature in found] == ["1", "2"]
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5  # centres of pixels, from the corner of the image
    for label, feature in enumerate(found, 1):
        (ring,) = feature["geometry"]["coordinates"]
        assert len(ring) == RAYS + 1
        assert ring[0] == ring[-1]
        inside = Path(ring).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(labels.shape)
        assert (inside != (labels == label)).sum() <= 0.05 * inside.sum()


def test_labels_that_were_changed_have_outlines_of_their_pixels(cellkit, two):
    with h5py.File(two / "cells.h5", "r+") as file:
        pixels = file["two/labels"]
        pixels[:] = np.where((pixels[:] == 1) & (np.arange(64)[:, None] < 30), 0, pixels[:])
    first, second = (f["geometry"]["coordinates"][0] for f in features(cellkit, two / "cells.h5", two / "geojson"))
    assert all(float(value).is_integer() for corner in first for value in corner)
    assert not all(float(value).is_integer() for corner in second for value in corner)


def test_polygons_grow_with_the_labels(cellkit, tmp_path, two_touching_cells):
    written(tmp_path / "small.h5", two_touching_cells)
    written(tmp_path / "large.h5", two_touching_cells, zoom=3)
    for name in ("small", "large"):
        assert cellkit("postprocess", tmp_path / f"{name}.h5", "-o", tmp_path / f"{name}.tif").code == 0
    small, large = (read_labels(str(tmp_path / f"{name}.tif")) for name in ("small", "large"))
    assert large.labels.shape == (192, 240)
    assert np.allclose(large.outlines + 0.5, 3 * (small.outlines + 0.5), atol=1e-4)
    assert len(features(cellkit, tmp_path / "large.tif", tmp_path / "geojson")[0]["geometry"]["coordinates"][0]) == 33


def test_view_of_a_prediction(cellkit, tmp_path, two_touching_cells):
    written(tmp_path / "two.h5", two_touching_cells)
    done = cellkit("view", tmp_path / "two.h5", "-o", tmp_path / "two.png")
    assert (done.code, done.err) == (0, "")
    assert iio.imread(tmp_path / "two.png").shape[1] > 2 * 80
