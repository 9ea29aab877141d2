"""Pairs of views: where they are cut, how they are coloured, and that they depend on seed and step alone."""

from __future__ import annotations

import colorsys
import math
from itertools import islice

import numpy as np
import pytest
import tifffile
import torch

from cellkit.config import Preprocessing
from cellkit.data.loading import Loading
from cellkit.data.moco_views import (
    V1,
    Look,
    ViewSet,
    ViewSettings,
    blurred_by,
    draw_look,
    draw_region,
    recoloured,
    views,
)
from cellkit.data.unlabelled import Deformation, UnlabelledSet
from cellkit.errors import UsageError
from cellkit.io.sources import find_sources

LUMA = np.array([0.299, 0.587, 0.114])
AS_IS = Look(box=(0, 0, 24, 24))


def images_of(folder, *, channels=1, colour="as-is", kind=np.uint8, count=5, size=(70, 60)):
    random = np.random.default_rng(0)
    shape = (*size, 3) if colour == "rgb" else size
    for i in range(count):
        pixels = random.random(shape) * np.iinfo(kind).max
        photometric = "rgb" if colour == "rgb" else "minisblack"
        tifffile.imwrite(folder / f"{i}.tif", pixels.astype(kind), photometric=photometric)
    preprocessing = Preprocessing(channels=channels, colour=colour)
    return UnlabelledSet(find_sources([str(folder)]), preprocessing, Deformation(crop=8))


def taken(data, count, start=0, **options):
    return list(islice(data.batches(start, **options), count))


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return images_of(tmp_path_factory.mktemp("grey"), kind=np.uint16)


def test_batches_depend_on_seed_and_step_alone(grey):
    data = ViewSet(grey, ViewSettings(view_size=16, view_region=40))
    first = taken(data, 3, batch=4, seed=7)
    again = taken(data, 1, start=2, batch=4, seed=7)[0]
    assert torch.equal(first[2].queries, again.queries)
    assert torch.equal(first[2].keys, again.keys)
    assert first[2].seed == again.seed
    other = taken(data, 1, start=2, batch=4, seed=8)[0]
    assert not torch.equal(other.queries, again.queries)
    assert other.seed != again.seed
    assert not torch.equal(again.queries, again.keys)
    assert len({batch.seed for batch in first}) == 3


def test_two_processes_see_together_what_one_sees(grey):
    data = ViewSet(grey, ViewSettings(view_size=16))
    whole = taken(data, 2, batch=4, seed=1)
    parts = [taken(data, 2, batch=4, seed=1, rank=rank, world_size=2) for rank in range(2)]
    for step in range(2):
        together = torch.cat([part[step].queries for part in parts])
        torch.testing.assert_close(together, whole[step].queries)
    assert parts[0][0].seed != parts[1][0].seed


def test_images_that_are_read_again_give_the_same_views(tmp_path):
    kept = images_of(tmp_path)
    poor = UnlabelledSet(kept_sources(kept), kept.preprocessing, kept.deformation, Loading(memory_budget=0))
    assert all(each.pixels is None for each in poor.kept)
    settings = ViewSettings(view_size=16)
    for ours, theirs in zip(taken(ViewSet(kept, settings), 2), taken(ViewSet(poor, settings), 2), strict=True):
        assert torch.equal(ours.queries, theirs.queries)


def kept_sources(data):
    return [kept.source for kept in data.kept]


def test_eight_and_sixteen_bits_give_the_same_views(tmp_path):
    random = np.random.default_rng(3).integers(0, 256, (60, 60))
    found = []
    for name, pixels in (("8", random.astype(np.uint8)), ("16", (random * 257).astype(np.uint16))):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", pixels)
        data = UnlabelledSet(find_sources([str(tmp_path / name)]), Preprocessing(channels=1), Deformation(crop=8))
        found.append(taken(ViewSet(data, ViewSettings(view_size=16)), 1, batch=2)[0])
    torch.testing.assert_close(found[0].queries, found[1].queries, atol=2e-3, rtol=0)


def test_a_grey_image_seen_by_a_network_of_three_colours_stays_grey(tmp_path):
    data = images_of(tmp_path, channels=3, colour="as-is", count=1)
    grey = UnlabelledSet(kept_sources(data), Preprocessing(channels=3, colour="rgb"), Deformation(crop=8))
    settings = ViewSettings(view_size=16, view_jitter=1.0, view_hue=0.5, view_grey=0.0)
    views_of = ViewSet(grey, settings)
    assert views_of.coloured
    queries = taken(views_of, 1, batch=6)[0].queries
    assert (queries.amax(1) - queries.amin(1)).max() < 1e-5
    assert queries.std() > 0.1


