"""One-to-one assignment of many rivals by prices: an auction, and shortest augmenting paths for what it leaves.

Every row takes the column of the largest profit = weight - price, or stays alone at profit 0. Prices begin at 0 and
only rise, and a column that was once taken stays taken. When no row is left, the assignment is the best one: profits
and prices are dual variables without slack (Bertsekas 1988, The auction algorithm). Where offers tie, bids do not raise
prices and rows may displace each other for ever; the few that are left are placed by the Hungarian method, which goes
on from the same prices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra, maximum_bipartite_matching

from cellkit.metrics.intersections import Floats, Integers

BIDS = 20  # per row of the market, on average; nearly all rows need fewer than three
LEAST_BIDS = 50  # that a round counts as, however few bid: it takes as long
ALONE = -1


@dataclass(kw_only=True, eq=False)
class Market:
    """Rows that buy columns.

    Attributes:
        firsts: (N + 1,) position of the first edge of each row, and the end.
        rows: (K,) row of each edge, ascending.
        columns: (K,) column of each edge.
        weights: (K,) positive weights.
        prices: (M,) of the columns; 0 for those that nobody owns.
        owners: (M,) row of each column, or ``ALONE``.
        owned: (N,) column of each row, or ``ALONE``.
    """

    firsts: Integers
    rows: Integers
    columns: Integers
    weights: Floats
    prices: Floats
    owners: Integers
    owned: Integers

    def edges_of(self, rows: Integers) -> tuple[Integers, Integers]:
        """All edges of some rows, row by row, and where each row's begin in that."""
        counts = self.firsts[rows + 1] - self.firsts[rows]
        begins = np.cumsum(counts) - counts
        return np.arange(counts.sum()) + np.repeat(self.firsts[rows] - begins, counts), begins


def open_market(rows: Integers, columns: Integers, weights: Floats) -> Market:
    """Prices of 0, and as many rows as possible with one of their heaviest edges.

    Args:
        rows: (K,) row of each edge, ascending, each of 0 to N - 1 at least once.
        columns: (K,) column of each edge, each of 0 to M - 1 at least once.
        weights: (K,) positive weights.
    """
    n, m = int(rows[-1]) + 1, int(columns.max()) + 1
    firsts = np.searchsorted(rows, np.arange(n + 1))
    best = np.flatnonzero(weights == np.maximum.reduceat(weights, firsts[:-1])[rows])
    graph = csr_array((np.ones(best.size, np.int8), (rows[best], columns[best])), shape=(n, m))
    owned = maximum_bipartite_matching(graph, "column").astype(np.int64)
    owners = np.full(m, ALONE)
    owners[owned[owned >= 0]] = np.flatnonzero(owned >= 0)
    return Market(
        firsts=firsts, rows=rows, columns=columns, weights=weights, prices=np.zeros(m), owners=owners, owned=owned
    )


def bid(market: Market) -> Integers:
    """Let all rows without column bid at once, round by round; changes the market.

    Returns:
        (F,) rows that are still bidding when the bids are used up; none, unless offers tie or nearly tie.
    """
    bidding = np.flatnonzero(market.owned == ALONE)
    bids = BIDS * market.owned.size
    while bidding.size and bids > 0:
        bids -= max(bidding.size, LEAST_BIDS)
        bidding = _round(market, bidding)
    return bidding


def _round(market: Market, bidding: Integers) -> Integers:
    """One bid of each row: as much as leaves it the profit of its second best offer. Returns who bids next."""
    edges, begins = market.edges_of(bidding)
    profits = market.weights[edges] - market.prices[market.columns[edges]]
    bidder = np.repeat(np.arange(bidding.size), np.diff(begins, append=edges.size))
    largest = np.maximum.reduceat(profits, begins)
    ties = np.flatnonzero(profits == largest[bidder])
    best = ties[np.flatnonzero(np.diff(bidder[ties], prepend=-1))]
    profits[best] = 0.0  # to stay alone is an offer too
    bids = market.weights[edges[best]] - np.maximum(np.maximum.reduceat(profits, begins), 0.0)
    order = np.argsort(bids, kind="stable")
    order = order[largest[order] > 0]  # the others stay alone: prices never fall
    columns, rows = market.columns[edges[best]][order], bidding[order]
    displaced = market.owners[np.unique(columns)]
    displaced = displaced[displaced >= 0]
    market.prices[columns] = bids[order]  # the highest bid comes last and stays
    market.owners[columns] = rows
    market.owned[displaced] = ALONE
    sold = market.owners[columns] == rows
    market.owned[rows[sold]] = columns[sold]
    return np.concatenate((rows[~sold], displaced))


def place(market: Market, row: int) -> None:
    """Give a bidding row its column by the cheapest chain of exchanges, at the end of which somebody may stay alone.

    The shortest path from the row, over edges of slack = profit + price - weight from row to column and from each
    column to its owner, to a column without owner, or to a row that stays alone at the cost of its profit.
    """
    n, m = market.owned.size, market.prices.size
    offers = market.weights - market.prices[market.columns]
    profits = np.maximum(np.maximum.reduceat(offers, market.firsts[:-1]), 0.0)
    slack = np.maximum(profits[market.rows] - offers, 0.0)
    taken = np.flatnonzero(market.owners >= 0)
    graph = csr_array(
        (
            np.concatenate((slack, np.zeros(taken.size))),
            (np.concatenate((market.rows, n + taken)), np.concatenate((n + market.columns, market.owners[taken]))),
        ),
        shape=(n + m, n + m),
    )
    distances, before = dijkstra(graph, indices=row, limit=float(profits[row]), return_predecessors=True)
    ends = np.concatenate((distances[:n] + profits, np.where(market.owners < 0, distances[n:], np.inf)))
    node = int(ends.argmin())
    shortest = float(ends[node])
    market.prices += np.maximum(shortest - distances[n:], 0.0)
    if node < n:  # somebody stays alone
        column = int(market.owned[node])
        market.owned[node] = ALONE
        node = n + column if node != row else row
    while node != row:
        buyer = int(before[node])
        seller_column = int(market.owned[buyer])
        market.owners[node - n], market.owned[buyer] = buyer, node - n
        node = n + seller_column if buyer != row else row
