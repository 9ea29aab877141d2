import dataclasses

import numpy as np
import pytest
import torch

from cellkit.data.augment import Augmentation, Draw, Scene, draw, recolour
from cellkit.data.warp import Affine
from cellkit.errors import UsageError

PLAIN = Augmentation(crop=32, scale=(1, 1), rotate=False, flip=False, probability=0, foreground=0)
SCENE = Scene(shape=(100, 140))
SAME = Affine(matrix=(1, 0, 0, 1), centre=(0, 0), crop=8)


def draws(augmentation, scene=SCENE, count=200):
    return [draw(torch.Generator().manual_seed(seed), augmentation, scene) for seed in range(count)]


def drawn(channels=1, **changes):
    mixing = tuple(map(tuple, np.eye(channels, channels + 1).tolist()))
    plain = Draw(affine=SAME, gamma=1.0, mixing=mixing, blur=0.0, noise=0.0, noise_seed=0)
    return dataclasses.replace(plain, **changes)


def apply_mixing(mixing, values):
    image = torch.tensor(values)[None, :, None, None].expand(1, len(values), 4, 4).clone()
    return recolour(image, [drawn(len(values), mixing=mixing)])[0, :, 0, 0].tolist()


def test_equal_seeds_draw_equally_and_others_do_not():
    strong = Augmentation(invert=0.5, shuffle=0.5, grey=0.2)
    assert draws(strong, count=5) == draws(strong, count=5)
    assert len({d.affine.centre for d in draws(strong)}) == 200


def test_without_anything_crops_are_copied_and_lie_inside():
    for d in draws(PLAIN):
        assert d.affine.matrix == (1, 0, 0, 1)
        assert (d.gamma, d.mixing, d.blur, d.noise) == (1.0, ((1.0, 0.0),), 0.0, 0.0)
        start = [centre - 15.5 for centre in d.affine.centre]
        assert all(s == int(s) and 0 <= s <= size - 32 for s, size in zip(start, (100, 140), strict=True))


def test_an_image_smaller_than_the_crop_stays_inside_it():
    for d in draws(PLAIN, Scene(shape=(20, 20))):
        assert all(centre - 15.5 <= 0 and centre + 15.5 >= 19 for centre in d.affine.centre)


def test_scale_is_relative_to_the_working_diameter():
    scaled = dataclasses.replace(PLAIN, scale=(0.5, 2))
    plain = [1 / d.affine.shrinkage for d in draws(scaled, Scene(shape=(900, 900)))]
    assert 0.5 <= min(plain) < 0.55
    assert 1.8 < max(plain) <= 2
    assert np.median(plain) == pytest.approx(1, rel=0.15)  # log-uniform: as often larger as smaller
    working = [1 / d.affine.shrinkage for d in draws(scaled, Scene(shape=(900, 900), diameter=10, working=30))]
    np.testing.assert_allclose(working, 3 * np.array(plain))


def test_diameters_bring_the_median_cell_into_the_range():
    sized = dataclasses.replace(PLAIN, diameters=(8, 100))
    found = [25 / d.affine.shrinkage for d in draws(sized, Scene(shape=(500, 500), diameter=25, working=30))]
    assert 8 <= min(found) < 10
    assert 80 < max(found) <= 100


def test_zoom_is_limited():
    sized = dataclasses.replace(PLAIN, diameters=(8, 100))
    found = [1 / d.affine.shrinkage for d in draws(sized, Scene(shape=(500, 500), diameter=2))]
    assert max(found) == pytest.approx(8)


def test_crops_without_cells_are_drawn_again():
    lonely = Scene(shape=(400, 400), centres=np.float32([[200, 200]]))
    shares = []
    for foreground in (0, 5):
        again = dataclasses.replace(PLAIN, foreground=foreground, rotate=True, flip=True)
        shares.append(np.mean([d.affine.shows(lonely.centres) for d in draws(again, lonely)]))
    assert shares[0] < 0.05
    assert shares[1] > 3 * shares[0]


def test_rotation_and_flip_keep_the_magnification():
    free = dataclasses.replace(PLAIN, rotate=True, flip=True)
    determinants = [
        d.affine.matrix[0] * d.affine.matrix[3] - d.affine.matrix[1] * d.affine.matrix[2] for d in draws(free)
    ]
    np.testing.assert_allclose(np.abs(determinants), 1)
    assert 0.3 < np.mean(np.array(determinants) < 0) < 0.7


def test_crops_are_mirrored_both_ways_and_stay_on_the_raster():
    both = dataclasses.replace(PLAIN, flip=True, flip_rows=True)
    matrices = [d.affine.matrix for d in draws(both)]
    assert {(m[0], m[3]) for m in matrices} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    assert all(m[1] == m[2] == 0 for m in matrices)
    assert 0.4 < np.mean([m[0] < 0 for m in matrices]) < 0.6
    turned, once = (dataclasses.replace(both, rotate=True, flip_rows=rows) for rows in (True, False))
    assert draws(turned) == draws(once)  # any angle has it already


