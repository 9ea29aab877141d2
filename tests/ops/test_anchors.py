"""Anchors: of the sizes and shapes asked for, at every place, in the order of the channels of a head."""

from __future__ import annotations

import math

import pytest
import torch

from cellkit.ops.anchors import COCO, LIVECELL, AnchorSet, cell_anchors, grid_anchors, pyramid_anchors


def test_anchors_have_their_areas_and_ratios_size_by_size():
    anchors = cell_anchors((4, 10), (0.25, 1, 2))
    width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
    torch.testing.assert_close(width * height, torch.tensor([16.0, 16, 16, 100, 100, 100]))
    torch.testing.assert_close(height / width, torch.tensor([0.25, 1, 2, 0.25, 1, 2]))
    assert torch.equal(anchors[:, :2], -anchors[:, 2:])


def test_the_published_anchors_of_the_first_level():
    root = math.sqrt(2)
    expected = [
        [-16 * root, -8 * root, 16 * root, 8 * root],
        [-16, -16, 16, 16],
        [-8 * root, -16 * root, 8 * root, 16 * root],
    ]
    torch.testing.assert_close(cell_anchors(COCO.sizes[0], COCO.ratios), torch.tensor(expected))


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_places_go_along_rows_and_anchors_within_places(offset):
    cell = cell_anchors((8,), (0.5, 2))
    anchors = grid_anchors(cell, (2, 3), 4, offset)
    expected = [
        [(x + offset) * 4 + x0, (y + offset) * 4 + y0, (x + offset) * 4 + x1, (y + offset) * 4 + y1]
        for y in range(2)
        for x in range(3)
        for x0, y0, x1, y1 in cell.tolist()
    ]
    torch.testing.assert_close(anchors, torch.tensor(expected))


def test_the_order_is_that_of_the_channels_of_a_head():
    cell = cell_anchors((8,), (0.5, 1, 2))
    scores = torch.zeros(1, 3, 5, 7)
    scores[0, 2, 3, 4] = 1  # the tall anchor in row 3, column 4
    best = scores.permute(0, 2, 3, 1).reshape(-1).argmax()
    x0, y0, x1, y1 = grid_anchors(cell, (5, 7), 16)[best].tolist()
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((64, 48))
    assert (y1 - y0) / (x1 - x0) == pytest.approx(2)


def test_each_map_of_a_pyramid_has_its_own():
    cells = [cell_anchors(sizes, LIVECELL.ratios) for sizes in LIVECELL.sizes]
    shapes = [(8, 12), (8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    maps = pyramid_anchors(cells, shapes, LIVECELL.strides)
    assert [len(anchors) for anchors in maps] == [5 * h * w for h, w in shapes]
    for anchors, cell, shape, stride in zip(maps, cells, shapes, (4, 4, 8, 16, 32, 64), strict=True):
        assert torch.equal(anchors, grid_anchors(cell, shape, stride))


def test_sets_of_the_two_papers():
    assert (COCO.count, COCO.strides) == (3, (4, 8, 16, 32, 64))
    assert (LIVECELL.count, LIVECELL.strides) == (5, (4, 4, 8, 16, 32, 64))
    assert [size for (size,) in LIVECELL.sizes] == [4, 9, 17, 31, 64, 127]


def test_anchors_are_as_exact_as_their_cell():
    assert grid_anchors(cell_anchors((3,), (1,)).double(), (1, 1), 4).dtype == torch.float64
    assert grid_anchors(cell_anchors((3,), (1,)), (0, 4), 4).shape == (0, 4)


def test_sets_that_no_head_can_serve_are_refused():
    with pytest.raises(ValueError, match="2 groups of anchor sizes do not fit 1 levels"):
        AnchorSet(levels=(2,), sizes=((4,), (8,)), ratios=(1.0,))
    with pytest.raises(ValueError, match="each must have as many anchor sizes as the others"):
        AnchorSet(levels=(2, 3), sizes=((4,), (8, 16)), ratios=(1.0,))
