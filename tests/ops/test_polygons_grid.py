"""Which polygons may touch: by brute force over all pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cellkit.ops import polygons_grid
from cellkit.ops.polygons_grid import Neighbours


def scene(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres, reaches from 0 to 90 px, and which of them touch as discs."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 150, (count, 2))
    reach = random.choice(
        [0.0, 1.0, 3.0, 4.0, 5.5, 8.0, 13.0, 90.0], count, p=[0.05, 0.2, 0.2, 0.1, 0.2, 0.1, 0.1, 0.05]
    )
    apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    return centres, reach, apart <= reach[:, None] + reach[None]


@given(st.integers(0, 10**6), st.integers(1, 120))
def test_pairs_are_all_that_touch_and_each_comes_once(seed, count):
    centres, reach, touching = scene(seed, count)
    ours = np.flatnonzero(np.random.default_rng(seed).random(count) < 0.3)
    theirs = np.setdiff1d(np.arange(count), ours)
    parts = list(Neighbours(centres, reach).pairs(ours, theirs))
    found = [(i, k) for our, their in parts for i, k in zip(our.tolist(), their.tolist(), strict=True)]
    assert len(found) == len(set(found))
    assert {(i, k) for i in ours.tolist() for k in theirs.tolist() if touching[i, k]} <= set(found)
    assert {i for i, _ in found} <= set(ours.tolist())
    assert {k for _, k in found} <= set(theirs.tolist())


@given(st.integers(0, 10**6), st.integers(1, 120))
def test_best_come_before_all_that_they_touch(seed, count):
    centres, reach, touching = scene(seed, count)
    waiting = np.flatnonzero(np.random.default_rng(seed).random(count) < 0.7)
    best = Neighbours(centres, reach).best(waiting).tolist()
    if waiting.size:
        assert waiting[0] in best
    for i in best:
        assert not any(touching[i, k] for k in waiting.tolist() if k < i)


def test_one_that_reaches_far_keeps_none_waiting_that_it_does_not_touch():
    centres = np.stack(np.divmod(np.arange(2500), 50), 1) * 40
    reach = np.full(2500, 3.0)
    reach[0] = 200.0  # it is in the corner
    best = Neighbours(centres, reach).best(np.arange(2500))
    far = np.flatnonzero((centres > 900).any(1))
    assert np.isin(far, best).all()


def test_pairs_come_in_parts(monkeypatch):
    monkeypatch.setattr(polygons_grid, "PAIRS", 10)
    neighbours = Neighbours(np.zeros((40, 2)), np.full(40, 5.0))
    parts = list(neighbours.pairs(np.arange(4), np.arange(4, 40)))
    assert sum(len(ours) for ours, _ in parts) == 4 * 36
    assert max(len(ours) for ours, _ in parts) <= 10 + 4
