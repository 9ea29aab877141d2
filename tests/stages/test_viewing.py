"""view: images with their cells, of any size, with legends and scale bars."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellkit.data.truth import LabelFile, MaskFiles
from cellkit.errors import InputError
from cellkit.io.images import Image, ReadOptions, read_image
from cellkit.io.sources import Source
from cellkit.ops.colouring import colours_of
from cellkit.ops.drawing import PREDICTION_COLOUR, TRUTH_COLOUR, rims, to_rgb
from cellkit.ops.scale_bar import bar_for
from cellkit.stages import Failure, Skipped, viewing
from cellkit.stages.viewing import Annotations, Picture, ViewSettings, paint_image, read_cells, view


@pytest.fixture
def scene(tmp_path, two_touching_cells):
    """An image of 64 x 80 pixels of 0.5 um, its labels, and other labels as truth."""
    pixels = (two_touching_cells > 0) * 2000 + np.arange(80, dtype=np.uint16)
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(np.uint16), **resolution)
    iio.imwrite(tmp_path / "labels.png", two_touching_cells.astype(np.uint16))
    iio.imwrite(tmp_path / "truth.png", np.where(two_touching_cells == 2, 5, 0).astype(np.uint16))
    return tmp_path


def annotations(path, key="a", *, optional=False):
    return Annotations(name=path.name, by_key={key: LabelFile(str(path))}, optional=optional)


def only(outcomes):
    (outcome,) = outcomes
    return outcome


def picture_of(scene, labels="labels.png", truth=None, options=None, **settings):
    source = Source(key="a", path=str(scene / "a.tif"), options=options or ReadOptions())
    found = [annotations(scene / name) if name else None for name in (labels, truth)]
    outcome = only(view([source], *found, ViewSettings(**settings)))
    assert isinstance(outcome, Picture), outcome
    return outcome


def coloured(pixels, colour):
    return (pixels == colour).all(axis=2)


def test_outlines_have_the_colours_of_their_cells(scene, two_touching_cells):
    picture = picture_of(scene, size=80)
    rim = rims(two_touching_cells, 1)
    rim[-30:, 40:] = False  # the scale bar may lie there
    _, colours = colours_of(two_touching_cells)
    for label in (1, 2):
        assert (picture.pixels[rim & (two_touching_cells == label)] == colours[label - 1]).all()
    assert (picture.count, picture.key) == (2, "a")
    free = two_touching_cells == 0
    free[-30:, 40:] = False
    assert (picture.pixels[free] == picture.pixels[free][:, :1]).all()  # grey


def test_small_images_are_enlarged_and_outlined_after(scene, two_touching_cells):
    picture = picture_of(scene)
    assert picture.pixels.shape == (640, 800, 3)
    large = np.kron(two_touching_cells, np.ones((10, 10), np.int32))
    rim = rims(large, 2)
    rim[-150:, 400:] = False
    _, colours = colours_of(large)
    assert (picture.pixels[rim & (large == 1)] == colours[0]).all()


@pytest.mark.parametrize("size", [64, 100, 1000, 4096])
def test_longest_side_is_the_size(scene, size):
    assert picture_of(scene, size=size).pixels.shape == (round(size * 0.8), size, 3)


def test_fills_and_both(scene, two_touching_cells):
    bare, fill = picture_of(scene, labels=None, size=80), picture_of(scene, outline=False, fill=True, size=80)
    both = picture_of(scene, fill=True, size=80)
    assert (bare.pixels[32, 20] != fill.pixels[32, 20]).any()
    assert (fill.pixels[32, 20] == both.pixels[32, 20]).all()
    assert (fill.pixels[32, 12] != both.pixels[32, 12]).any()  # on the rim
    assert np.array_equal(bare.pixels[:10], fill.pixels[:10])
    assert bare.count is None


def test_truth_has_its_own_colour_and_a_legend(scene, two_touching_cells):
    picture = picture_of(scene, truth="truth.png", size=800)
    assert picture.pixels.shape[1] == 800
    assert picture.pixels.shape[0] > 640  # the legend
    legend = picture.pixels[640:]
    assert coloured(legend, TRUTH_COLOUR).any()
    assert coloured(legend, PREDICTION_COLOUR).any()
    image = picture.pixels[:640]
    assert coloured(image, PREDICTION_COLOUR)[:, :380].any()
    assert not coloured(image, TRUTH_COLOUR)[:, :380].any()  # the left cell was found and is not true
    agreed = coloured(image, TRUTH_COLOUR)[:400, 450:]
    assert agreed.any()  # a true outline is seen inside the found one


def test_truth_alone_can_be_drawn(scene):
    picture = picture_of(scene, labels=None, truth="truth.png", size=800)
    assert coloured(picture.pixels[:640], TRUTH_COLOUR).any()
    assert not coloured(picture.pixels, PREDICTION_COLOUR).any()


def test_scale_bar_has_the_length_it_tells(scene):
    picture = picture_of(scene, labels=None, size=800).pixels
    bar = bar_for(800, 0.05)  # ten times enlarged
    white = coloured(picture, (255, 255, 255))
    assert (bar.length, bar.pixels) == (10, 200)
    assert max(row.sum() for row in white[-60:, 560:]) == bar.pixels
    assert bar.pixels == round(10 / (0.5 / 10))


def test_pixel_size_of_the_user_wins(scene):
    stored, said = picture_of(scene, labels=None, size=800), picture_of(scene, labels=None, size=800, pixel_size=1.0)
    assert not np.array_equal(stored.pixels, said.pixels)


def test_no_pixel_size_no_bar(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((64, 80), 9, np.uint16))
    picture = picture_of(tmp_path, labels=None)
    assert len(np.unique(picture.pixels)) == 1


def test_contrast_is_by_percentiles(tmp_path):
    image = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    tifffile.imwrite(tmp_path / "a.tif", image)
    picture = picture_of(tmp_path, labels=None, size=100, contrast=(10.0, 90.0)).pixels[..., 0]
    assert (picture == 0).mean() == pytest.approx(0.1, abs=0.005)
    assert (picture == 255).mean() == pytest.approx(0.1, abs=0.005)
    assert picture[50, 0] == pytest.approx(127, abs=1)


def test_colours_keep_their_balance_and_channels_do_not(tmp_path):
    image = np.random.default_rng(0).integers(0, 100, (40, 50, 3), np.uint8)
    image[..., 0] += 100
    iio.imwrite(tmp_path / "rgb.png", image)
    colour = paint_image(read_image(str(tmp_path / "rgb.png")), (40, 50), (0.5, 99.5))
    assert np.abs(colour.astype(int) - to_rgb(image.transpose(2, 0, 1)).astype(int)).max() <= 6
    channels = Image(key="c", pixels=image.transpose(2, 0, 1), source="c", axes="CYX")
    balanced = paint_image(channels, (40, 50), (0.5, 99.5))
    assert abs(balanced[..., 0].mean() - balanced[..., 1].mean()) < 5
    assert colour[..., 0].mean() - colour[..., 1].mean() > 50


class Rows:
    """Lazy pixels that count what is read at once."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.most = pixels, pixels.shape, pixels.dtype, 0

    def __getitem__(self, window):
        found = self.pixels[window]
        self.most = max(self.most, found.size)
        return found


