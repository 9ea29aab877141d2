"""Distance maps against slow loops, and where they jump."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellkit.ops.hover_maps import edge_energy, hover_maps


def slow_maps(labels: np.ndarray) -> np.ndarray:
    """Cell by cell, pixel by pixel."""
    maps = np.zeros((2, *labels.shape))
    for cell in set(labels[labels > 0].tolist()):
        places = np.argwhere(labels == cell)
        centre = np.rint(places.mean(0))
        for place in places:
            for axis in (0, 1):
                distance = place[axis] - centre[axis]
                same_side = [abs(p[axis] - centre[axis]) for p in places if (p[axis] - centre[axis]) * distance > 0]
                if distance:
                    maps[axis][tuple(place)] = distance / max(same_side)
    return maps


@settings(max_examples=30)
@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 7])))
def test_maps_are_those_of_a_slow_loop(labels):
    maps = hover_maps(labels)
    assert maps.dtype == np.float32
    assert np.allclose(maps, slow_maps(labels), atol=1e-6)


def test_first_map_grows_downwards_and_second_to_the_right(two_touching_cells):
    down, right = hover_maps(two_touching_cells)
    assert (down[18, 26], down[32, 26], down[46, 26]) == (-1, 0, 1)
    assert (right[32, 12], right[32, 26]) == (-1, 0)
    assert right[32, 38] > 0.8
    assert right[32, 41] < -0.8
    assert not down[two_touching_cells == 0].any()


def test_renumbered_cells_have_the_same_maps(crowded_field):
    assert np.array_equal(hover_maps(crowded_field), hover_maps(np.where(crowded_field, 500 - crowded_field, 0)))


def test_no_cells_no_distances(empty_field):
    assert not hover_maps(empty_field).any()


@pytest.mark.parametrize("turned", [False, True])
def test_energy_is_one_at_a_full_jump_and_nothing_where_maps_rise(turned):
    maps = np.zeros((2, 40, 80), np.float32)
    maps[1] = np.concatenate([np.linspace(-1, 1, 40), np.linspace(-1, 1, 40)])
    if turned:
        maps = maps[::-1].transpose(0, 2, 1)
    energy = edge_energy(maps, 1.0)
    across = energy[:, 20] if turned else energy[20]
    assert across[39:41] == pytest.approx(1.0, abs=0.2)
    assert across[5:30].max() < 1e-6
    assert across[50:75].max() < 1e-6


def test_energy_of_a_map_that_changes_along_the_other_axis_counts_both_ways():
    maps = np.zeros((2, 20, 20), np.float32)
    maps[0, :, 10:] = 1
    rising, falling = edge_energy(maps, 1.0), edge_energy(-maps, 1.0)
    assert np.array_equal(rising, falling)
    assert rising[10, 9] > 0.4


def test_energy_of_a_window_is_that_of_the_whole(crowded_field):
    maps = hover_maps(crowded_field)
    whole, window = edge_energy(maps, 1.0), edge_energy(maps[:, 20:90, 30:100], 1.0)
    assert np.allclose(whole[30:80, 40:90], window[10:-10, 10:-10], atol=1e-6)
