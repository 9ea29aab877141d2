"""Rays and depth of pixels: equal to StarDist's own, whatever the labels."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from cellkit.ops.polygons import RAYS, ray_directions
from cellkit.ops.polygons_rays import depth_ratios, ray_distances, squared_depths


def marched(labels: np.ndarray) -> np.ndarray:
    """Distances (32, H, W) as StarDist's Python code marches: pixel by pixel, ray by ray."""
    found = np.zeros((RAYS, *labels.shape), np.float32)
    for y, x in np.argwhere(labels > 0):
        for ray in range(RAYS):
            down, right = (
                np.sin(np.float32(ray * np.float32(2 * np.pi / RAYS))),
                np.cos(np.float32(ray * np.float32(2 * np.pi / RAYS))),
            )
            dy = dx = np.float32(0)
            while True:
                dy, dx = dy + down, dx + right
                row, column = round(float(y + dy)), round(float(x + dx))
                outside = not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1])
                if outside or labels[row, column] != labels[y, x]:
                    break
            back = 1 - 0.5 / max(abs(down), abs(right))
            found[ray, y, x] = np.hypot(dy - back * down, dx - back * right)
    return found


def blocks(seed: int, height: int, width: int, block: int, lowest: int = 0) -> np.ndarray:
    """Labels of square blocks, of which neighbours often are one cell, cut anywhere."""
    labels = np.random.default_rng(seed).integers(lowest, 3, (height, width))
    return np.kron(labels, np.ones((block, block), np.int64))[: max(1, height * block - 2), : max(1, width * block - 1)]


def one(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(labels.astype(np.int32))[None]


@pytest.mark.parametrize("situation", ["two_touching_cells", "cell_on_border", "empty_field"])
def test_distances_are_those_of_the_march(situation, request):
    labels = request.getfixturevalue(situation)[::2, ::2]
    assert np.allclose(ray_distances(one(labels))[0], marched(labels), atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_distances_of_any_labels_are_those_of_the_march(seed, height, width, block):
    labels = blocks(seed, height, width, block, lowest=-1)
    assert np.allclose(ray_distances(one(labels))[0], marched(labels), atol=1e-5)


def test_distances_of_a_batch_are_those_of_its_crops(two_touching_cells):
    shifted = [np.roll(two_touching_cells, 3 * i, 1) for i in range(11)]  # more than the bits of a byte
    batch = torch.from_numpy(np.stack(shifted))
    found = ray_distances(batch), depth_ratios(batch)
    for i in (0, 1, 7, 8, 10):
        assert torch.equal(found[0][i], ray_distances(batch[i : i + 1])[0])
        assert torch.equal(found[1][i], depth_ratios(batch[i : i + 1])[0])


def test_rays_of_more_steps_than_a_byte_counts():
    found = ray_distances(torch.ones(1, 1, 700, dtype=torch.int32))[0, :, 0]
    assert found[0].tolist() == [699.5 - column for column in range(700)]
    assert found[16].tolist() == [column + 0.5 for column in range(700)]
    assert found[8].tolist() == [0.5] * 700


def test_distances_and_depth_are_those_of_stardist_on_real_cells(data):
    geometry = pytest.importorskip("stardist.geometry.geom2d")
    for path in sorted((data / "dsb2018" / "labels").glob("*.png"))[:2]:
        labels = imageio.imread(path)[:256, :256].astype(np.int32)
        theirs = geometry.star_dist(labels, RAYS).transpose(2, 0, 1)
        assert np.allclose(ray_distances(one(labels))[0], theirs, atol=1e-4)


def test_ray_of_a_row_ends_half_a_pixel_behind_the_last():
    labels = np.zeros((5, 9), np.int32)
    labels[2, 2:6] = 1
    assert ray_distances(one(labels))[0, 0, 2, 2:6].tolist() == [3.5, 2.5, 1.5, 0.5]
    assert ray_directions()[0].tolist() == [0, 1], "ray 0 points to the right"
    assert ray_directions()[8] == pytest.approx([1, 0], abs=1e-6), "ray 8 points down"


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 14), st.integers(1, 6))
def test_depth_is_the_distance_transform_of_each_label(seed, height, width, block):
    labels = blocks(seed, height, width, block)
    if len(np.unique(labels)) == 1:
        labels[0, 0] = labels[0, 0] + 1
    wanted = np.zeros(labels.shape)
    for label in np.unique(labels):
        wanted += distance_transform_edt(labels == label) ** 2
    found = squared_depths(one(labels))[0].numpy()
    assert np.array_equal(found[labels > 0], np.rint(wanted)[labels > 0].astype(np.float32))


def test_depth_far_from_the_only_other_pixel():
    labels = np.ones((40, 60), np.int32)
    labels[3, 5] = 0
    wanted = np.rint(distance_transform_edt(labels) ** 2).astype(np.float32)
    for turned, squares in ((labels, wanted), (labels.T, wanted.T)):
        found = squared_depths(one(np.ascontiguousarray(turned)))[0].numpy()
        assert np.array_equal(found[turned > 0], squares[turned > 0])


def test_depth_is_one_in_the_middle_of_each_cell(crowded_field):
    found = depth_ratios(one(crowded_field))[0].numpy()
    for label in np.unique(crowded_field)[1:]:
        alone = np.where(crowded_field == label, distance_transform_edt(crowded_field == label), 0)
        assert np.allclose(found[crowded_field == label], (alone / alone.max())[crowded_field == label])
    assert not found[crowded_field == 0].any()


def test_crop_within_a_cell_ends_at_its_edges():
    found = depth_ratios(torch.ones(1, 3, 5, dtype=torch.int32))[0]
    assert found.tolist() == [[0.5] * 5, [0.5, 1, 1, 1, 0.5], [0.5] * 5]


def test_unknown_pixels_have_no_star():
    labels = torch.full((1, 4, 4), -1, dtype=torch.int32)
    assert not ray_distances(labels).any()
    assert not depth_ratios(labels).any()
