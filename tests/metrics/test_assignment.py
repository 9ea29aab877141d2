"""Sparse assignment equals the dense solver, and picks by hand-made rivalry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from cellkit.metrics import assignment, assignment_prices
from cellkit.metrics.assignment import _solve, assign
from cellkit.metrics.intersections import intersections


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


@pytest.mark.parametrize("bids", [0, 1, 20])
@pytest.mark.parametrize("levels", [1, 2, 9])
@given(dense=arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 9)))
def test_parts_auctioned_and_solved_apart_change_nothing(levels, bids, dense):
    """Few levels of weight: ties everywhere, as in a shifted pattern. Few bids: most rows are placed, or solved."""
    dense = np.where(dense > 4, 1 + dense % levels, 0)
    rows, columns = np.nonzero(dense)
    weights = dense[rows, columns] / 7.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "SOLVED_AT_ONCE", 2)
        patch.setattr(assignment_prices, "BIDS", bids)
        patch.setattr(assignment_prices, "LEAST_BIDS", 1)
        chosen = assign(rows, columns, weights)
    assert np.unique(rows[chosen]).size == np.unique(columns[chosen]).size == chosen.size
    best = dense[linear_sum_assignment(dense, maximize=True)].sum() / 7.0
    assert weights[chosen].sum() == pytest.approx(best)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_many_chains_equal_the_dense_solver(noise):
    """Rows of 30 cells, each shifted by half a cell: as many connected parts as rows, more than are solved at once."""
    weights = np.full((40, 30, 2), 1 / 3) + noise * np.random.default_rng(0).random((40, 30, 2))
    row = np.arange(1200).reshape(40, 30)
    rows = np.repeat(row.ravel(), 2)
    columns = np.stack((row, row + 1), -1) + np.arange(40)[:, None, None]
    chosen = assign(rows, columns.ravel(), weights.ravel())
    expected = 0.0
    for chain in weights:
        dense = np.zeros((30, 31))
        dense[np.arange(30), np.arange(30)], dense[np.arange(30), np.arange(1, 31)] = chain.T
        expected += dense[linear_sum_assignment(dense, maximize=True)].sum()
    assert weights.ravel()[chosen].sum() == pytest.approx(expected)
    assert chosen.size == 1200


@pytest.mark.parametrize("placed", [0, 100])
def test_a_shifted_lattice_equals_the_solver(monkeypatch, placed):
    """One connected part with ties and cut cells at the border; what the auction leaves is placed, or all is solved."""
    cell = np.hypot(*np.ogrid[-9:10, -9:10]) < 8.5
    truth = np.kron(np.arange(1, 226).reshape(15, 15), cell)
    prediction = np.zeros_like(truth)
    prediction[9:, 10:] = truth[:-9, :-10]
    table = intersections(truth, prediction)
    expected = table.iou[_solve(table.truth, table.predicted, table.iou)].sum()
    monkeypatch.setattr(assignment, "SOLVED_AT_ONCE", 10)
    monkeypatch.setattr(assignment, "PLACED", placed)
    monkeypatch.setattr(assignment_prices, "BIDS", 1)
    chosen = assign(table.truth, table.predicted, table.iou)
    assert table.iou[chosen].sum() == pytest.approx(expected, rel=1e-12)
    assert np.unique(table.truth[chosen]).size == np.unique(table.predicted[chosen]).size == chosen.size > 200


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
