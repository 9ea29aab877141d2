"""Windows of bins: few pixels of the right image, with weights that sum up to the share of samples on the map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellkit.ops import roi_align_windows
from cellkit.ops.roi_align_windows import Grid, windows

SHAPE = (13, 17)
GRID = Grid(size=(2, 3), scale=0.5, samples=0)


def inside(count=60, seed=0):
    """Boxes within the image, from specks to all of it."""
    random = np.random.default_rng(seed)
    ends = np.sort(random.uniform(0, 1, (count, 2, 2)), 1) * np.array([34.0, 26.0])
    return torch.tensor(ends.reshape(count, 4)), torch.tensor(random.integers(0, 3, count))


def dense(parts, boxes, bins, pixels):
    """The whole matrix (boxes, bins, pixels of all images)."""
    matrix = torch.zeros(boxes, bins, pixels, dtype=torch.float64)
    for part in parts:
        taps = part.pixels.reshape(len(part.boxes), bins, -1)
        some = torch.zeros(len(part.boxes), bins, pixels, dtype=torch.float64)
        matrix[part.boxes] += some.scatter_add(2, taps, part.weights.reshape(taps.shape).double())
    return matrix


def test_weights_are_a_mean_of_pixels_of_the_image_of_the_box():
    boxes, images = inside()
    matrix = dense(windows(boxes, images, GRID, SHAPE), len(boxes), 6, 3 * 13 * 17)
    assert (matrix >= 0).all()
    shares = matrix.reshape(len(boxes), 6, 3, -1).sum(3)
    expected = torch.zeros_like(shares)
    expected[torch.arange(len(boxes)), :, images] = 1
    torch.testing.assert_close(shares, expected)


def test_the_middle_of_the_pixels_of_a_bin_is_the_middle_of_the_bin():
    boxes = torch.tensor([[6.0, 6.0, 24.0, 20.0]], dtype=torch.float64)  # far enough from the edges
    matrix = dense(windows(boxes, torch.tensor([0]), GRID, SHAPE), 1, 6, 13 * 17).reshape(2, 3, *SHAPE)
    rows = (matrix.sum(3) * (torch.arange(13) + 0.5)).sum(2)[:, 0]
    columns = (matrix.sum(2) * (torch.arange(17) + 0.5)).sum(2)[0]
    torch.testing.assert_close(rows, torch.tensor([3 + 1.75, 3 + 5.25]).double())
    torch.testing.assert_close(columns, torch.tensor([3 + 1.5, 3 + 4.5, 3 + 7.5]).double())


@pytest.mark.parametrize("most", [1, 300, 5000])
def test_parts_take_each_box_once_and_hold_few_pixels(monkeypatch, most):
    boxes, images = inside()
    whole = dense(windows(boxes, images, GRID, SHAPE), len(boxes), 6, 3 * 13 * 17)
    monkeypatch.setattr(roi_align_windows, "TAPS", most)
    parts = list(windows(boxes, images, GRID, SHAPE))
    assert torch.cat([part.boxes for part in parts]).sort().values.tolist() == list(range(len(boxes)))
    assert all(part.pixels.numel() <= most or len(part.boxes) == 1 for part in parts)
    torch.testing.assert_close(dense(parts, len(boxes), 6, 3 * 13 * 17), whole)


def test_windows_are_little_larger_than_what_bins_need():
    """A bin of 2 x 2 samples lies among 3 x 3 pixels, or 4 x 4 for some of the bins of a box."""
    boxes = torch.tensor([[4.0, 4.0, 4 + 11.0, 4 + 7.5]], dtype=torch.float64)  # bins of 1.83 x 1.88 pixels
    (part,) = windows(boxes, torch.tensor([0]), GRID, SHAPE)
    assert part.pixels.shape[1] <= 16


def test_a_box_that_is_a_million_pixels_wide_needs_no_more_than_the_map():
    boxes = torch.tensor([[-5e5, -5e5, 5e5, 5e5]], dtype=torch.float64)
    (part,) = windows(boxes, torch.tensor([0]), Grid(size=(1, 1), scale=0.01, samples=0), SHAPE)
    assert part.pixels.shape == (1, 13 * 17)
    assert part.weights.sum() < 1e-3  # nearly all samples are off the map


def test_a_thousand_boxes_off_the_map_have_no_weights():
    boxes = torch.tensor([[500.0, 500.0, 600.0, 900.0]]).expand(1000, 4)
    parts = list(windows(boxes, torch.zeros(1000, dtype=torch.int64), GRID, SHAPE))
    assert not any(part.weights.any() for part in parts)
    assert all((part.pixels >= 0).all() and (part.pixels < 13 * 17).all() for part in parts)


def test_spreading_is_the_transpose_of_summing():
    boxes, images = inside(seed=2)
    matrix = dense(windows(boxes, images, GRID, SHAPE), len(boxes), 6, 3 * 13 * 17)
    random = torch.Generator().manual_seed(1)
    pixels = torch.randn(3 * 13 * 17, 4, generator=random, dtype=torch.float64)
    bins = torch.randn(len(boxes), 6, 4, generator=random, dtype=torch.float64)
    gradient = torch.zeros_like(pixels)
    for part in windows(boxes, images, GRID, SHAPE):
        torch.testing.assert_close(part.sums(pixels), matrix[part.boxes] @ pixels)
        part.spread(bins[part.boxes], gradient)
    torch.testing.assert_close(gradient, torch.einsum("nbp,nbc->pc", matrix, bins))


def test_no_boxes_no_windows():
    assert list(windows(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), GRID, SHAPE)) == []
