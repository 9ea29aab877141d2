"""Deformed crops of images without labels: by seed and step, mirrored at borders, never empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from cellkit.config import Preprocessing
from cellkit.data.loading import Loading
from cellkit.data.unlabelled import Deformation, UnlabelledSet, draw_positions, sample
from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.sources import find_sources

GREY = Preprocessing(channels=1, percentiles=(1.0, 99.8))
STILL = Deformation(crop=24, scale=(1.0, 1.0), rotate=False, flip=False, jitter=0.0)
BENT = Deformation(crop=24, spacing=8, jitter=1.0)


def write(folder, *images):
    for number, image in enumerate(images):
        tifffile.imwrite(folder / f"{number}.tif", image)
    return find_sources([str(folder)])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(100, 1000, shape).astype(np.uint16)


def discs(diameter, side=200):
    """Bright discs on dark ground, one diameter apart, with a bit of noise."""
    y, x = np.indices((side, side)) % (2 * diameter) - diameter
    random = np.random.default_rng(0).normal(0, 20, (side, side))
    return (np.where(np.hypot(y, x) < diameter / 2, 1000, 100) + random).clip(0).astype(np.uint16)


def take(data, count, **options):
    return [batch for _, batch in zip(range(count), data.batches(**options), strict=False)]


def positions(deformation, shape=(100, 120), seed=0):
    return draw_positions(torch.Generator().manual_seed(seed), deformation, shape)


def test_batches_depend_on_seed_and_step_alone(tmp_path):
    data = UnlabelledSet(write(tmp_path, noise(40, 50), noise(64, 30, seed=1)), GREY, BENT)
    five = take(data, 5, batch=4, seed=7)
    again = take(data, 2, start=3, batch=4, seed=7)
    for one, other in zip(five[3:], again, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.seeds == other.seeds
    seeds = [seed for batch in five for seed in batch.seeds]
    assert len(set(seeds)) == 20
    assert not torch.equal(five[0].images, take(data, 1, batch=4, seed=8)[0].images)
    assert five[0].images.shape == (4, 1, 24, 24)
    assert five[0].images.dtype == torch.float32


def test_processes_share_the_batches_of_one(tmp_path):
    data = UnlabelledSet(write(tmp_path, noise(40, 50), noise(64, 30, seed=1)), GREY, BENT)
    (whole,) = take(data, 1, start=2, batch=4)
    halves = [take(data, 1, start=2, batch=4, rank=rank, world_size=2)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    assert sum((half.seeds for half in halves), ()) == whole.seeds


def test_images_that_do_not_fit_into_memory_are_read_again(tmp_path):
    series = {"imagej": True, "metadata": {"axes": "TYX"}}
    tifffile.imwrite(tmp_path / "series.tif", noise(3, 40, 50), **series)
    sources = write(tmp_path, noise(64, 30, seed=1))
    kept = UnlabelledSet(sources, GREY, BENT)
    read = UnlabelledSet(sources, GREY, BENT, Loading(memory_budget=0))
    assert [len(kept), len(read)] == [4, 4]
    assert all(image.pixels is None for image in read.kept)
    for one, other in zip(take(kept, 2, batch=4), take(read, 2, batch=4), strict=True):
        assert torch.equal(one.images, other.images)


def test_percentiles_become_zero_and_one(tmp_path):
    image = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    data = UnlabelledSet(write(tmp_path, image), GREY, STILL)
    low, high = np.percentile(image, (1, 99.8))
    expected = (image - low) / (high - low)
    np.testing.assert_allclose(data.kept[0].pixels[0], expected, atol=1e-3)


def test_an_undeformed_crop_is_cut_out_of_the_image(tmp_path):
    image = noise(40, 50)
    data = UnlabelledSet(write(tmp_path, image), GREY, STILL)
    whole = data.kept[0].pixels.float()
    corners = torch.tensor([[10.0], [20.0]])[..., None] + torch.stack(
        torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    )
    torch.testing.assert_close(sample(whole, corners), whole[:, 10:15, 20:25])
    assert positions(STILL, (40, 50)).min() >= 0
    assert positions(STILL, (40, 50))[0].max() <= 39


def test_beyond_the_border_the_image_is_mirrored():
    image = noise(5, 7).astype(np.float32)
    rows, columns = torch.meshgrid(torch.arange(-12.0, 20.0), torch.arange(-9.0, 15.0), indexing="ij")
    sampled = sample(torch.from_numpy(image)[None], torch.stack([rows, columns]))
    expected = np.pad(image, ((12, 15), (9, 8)), mode="reflect")
    np.testing.assert_allclose(sampled[0], expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (8, 9), (500, 24)])
def test_images_smaller_than_the_crop_fill_it(shape):
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    crop = sample(image, positions(BENT, shape))
    assert crop.shape == (1, 24, 24)
    assert crop.min() >= image.min() - 1e-6
    assert crop.max() <= image.max() + 1e-6


def test_crops_are_turned_by_any_angle_mirrored_half_of_the_time_and_scaled_within_the_range():
    angles, areas = [], []
    for seed in range(200):
        y, x = positions(Deformation(crop=24, jitter=0.0, scale=(0.5, 2.0)), seed=seed).double()
        down, right = (
            torch.stack([y[1, 0] - y[0, 0], x[1, 0] - x[0, 0]]),
            torch.stack([y[0, 1] - y[0, 0], x[0, 1] - x[0, 0]]),
        )
        assert abs(float(down @ right)) < 1e-4
        areas.append(float(down[0] * right[1] - down[1] * right[0]))
        angles.append(float(torch.atan2(down[1], down[0])))
    sizes = np.sqrt(np.abs(areas))
    assert 0.5 - 1e-4 < sizes.min() < 0.55
    assert 1.8 < sizes.max() < 2 + 1e-4
    assert 0.4 < np.mean(np.array(areas) < 0) < 0.6
    assert (np.histogram(angles, 8, (-np.pi, np.pi))[0] > 10).all()


def test_the_whole_of_an_image_is_shown():
    seen = torch.cat([positions(STILL, (100, 120), seed).flatten(1) for seed in range(200)], 1)
    assert seen.amin(1).max() < 3
    assert seen[0].max() > 96
    assert seen[1].max() > 116
    assert (seen.amax(1) <= torch.tensor([99, 119])).all()


def test_elastic_deformation_is_smooth_and_as_strong_as_asked():
    still = Deformation(crop=252, scale=(1.0, 1.0), rotate=False, flip=False, jitter=0.0)
    bent = Deformation(crop=252, scale=(1.0, 1.0), rotate=False, flip=False, spacing=64, jitter=2.0)
    moves = torch.stack([positions(bent, (400, 400), seed) - positions(still, (400, 400), seed) for seed in range(30)])
    assert 1.2 < moves.std() < 2.2  # between control points it is weaker
    assert moves.diff(dim=-1).abs().max() < 0.25  # px per px
    assert moves.diff(n=2, dim=-1).abs().max() < 0.02  # no kinks


def test_crops_are_turned_upside_down_half_of_the_time():
    flipped = replace(STILL, flip=True, flip_rows=True)
    ways = [positions(flipped, (60, 60), seed).diff(dim=1)[0, 0, 0].item() for seed in range(40)]
    ways = [round(way, 4) for way in ways]
    assert set(ways) == {1.0, -1.0}
    assert 0.25 < np.mean(np.array(ways) < 0) < 0.75


def test_crops_that_show_nothing_are_drawn_again(tmp_path):
    image = np.zeros((600, 600), np.uint16)
    image[:300] = noise(300, 600)
    still = Deformation(crop=24, scale=(1.0, 1.0), rotate=False, flip=False, jitter=0.0)
    data = UnlabelledSet(write(tmp_path, image), GREY, still)
    images = torch.cat([batch.images for batch in take(data, 5, batch=8)])
    spans = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    assert (spans > 0.1).sum() >= 39  # without, half of the 40


def test_images_of_one_value_are_left_out(tmp_path):
    data = UnlabelledSet(write(tmp_path, np.full((40, 40), 7, np.uint8), noise(40, 50)), GREY, STILL)
    assert len(data) == 1


def test_images_are_brought_to_working_scale(tmp_path):
    sources = write(tmp_path, noise(40, 51))
    for typical, shape in ((60, (1, 20, 26)), (15, (1, 80, 102))):
        of_30 = replace(GREY, diameter=30.0, typical=float(typical))
        assert UnlabelledSet(sources, of_30, STILL).kept[0].pixels.shape == shape


def test_each_image_can_have_objects_of_its_own_size(tmp_path):
    sources = write(tmp_path, discs(20), discs(40))
    data = UnlabelledSet(sources, replace(GREY, diameter=30.0, typical=30.0, estimated=True), STILL)
    small, large = (kept.pixels.shape[1] for kept in data.kept)
    assert small == pytest.approx(200 * 30 / 20, rel=0.2)
    assert large == pytest.approx(200 * 30 / 40, rel=0.3)


def test_progress_is_told(tmp_path):
    told = []
    UnlabelledSet(
        write(tmp_path, noise(30, 30), noise(30, 31)), GREY, STILL, Loading(progress=lambda *at: told.append(at))
    )
    assert told == [(1, 2), (2, 2)]


def test_nothing_but_images_of_one_value_is_told(tmp_path):
    with pytest.raises(NoInputError, match=r"training: none of 2 images shows anything \(give images with cells\)"):
        UnlabelledSet(write(tmp_path, np.zeros((9, 9), np.uint8), np.ones((9, 9), np.uint8)), GREY, STILL)


def test_an_image_with_nan_is_named(tmp_path):
    with pytest.raises(InputError, match=r"0.tif: holds NaN or infinite pixels \(1 of 4\)"):
        UnlabelledSet(write(tmp_path, np.array([[1, np.nan], [0, 2]], np.float32)), GREY, STILL)


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path):
    data = UnlabelledSet(write(tmp_path, noise(30, 30)), GREY, STILL)
    with pytest.raises(UsageError, match=r"batch: 3 crops cannot be shared by 2 processes \(give a multiple of 2\)"):
        next(data.batches(batch=3, world_size=2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"crop": 0}, r"crop: 0 is no size \(give pixels, e.g. 64\)"),
        ({"spacing": 0}, "spacing: 0 is no size"),
        ({"scale": (2.0, 1.0)}, r"scale: \(2.0, 1.0\) is no range \(give low and high, both above 0\)"),
        ({"jitter": -1.0}, r"jitter: -1 is negative \(give 0 or more\)"),
    ],
)
def test_deformations_that_cannot_be_drawn_are_refused(setting, message):
    with pytest.raises(UsageError, match=message):
        Deformation(**setting)
