"""Polygons: pixels, non-maximum suppression one by one and as StarDist's, drawing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path

from cellkit.ops import polygons
from cellkit.ops.polygons import (
    BLOCK,
    CHUNK,
    RAYS,
    drawn,
    polygon_corners,
    polygon_runs,
    shared_pixels,
    still_drawn,
    suppressed,
)

SHAPE = (60, 70)


def proposals(seed: int, count: int, radius: float = 6.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres, distances and scores of ragged polygons; some scores are equal."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, SHAPE, (count, 2))
    distances = random.uniform(0.3, 1.5, (count, RAYS)) * random.uniform(1, radius, (count, 1))
    return centres, distances, np.round(random.uniform(0, 1, count), 1)


def mask_of(corners: np.ndarray, margin: int = 20) -> np.ndarray:
    """Pixels of one polygon on the image and ``margin`` pixels around, one point after the other."""
    rows, columns = np.mgrid[-margin : SHAPE[0] + margin, -margin : SHAPE[1] + margin]
    inside = Path(corners).contains_points(np.stack([rows.ravel(), columns.ravel()], 1))
    return inside.reshape(rows.shape)


def one_by_one(corners: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    """Non-maximum suppression as the words say, by masks."""
    masks = [mask_of(polygon) for polygon in corners]
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if masks[i].any() and not any(
            (masks[i] & masks[k]).sum() > overlap * min(masks[i].sum(), masks[k].sum()) for k in kept
        ):
            kept.append(int(i))
    return kept


def test_pixels_are_those_whose_centres_lie_inside():
    corners = polygon_corners(*proposals(1, 30)[:2])
    runs = polygon_runs(corners)
    masks = np.stack([mask_of(polygon) for polygon in corners])
    assert np.array_equal(runs.areas, masks.sum((1, 2)))
    assert (np.diff(runs.firsts) > 1).any(), "some rows are in several parts"
    ours, theirs = np.triu_indices(30)
    assert np.array_equal(shared_pixels(runs, ours, theirs), (masks[ours] & masks[theirs]).sum((1, 2)))


@given(st.integers(0, 10**6), st.integers(0, 25), st.sampled_from([0.0, 0.2, 0.4, 0.7, 1.0]))
def test_survivors_are_those_of_one_by_one(seed, count, overlap):
    centres, distances, scores = proposals(seed, count)
    wanted = one_by_one(polygon_corners(centres, distances), scores, overlap)
    assert suppressed(centres, distances, scores, overlap).tolist() == wanted


@given(st.integers(0, 10**6), st.integers(0, 25), st.sampled_from([0.0, 0.4, 1.0]))
def test_survivors_of_blocks_and_of_many_sizes_are_those_of_one_by_one(seed, count, overlap):
    centres, distances, scores = proposals(seed, count, radius=3.0)
    distances[::7] *= 6
    wanted = one_by_one(polygon_corners(centres, distances), scores, overlap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(polygons, "BLOCK", 4)
        assert suppressed(centres, distances, scores, overlap).tolist() == wanted


def test_more_polygons_than_are_in_memory_at_once():
    count = BLOCK + CHUNK + 50
    centres = np.stack([np.arange(count) // 100 * 9, np.arange(count) % 100 * 9], 1)
    scores = np.linspace(0.1, 1, count)
    apart = suppressed(centres, np.full((count, RAYS), 3.0), scores, 0.4)
    assert apart.tolist() == list(range(count))[::-1]
    alike = suppressed(np.zeros_like(centres), np.full((count, RAYS), 3.0), scores, 0.4)
    assert alike.tolist() == [count - 1]


def test_polygon_of_no_pixel_does_not_survive():
    centres = np.array([[4, 4], [20, 20]])
    assert suppressed(centres, np.array([[-1.0] * RAYS, [2.0] * RAYS]), np.array([0.9, 0.8]), 0.4).tolist() == [1]
    assert suppressed(centres[:0], np.zeros((0, RAYS)), np.zeros(0), 0.4).size == 0


def test_discs_survive_as_in_stardist():
    theirs = pytest.importorskip("stardist.nms").non_maximum_suppression_inds
    random = np.random.default_rng(5)
    grid = np.argwhere(np.ones((6, 6))) * 26 + 20  # discs of one place overlap much, of two places not at all
    centres = np.repeat(grid, 20, 0) + random.integers(-2, 3, (720, 2))
    distances = np.full((720, RAYS), 10.0, np.float32) + random.uniform(-0.5, 0.5, (720, RAYS)).astype(np.float32)
    scores = random.permutation(720).astype(np.float32) / 720
    order = np.argsort(-scores, kind="stable")
    kept = theirs(distances[order], centres[order].astype(np.float32), scores[order], thresh=0.4, verbose=False)
    assert suppressed(centres, distances, scores, 0.4).tolist() == order[kept].tolist()
    assert kept.sum() == len(grid)


def test_polygons_that_still_draw_their_labels():
    centres = np.array([[20, 20], [20, 29], [45, 20], [45, 50]])
    scores = np.array([0.2, 0.9, 0.5, 0.5])  # the second is on top of the first
    corners = polygon_corners(centres, np.full((4, RAYS), 8.0))
    order = [1, 2, 3, 0]
    labels = np.concatenate([[0], np.array(order) + 1])[drawn(corners[order], SHAPE)].astype(np.int32)
    assert still_drawn(corners, scores, labels).tolist() == [True] * 4
    assert still_drawn(corners, scores[::-1], labels).tolist() == [False, False, True, True]
    labels[labels == 3] = 9  # another cell, of which no polygon is known
    labels[45:, 50:] = 0
    assert still_drawn(corners, scores, labels).tolist() == [True, True, False, False]
    assert still_drawn(corners[:0], None, labels).size == 0


def test_first_polygon_is_on_top():
    centres, distances, _ = proposals(3, 12)
    corners = polygon_corners(centres, distances)
    wanted = np.zeros(SHAPE, np.int32)
    for number in range(len(corners), 0, -1):
        wanted[mask_of(corners[number - 1])[20:-20, 20:-20]] = number
    assert np.array_equal(drawn(corners, SHAPE), wanted)
    assert not drawn(corners[:0], SHAPE).any()