def test_large_images_are_read_by_bands(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 4000, (5, 600, 500), np.uint16)
    whole = paint_image(Image(key="a", pixels=pixels, source="a", axes="CYX"), (60, 50), (0.0, 100.0))
    monkeypatch.setattr("cellkit.data.normalise.EXACT_PIXELS", 4000)
    monkeypatch.setattr("cellkit.ops.drawing_scale.BAND_PIXELS", 20 * 3 * 500)
    lazy = Rows(pixels)
    banded = paint_image(Image(key="a", pixels=lazy, source="a", axes="CYX"), (60, 50), (0.0, 100.0))
    assert lazy.most <= 3 * 500 * 20
    assert np.abs(whole.astype(int) - banded.astype(int)).max() <= 1


def test_labels_of_large_images_are_read_by_bands(monkeypatch, tmp_path, crowded_field):
    labels = np.kron(crowded_field, np.ones((3, 3), np.int32))
    tifffile.imwrite(tmp_path / "l.tif", labels.astype(np.uint32), rowsperstrip=8, compression="zlib")
    reference = LabelFile(str(tmp_path / "l.tif"))
    whole = read_cells(reference, labels.shape, (100, 100))
    monkeypatch.setattr(viewing, "LARGE", 1000)
    monkeypatch.setattr(viewing, "BAND_PIXELS", 384 * 20)
    banded = read_cells(reference, labels.shape, (100, 100))
    assert (banded.count, banded.digest) == (whole.count, whole.digest) == (36, whole.digest)
    assert np.array_equal(banded.labels, whole.labels)
    with pytest.raises(InputError, match="the labels have 384 x 384 pixels, the image has 384 x 100"):
        read_cells(reference, (384, 100), (384, 100))
    tifffile.imwrite(tmp_path / "f.tif", labels.astype(np.float32) + 0.5)
    with pytest.raises(InputError, match="fractions"):
        read_cells(LabelFile(str(tmp_path / "f.tif")), labels.shape, (100, 100))


