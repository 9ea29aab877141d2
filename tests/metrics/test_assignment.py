"""Sparse assignment equals the dense solver, and picks by hand-made rivalry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from cellkit.metrics.assignment import _solve, assign


@pytest.mark.parametrize("solve", [assign, _solve])
@given(dense=arrays(np.int64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 9)))
def test_the_total_weight_is_that_of_the_dense_solver(solve, dense):
    rows, columns = np.nonzero(dense)
    if rows.size == 0:
        return
    weights = dense[rows, columns] / 7.0
    chosen = solve(rows, columns, weights)
    assert np.unique(rows[chosen]).size == np.unique(columns[chosen]).size == chosen.size
    best = dense[linear_sum_assignment(dense, maximize=True)].sum() / 7.0
    assert weights[chosen].sum() == pytest.approx(best)


def test_two_small_edges_beat_one_large():
    rows, columns, weights = np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.6, 0.4, 0.4])
    assert assign(rows, columns, weights).tolist() == [1, 2]


def test_one_large_edge_beats_two_small():
    rows, columns, weights = np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.9, 0.4, 0.4])
    assert assign(rows, columns, weights).tolist() == [0]


def test_no_edges():
    assert assign(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)).tolist() == []


def test_a_long_chain_of_equal_rivals():
    """Each row may take its own or the next column: all rows are served."""
    n = 2000
    rows = np.repeat(np.arange(n), 2)
    columns = (rows + np.tile([0, 1], n)) % n
    assert assign(rows, columns, np.ones(2 * n)).size == n
