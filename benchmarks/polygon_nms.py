"""Non-maximum suppression of 10,000 star-convex polygons: ours against StarDist's compiled one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench, Goal, Measurement, Unavailable, alternate, timed
from cellkit.ops.polygons import RAYS, suppressed

NAME = "polygon-nms"
GOAL = Goal("faster", 0.1)  # StarDist's is C++; below a second for 10,000 is what matters, and the note says it
ROUNDS = 3
COUNT, QUICK_COUNT = 10_000, 500
EACH = 40  # candidates of a cell, as where a nucleus of 13 pixels across is probable
RADIUS, APART = 10.0, 22  # px: of the polygons, and between the cells
OVERLAP = 0.4


def measure(bench: Bench) -> Iterator[Measurement]:
    """Candidates of cells on a grid, each a few pixels from the middle of its cell."""
    try:
        from stardist.nms import non_maximum_suppression_inds
    except ImportError as error:
        raise Unavailable("stardist is not installed") from error
    centres, distances, scores = _candidates(QUICK_COUNT if bench.quick else COUNT)
    seconds, theirs = alternate(
        timed(lambda: suppressed(centres, distances, scores, OVERLAP)),
        timed(lambda: non_maximum_suppression_inds(distances, centres, scores, thresh=OVERLAP, verbose=False)),
        bench.rounds(ROUNDS),
        warm_up=True,
    )
    kept = suppressed(centres, distances, scores, OVERLAP)
    other = np.flatnonzero(non_maximum_suppression_inds(distances, centres, scores, thresh=OVERLAP, verbose=False))
    note = f"of {len(centres)} ours keeps {len(kept)}, the peer {len(other)}, {np.isin(kept, other).sum()} the same"
    yield Measurement(
        comparison=NAME, case=f"{len(centres)} polygons", ours=seconds, other=theirs, goal=GOAL, note=note
    )


def _candidates(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Centres, distances and scores, best first, as the peer wants them."""
    random = np.random.default_rng(0)
    cells = np.arange(count) // EACH
    side = int(np.ceil(np.sqrt(cells[-1] + 1)))
    middles = np.stack(np.divmod(cells, side), 1) * APART
    centres = (middles + random.integers(-4, 5, middles.shape)).astype(np.float32)
    distances = (RADIUS + random.uniform(-1, 1, (count, RAYS))).astype(np.float32)
    return centres, distances, np.sort(random.uniform(0.5, 1, count).astype(np.float32))[::-1].copy()
