"""Greedy clusters against a plain loop; halos against distance transforms; Otsu against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from skimage.filters import threshold_otsu

from cellkit.errors import UsageError
from cellkit.ops.embedding_clusters import (
    brighter_part,
    greedy_clusters,
    is_uniform,
    otsu_thresholds,
    without_halo,
)

SITUATIONS = ["two_touching_cells", "cell_on_border", "crowded_field", "empty_field"]


def slow_uniform(values: np.ndarray, distance: float) -> np.ndarray:
    """Value by value: far enough from what has another one."""
    far = np.ones(values.shape, bool)
    for value in np.unique(values):
        own = values == value
        if not own.all():
            far[own] = distance_transform_edt(own)[own] >= distance
    return far


@pytest.mark.parametrize("distance", [0, 0.5, 1, 1.2, 2, 3, 5, 6.1, 100])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_uniform_is_as_far_as_a_distance_transform_says(situation, distance, request):
    labels = request.getfixturevalue(situation)
    assert np.array_equal(is_uniform(labels, distance), slow_uniform(labels, distance))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 9),
    width=st.integers(1, 12),
    distance=st.floats(0, 7, allow_nan=False),
)
def test_uniform_of_any_small_image(seed, height, width, distance):
    values = np.random.default_rng(seed).choice(3, (height, width), p=(0.8, 0.1, 0.1))
    assert np.array_equal(is_uniform(values, distance), slow_uniform(values, distance))


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize(("grow", "shrink"), [(3, 6), (0, 2), (4, 0), (0, 0), (2.5, 30)])
def test_halo_is_that_of_distance_transforms_of_the_union(situation, grow, shrink, request):
    labels = request.getfixturevalue(situation)
    expected = np.zeros_like(labels)
    if labels.any():
        near = distance_transform_edt(labels == 0) < grow
        inside = np.where(near.all(), np.inf, distance_transform_edt(near | (labels != 0)))
        expected = np.where(inside < shrink, 0, labels)
    assert np.array_equal(without_halo(labels, grow=grow, shrink=shrink), expected)


def test_borders_between_cells_are_cleared_when_asked_for(two_touching_cells):
    union = without_halo(two_touching_cells, grow=1, shrink=4)
    each = without_halo(two_touching_cells, grow=1, shrink=4, touching=True)
    assert union[32, 36:41].all()
    assert not each[32, (two_touching_cells[32, 1:] != two_touching_cells[32, :-1]).nonzero()[0]].any()
    own = [distance_transform_edt(two_touching_cells == cell) for cell in (1, 2)]
    assert np.array_equal(each > 0, (union > 0) & ((own[0] >= 3) | (own[1] >= 3)))


def test_a_speck_of_background_does_not_clear_the_cell_around_it(two_touching_cells):
    two_touching_cells[30, 22] = 0
    kept = without_halo(two_touching_cells, grow=2, shrink=4, touching=True)
    assert (kept[28:33, 20:25] == two_touching_cells[28:33, 20:25]).all()


def slow_greedy(points, confidence, bandwidth, min_size, lowest):
    """The loop as EmbedSeg has it, over all points."""
    free, cluster, found = np.ones(len(points), bool), np.zeros(len(points), int), 0
    while (free & (confidence >= lowest)).any():
        seed = np.argmax(np.where(free, confidence, -1))
        proposal = np.exp(-((points - points[seed]) ** 2).sum(1) / (2 * bandwidth**2)) > 0.5
        if proposal.sum() > min_size and free[proposal].mean() > 0.5:
            found += 1
            cluster[proposal] = found
        free[proposal] = False
    return cluster


@pytest.mark.parametrize("lowest", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("min_size", [0, 12])
def test_greedy_is_the_plain_loop(lowest, min_size):
    random = np.random.default_rng(3)
    points = random.uniform(0, 60, (12, 2))[random.integers(0, 12, 600)] + random.normal(0, 2, (600, 2))
    confidence = np.round(random.random(600), 2)  # with ties
    expected = slow_greedy(points, confidence, 4.0, min_size, lowest)
    assert np.array_equal(greedy_clusters(points, confidence, 4.0, min_size=min_size, lowest=lowest), expected)


def test_greedy_without_points_and_without_bandwidth():
    assert greedy_clusters(np.zeros((0, 2)), np.zeros(0), 3.0, min_size=0).shape == (0,)
    with pytest.raises(UsageError, match=r"^bandwidth: cannot be 0 \(give a number of pixels above 0"):
        greedy_clusters(np.zeros((1, 2)), np.ones(1), 0, min_size=0)


def test_otsu_of_each_group_is_that_of_scikit_image():
    random = np.random.default_rng(0)
    groups = np.repeat([0, 2, 3, 4], [400, 90, 7, 1])
    values = random.normal(0, 1, len(groups)) + 4 * (random.random(len(groups)) < 0.4)
    thresholds = otsu_thresholds(values, groups, 6)
    for group in (0, 2, 3):
        assert thresholds[group] == pytest.approx(threshold_otsu(values[groups == group]), abs=1e-9)
    assert np.isneginf(thresholds[[1, 4, 5]]).all()  # nobody, or one value alone


def test_of_each_cell_the_bright_part_is_kept(two_touching_cells):
    image = np.where(two_touching_cells == 1, 10.0, 1000.0)  # one threshold for all would lose the first cell
    image[28:37, 20:30] += 5
    image[28:37, 50:60] += 400
    image[32, 55] = np.nan
    part = brighter_part(two_touching_cells, image)
    assert np.array_equal(part == 1, np.pad(np.ones((9, 10), bool), ((28, 27), (20, 50))))
    assert (part == 2).sum() == 89


def test_a_cell_of_one_brightness_stays_whole(two_touching_cells, empty_field):
    assert np.array_equal(brighter_part(two_touching_cells, np.ones(two_touching_cells.shape)), two_touching_cells)
    assert not brighter_part(empty_field, np.ones(empty_field.shape)).any()
