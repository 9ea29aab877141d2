import numpy as np
import pytest
from PIL import Image as Picture

from cellkit.config import Preprocessing
from cellkit.data.normalise import (
    EXACT_PIXELS,
    ChannelView,
    GreyView,
    luminance,
    normalise,
    prepare_channels,
    statistics,
)
from cellkit.errors import InputError, ModelError
from cellkit.io.images import Image

PERCENTILE = Preprocessing()
MINMAX = Preprocessing(normalisation="minmax")


class Windows:
    """Lazy pixels over an array: nothing but windows; counts the pixels read."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.read = pixels, pixels.shape, pixels.dtype, 0

    def __getitem__(self, window):
        part = self.pixels[window]
        self.read += part.size
        return np.array(part)


def image(pixels, rgb=False):
    return Image(key="a", pixels=pixels, source="a.tif", axes="CYX", rgb=rgb)


@pytest.fixture
def noise():
    return np.random.default_rng(0).gamma(2, 300, (2, 61, 47))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float16, np.float32, np.float64])
def test_percentiles_equal_numpy(noise, dtype):
    pixels = np.clip(noise, 0, 255 if dtype == np.uint8 else 60000).astype(dtype)
    low, high = statistics(pixels, PERCENTILE)
    exact = np.percentile(pixels.astype(np.float64), (1, 99), axis=(1, 2))
    np.testing.assert_allclose([low, high], exact, rtol=1e-6)


def test_extreme_percentiles_are_minimum_and_maximum(noise):
    pixels = noise.astype(np.uint16)
    whole = statistics(pixels, Preprocessing(percentiles=(0, 100)))
    np.testing.assert_array_equal(whole, statistics(pixels, MINMAX))
    np.testing.assert_array_equal(whole, [pixels.min((1, 2)), pixels.max((1, 2))])


def test_percentiles_become_zero_and_one_without_clipping(noise):
    low, high = statistics(noise, PERCENTILE)
    result = normalise(noise, low, high)
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.percentile(result, (1, 99), axis=(1, 2)), [[0, 0], [1, 1]], atol=1e-5)
    assert result.min() < 0
    assert result.max() > 1


def test_constant_channel_becomes_zeros():
    pixels = np.full((1, 5, 7), 300, np.uint16)
    low, high = statistics(pixels, PERCENTILE)
    assert low == high == 300
    assert not normalise(pixels, low, high).any()


def test_few_bright_pixels_on_black_do_not_vanish():
    pixels = np.zeros((1, 100, 100), np.uint8)
    pixels[0, :5, :5] = 80  # a quarter of a percent: both percentiles are 0
    low, high = statistics(pixels, PERCENTILE)
    assert (low[0], high[0]) == (0, 80)


def test_one_pixel_image():
    pixels = np.full((1, 1, 1), 9, np.uint8)
    assert normalise(pixels, *statistics(pixels, PERCENTILE)).tolist() == [[[0.0]]]


def test_no_normalisation_keeps_values(noise):
    low, high = statistics(noise, Preprocessing(normalisation="none"))
    np.testing.assert_allclose(normalise(noise, low, high), noise, rtol=1e-6)


def test_large_offset_of_wide_integers_survives():
    pixels = (np.arange(12).reshape(1, 3, 4) + 2**30).astype(np.int32)
    result = normalise(pixels, *statistics(pixels, MINMAX))
    np.testing.assert_allclose(result.ravel(), np.arange(12) / 11, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_names_the_image(value):
    pixels = np.ones((1, 4, 4), np.float32)
    pixels[0, 1, 2] = value
    text = r"^a\.tif: 1 pixels are NaN or infinite \(replace them by a background value first\)$"
    with pytest.raises(InputError, match=text):
        statistics(pixels, PERCENTILE, source="a.tif")
    with pytest.raises(InputError, match=text):
        normalise(pixels, np.zeros(1), np.ones(1), source="a.tif")


def test_lazy_pixels_equal_the_array(noise):
    pixels = noise.astype(np.uint16)
    np.testing.assert_array_equal(statistics(Windows(pixels), PERCENTILE), statistics(pixels, PERCENTILE))


def test_huge_lazy_pixels_are_sampled_alike_each_time():
    row = np.random.default_rng(1).integers(0, 4000, 6000).astype(np.uint16)
    lazy = Windows(np.broadcast_to(row, (1, 6000, 6000)))
    low, high = statistics(lazy, PERCENTILE)
    assert lazy.read < EXACT_PIXELS / 8
    np.testing.assert_allclose([low[0], high[0]], np.percentile(row, (1, 99)), atol=2)
    np.testing.assert_array_equal([low, high], statistics(lazy, PERCENTILE))


def test_grey_is_repeated_for_rgb_and_measured_once(noise):
    wanted = Preprocessing(channels=3, colour="rgb")
    prepared = prepare_channels(image(noise[:1]), wanted)
    assert prepared.shape == (3, 61, 47)
    low, high = statistics(prepared, wanted)
    np.testing.assert_array_equal(low, np.repeat(statistics(noise[:1], wanted)[0], 3))
    np.testing.assert_array_equal(high, np.repeat(statistics(noise[:1], wanted)[1], 3))


def test_grey_is_padded_with_zeros_as_is(noise):
    prepared = prepare_channels(image(noise[:1]), Preprocessing(channels=2))
    np.testing.assert_array_equal(prepared[0:1], noise[:1])
    assert not prepared[1:2].any()


def test_matching_channels_are_left_alone(noise):
    assert prepare_channels(image(noise), Preprocessing(channels=2)) is noise


def test_alpha_is_dropped():
    pixels = np.arange(4 * 6).reshape(4, 2, 3).astype(np.uint8)
    prepared = prepare_channels(image(pixels, rgb=True), Preprocessing(channels=3, colour="rgb"))
    np.testing.assert_array_equal(prepared, pixels[:3])


@pytest.mark.parametrize(
    ("found", "wanted", "example"), [(16, 3, "0,1,2"), (2, 3, "0,1"), (16, 2, "0,1"), (3, 2, "0,1")]
)
def test_other_channel_counts_name_the_repair(found, wanted, example):
    pixels = np.zeros((found, 4, 4), np.uint8)
    colour = "rgb" if wanted == 3 else "as-is"
    with pytest.raises(ModelError) as caught:
        prepare_channels(image(pixels), Preprocessing(channels=wanted, colour=colour))
    assert str(caught.value) == (
        f"a.tif: {found} channels, but the model wants {wanted} "
        f"(choose them with --channels, e.g. --channels {example})"
    )


@pytest.mark.parametrize("colour", ["rgb", "as-is"])
def test_lazy_grey_is_repeated_or_padded_by_window(noise, colour):
    wanted = Preprocessing(channels=3, colour=colour)
    lazy = prepare_channels(image(Windows(noise[:1])), wanted)
    whole = prepare_channels(image(noise[:1]), wanted)
    assert isinstance(lazy, ChannelView)
    window = (slice(0, 3), slice(5, 20), slice(7, 9))
    np.testing.assert_array_equal(lazy[window], whole[window])
    np.testing.assert_array_equal(lazy[2:3, 0:4, 0:4], whole[2:3, 0:4, 0:4])
    np.testing.assert_array_equal(statistics(lazy, wanted), statistics(whole, wanted))


INTO_GREY = Preprocessing(channels=1, colour="grey")


@pytest.fixture
def colours():
    """Red, green, blue and alpha of every kind, the brightest white first."""
    pixels = np.random.default_rng(2).integers(0, 256, (4, 61, 47), np.uint8)
    pixels[:, 0, 0] = 255
    return pixels


def test_grey_of_colour_is_that_of_pillow(colours):
    prepared = prepare_channels(image(colours[:3], rgb=True), INTO_GREY)
    wanted = np.asarray(Picture.fromarray(np.moveaxis(colours[:3], 0, 2)).convert("L"))
    np.testing.assert_array_equal(prepared, wanted[None])
    assert prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepare_channels(image(colours, rgb=True), INTO_GREY), prepared)  # alpha or not


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float16, np.float32, np.float64])
def test_grey_of_other_types_is_the_weighed_mean(colours, dtype):
    pixels = (colours[:3].astype(np.float64) * (257 if dtype == np.uint16 else 1)).astype(dtype)
    grey = luminance(pixels)
    exact = np.tensordot([0.299, 0.587, 0.114], pixels.astype(np.float64), 1)
    np.testing.assert_allclose(grey[0], exact, rtol=1e-5, atol=1 if dtype == np.uint16 else 1e-3)
    assert grey.shape == (1, 61, 47)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_grey_of_grey_stays_what_it_is(dtype):
    ramp = np.linspace(0, np.iinfo(dtype).max if dtype != np.float64 else 1, 64).astype(dtype).reshape(1, 8, 8)
    same = prepare_channels(image(np.repeat(ramp, 3, axis=0), rgb=True), INTO_GREY)
    np.testing.assert_allclose(same, ramp, rtol=1e-12, atol=0)
    assert prepare_channels(image(ramp), INTO_GREY) is ramp


def test_grey_for_two_channels_has_an_empty_second(colours):
    prepared = prepare_channels(image(colours[:3], rgb=True), Preprocessing(channels=2, colour="grey"))
    np.testing.assert_array_equal(prepared[:1], luminance(colours))
    assert not prepared[1].any()


def test_channels_that_are_no_colours_are_not_mixed(colours):
    with pytest.raises(ModelError, match="3 channels, but the model wants 1"):
        prepare_channels(image(colours[:3]), INTO_GREY)


@pytest.mark.parametrize("channels", [3, 4])
def test_lazy_colour_becomes_grey_by_window(colours, channels):
    under = Windows(colours[:channels])
    lazy = prepare_channels(image(under, rgb=True), INTO_GREY)
    whole = prepare_channels(image(colours[:channels], rgb=True), INTO_GREY)
    assert isinstance(lazy, GreyView)
    assert (lazy.shape, lazy.dtype, under.read) == (whole.shape, whole.dtype, 0)
    np.testing.assert_array_equal(lazy[0:1, 5:20, 7:9], whole[:, 5:20, 7:9])
    assert under.read == 3 * 15 * 2
    np.testing.assert_array_equal(statistics(lazy, INTO_GREY), statistics(whole, INTO_GREY))
    two = prepare_channels(image(under, rgb=True), Preprocessing(channels=2, colour="grey"))
    np.testing.assert_array_equal(two[0:2, 3:5, 3:5], np.stack([whole[0, 3:5, 3:5], np.zeros((2, 2), np.uint8)]))


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (bool, 1)])
def test_the_range_of_the_type_becomes_0_to_1(dtype, white):
    pixels = np.zeros((2, 3, 4), dtype)
    pixels[0, 0, 0] = white
    low, high = statistics(pixels, Preprocessing(channels=2, normalisation="range"))
    assert (low.tolist(), high.tolist()) == ([0, 0], [white, white])
    assert normalise(pixels, low, high).max() == 1
