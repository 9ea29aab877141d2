"""Mean shift: the same clusters as scikit-learn's, on embeddings as a trained and an untrained network has them."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.cluster import MeanShift
from sklearn.metrics import adjusted_rand_score

from cellkit.errors import UsageError
from cellkit.ops import mean_shift as module
from cellkit.ops.mean_shift import climbed, mean_shift, merged, nearest

SIDE = 128  # of the crop: scikit-learn takes a millisecond and more for each point
BANDWIDTH = 7.5  # half of the 15 pixels that small nuclei measure


def embeddings(labels: np.ndarray, noise: float, *, trained: bool = True) -> np.ndarray:
    """Places (N, 2) that the cells' pixels point to: the middle of the cell, or themselves, and noise."""
    places = np.stack(np.nonzero(labels), 1).astype(np.float64)
    if trained:
        cells = labels[labels > 0]
        sizes = np.maximum(np.bincount(cells), 1)
        places = np.stack([(np.bincount(cells, places[:, k]) / sizes)[cells] for k in (0, 1)], 1)
    return places + np.random.default_rng(0).normal(0, noise, places.shape)


def part_of(points: np.ndarray, count: int) -> np.ndarray:
    return points[np.random.default_rng(1).choice(len(points), count, replace=False)]


def real_labels(data) -> np.ndarray:
    return imageio.imread(data / "dsb2018" / "labels" / "07fb37aafa662660.png")[:SIDE, :SIDE].astype(np.int64)


@pytest.mark.parametrize(("noise", "trained"), [(1.0, True), (3.0, True), (0.0, False), (0.3, False)])
def test_centres_are_those_of_scikit_learn_on_real_nuclei(noise, trained, data):
    points = part_of(embeddings(real_labels(data), noise, trained=trained), 200)
    theirs = MeanShift(bandwidth=BANDWIDTH).fit(points)
    ours = mean_shift(points, BANDWIDTH)
    assert np.allclose(ours, theirs.cluster_centers_, atol=1e-6)
    assert np.array_equal(nearest(points, ours), theirs.labels_)


@pytest.mark.parametrize("noise", [1.0, 2.0, 3.0])
def test_climbing_on_a_grid_first_finds_the_same_clusters(noise, data, monkeypatch):
    points = embeddings(real_labels(data), noise)
    exact = mean_shift(points, BANDWIDTH, exact=True)
    monkeypatch.setattr(module, "MANY", 0)
    monkeypatch.setattr(module, "climbed", watched := Watched())
    ours = mean_shift(points, BANDWIDTH)
    assert watched.seeds < len(points) / 40
    assert abs(len(ours) - len(exact)) <= 0.01 * len(exact)
    assert adjusted_rand_score(nearest(points, ours), nearest(points, exact)) >= 0.99


class Watched:
    """``climbed`` that remembers how many seeds it was given."""

    def __call__(self, tree: cKDTree, bandwidth: float, seeds: np.ndarray) -> np.ndarray:
        self.seeds = len(seeds)
        return climbed(tree, bandwidth, seeds)


def test_points_far_apart_do_without_a_grid(monkeypatch):
    monkeypatch.setattr(module, "MANY", 0)
    clumps = np.repeat([[0.0, 0.0], [1e7, 1e7], [-3e6, 5e6]], 200, axis=0)
    assert sorted(mean_shift(clumps, 1.0).tolist()) == [[-3e6, 5e6], [0, 0], [1e7, 1e7]]


def test_two_clumps_by_hand():
    points = np.array([[0.0, 0], [0, 2], [0, 4], [0, 30], [0, 32]])
    assert mean_shift(points, 5.0).tolist() == [[0, 2], [0, 31]]  # three points before two
    assert nearest(points, np.array([[0.0, 31], [0, 2]])).tolist() == [1, 1, 1, 0, 0]


def test_a_point_at_the_bandwidth_is_within():
    assert mean_shift(np.array([[0.0, 0], [3, 4]]), 5.0).tolist() == [[1.5, 2]]


def test_of_two_near_ends_the_one_with_more_points_stays():
    ends = np.array([[0.0, 0, 3], [0, 4, 9], [0, 8, 2], [0, 9, 5]])
    assert merged(ends, 4.0).tolist() == [[0, 4], [0, 9]]
    assert merged(ends, 100.0).tolist() == [[0, 4]]


def test_no_point_near_a_seed_is_no_cluster():
    assert climbed(cKDTree(np.zeros((3, 2))), 1.0, np.full((1, 2), 9.0)).shape == (0, 3)


def test_chunks_change_nothing(monkeypatch):
    points = np.random.default_rng(0).uniform(0, 60, (500, 2))
    whole = mean_shift(points, 5.0)
    monkeypatch.setattr(module, "PAIRS", 40)
    assert np.array_equal(mean_shift(points, 5.0), whole)


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.ones((1, 2)), np.ones((50, 2))])
def test_nothing_and_one_place(points):
    assert np.array_equal(mean_shift(points, 3.0), points[:1])


@pytest.mark.parametrize("bandwidth", [0, 0.0, -2.0, float("nan"), float("inf")])
def test_no_bandwidth_is_a_usage_error(bandwidth):
    message = (
        rf"^bandwidth: cannot be {bandwidth} \(give a number of pixels above 0, about half the size of an object\)$"
    )
    with pytest.raises(UsageError, match=message):
        mean_shift(np.zeros((3, 2)), bandwidth)
