"""One-to-one assignment on sparse graphs."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from cellkit.metrics.intersections import Floats, Integers

SHRINKING = 0.9  # another round of cheap choices as long as it leaves less than this share of the edges


def assign(rows: Integers, columns: Integers, weights: Floats) -> Integers:
    """Choose edges so that no row and no column is chosen twice and the total weight is the largest possible.

    An edge that weighs more than its heaviest rival in the row and its heaviest rival in the column together is part of
    the answer (whoever leaves it out gains by exchanging those two for it): nearly all edges of a segmentation
    are decided so. The rest goes to a sparse Jonker-Volgenant solver, which never sees a dense matrix.

    Args:
        rows: (K,) row of each edge; no pair of row and column occurs twice.
        columns: (K,) column of each edge.
        weights: (K,) positive weights.

    Returns:
        (L,) positions of the chosen edges, ascending.
    """
    chosen = []
    edges, before = np.arange(rows.size), np.inf
    while 0 < edges.size < SHRINKING * before:
        before = edges.size
        row, column, weight = rows[edges], columns[edges], weights[edges]
        sure = weight > _heaviest_rivals(row, weight) + _heaviest_rivals(column, weight)
        chosen.append(edges[sure])
        edges = edges[~(np.isin(row, row[sure]) | np.isin(column, column[sure]))]
    if edges.size:
        chosen.append(edges[_solve(rows[edges], columns[edges], weights[edges])])
    return np.sort(np.concatenate(chosen)) if chosen else edges


def _heaviest_rivals(nodes: Integers, weights: Floats) -> Floats:
    """(K,) the largest weight among the other edges of each edge's node, 0 where there is none."""
    order = np.lexsort((weights, nodes))
    sorted_nodes, sorted_weights = nodes[order], weights[order]
    last = np.flatnonzero(np.diff(sorted_nodes, append=-1))
    heaviest = np.zeros(int(nodes.max()) + 1)
    heaviest[sorted_nodes[last]] = sorted_weights[last]
    rivals = heaviest[nodes]
    second = np.where((last > 0) & (sorted_nodes[last - 1] == sorted_nodes[last]), sorted_weights[last - 1], 0.0)
    rivals[order[last]] = second
    return rivals


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
