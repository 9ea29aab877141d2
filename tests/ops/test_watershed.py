"""Seeds and what grows from them."""

from __future__ import annotations

import numpy as np

from cellkit.ops.watershed import grow, seeds_of


def test_seeds_are_pieces_connected_by_sides():
    mask = np.array([[1, 1, 0, 1], [0, 0, 1, 0]], bool)
    assert seeds_of(mask).tolist() == [[1, 1, 0, 2], [0, 0, 3, 0]]
    assert seeds_of(mask, 2).astype(bool).tolist() == [[True, True, False, False], [False] * 4]


def test_each_pixel_goes_to_the_seed_whose_flood_comes_first():
    seeds = np.zeros((3, 9), np.int32)
    seeds[1, 0], seeds[1, 8] = 1, 2
    height = np.abs(np.arange(9) - 5) * -1.0 + np.zeros((3, 1))  # a ridge at column 5
    grown = grow(seeds, np.ones((3, 9), bool), height)
    assert (grown[:, :5] == 1).all()
    assert (grown[:, 6:] == 2).all()


def test_piece_without_seed_is_a_cell_and_nothing_leaves_the_foreground():
    foreground = np.zeros((8, 20), bool)
    foreground[2:5, 1:5] = foreground[2:5, 8:12] = True
    foreground[6, 13], foreground[7, 14] = True, True
    seeds = np.zeros((8, 20), np.int32)
    seeds[3, 2] = 4
    grown = grow(seeds, foreground, np.zeros((8, 20)))
    assert np.array_equal(grown > 0, foreground)
    assert (grown[2:5, 1:5] == 4).all()
    assert len(np.unique(grown)) == 4
    assert grown[6, 13] == grown[7, 14]


def test_empty_foreground():
    assert not grow(np.zeros((4, 5), np.int32), np.zeros((4, 5), bool), np.zeros((4, 5))).any()
