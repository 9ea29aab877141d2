"""HDF5 images: which dataset, which axes."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from cellkit.errors import InputError
from cellkit.io import tiff
from cellkit.io.images import LazyPixels, ReadOptions, decode_images, describe, read_image

PIXELS = np.random.default_rng(11).integers(0, 60_000, (2, 31, 45), dtype=np.uint16)


def made(tmp_path, **datasets):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, pixels in datasets.items():
            file[name.replace("__", "/")] = pixels
    return str(tmp_path / "a.h5")


def test_only_dataset_is_used_and_labels_are_none(tmp_path):
    path = made(tmp_path, raw=PIXELS[0], labels=PIXELS[1], masks__first=PIXELS[1], table=np.zeros(9), name="text")
    image = read_image(path)
    assert np.array_equal(image.pixels[0], PIXELS[0])
    assert (image.key, image.axes) == ("a", "YX")


def test_dataset_is_named_in_the_path_or_by_option(tmp_path):
    path = made(tmp_path, a=PIXELS[0], b__c=PIXELS[1])
    assert np.array_equal(read_image(f"{path}::/b/c").pixels[0], PIXELS[1])
    assert np.array_equal(read_image(f"{path}::a").pixels[0], PIXELS[0])
    assert np.array_equal(read_image(path, ReadOptions(dataset="b/c")).pixels[0], PIXELS[1])
    (streamed,) = decode_images("a.h5", (tmp_path / "a.h5").read_bytes(), ReadOptions(dataset="a"))
    assert np.array_equal(streamed.pixels[0], PIXELS[0])


def test_choices_are_listed(tmp_path):
    path = made(tmp_path, a=PIXELS[0], b__c=PIXELS[1])
    with pytest.raises(InputError) as several:
        read_image(path)
    text = "has 2 datasets that may be images (choose as FILE.h5::/dataset among /a, /b/c)"
    assert str(several.value) == f"{path}: {text}"
    with pytest.raises(InputError) as unknown:
        read_image(f"{path}::/b")
    text = "has no dataset '/b' (choose as FILE.h5::/dataset among /a, /b/c)"
    assert str(unknown.value) == f"{path}::/b: {text}"


def test_no_dataset_at_all(tmp_path):
    path = made(tmp_path, labels=PIXELS[0], table=np.zeros(5))
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: has no dataset that may be an image (name one as FILE.h5::/dataset)"
    with pytest.raises(InputError, match=r"has no dataset '/x' \(it has none that may be an image\)"):
        read_image(f"{path}::/x")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("axes", "cyx"),
        ("axes", ["channel", "y", "x"]),
        ("axistags", json.dumps({"axes": [{"key": "c"}, {"key": "y"}, {"key": "x"}]})),
        ("DIMENSION_LABELS", ["c", "row", "column"]),
    ],
)
def test_axes_by_attributes(tmp_path, attribute, value):
    path = made(tmp_path, raw=PIXELS)
    with h5py.File(path, "a") as file:
        file["raw"].attrs[attribute] = value
        file["raw"].attrs["element_size_um"] = (2.0, 0.5, 0.5)
    image = read_image(path)
    assert image.axes == "CYX"
    assert np.array_equal(image.pixels, PIXELS)
    assert image.pixel_size == 0.5


def test_axes_are_not_guessed_but_for_colours(tmp_path):
    path = made(tmp_path, raw=PIXELS)
    with pytest.raises(InputError, match=r"3-D stack of 2 planes \(choose one with --plane N, or give --axes TYX"):
        read_image(path)
    assert np.array_equal(read_image(path, ReadOptions(axes="CYX")).pixels, PIXELS)
    assert np.array_equal(read_image(path, ReadOptions(plane=1)).pixels, PIXELS[1:])
    colours = made(tmp_path, raw=np.zeros((31, 45, 3), np.uint8))
    assert describe(colours).guessed == ("axes YXS, from the shape 31 x 45 x 3",)
    assert describe(colours).rgb
    assert describe(colours, ReadOptions(axes="YXC")).guessed == ()


@pytest.mark.parametrize("ndim", [1, 6])
def test_named_dataset_that_is_no_image(tmp_path, ndim):
    path = made(tmp_path, raw=np.zeros((2,) * ndim))
    with pytest.raises(
        InputError, match="is no image: its axes are X" if ndim == 1 else "6 axes that it does not name"
    ):
        read_image(f"{path}::/raw")


def test_large_planes_are_read_by_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "LARGE_PLANE", 1000)
    path = made(tmp_path, raw=PIXELS)
    lazy = read_image(path, ReadOptions(axes="CYX")).pixels
    assert isinstance(lazy, LazyPixels)
    assert np.array_equal(lazy[1:, 4:20, 7:40:3], PIXELS[1:, 4:20, 7:40:3])


def test_truncated(tmp_path):
    path = made(tmp_path, raw=PIXELS)
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(data[:3000])
    with pytest.raises(InputError, match=r"cannot be decoded, it may be truncated or damaged: .*truncated file"):
        read_image(path)
