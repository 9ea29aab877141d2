"""Noisy copies by seed and place, and their mean and spread without keeping them."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from cellkit.errors import UsageError
from cellkit.ops.noisy_passes import Moments, Noise, mean_and_spread, noisy


@pytest.fixture
def pixels():
    """An image (2, 300, 530) of several blocks of noise, whose values no grain has."""
    return np.random.default_rng(0).uniform(0.2, 0.8, (2, 300, 530)).astype(np.float32)


def half_precision(copies):
    """A network that returns its input, and its square."""
    for tag, pixels in copies:
        yield tag, np.concatenate([pixels(), pixels() ** 2]).astype(np.float16)


def test_one_percent_becomes_salt_in_the_first_half_of_the_copies_and_pepper_in_the_other(pixels):
    noise, before = Noise(repeats=3), pixels.copy()
    for copy in range(noise.copies):
        changed = noisy(pixels, noise, copy)
        grains = changed != pixels
        assert set(changed[grains].tolist()) == {1.0 if copy < 3 else 0.0}
        assert 0.008 < grains.mean() < 0.012
    np.testing.assert_array_equal(pixels, before)


def test_the_authors_pepper_is_a_setting(pixels):
    changed = noisy(pixels, Noise(values=(0.5, 1.0), repeats=1), 0)
    assert set(changed[changed != pixels].tolist()) == {0.5}


def test_equal_seeds_give_equal_grains_and_nothing_else_does(pixels):
    places = [
        noisy(pixels, Noise(seed=seed), copy) != pixels for seed, copy in ((0, 0), (0, 0), (0, 1), (1, 0), (0, 16))
    ]
    np.testing.assert_array_equal(places[0], places[1])
    for other in places[2:]:
        assert (places[0] & other).sum() < 0.03 * places[0].sum()
    assert (places[0][0] & places[0][1]).sum() < 0.03 * places[0][0].sum()  # each channel for itself


@pytest.mark.parametrize("origin", [(0, 0), (10, 250), (255, 256), (290, 529)])
@pytest.mark.parametrize("shape", [(1, 1), (10, 1), (5, 270)])
def test_a_window_has_the_noise_of_the_whole(pixels, origin, shape):
    window = (slice(None), slice(origin[0], origin[0] + shape[0]), slice(origin[1], origin[1] + shape[1]))
    noise = Noise(fraction=0.2)
    np.testing.assert_array_equal(noisy(pixels[window], noise, 5, origin), noisy(pixels, noise, 5)[window])


def test_moments_are_those_of_all_maps_together():
    maps = np.random.default_rng(0).normal(100, 0.5, (20, 2, 5, 7)).astype(np.float32)
    moments = Moments()
    for one in maps:
        moments.add(one)
    np.testing.assert_allclose(moments.mean, maps.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(moments.deviation, maps.std(0, dtype=np.float64), rtol=1e-3)


def test_spread_of_equal_maps_is_zero():
    moments = Moments()
    for _ in range(3):
        moments.add(np.full((1, 2, 2), 0.1, np.float16))
    assert moments.deviation.tolist() == [[[0, 0], [0, 0]]]


def test_mean_and_summed_deviation_equal_a_computation_with_all_copies(pixels):
    noise = Noise(repeats=4, fraction=0.1, seed=3)
    images = [("a", pixels), ("b", lambda: pixels[:, :20, :30])]
    results = dict(mean_and_spread(images, half_precision, noise))
    assert list(results) == ["a", "b"]
    for tag, image in (("a", pixels), ("b", pixels[:, :20, :30])):
        copies = [noisy(image, noise, copy) for copy in range(8)]
        maps = np.stack([np.concatenate([c, c**2]).astype(np.float16).astype(np.float64) for c in copies])
        expected = np.concatenate([maps.mean(0), maps.std(0).sum(0, keepdims=True)])
        assert results[tag].dtype == np.float16
        np.testing.assert_allclose(results[tag].astype(float), expected, atol=1e-3)


def test_windows_give_the_maps_of_the_whole(pixels):
    noise = Noise(repeats=2, fraction=0.1)
    ((_, whole),) = mean_and_spread([((0, 0), pixels)], half_precision, noise)
    windows = [((top, left), pixels[:, top : top + 150, left : left + 265]) for top in (0, 150) for left in (0, 265)]
    for (top, left), maps in mean_and_spread(windows, half_precision, noise, origin_of=lambda tag: tag):
        np.testing.assert_array_equal(maps, whole[:, top : top + 150, left : left + 265])


def test_copies_are_made_one_by_one_and_not_kept(pixels):
    alive = []

    def network(copies):
        for tag, make in copies:
            copy = make()
            assert not any(reference() is not None for reference in alive)
            alive.append(weakref.ref(copy))
            maps = copy.astype(np.float16)
            del copy
            yield tag, maps

    ((tag, _),) = mean_and_spread([("a", pixels)], network, Noise(repeats=5))
    assert tag == "a"
    assert len(alive) == 10


def test_an_image_of_one_value_is_background_everywhere():
    images = [("black", np.zeros((1, 30, 40), np.float32)), ("grey", np.eye(30, dtype=np.float32)[None])]
    results = dict(mean_and_spread(images, half_precision, Noise(repeats=2)))
    assert np.isposinf(results["black"][-1]).all()
    assert np.isfinite(results["black"][:-1]).all()
    assert np.isfinite(results["grey"]).all()


def test_what_makes_no_copies_is_refused():
    with pytest.raises(UsageError, match=r"repeats: 0 copies for 2 values are none \(give 1 or more, e.g. 16\)"):
        Noise(repeats=0)
    with pytest.raises(UsageError, match="repeats: 16 copies for 0 values are none"):
        Noise(values=())
    with pytest.raises(UsageError, match=r"fraction: 1.5 is out of range \(give a number from 0 to 1, e.g. 0.01\)"):
        Noise(fraction=1.5)
