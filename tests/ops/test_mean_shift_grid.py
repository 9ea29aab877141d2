"""Sums over discs against a plain sum, and summits of hills."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.ops import mean_shift_grid
from cellkit.ops.mean_shift_grid import disc_sums, summits


@pytest.mark.parametrize("radius", [1, 2, 4, 9])
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (12, 5)])
def test_disc_sums_are_sums_over_discs(radius, shape):
    values = np.random.default_rng(0).integers(0, 9, shape).astype(float)
    y, x = np.indices(shape)
    for row, column in np.ndindex(shape):
        inside = (y - row) ** 2 + (x - column) ** 2 <= radius**2
        assert disc_sums(values, radius)[row, column] == values[inside].sum()


def test_a_hill_has_its_mean_as_summit():
    points = np.random.default_rng(0).normal((30, -12), 1.5, (2000, 2))
    reached = summits(points, 8.0)
    assert np.abs(reached - points.mean(0)).max() < 0.2
    assert len(reached) < 10


def test_two_hills_have_two_summits():
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal((5, 5), 1, (900, 2)), random.normal((5, 40), 1, (500, 2))])
    reached = summits(points, 6.0)
    assert all(np.abs(reached - hill).max(1).min() < 0.5 for hill in ((5, 5), (5, 40)))
    assert (np.minimum(*(np.abs(reached - hill).max(1) for hill in ((5, 5), (5, 40)))) < 1).all()


def test_too_many_bins_leave_the_points_as_they_are(monkeypatch):
    points = np.array([[0.0, 0], [0, 100]])
    monkeypatch.setattr(mean_shift_grid, "LARGEST", 50)
    assert summits(points, 4.0) is points
