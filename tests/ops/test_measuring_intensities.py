"""Intensities against means and deviations of the pixels of one cell after the other."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.ops import measuring_intensities
from cellkit.ops.measuring import cells_of
from cellkit.ops.measuring_intensities import intensities


def literal(labels, channel):
    inside = [channel[labels == label].astype(float) for label in np.unique(labels) if label]
    return {kind: [getattr(np, kind)(values) for values in inside] for kind in ("mean", "min", "max", "std")}


def check(labels, pixels):
    cells = cells_of(labels)
    for channel in range(len(pixels)):
        found = intensities(cells, pixels, channel)
        for kind, values in literal(labels, pixels[channel]).items():
            np.testing.assert_allclose(getattr(found, kind), values, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_values_are_those_of_the_pixels(monkeypatch, crowded_field, dtype, rows):
    monkeypatch.setattr(measuring_intensities, "BAND_PIXELS", rows * crowded_field.shape[1])
    pixels = np.random.default_rng(0).integers(0, 250, (2, *crowded_field.shape)).astype(dtype)
    check(crowded_field, pixels)


def test_a_small_deviation_about_a_large_mean_is_seen(two_touching_cells):
    pixels = 1e9 + np.random.default_rng(0).integers(0, 2, (1, *two_touching_cells.shape)).astype(np.float64)
    check(two_touching_cells, pixels)
    assert 0.4 < intensities(cells_of(two_touching_cells), pixels, 0).std[0] < 0.6


def test_an_empty_field_has_no_values(empty_field):
    found = intensities(cells_of(empty_field), np.zeros((1, *empty_field.shape)), 0)
    assert found.mean.shape == found.min.shape == found.max.shape == found.std.shape == (0,)
