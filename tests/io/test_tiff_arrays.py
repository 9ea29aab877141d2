"""Windows of large TIFF planes equal the whole, however the file is laid out, and read only what they need."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from cellkit.errors import InputError
from cellkit.io import tiff, tiff_arrays
from cellkit.io.images import LazyPixels, ReadOptions, decode_images, read_image, read_images

WINDOWS = [
    (slice(None), slice(None), slice(None)),
    (slice(0, 1), slice(3, 60), slice(17, 90)),
    (slice(None), slice(100, 131), slice(80, 117)),  # to the corner, which no tile fills
    (slice(None), slice(5, 120, 7), slice(2, 111, 9)),
    (slice(None), slice(30, 30), slice(0, 5)),
    (slice(None), slice(64, 65), slice(None)),
]
LAYOUTS = {
    "one piece": {},
    "big endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 9, "compression": "zlib"},
    "one strip": {"rowsperstrip": 131, "compression": "lzw"},
    "plain tiles": {"tile": (32, 48)},
    "tiles": {"tile": (32, 48), "compression": "zlib", "predictor": True},
    "big endian tiles": {"tile": (16, 16), "compression": "deflate", "byteorder": ">"},
    "zstd tiles": {"tile": (64, 64), "compression": "zstd"},
}


@pytest.fixture
def small_memory(monkeypatch):
    """Planes beyond 1,000 pixels are large, and next to nothing is kept."""
    monkeypatch.setattr(tiff, "LARGE_PLANE", 1000)
    monkeypatch.setattr(tiff_arrays, "CACHE_BYTES", 5000)


def pixels_of(kind):
    noise = np.random.default_rng(3)
    if kind == "rgb":
        return noise.integers(0, 255, (131, 117, 3), dtype=np.uint8)
    if kind == "planar rgb":
        return noise.integers(0, 255, (3, 131, 117), dtype=np.uint8)
    if kind == "channels":
        return noise.integers(0, 60_000, (2, 131, 117), dtype=np.uint16)
    return noise.integers(0, 60_000, (131, 117), dtype=np.uint16)


def write(path, kind, **layout):
    options = {
        "rgb": {"photometric": "rgb", "planarconfig": "contig"},
        "planar rgb": {"photometric": "rgb", "planarconfig": "separate"},
        "channels": {"photometric": "minisblack", "metadata": {"axes": "CYX"}},
        "grey": {"photometric": "minisblack"},
    }
    tifffile.imwrite(path, pixels_of(kind), **options[kind], **layout)


@pytest.mark.parametrize("kind", ["grey", "channels", "rgb", "planar rgb"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_windows_equal_the_whole(tmp_path, monkeypatch, kind, layout):
    write(tmp_path / "a.tif", kind, **layout)
    whole = read_image(str(tmp_path / "a.tif")).pixels
    assert isinstance(whole, np.ndarray)
    monkeypatch.setattr(tiff, "LARGE_PLANE", 1000)
    monkeypatch.setattr(tiff_arrays, "CACHE_BYTES", 5000)
    lazy = read_image(str(tmp_path / "a.tif")).pixels
    (streamed,) = decode_images("a.tif", (tmp_path / "a.tif").read_bytes())
    assert isinstance(lazy, LazyPixels)
    assert (lazy.shape, lazy.dtype) == (whole.shape, whole.dtype)
    for window in WINDOWS:
        assert np.array_equal(lazy[window], whole[window])
        assert np.array_equal(streamed.pixels[window], whole[window])
    assert np.array_equal(np.asarray(lazy), whole)
    assert np.array_equal(lazy[0:1], whole[0:1])


def test_jpeg_tiles(tmp_path, monkeypatch):
    write(tmp_path / "a.tif", "rgb", tile=(32, 32), compression="jpeg", byteorder="<")
    whole = read_image(str(tmp_path / "a.tif")).pixels
    monkeypatch.setattr(tiff, "LARGE_PLANE", 1000)
    lazy = read_image(str(tmp_path / "a.tif")).pixels
    assert isinstance(lazy, LazyPixels)
    assert np.array_equal(lazy[:, 10:90, 20:117], whole[:, 10:90, 20:117])


@pytest.mark.usefixtures("small_memory")
def test_channels_and_planes_of_large_stacks(tmp_path):
    stack = np.random.default_rng(5).integers(0, 60_000, (2, 3, 2, 64, 80), dtype=np.uint16)  # TZCYX
    tifffile.imwrite(
        tmp_path / "a.ome.tif", stack, metadata={"axes": "TZCYX"}, compression="zlib", tile=(32, 32), photometric=1
    )
    frames = list(read_images(str(tmp_path / "a.ome.tif"), ReadOptions(plane=1, channels=(1,))))
    assert [frame.key for frame in frames] == ["a_t000", "a_t001"]
    for t, frame in enumerate(frames):  # the file is closed by now
        assert np.array_equal(frame.pixels[:, 3:40, 9:70], stack[t, 1, 1:, 3:40, 9:70])


@pytest.mark.usefixtures("small_memory")
def test_only_touched_tiles_are_decoded(tmp_path, monkeypatch):
    write(tmp_path / "a.tif", "grey", tile=(16, 16), compression="zlib")
    lazy = read_image(str(tmp_path / "a.tif")).pixels
    array = lazy._array
    decoded = []
    decode = array._decode
    monkeypatch.setattr(array, "_decode", lambda data, place, **more: decoded.append(place) or decode(data, place))
    assert lazy[:, 16:48, 0:16].shape == (1, 32, 16)
    assert decoded == [8, 16]  # 8 tiles in a row of 117 pixels
    assert lazy[:, 16:48, 0:16].shape == (1, 32, 16)
    assert decoded == [8, 16]  # kept
    assert lazy[:, :, :].shape == (1, 131, 117)
    assert array._cached_bytes <= 5000


@pytest.mark.usefixtures("small_memory")
def test_missing_tiles_are_background(tmp_path):
    tile = np.full((32, 32), 7, np.uint16)
    tiles = (tile if i != 1 else None for i in range(4))
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(64, 64), dtype=np.uint16, tile=(32, 32), compression="zlib")
    lazy = read_image(str(tmp_path / "a.tif")).pixels
    assert isinstance(lazy, LazyPixels)
    assert (lazy[:, 0:32, 32:64] == 0).all()
    assert (lazy[:, 32:64, :] == 7).all()


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("layout", ["one piece", "strips", "tiles"])
def test_large_and_truncated(tmp_path, layout):
    write(tmp_path / "a.tif", "grey", **LAYOUTS[layout])
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-1000])
    with pytest.raises(
        InputError, match=r"a\.tif: is truncated: pixels up to byte \d+, but it ends at byte \d+ \(copy"
    ):
        read_image(str(tmp_path / "a.tif"))