def test_colours_change_only_where_channels_are_colours(tmp_path):
    (tmp_path / "a").mkdir()
    data = images_of(tmp_path / "a", channels=3, colour="rgb")
    strong = ViewSettings(view_size=16, view_region=None, view_grey=1.0, view_jitter=0.0, view_blur=0.0)
    queries = taken(ViewSet(data, strong), 1)[0].queries
    assert (queries.amax(1) - queries.amin(1)).max() < 1e-5
    stained = UnlabelledSet(kept_sources(data), Preprocessing(channels=3, colour="as-is"), Deformation(crop=8))
    queries = taken(ViewSet(stained, strong), 1)[0].queries
    assert (queries.amax(1) - queries.amin(1)).mean() > 0.1


def test_views_are_parts_of_their_region_brought_to_one_size():
    y, x = torch.meshgrid(torch.arange(100.0), torch.arange(80.0), indexing="ij")
    region = torch.stack([y, x])
    looks = [Look(box=(10, 20, 40, 20)), Look(box=(10, 20, 40, 20), flips=(True, False)), Look(box=(0, 0, 20, 20))]
    found = views([region, region, region], looks, 20, coloured=False)
    assert found.shape == (3, 2, 20, 20)
    torch.testing.assert_close(found[0, 1, 0], torch.arange(20.0, 40.0))  # not stretched to the side
    inner = slice(2, -2)  # at the edges the filter that shrinks has no more pixels on one side
    torch.testing.assert_close(found[0, 0, inner, 0], torch.arange(10.5, 50, 2)[inner])
    torch.testing.assert_close(found[1], found[0].flip(1))
    assert torch.equal(found[2], region[:, :20, :20])


def test_parts_lie_inside_and_have_the_areas_and_shapes_that_were_asked_for():
    settings = ViewSettings(view_area=(0.2, 0.6), view_aspect=(0.5, 2.0))
    random = np.random.default_rng(0)
    looks = [draw_look(random, settings, (200, 150)) for _ in range(400)]
    boxes = np.array([look.box for look in looks])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (200, 150)).all()
    areas = boxes[:, 2] * boxes[:, 3] / (200 * 150)
    assert (areas.min(), areas.max()) == pytest.approx((0.2, 0.6), abs=0.01)
    ratios = boxes[:, 3] / boxes[:, 2]
    assert ratios.min() < 0.6
    assert ratios.max() > 1.4
    assert ((ratios > 0.49) & (ratios < 2.05)).all()
    tops = boxes[:, 0] / (200 - boxes[:, 2]).clip(1)
    assert (tops.min(), tops.max()) == pytest.approx((0, 1), abs=0.05)
    assert {look.flips for look in looks} == {(a, b) for a in (False, True) for b in (False, True)}


def test_an_image_too_long_for_any_part_is_taken_whole():
    look = draw_look(np.random.default_rng(0), ViewSettings(view_area=(1.0, 1.0)), (3, 400))
    assert look.box == (0, 0, 3, 400)


def test_changes_happen_as_often_as_they_shall():
    random = np.random.default_rng(0)
    v2 = [draw_look(random, ViewSettings(), (64, 64)) for _ in range(1000)]
    assert np.mean([look.brightness != 1 for look in v2]) == pytest.approx(0.8, abs=0.05)
    assert np.mean([look.grey for look in v2]) == pytest.approx(0.2, abs=0.05)
    assert np.mean([look.sigma > 0 for look in v2]) == pytest.approx(0.5, abs=0.05)
    assert max(abs(look.hue) for look in v2) == pytest.approx(0.2 * math.pi, rel=0.05)
    assert {0.6 < look.contrast < 1.4 for look in v2} == {True}
    v1 = [draw_look(random, ViewSettings(**V1), (64, 64)) for _ in range(200)]
    assert all(look.brightness != 1 and look.sigma == 0 for look in v1)
    assert max(abs(look.hue) for look in v1) == pytest.approx(0.8 * math.pi, rel=0.05)


def test_regions_are_as_large_as_they_can_and_show_something():
    image = torch.zeros(1, 200, 50)
    image[:, 150:] = torch.rand(1, 50, 50)
    random = np.random.default_rng(0)
    regions = [draw_region(random, image, 60) for _ in range(40)]
    assert {tuple(region.shape) for region in regions} == {(1, 60, 50)}
    assert np.mean([float(region.max()) > 0 for region in regions]) > 0.9  # of single draws less than half
    assert draw_region(random, image, None).shape == image.shape


def literal_colours(pixel, look, mean):
    """Brightness, contrast around the mean luma, saturation, hue and grey of one pixel, step by step."""
    colour = np.asarray(pixel) * look.brightness
    colour = look.contrast * colour + (1 - look.contrast) * mean * look.brightness
    grey = LUMA @ colour
    colour = look.saturation * colour + (1 - look.saturation) * grey
    if look.hue:
        y, i, q = grey, *_chroma(colour)
        turned = complex(i, q) * complex(math.cos(look.hue), math.sin(look.hue))
        colour = _from_yiq(y, turned.real, turned.imag)
    return np.full(3, LUMA @ colour) if look.grey else colour


