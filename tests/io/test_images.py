"""Images of all kinds, and what is wrong with bad ones."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from cellkit.errors import InputError, UsageError
from cellkit.io.images import ReadOptions, decode_images, describe, digest_of_source, read_image, read_images
from cellkit.provenance import digest_of

NUMBERS = np.random.default_rng(7)


def noise(*shape, dtype=np.uint16, top=250):
    return NUMBERS.integers(0, top, shape).astype(dtype)


def only(path, **options):
    return read_image(str(path), ReadOptions(**options))


def problem_of(path, **options):
    with pytest.raises(InputError) as caught:
        list(read_images(str(path), ReadOptions(**options)))
    assert caught.value.code == 5
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# --- kinds of TIFF


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.int16, np.uint32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_grey_tiff_keeps_type_and_values(tmp_path, dtype, compression):
    pixels = noise(31, 45, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression=compression)
    image = only(tmp_path / "a.tif")
    assert image.pixels.dtype == dtype
    assert np.array_equal(image.pixels, pixels[None])
    assert (image.key, image.axes, image.rgb) == ("a", "YX", False)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_big_endian_and_bigtiff(tmp_path, compression):
    pixels = noise(31, 45, top=60_000)
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=">", bigtiff=True, compression=compression)
    image = only(tmp_path / "a.tif")
    assert image.pixels.dtype.isnative
    assert np.array_equal(image.pixels[0], pixels)


def test_binary_tiff_is_read_as_zeros_and_ones(tmp_path):
    pixels = noise(31, 45) > 100
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    image = only(tmp_path / "a.tif")
    assert image.pixels.dtype == np.uint8
    assert np.array_equal(image.pixels[0], pixels)
    assert describe(str(tmp_path / "a.tif")).dtype == "bool"


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_rgb_tiff(tmp_path, planarconfig, compression):
    pixels = noise(3, 31, 45, dtype=np.uint8)
    stored = np.moveaxis(pixels, 0, -1) if planarconfig == "contig" else pixels
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planarconfig, compression=compression)
    image = only(tmp_path / "a.tif")
    assert np.array_equal(image.pixels, pixels)
    assert image.rgb
    assert image.channel_names == ("red", "green", "blue")


def test_opacity_is_left_out_and_said_unless_asked_for(tmp_path):
    pixels = noise(4, 31, 45, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(pixels, 0, -1), photometric="rgb")
    image = only(tmp_path / "a.tif")
    assert np.array_equal(image.pixels, pixels[:3])
    assert image.rgb
    assert describe(str(tmp_path / "a.tif")).guessed == ("opacity (alpha) is left out",)
    chosen = only(tmp_path / "a.tif", channels=("alpha", 0))
    assert np.array_equal(chosen.pixels, pixels[[3, 0]])
    assert not chosen.rgb


def test_sixteen_samples_are_sixteen_channels(tmp_path):
    pixels = noise(16, 31, 45)
    stored = np.moveaxis(pixels, 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig="contig", metadata=None)
    image = only(tmp_path / "a.tif")
    assert np.array_equal(image.pixels, pixels)
    assert not image.rgb


def test_ome_channels_have_names_and_size(tmp_path):
    pixels = noise(2, 31, 45)
    names = {"axes": "CYX", "Channel": {"Name": ["DAPI", "PanCK"]}, "PhysicalSizeX": 325.0, "PhysicalSizeXUnit": "nm"}
    tifffile.imwrite(tmp_path / "img.01 ä.ome.tif", pixels, metadata=names)
    image = only(tmp_path / "img.01 ä.ome.tif")
    assert (image.key, image.axes, image.channel_names) == ("img.01 ä", "CYX", ("DAPI", "PanCK"))
    assert image.pixel_size == pytest.approx(0.325)
    chosen = only(tmp_path / "img.01 ä.ome.tif", channels=("panck", 0))
    assert np.array_equal(chosen.pixels, pixels[::-1])
    assert chosen.channel_names == ("PanCK", "DAPI")


def test_pyramid_gives_the_full_level(tmp_path):
    pixels = noise(128, 160)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        writer.write(pixels, subifds=2, tile=(32, 32), compression="zlib")
        writer.write(pixels[::2, ::2], subfiletype=1, tile=(32, 32))
        writer.write(pixels[::4, ::4], subfiletype=1, tile=(32, 32))
    assert np.array_equal(only(tmp_path / "a.ome.tif").pixels[0], pixels)


def two_file_series(tmp_path, pixels):
    """An OME series whose second time point lies in a file of its own."""
    names = ["t0.ome.tif", "t1.ome.tif"]
    ids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{t}" for t in range(2)]
    data = "".join(
        f'<TiffData IFD="0" FirstT="{t}" PlaneCount="1"><UUID FileName="{names[t]}">{ids[t]}</UUID></TiffData>'
        for t in range(2)
    )
    for t in range(2):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[t]}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="45" SizeY="31" SizeZ="1" SizeC="1" '
            f'SizeT="2"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / names[t], pixels[t], description=xml, metadata=None, compression="zlib")
    return [tmp_path / name for name in names]


def test_ome_series_over_two_files(tmp_path):
    pixels = noise(2, 31, 45)
    first, second = two_file_series(tmp_path, pixels)
    frames = list(read_images(str(first)))
    assert all(np.array_equal(frame.pixels[0], pixels[t]) for t, frame in enumerate(frames))
    assert [frame.key for frame in frames] == ["t0_t000", "t0_t001"]
    second.unlink()
    assert problem_of(first) == "is incomplete: page 1 of 2 is missing (copy or export it again)"


def test_imagej_hyperstack_gives_frames_of_one_plane(tmp_path):
    pixels = noise(3, 4, 2, 31, 45)  # TZCYX
    metadata = {"axes": "TZCYX", "unit": "\\u00B5m", "spacing": 2.0}
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, resolution=(4.0, 4.0), metadata=metadata)
    frames = list(read_images(str(tmp_path / "a.tif"), ReadOptions(plane=2)))
    assert [frame.key for frame in frames] == ["a_t000", "a_t001", "a_t002"]
    assert all(np.array_equal(frame.pixels, pixels[t, 2]) for t, frame in enumerate(frames))
    assert frames[0].pixel_size == pytest.approx(0.25)
    assert len({frame.digest for frame in frames}) == 1


def test_imagej_labels_name_the_channels(tmp_path):
    metadata = {"axes": "CYX", "Labels": ["nuclei", "actin"]}
    tifffile.imwrite(tmp_path / "a.tif", noise(2, 31, 45), imagej=True, metadata=metadata)
    assert only(tmp_path / "a.tif").channel_names == ("nuclei", "actin")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_axes_of_the_user_win(tmp_path, compression):
    pixels = noise(31, 45, 5)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", compression=compression)
    assert np.array_equal(only(tmp_path / "a.tif", axes="yxc").pixels, np.moveaxis(pixels, -1, 0))
    assert np.array_equal(only(tmp_path / "a.tif", axes="CXY").pixels, pixels.transpose(0, 2, 1))
    assert len(list(read_images(str(tmp_path / "a.tif"), ReadOptions(axes="TYX")))) == 31


def test_series_is_chosen_and_said(tmp_path):
    first, second = noise(31, 45), noise(20, 24)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(first, metadata=None)
        writer.write(second, metadata=None)
    assert np.array_equal(only(tmp_path / "a.tif").pixels[0], first)
    assert np.array_equal(only(tmp_path / "a.tif", series=1).pixels[0], second)
    assert describe(str(tmp_path / "a.tif")).guessed == ("series 0 of 2",)
    assert "has no series 2 (it has 2, counted from 0)" in problem_of(tmp_path / "a.tif", series=2)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20_000.0, 20_000.0), "CENTIMETER", 0.5),
        ((50_800.0, 50_800.0), "INCH", 0.5),
        ((72.0, 72.0), "INCH", None),
        ((96.0, 96.0), "INCH", None),
        ((300.0, 300.0), "INCH", None),
        ((28.35, 28.35), "CENTIMETER", None),
        ((1.0, 1.0), "CENTIMETER", None),
        ((2.0, 2.0), "NONE", None),
    ],
)
def test_plain_resolution_counts_where_it_is_no_default_of_a_screen(tmp_path, resolution, unit, expected):
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 9), resolution=resolution, resolutionunit=unit)
    assert describe(str(tmp_path / "a.tif")).pixel_size == (pytest.approx(expected) if expected else None)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 9)])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_tiny_images_are_images(tmp_path, shape, suffix):
    pixels = noise(*shape, dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    tifffile.imwrite(path, pixels) if suffix == "tif" else Pillow.fromarray(pixels).save(path)
    assert np.array_equal(only(path).pixels[0], pixels)


# --- PNG, JPEG


@pytest.mark.parametrize("shape", [(31, 45), (31, 45, 2), (31, 45, 3), (31, 45, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_all_bits_and_drops_opacity(tmp_path, shape, dtype):
    pixels = noise(*shape, dtype=dtype, top=250 if dtype == np.uint8 else 60_000)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    image = only(tmp_path / "a.png")
    signal = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)[: 1 if shape[2] < 3 else 3]
    assert image.pixels.dtype == dtype
    assert np.array_equal(image.pixels, signal)
    assert image.rgb == (len(signal) == 3)


def test_palettes_are_applied(tmp_path):
    picture = Pillow.fromarray(noise(31, 45, 3, dtype=np.uint8)).quantize(16)
    picture.save(tmp_path / "colour.png", transparency=3)
    assert np.array_equal(only(tmp_path / "colour.png").pixels, np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0))
    grey = Pillow.fromarray(noise(31, 45, dtype=np.uint8)).convert("P")
    grey.save(tmp_path / "grey.png")
    assert np.array_equal(only(tmp_path / "grey.png").pixels[0], np.asarray(grey.convert("L")))


def test_jpeg(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8)
    Pillow.fromarray(smooth).save(tmp_path / "grey.jpg", quality=95)
    Pillow.fromarray(np.stack([smooth] * 3, -1)).save(tmp_path / "colour.jpeg", quality=95)
    assert np.abs(only(tmp_path / "grey.jpg").pixels[0].astype(int) - smooth).max() < 4
    colour = only(tmp_path / "colour.jpeg")
    assert colour.pixels.shape == (3, 32, 48)
    assert colour.rgb


def test_kind_is_told_by_content_not_by_name(tmp_path):
    Pillow.fromarray(noise(31, 45, dtype=np.uint8)).save(tmp_path / "a.tif", format="png")
    assert only(tmp_path / "a.tif").pixels.shape == (1, 31, 45)


# --- what is chosen


def test_description_agrees_with_reading(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", noise(3, 2, 31, 45), metadata={"axes": "TCYX"})
    info = describe(str(tmp_path / "a.ome.tif"), ReadOptions(channels=(1,)))
    assert (info.shape, info.axes, info.dtype, info.frames) == ((3, 2, 31, 45), "TCYX", "uint16", 3)
    assert (info.channels, info.size, info.guessed) == ((1,), (31, 45), ())


def test_digest_is_that_of_the_file(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(31, 45))
    data = (tmp_path / "a.tif").read_bytes()
    assert only(tmp_path / "a.tif").digest == digest_of(data) == digest_of_source(str(tmp_path / "a.tif"))
    (tmp_path / "a.tif").write_bytes(data + b"\0")
    assert digest_of_source(str(tmp_path / "a.tif")) == digest_of(data + b"\0")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_bytes_read_as_the_file_does(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", noise(5, 31, 45), metadata={"axes": "CYX"}, compression=compression)
    (streamed,) = decode_images("a.tif", (tmp_path / "a.tif").read_bytes())
    assert np.array_equal(streamed.pixels, only(tmp_path / "a.tif").pixels)
    assert (streamed.key, streamed.digest) == ("a", only(tmp_path / "a.tif").digest)


def test_unknown_channels_list_the_choices(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", noise(2, 9, 9), metadata={"axes": "CYX", "Channel": {"Name": ["A", "B"]}})
    tifffile.imwrite(tmp_path / "b.tif", noise(2, 9, 9), metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "c.tif", noise(9, 9))
    text = "has no channel 'C' (choose by number or name among 0 A, 1 B)"
    assert problem_of(tmp_path / "a.ome.tif", channels=("C",)) == text
    assert problem_of(tmp_path / "b.tif", channels=(2,)) == "has no channel 2 (it has channels 0 to 1, without names)"
    assert problem_of(tmp_path / "c.tif", channels=("1",)) == "has no channel 1 (it has only channel 0)"


def test_stack_without_plane_names_the_ways_out(tmp_path):
    tifffile.imwrite(tmp_path / "z.tif", noise(5, 9, 9), imagej=True, metadata={"axes": "ZYX"})
    ways = "3-D stack of 5 planes (choose one with --plane N, or give --axes TYX for a time series)"
    assert problem_of(tmp_path / "z.tif") == ways
    tifffile.imwrite(tmp_path / "q.tif", noise(5, 9, 9))
    assert problem_of(tmp_path / "q.tif") == ways[:-1] + ", or --axes CYX for channels)"
    assert only(tmp_path / "q.tif", plane=4).pixels.shape == (1, 9, 9)
    text = "has no plane 5 (it has planes 0 to 4: choose with --plane)"
    assert problem_of(tmp_path / "q.tif", plane=5) == text
    assert problem_of(tmp_path / "q.tif", axes="CZYX").startswith(
        "has 3 axes (QYX, 5 x 9 x 9), but --axes CZYX names 4"
    )


def test_more_axes_without_names_ask_for_names(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(5, 2, 9, 9))
    text = "has 4 axes that it does not name (QQYX, 5 x 2 x 9 x 9) (give --axes, for example --axes ZCYX)"
    assert problem_of(tmp_path / "a.tif") == text


@pytest.mark.parametrize("axes", ["", "YXW", "YY", "ZY", "YXY"])
def test_letters_that_are_no_axes_are_a_usage_error(axes):
    with pytest.raises(UsageError, match=r"--axes: '\w*' are no axes \(letters of TZCSYX"):
        ReadOptions(axes=axes)


def test_time_series_is_not_one_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", noise(3, 9, 9), metadata={"axes": "TYX"})
    with pytest.raises(InputError, match=r"is a time series of 3 frames \(one image is needed here\)"):
        read_image(str(tmp_path / "a.ome.tif"))


# --- bad input


def test_missing_folder_and_empty_file(tmp_path):
    (tmp_path / "empty.tif").write_bytes(b"")
    assert problem_of(tmp_path / "none.tif") == "does not exist (check the name)"
    assert problem_of(tmp_path) == "is a folder, not an image (name a file in it)"
    assert problem_of(tmp_path / "empty.tif") == "is empty (0 bytes) (copy or export it again)"


def test_text_called_tif(tmp_path):
    (tmp_path / "a.tif").write_text("no image at all, just a text\n")
    assert problem_of(tmp_path / "a.tif") == "is not an image (TIFF, PNG, JPEG and HDF5 can be read)"


def encoded(tmp_path, kind):
    """Bytes of an image of each kind that is cut in the test below."""
    path = tmp_path / "whole.tif"
    pixels = noise(5, 31, 45)
    if kind == "png":
        return imagecodecs.png_encode(pixels[0].astype(np.uint8))
    if kind == "jpg":
        stream = io.BytesIO()
        Pillow.fromarray(pixels[0].astype(np.uint8)).save(stream, "jpeg")
        return stream.getvalue()
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["raw"] = pixels
            file["raw"].attrs["axes"] = "tyx"
        return path.read_bytes()
    metadata = None if "pages" in kind else {"axes": "TYX"}
    tifffile.imwrite(path, pixels, metadata=metadata, compression="lzw" if "lzw" in kind else None)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["tif", "tif pages", "tif lzw", "tif lzw pages", "png", "jpg", "h5"])
def test_truncated_at_any_place_is_an_error(tmp_path, kind, capfd):
    data = encoded(tmp_path, kind)
    spare = 17 if "tif" in kind and "lzw" not in kind else 2  # bytes at the end that hold nothing but the resolution
    axes = None if kind in ("png", "jpg") else "TYX"
    for cut in [*range(1, 24), *np.linspace(24, len(data) - spare, 25).astype(int)]:
        path = tmp_path / "cut"
        path.write_bytes(data[:cut])
        text = problem_of(path, axes=axes)
        assert "truncated" in text or "damaged" in text or "is not an image" in text, cut
    assert capfd.readouterr().err == ""


def test_complaints_of_tifffile_go_to_our_log_alone(tmp_path):
    data = encoded(tmp_path, "tif pages")
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    program = "import sys; from cellkit.io.images import describe; describe(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cut.tif")], capture_output=True, text=True, check=False
    )
    assert "is truncated: pixels up to byte" in run.stderr
    assert run.stderr.startswith("Traceback")  # no line of tifffile before it
    assert "invalid page offset" not in run.stderr


def test_corrupt_png(tmp_path, capfd):
    data = bytearray(imagecodecs.png_encode(noise(31, 45, dtype=np.uint8)))
    data[len(data) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    text = problem_of(tmp_path / "a.png")
    assert text.startswith("cannot be decoded, it may be truncated or damaged: ")
    assert text.endswith("(copy or export it again)")
    assert capfd.readouterr().err == ""


def test_zero_sized(tmp_path, capfd):
    data = bytearray(imagecodecs.png_encode(noise(31, 45, dtype=np.uint8)))
    data[16:20] = bytes(4)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "a.png").write_bytes(data)
    assert problem_of(tmp_path / "a.png") == "has no pixels (31 x 0) (copy or export it again)"
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = np.zeros((0, 64), np.uint8)
    assert problem_of(tmp_path / "a.h5") == "has no pixels (0 x 64) (copy or export it again)"
    assert capfd.readouterr().err == ""


def test_nan_and_infinity(tmp_path):
    pixels = noise(8, 8, dtype=np.float32)
    pixels[2, 3], pixels[4, 5] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    text = "holds NaN or infinite pixels (2 of 64) (replace them, for example by 0)"
    assert problem_of(tmp_path / "a.tif") == text


def test_complex_pixels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 8).astype(np.complex64))
    assert problem_of(tmp_path / "a.tif") == "has complex pixels (complex64) (save their magnitude as float32)"


def test_dataset_of_a_file_that_is_no_hdf5(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 8))
    path = f"{tmp_path / 'a.tif'}::/raw"
    with pytest.raises(InputError, match=r"is no HDF5 file, so that it has no dataset '/raw' \(leave out"):
        list(read_images(path))


# --- real images


@pytest.mark.parametrize(
    ("pattern", "count", "shape", "dtype"),
    [
        ("axon_sem/images/*.png", 6, (1, None, None), np.uint8),
        ("bbbc010/images/*.tif", 22, (1, 520, 696), np.uint16),
        ("coco/images/*.jpg", 100, (None, None, None), np.uint8),
        ("ctc/Fluo-N2DH-GOWT1/01/*.tif", 4, (1, 1024, 1024), np.uint8),
        ("ctc/Fluo-N2DL-HeLa/01/*.tif", 2, (1, 700, 1100), np.uint16),
        ("dic_hela/images/*.png", 35, (1, 512, 512), np.uint8),
        ("dsb2018_raw/stage1_train/*/images/*.png", 4, (3, None, None), np.uint8),
        ("emps/images/*.png", 39, (1, None, None), np.uint8),
        ("isbi2012/images/*.png", 10, (1, 512, 512), np.uint8),
        ("livecell/images/*.tif", 15, (1, 520, 704), np.uint8),
        ("livecell/unlabelled/*.tif", 32, (1, 520, 704), np.uint8),
        ("monuseg/images/*.png", 8, (3, 1000, 1000), np.uint8),
        ("scellseg_styles/*/*_img.png", 35, (3, None, None), None),
        ("sstem/images/*.png", 10, (1, 1024, 1024), np.uint8),
        ("usiigaci/*_img.png", 11, (1, 1022, 1024), np.uint8),
        ("dsb2018/images/*.png", 601, (None, None, None), np.uint8),
    ],
)
def test_every_real_image_is_read(data, pattern, count, shape, dtype):
    paths = sorted(data.glob(pattern))
    assert len(paths) == count
    for path in paths[:40]:
        image = only(path)
        assert len(image.pixels.shape) == 3
        assert all(n == m for n, m in zip(image.pixels.shape, shape, strict=True) if m is not None)
        assert image.pixels.dtype in ((np.uint8, np.uint16) if dtype is None else (dtype,))
        assert image.rgb == (image.pixels.shape[0] == 3)
        assert image.pixel_size is None
