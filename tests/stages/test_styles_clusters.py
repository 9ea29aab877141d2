"""Groups and maps of styles, on directions that are known to belong together."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from cellkit.errors import UsageError
from cellkit.stages.styles_clusters import cluster_styles, map_styles, nearest


def bundles(*sizes, spread=0.05, seed=0):
    """Unit vectors (N, 16) around one axis per bundle, and the number of the bundle of each."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    vectors = np.eye(16)[truth] + spread * random.normal(size=(len(truth), 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), truth


def test_groups_are_found_and_numbered_by_falling_size():
    vectors, truth = bundles(4, 9, 6)
    expected = np.array([2, 0, 1])[truth]
    for seed in (0, 1):
        np.testing.assert_array_equal(cluster_styles(vectors, 3, seed), expected)


def test_of_groups_of_one_size_the_one_that_comes_first_is_first():
    vectors, truth = bundles(5, 5, 5)
    np.testing.assert_array_equal(cluster_styles(vectors, 3), truth)


def test_only_directions_count():
    vectors, truth = bundles(7, 6, 5)
    lengths = np.random.default_rng(1).uniform(0.1, 10, (len(vectors), 1))
    np.testing.assert_array_equal(cluster_styles(lengths * vectors, 3), truth)


@pytest.mark.parametrize(("rows", "groups"), [([0, 1, 0, 1, 0], 2), ([0, 0, 0], 1), ([0], 1), ([], 0)])
def test_there_are_no_more_groups_than_different_styles(rows, groups):
    labels = cluster_styles(np.eye(4)[rows], 7)
    assert labels.shape == (len(rows),)
    assert set(labels.tolist()) == set(range(groups))


def test_styles_that_differ_by_rounding_alone_are_no_groups_of_their_own():
    vectors = np.repeat(np.eye(4)[[0, 1]], 5, axis=0)
    vectors[:, 2] += np.arange(10) * 1e-17
    assert set(cluster_styles(vectors, 7).tolist()) == {0, 1}


def test_the_nearest_to_the_centre_comes_first():
    vectors, truth = bundles(8, 5, spread=0.3)
    members = nearest(vectors, truth, 0).tolist()
    centre = vectors[:8].sum(0)
    angles = [float(np.arccos(v @ centre / np.linalg.norm(centre))) for v in vectors[:8]]
    assert members == sorted(range(8), key=angles.__getitem__)


def test_a_map_keeps_together_what_belongs_together_and_is_the_same_again():
    vectors, truth = bundles(15, 12, 10)
    places = map_styles(vectors)
    assert places.shape == (37, 2)
    assert silhouette_score(places, truth) > 0.8
    np.testing.assert_array_equal(places, map_styles(vectors))
    assert not np.array_equal(places, map_styles(vectors, seed=1))


@pytest.mark.parametrize("count", [4, 5])
def test_few_and_equal_images_have_a_map(count):
    assert np.isfinite(map_styles(bundles(count)[0])).all()
    assert np.isfinite(map_styles(np.repeat(np.eye(3)[:1], count, axis=0))).all()


@pytest.mark.parametrize(("count", "text"), [(3, "3 images"), (1, "1 image")])
def test_too_few_images_have_none(count, text):
    with pytest.raises(UsageError, match=rf"^--picture: {text} cannot be mapped by t-SNE \(give 4 or more, or"):
        map_styles(np.eye(8)[:count])
