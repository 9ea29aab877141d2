"""Large images: windows of them are those of the whole, and no more is read than a window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cellkit.config import Preprocessing
from cellkit.data.normalise import statistics
from cellkit.errors import InputError, UsageError
from cellkit.ops.blocks import windows
from cellkit.stages import large_images
from cellkit.stages.large_images import LargePixels, RollingMaps, interpolation


class Guarded:
    """Pixels (C, H, W) of which only windows of up to ``side`` pixels may be read."""

    dtype = np.dtype(np.uint16)

    def __init__(self, shape: tuple[int, int, int], side: int) -> None:
        self.shape = shape
        self.side = side
        self.reads = 0

    def __getitem__(self, window):
        rows, columns = (range(*part.indices(n)) for part, n in zip(window[1:], self.shape[1:], strict=True))
        if max(len(rows), len(columns)) > self.side:
            raise AssertionError(f"{len(rows)} x {len(columns)} pixels were asked for at once")
        self.reads += 1
        plane = np.add.outer(np.array(rows) * 7, np.array(columns) * 5) % 1009
        return np.broadcast_to(plane.astype(np.uint16), (len(range(self.shape[0])[window[0]]), *plane.shape))


def large_pixels(pixels, shape: tuple[int, int]) -> LargePixels:
    low, high = np.zeros(pixels.shape[0]), np.full(pixels.shape[0], 10.0)
    return LargePixels(pixels=pixels, low=low, high=high, shape=shape, source="huge.tif")


@pytest.mark.parametrize("size", [(30, 45), (90, 120), (60, 61), (7, 200)])
def test_interpolation_is_that_of_torch(size):
    pixels = np.random.default_rng(0).random((2, 60, 61), np.float32)
    (_, down), (_, across) = (interpolation(slice(0, n), n, old) for n, old in zip(size, (60, 61), strict=True))
    expected = F.interpolate(torch.from_numpy(pixels)[None], size, mode="bilinear", align_corners=False, antialias=True)
    assert np.allclose(down.toarray() @ pixels @ across.toarray().T, expected[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 400), (450, 600), (75, 100), (299, 403)])
def test_windows_are_cut_out_of_the_whole(shape, monkeypatch):
    monkeypatch.setattr(large_images, "READ_SIDE", 64)
    pixels = np.random.default_rng(0).integers(0, 1000, (2, 300, 400), np.uint16)
    large = large_pixels(pixels, shape)
    whole = large.whole()
    assert whole.shape == (2, *shape)
    for window in windows(shape, 128, 16):
        assert np.allclose(large.window(window.outer), whole[:, window.outer[0], window.outer[1]], atol=1e-4)


@pytest.mark.parametrize("scale", [1, 2, 1 / 4])
def test_source_is_read_in_pieces_of_bounded_size(scale, monkeypatch):
    monkeypatch.setattr(large_images, "READ_SIDE", 128)
    pixels = Guarded((3, 800, 500), 128 + 8)
    large = large_pixels(pixels, (int(800 * scale), int(500 * scale)))
    assert large.whole().shape == (3, *large.shape)
    assert pixels.reads >= 800 * 500 / 136**2


def test_nan_is_refused_where_it_is_met():
    pixels = np.zeros((1, 40, 40), np.float32)
    pixels[0, 30, 30] = np.nan
    large = large_pixels(pixels, (40, 40))
    assert not large.window((slice(0, 20), slice(0, 40))).any()
    with pytest.raises(InputError, match=r"huge\.tif: 1 pixels are NaN or infinite"):
        large.window((slice(20, 40), slice(0, 40)))


def test_statistics_of_large_pixels_are_a_sample(monkeypatch):
    monkeypatch.setattr("cellkit.data.normalise.EXACT_PIXELS", 1 << 12)
    low, high = statistics(Guarded((3, 1000, 600), 600), Preprocessing(channels=3))
    assert low == pytest.approx(10, abs=5)
    assert high == pytest.approx(998, abs=5)


def rolling(heights: list[int]) -> tuple[RollingMaps, np.ndarray]:
    maps = np.random.default_rng(0).random((3, sum(heights), 20)).astype(np.float16)
    bands = iter(np.split(maps, np.cumsum(heights)[:-1], axis=1))
    return RollingMaps(bands, maps.shape, "huge.tif"), maps


def test_maps_are_read_from_top_to_bottom():
    lazy, maps = rolling([8, 8, 8, 5])
    for window in windows((29, 20), 6, 3):
        rows, columns = window.outer
        assert np.array_equal(lazy[:, rows, columns], maps[:, rows, columns])


def test_maps_are_read_by_bands_or_whole():
    lazy, maps = rolling([8, 8, 8, 5])
    assert np.array_equal(lazy[:, 0:10], maps[:, :10])
    assert np.array_equal(lazy[:, 10:29], maps[:, 10:])
    lazy, maps = rolling([8, 8])
    assert np.array_equal(lazy[:, :, :], maps)


def test_rows_above_the_last_window_are_forgotten():
    lazy, _ = rolling([8, 8, 8])
    lazy[:, 9:20]
    with pytest.raises(ValueError, match="rows from 4 on were asked for, those above 8 are gone"):
        lazy[:, 4:20]


def test_nothing_is_computed_after_the_end_of_reading():
    lazy, _ = rolling([8, 8, 8])
    lazy[:, 0:4]
    lazy.close()
    with pytest.raises(ValueError, match="after computing was stopped"):
        lazy[:, 10:20]


def test_maps_too_large_for_a_stream_are_refused(monkeypatch):
    monkeypatch.setattr(large_images, "WHOLE_BYTES", 1000)
    lazy, _ = rolling([8, 8])
    with pytest.raises(UsageError, match=r"huge\.tif: its maps of 0\.0 GB are too large for a tar stream") as caught:
        lazy[:, :, :]
    assert caught.value.repair == "use -o DIR/ or -o FILE.h5, or 'cellkit segment'"