def test_a_setting_that_came_later_is_recorded_where_it_changes_something():
    assert "flip_rows" not in PLAIN.recorded()
    assert dataclasses.replace(PLAIN, flip_rows=True).recorded()["flip_rows"] is True


def test_inversion_turns_bright_into_dark():
    (d,) = draws(dataclasses.replace(PLAIN, invert=1.0), count=1)
    assert apply_mixing(d.mixing, [0.0]) == [1.0]
    assert apply_mixing(d.mixing, [0.75]) == [0.25]


def test_grey_gives_the_mean_of_all_channels():
    (d,) = draws(dataclasses.replace(PLAIN, grey=1.0), Scene(shape=(50, 50), active=(True,) * 3), count=1)
    assert apply_mixing(d.mixing, [0.0, 0.3, 0.9]) == pytest.approx([0.4] * 3)


def test_shuffle_permutes_channels():
    scene = Scene(shape=(50, 50), active=(True,) * 3)
    found = {
        tuple(apply_mixing(d.mixing, [0.1, 0.5, 0.9])) for d in draws(dataclasses.replace(PLAIN, shuffle=1.0), scene)
    }
    assert len(found) == 6
    assert all(sorted(values) == pytest.approx([0.1, 0.5, 0.9]) for values in found)


def test_an_empty_channel_stays_empty():
    strong = Augmentation(crop=8, probability=1, invert=1, shuffle=1, grey=1)
    for d in draws(strong, Scene(shape=(50, 50), active=(True, False)), count=10):
        image = torch.rand(1, 2, 8, 8)
        image[:, 1] = 0
        result = recolour(image, [d])
        assert not result[:, 1].any()
        assert result[:, 0].any()


def test_contrast_turns_around_the_middle_and_brightness_shifts():
    contrasted = dataclasses.replace(PLAIN, probability=1, contrast=0.5, brightness=0, gamma=0, gain=0, noise=0, blur=0)
    for d in draws(contrasted, count=20):
        low, middle, high = (apply_mixing(d.mixing, [value])[0] for value in (0.0, 0.5, 1.0))
        assert middle == pytest.approx(0.5)
        assert np.exp(-0.5) <= high - low <= np.exp(0.5)
    shifted = dataclasses.replace(contrasted, contrast=0, brightness=0.2)
    offsets = [apply_mixing(d.mixing, [0.5])[0] - 0.5 for d in draws(shifted)]
    assert -0.2 <= min(offsets) < -0.15
    assert 0.15 < max(offsets) <= 0.2


def test_gamma_keeps_what_is_below_zero():
    image = torch.tensor([[-0.5, 0.0, 0.25, 1.0]])[None, None]
    result = recolour(image.clone(), [drawn(gamma=0.5)])
    assert result.flatten().tolist() == pytest.approx([-0.5, 0.0, 0.5, 1.0])


def test_blur_has_the_sigma_asked_for():
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, 10, 10] = 1
    result = recolour(image.clone(), [drawn(blur=0.8)])[0, 0]
    offsets = torch.arange(21) - 10.0
    assert result.sum() == pytest.approx(1)
    assert (result.sum(1) * offsets**2).sum() == pytest.approx(0.64, rel=1e-4)
    assert (result.sum(0) * offsets**2).sum() == pytest.approx(0.64, rel=1e-4)


def test_noise_has_its_strength_and_its_seed():
    image = torch.zeros(2, 1, 64, 64)
    draws_of_noise = [drawn(noise=0.1, noise_seed=1), drawn(noise=0.1, noise_seed=2)]
    result = recolour(image.clone(), draws_of_noise)
    assert result.std() == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(result[0], result[1])
    assert torch.equal(result, recolour(image.clone(), draws_of_noise))


def test_settings_survive_a_checkpoint():
    settings = Augmentation(diameters=(8, 100), invert=0.3)
    assert Augmentation.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"crop": 0}, "crop: 0 is no size (give pixels, e.g. 224)"),
        ({"scale": (0.0, 1.0)}, "scale: (0.0, 1.0) is no range (give low and high, both above 0)"),
        ({"diameters": (9, 8)}, "diameters: (9, 8) is no range (give low and high, both above 0)"),
        ({"invert": 1.5}, "invert: 1.5 is out of range (give a number from 0 to 1)"),
        ({"noise": -1}, "noise: -1 is negative (give 0 or more)"),
    ],
)
def test_impossible_settings_are_usage_errors(changes, text):
    with pytest.raises(UsageError) as caught:
        Augmentation(**changes)
    assert str(caught.value) == text