def test_cells_too_small_to_be_seen_are_counted(tmp_path):
    labels = np.zeros((200, 200), np.uint16)
    labels[1::4, 1::4] = np.arange(1, 2501).reshape(50, 50)
    iio.imwrite(tmp_path / "l.png", labels)
    cells = read_cells(LabelFile(str(tmp_path / "l.png")), (200, 200), (20, 20))
    assert cells.count == 2500
    assert np.count_nonzero(np.unique(cells.labels)) < 2500


def test_one_file_per_object_can_be_drawn(tmp_path, two_touching_cells):
    for label in (1, 2):
        iio.imwrite(tmp_path / f"m_{label}.png", (two_touching_cells == label).astype(np.uint8) * 255)
    reference = MaskFiles("masks", (str(tmp_path / "m_1.png"), str(tmp_path / "m_2.png")))
    assert read_cells(reference, (64, 80), (64, 80)).count == 2


def test_image_without_labels_is_a_failure_unless_it_may_be(scene):
    source = Source(key="b", path=str(scene / "a.tif"))
    failed = only(view([source], annotations(scene / "labels.png"), None, ViewSettings()))
    assert isinstance(failed, Failure)
    assert str(failed.error) == (
        f"{scene / 'a.tif'}: labels.png has no labels of 'b' "
        "(names must be equal but for suffixes; --allow-missing draws what is there)"
    )
    drawn = only(view([source], annotations(scene / "labels.png", optional=True), None, ViewSettings()))
    assert isinstance(drawn, Picture)


def test_one_bad_image_costs_one_picture(scene, tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"no image")
    sources = [Source(key="bad", path=str(tmp_path / "bad.tif")), Source(key="a", path=str(scene / "a.tif"))]
    first, second = view(sources, None, None, ViewSettings(), workers=2)
    assert isinstance(first, Failure)
    assert isinstance(second, Picture)


def test_workers_do_not_change_a_pixel(scene):
    sources = [Source(key="a", path=str(scene / "a.tif"))] * 3
    labels = annotations(scene / "labels.png")
    for one, two in zip(*(view(sources, labels, None, ViewSettings(), workers=n) for n in (0, 2)), strict=True):
        assert np.array_equal(one.pixels, two.pixels)


def test_history_tells_what_would_change_the_picture(scene, two_touching_cells):
    usual = picture_of(scene).history
    assert picture_of(scene).history == usual
    iio.imwrite(scene / "other.png", np.where(two_touching_cells == 2, 3, two_touching_cells).astype(np.uint16))
    others = [
        picture_of(scene, fill=True),
        picture_of(scene, labels=None),
        picture_of(scene, labels="other.png"),
        picture_of(scene, truth="truth.png"),
        picture_of(scene, contrast=(1.0, 99.0)),
        picture_of(scene, options=ReadOptions(channels=(0,))),
    ]
    histories = [usual, *(other.history for other in others)]
    assert len({repr(history) for history in histories}) == len(histories)


def test_pictures_up_to_date_are_skipped(scene):
    source = Source(key="a", path=str(scene / "a.tif"))
    outcome = only(view([source], None, None, ViewSettings(), is_done=lambda key, history: True))
    assert outcome == Skipped(key="a", source=str(scene / "a.tif"))


def test_real_labels_are_drawn(data):
    folder = data / "monuseg"
    path = sorted((folder / "images").iterdir())[0]
    truth = Annotations(name="t", by_key={"m": LabelFile(str(folder / "labels" / f"{path.stem}.png"))})
    picture = only(view([Source(key="m", path=str(path))], truth, None, ViewSettings(size=500)))
    assert picture.pixels.shape[:2] == (500, 500)
    assert picture.count > 100
