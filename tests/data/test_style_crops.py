"""Crops without labels: deterministic by (seed, step, place), of one style per step, at the scale of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellkit.data.augment import Augmentation, Scene
from cellkit.data.style_crops import SCALE, Style, StyleCrops, StyleImage, pack, unpack
from cellkit.errors import NoInputError

PLAIN = Augmentation(crop=32, rotate=False, flip=False, probability=0)


def flat(value, *, name="flat", count=1, channels=1, shape=(400, 400)):
    """A style of constant images."""
    pixels = torch.full((channels, *shape), value, dtype=torch.float16)
    scene = Scene(shape=shape, active=(True,) * channels)
    return Style(name=name, images=(StyleImage(pixels=pixels, scene=scene),) * count)


def ramp(shape=(400, 400), **scene):
    """One image whose values grow by 1/400 per pixel to the right."""
    pixels = (torch.arange(shape[1]) / 400).expand(1, *shape).float()
    return Style(name="ramp", images=(StyleImage(pixels=pixels, scene=Scene(shape=shape, **scene)),))


def zoom_of(crop):
    """Pixels of the crop per pixel of the image, by the slope of the ramp."""
    return 1 / (400 * float(crop[0, 16, 16:24].diff().mean()))


def test_crops_have_the_documented_shape_and_are_finite():
    crops = StyleCrops([flat(0.5, channels=2)], Augmentation(crop=32), 2, seed=0).crops(0, 5)
    assert crops.shape == (5, 2, 32, 32)
    assert crops.dtype == torch.float32
    assert crops.isfinite().all()


def test_a_step_does_not_depend_on_the_steps_before():
    styles = [flat(0.1), flat(0.9), ramp()]
    walked, fresh = (StyleCrops(styles, Augmentation(crop=32), 1, seed=3) for _ in range(2))
    steps = [walked.crops(step, 4) for step in range(6)]
    assert torch.equal(steps[5], fresh.crops(5, 4))
    assert not torch.equal(steps[4], steps[5])


def test_other_seeds_and_streams_give_other_crops():
    first, *others = (
        StyleCrops([ramp()], Augmentation(crop=32), 1, seed=seed, stream=stream).crops(0, 2)
        for seed, stream in ((0, 0), (1, 0), (0, 1))
    )
    assert not any(torch.equal(first, other) for other in others)


def test_processes_take_the_places_of_one():
    crops = StyleCrops([flat(0.1), ramp()], Augmentation(crop=32), 1, seed=2)
    shared = torch.cat([crops.crops(7, 2, first=0), crops.crops(7, 2, first=2)])
    assert torch.equal(shared, crops.crops(7, 4))


def test_all_crops_of_a_step_show_one_style_and_each_style_has_its_turn():
    crops = StyleCrops([flat(0.25), flat(0.75), flat(1.25)], PLAIN, 1, seed=0)
    shown = [crops.crops(step, 3) for step in range(60)]
    assert all(crop.max() - crop.min() < 1e-3 for crop in shown)
    values = [round(float(crop.mean()), 3) for crop in shown]
    counts = [values.count(value) for value in (0.25, 0.75, 1.25)]
    assert sum(counts) == 60
    assert min(counts) >= 10


def test_the_order_of_styles_depends_on_the_seed():
    styles = [flat(0.25, name="a"), flat(0.75, name="b")]
    orders = [
        [StyleCrops(styles, PLAIN, 1, seed=seed, stream=stream).style_of(step).name for step in range(16)]
        for seed, stream in ((0, 1), (1, 1), (0, 2))
    ]
    assert len({tuple(order) for order in orders}) == 3


def test_images_are_drawn_with_replacement():
    images = [flat(value / 8).images[0] for value in range(4)]
    crops = StyleCrops([Style(name="four", images=tuple(images))], PLAIN, 1, seed=0)
    shown = [[round(float(crop.mean()), 3) for crop in crops.crops(step, 4)] for step in range(20)]
    assert {value for step in shown for value in step} == {0, 0.125, 0.25, 0.375}
    assert any(len(set(step)) < 4 for step in shown)


def test_magnification_is_that_of_crops_of_156_to_290_pixels():
    crops = StyleCrops([ramp()], PLAIN, 1, seed=0).crops(0, 100)
    zooms = [zoom_of(crop) for crop in crops]
    assert min(zooms) >= SCALE[0] * 0.99
    assert max(zooms) <= SCALE[1] * 1.01
    assert min(zooms) < 0.85
    assert max(zooms) > 1.3


def test_cells_are_brought_to_the_working_diameter():
    crops = StyleCrops([ramp(diameter=10.0, working=30.0)], PLAIN, 1, seed=0).crops(0, 50)
    zooms = [zoom_of(crop) for crop in crops]
    assert 3 * SCALE[0] * 0.99 <= min(zooms) < max(zooms) <= 3 * SCALE[1] * 1.01


def test_an_image_smaller_than_the_crop_is_mirrored_not_padded_with_zeros():
    crops = StyleCrops([flat(0.5, shape=(20, 24))], PLAIN, 1, seed=0).crops(0, 4)
    torch.testing.assert_close(crops, torch.full_like(crops, 0.5))


def test_equal_channels_are_stored_once_and_empty_channels_stay_empty():
    grey = StyleImage(pixels=torch.rand(1, 64, 64).half(), scene=Scene(shape=(64, 64), active=(True, True, True)))
    (repeated,) = StyleCrops([Style(name="grey", images=(grey,))], PLAIN, 3, seed=0).crops(0, 1)
    assert torch.equal(repeated[0], repeated[2])
    padded = torch.stack([torch.rand(64, 64), torch.zeros(64, 64)]).half()
    scene = Scene(shape=(64, 64), active=(True, False))
    strong = Augmentation(crop=32, probability=1, invert=1)
    style = Style(name="padded", images=(StyleImage(pixels=padded, scene=scene),))
    crops = StyleCrops([style], strong, 2, seed=0).crops(0, 4)
    assert crops[:, 0].any()
    assert not crops[:, 1].any()


def test_crops_of_no_style_cannot_be_made():
    for styles in ([], [Style(name="empty", images=())]):
        with pytest.raises(NoInputError, match=r"^styles: there is no image to take crops from \(give a folder"):
            StyleCrops(styles, PLAIN, 1, seed=0)


def test_packing_keeps_zero_and_errs_by_at_most_half_a_step():
    values = torch.cat([torch.linspace(-0.5, 1.4921875, 10_000), torch.zeros(4)]).reshape(1, 1, 4, -1)
    packed = pack(values)
    assert packed.dtype == torch.uint8
    assert (packed.min(), packed.max()) == (0, 255)
    back = unpack(packed)
    assert (back - values).abs().max() <= 1 / 256
    assert not back[values == 0].any()
    assert torch.equal(pack(back), packed)


def test_packing_cuts_off_what_lies_beyond():
    assert unpack(pack(torch.tensor([[[[-3.0, 7.0, np.float32(6e4)]]]]))).flatten().tolist() == [
        -0.5,
        1.4921875,
        1.4921875,
    ]
