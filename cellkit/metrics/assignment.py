"""One-to-one assignment on sparse graphs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from cellkit.metrics.assignment_prices import bid, open_market, place
from cellkit.metrics.intersections import Floats, Integers

SHRINKING = 0.9  # another round of cheap choices as long as it leaves less than this share of the edges
SOLVED_AT_ONCE = 1000  # rows; the solver's time grows with their square even where nothing connects them
PLACED = 100  # rows left by the auction in large parts, each placed in a tenth of a second; more are for the solver


def assign(rows: Integers, columns: Integers, weights: Floats) -> Integers:
    """Choose edges so that no row and no column is chosen twice and the total weight is the largest possible.

    An edge that weighs more than its heaviest rival in the row and its heaviest rival in the column together is part of
    the answer (whoever leaves it out gains by exchanging those two for it): nearly all edges of a segmentation
    are decided so. The rest goes to a sparse Jonker-Volgenant solver, which never sees a dense matrix. Where that would
    be slow, as with a large regular pattern that is shifted by half a cell, an auction decides most connected parts
    before (:mod:`cellkit.metrics.assignment_prices`).

    Args:
        rows: (K,) row of each edge; no pair of row and column occurs twice.
        columns: (K,) column of each edge.
        weights: (K,) positive weights.

    Returns:
        (L,) positions of the chosen edges, ascending.
    """
    if rows.size == 0:
        return np.empty(0, np.int64)
    row_count, column_count = int(rows.max()) + 1, int(columns.max()) + 1
    chosen = []
    edges, before = np.arange(rows.size), np.inf
    while 0 < edges.size < SHRINKING * before:
        before = edges.size
        row, column, weight = rows[edges], columns[edges], weights[edges]
        sure = weight > _heaviest_rivals(row, weight, row_count) + _heaviest_rivals(column, weight, column_count)
        chosen.append(edges[sure])
        edges = edges[~(_touched(row, sure, row_count) | _touched(column, sure, column_count))]
    for part in _parts(rows[edges], columns[edges], weights[edges]):
        chosen.append(edges[part])
    return np.sort(np.concatenate(chosen))


def _touched(nodes: Integers, sure: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """(K,) whether an edge shares its node with a sure one."""
    taken = np.zeros(count, bool)
    taken[nodes[sure]] = True
    return taken[nodes]


def _heaviest_rivals(nodes: Integers, weights: Floats, count: int) -> Floats:
    """(K,) the largest weight among the other edges of each edge's node, 0 where there is none."""
    heaviest = _largest(nodes, weights, count)[nodes]
    is_heaviest = weights == heaviest
    alone = is_heaviest & (np.bincount(nodes, is_heaviest, count)[nodes] == 1)
    second = _largest(nodes, np.where(is_heaviest, 0.0, weights), count)[nodes]
    return np.where(alone, second, heaviest)


def _largest(nodes: Integers, weights: Floats, count: int) -> Floats:
    """(count,) the largest weight at each node, 0 where it has no edge."""
    largest = np.zeros(count)
    np.maximum.at(largest, nodes, weights)
    return largest


def _parts(rows: Integers, columns: Integers, weights: Floats) -> Iterator[Integers]:
    """As :func:`assign`, in pieces: positions of chosen edges."""
    if rows.size == 0:
        return
    if np.unique(rows).size <= SOLVED_AT_ONCE:
        yield _solve(rows, columns, weights)
        return
    order = np.argsort(rows, kind="stable")
    rows = np.unique(rows[order], return_inverse=True)[1]
    columns = np.unique(columns[order], return_inverse=True)[1]
    weights = weights[order]
    market = open_market(rows, columns, weights)
    bidding = bid(market)
    part_of, sizes = _connected_parts(rows, columns)
    in_large = sizes[part_of[bidding]] > SOLVED_AT_ONCE
    if np.count_nonzero(in_large) <= PLACED:
        for row in bidding[in_large].tolist():
            place(market, row)
        bidding = bidding[~in_large]
    undecided = np.zeros(sizes.size, bool)
    undecided[part_of[bidding]] = True
    part = part_of[rows]
    yield order[~undecided[part] & (market.owned[rows] == columns)]
    sizes[~undecided] = 0
    batch_of = (np.cumsum(sizes) - sizes) // SOLVED_AT_ONCE
    left = np.flatnonzero(undecided[part])
    left = left[np.argsort(batch_of[part[left]], kind="stable")]
    for edges in np.split(left, np.flatnonzero(np.diff(batch_of[part[left]])) + 1) if left.size else ():
        yield order[edges[_solve(rows[edges], columns[edges], weights[edges])]]


def _connected_parts(rows: Integers, columns: Integers) -> tuple[Integers, Integers]:
    """(N,) the part of each row, and (P,) the rows of each part."""
    n, m = int(rows.max()) + 1, int(columns.max()) + 1
    graph = csr_array((np.ones(rows.size, np.int8), (rows, n + columns)), shape=(n + m, n + m))
    part_of = connected_components(graph, directed=False)[1][:n]
    return part_of, np.bincount(part_of)


def _solve(rows: Integers, columns: Integers, weights: Floats) -> Integers:
    """As :func:`assign`; each row gets a column of its own of no weight, for the case that it stays alone."""
    row_ids, rows = np.unique(rows, return_inverse=True)
    column_ids, columns = np.unique(columns, return_inverse=True)
    n, m = row_ids.size, column_ids.size
    worst = float(weights.max()) + 1.0  # costs must be positive: the solver takes an explicit zero for a missing edge
    costs = np.concatenate((worst - weights, np.full(n, worst)))
    ends = np.concatenate((rows, np.arange(n))), np.concatenate((columns, m + np.arange(n)))
    matched_rows, matched_columns = min_weight_full_bipartite_matching(csr_array((costs, ends), shape=(n, m + n)))
    column_of = np.full(n, -1)
    column_of[matched_rows] = matched_columns
    return np.flatnonzero(column_of[rows] == columns)
