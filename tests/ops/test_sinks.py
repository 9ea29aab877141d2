"""Sinks: peaks of the histogram of ends, and what grows from them."""

from __future__ import annotations

import numpy as np

from cellkit.ops.sinks import cells_from_ends


def ends(*heaps: tuple[float, float, int]) -> np.ndarray:
    """(2, N) from heaps of (y, x, how many)."""
    return np.concatenate([np.tile([[y], [x]], (1, count)) for y, x, count in heaps], axis=1).astype(np.float32)


def test_each_heap_is_a_cell():
    cells = cells_from_ends(ends((5, 5, 20), (5, 30, 12), (30, 5, 300)), (40, 40))
    assert [len(set(part)) for part in np.split(cells, [20, 32])] == [1, 1, 1]
    assert sorted(set(cells)) == [1, 2, 3]


def test_ten_hits_are_no_sink():
    assert not cells_from_ends(ends((5, 5, 10)), (20, 20)).any()
    assert cells_from_ends(ends((5, 5, 11)), (20, 20)).all()


def test_sink_grows_over_places_with_three_hits():
    trail = [(5, 6 + i, 3) for i in range(7)]
    cells = cells_from_ends(ends((5, 5, 50), *trail), (20, 20))
    assert cells[:50].all()
    assert cells[50:].tolist() == [1] * 15 + [0] * 6  # five rounds


def test_sink_does_not_jump_over_a_gap():
    cells = cells_from_ends(ends((5, 5, 50), (5, 6, 2), (5, 7, 5)), (20, 20))
    assert cells[50:].tolist() == [0] * 7


def test_where_sinks_overlap_the_higher_peak_takes_it():
    between = [(5, 6 + i, 4) for i in range(3)]
    cells = cells_from_ends(ends((5, 5, 20), *between, (5, 9, 30)), (20, 20))
    assert len(set(cells[20:])) == 1


def test_sink_in_the_corner():
    cells = cells_from_ends(ends((0, 0, 20), (19, 29, 20)), (20, 30))
    assert sorted(set(cells)) == [1, 2]


def test_no_ends():
    assert cells_from_ends(np.zeros((2, 0), np.float32), (5, 5)).shape == (0,)