AXES = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
AXES[1:] -= AXES[1:].mean(1, keepdims=True)


def _chroma(colour):
    return AXES[1] @ colour, AXES[2] @ colour


def _from_yiq(y, i, q):
    return np.linalg.solve(AXES, (y, i, q))


def test_colours_equal_a_literal_computation():
    images = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    box = (0, 0, 5, 6)
    looks = [
        Look(box=box),
        Look(box=box, brightness=0.7, contrast=1.3),
        Look(box=box, saturation=0.6, hue=1.1, brightness=1.2, contrast=0.8),
        Look(box=box, hue=-0.4, grey=True),
    ]
    found = recoloured(images, looks, coloured=True)
    for image, look, ours in zip(images, looks, found, strict=True):
        mean = float((image.permute(1, 2, 0).numpy() @ LUMA).mean())
        literal = [[literal_colours(image[:, y, x].numpy(), look, mean) for x in range(6)] for y in range(5)]
        np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), literal, atol=1e-5)
    assert torch.equal(found[0], images[0])


def test_hue_turns_red_towards_green_and_keeps_the_lightness():
    red = torch.tensor([0.8, 0.3, 0.3])[None, :, None, None].expand(1, 3, 2, 2)
    hues = []
    for turn in (0.0, 0.4, -0.4):
        new = recoloured(red, [Look(box=(0, 0, 2, 2), hue=turn)], coloured=True)[0, :, 0, 0].numpy()
        assert LUMA @ new == pytest.approx(LUMA @ (0.8, 0.3, 0.3), abs=1e-6)
        hues.append(colorsys.rgb_to_hsv(*new)[0])
    assert len({round(hue, 2) for hue in hues}) == 3


def test_channels_that_are_no_colours_change_alike_and_empty_ones_stay_empty():
    images = torch.rand(2, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    images[:, 1] = 0
    looks = [Look(box=(0, 0, 6, 6), brightness=1.2, contrast=0.6, hue=1.0, grey=True, saturation=0.0)] * 2
    found = recoloured(images, looks, coloured=False)
    assert (found[:, 1] == 0).all()
    bright = 1.2 * images[:, :1]
    expected = 0.6 * bright + 0.4 * bright.mean((2, 3), keepdim=True)
    torch.testing.assert_close(found[:, :1], expected)


def test_blur_equals_a_literal_convolution_and_leaves_the_others_alone():
    images = torch.rand(3, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    found = blurred_by(images, [0.0, 1.3, 0.5])
    assert torch.equal(found[0], images[0])
    for index, sigma in ((1, 1.3), (2, 0.5)):
        for channel in range(2):
            literal = _literal_blur(images[index, channel].double().numpy(), sigma, reach=math.ceil(3 * sigma))
            np.testing.assert_allclose(found[index, channel].numpy(), literal, atol=1e-6)


def test_a_blur_does_not_depend_on_those_of_other_views():
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    together = blurred_by(images, [0.4, 2.0, 1.0])
    for index, sigma in enumerate((0.4, 2.0, 1.0)):
        torch.testing.assert_close(blurred_by(images[index, None], [sigma])[0], together[index], rtol=0, atol=1e-6)


def _literal_blur(image, sigma, reach):
    weights = np.array([math.exp(-(step**2) / (2 * sigma**2)) for step in range(-reach, reach + 1)])
    weights /= weights.sum()
    height, width = image.shape
    found = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for a in range(-reach, reach + 1):
                for b in range(-reach, reach + 1):
                    value = image[min(max(y + a, 0), height - 1), min(max(x + b, 0), width - 1)]
                    found[y, x] += weights[a + reach] * weights[b + reach] * value
    return found


def test_what_is_constant_stays_constant_under_any_blur():
    images = torch.full((2, 1, 5, 5), 0.3)
    torch.testing.assert_close(blurred_by(images, [2.0, 0.1]), images)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"view_size": 0}, r"view_size: 0 is no size \(give pixels, e.g. 224\)"),
        ({"view_region": -1}, r"view_region: -1 is no size \(give pixels, e.g. 224\)"),
        ({"view_area": (0.5, 0.2)}, r"view_area: \(0.5, 0.2\) is no range \(give low and high, both above 0\)"),
        ({"view_area": (0.5, 1.2)}, r"view_area: 1.2 is more than all \(give parts up to 1\)"),
        ({"view_hue": 2}, r"view_hue: 2 is out of range \(give a number from 0 to 1\)"),
    ],
)
def test_settings_that_give_no_view_are_refused(setting, message):
    with pytest.raises(UsageError, match=message):
        ViewSettings(**setting)
