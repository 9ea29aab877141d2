"""Mean shift of embeddings: ours against scikit-learn's, as Cellulus's code calls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench, Goal, Measurement, Unavailable, alternate, timed
from cellkit.ops.mean_shift import mean_shift, nearest

NAME = "mean-shift"
GOAL = Goal("faster", 100.0)
ROUNDS = 3
KEY = "07fb37aafa662660"  # 252 nuclei, 83,723 pixels of them in its first 512 x 512
SIDE, QUICK_SIDE = 512, 128
BANDWIDTH = 7.5  # pixels
PART = 0.1  # of the cells' pixels is what Cellulus fits with
NOISE = {"noise of 1 px": 1.0, "noise of 3 px": 3.0}

Points = NDArray[np.float64]
Labels = NDArray[np.int64]


def measure(bench: Bench) -> Iterator[Measurement]:
    """Fitted with a tenth of the pixels, all pixels assigned; and ours with all, against the same."""
    labels = _labels(bench.data, QUICK_SIDE if bench.quick else SIDE)
    places = {case: _trained(labels, noise) for case, noise in NOISE.items()} | {"untrained": _own(labels)}
    for case, points in places.items():
        part = np.random.default_rng(0).choice(len(points), int(PART * len(points)), replace=False)
        yield _compared(bench, f"{case}, a tenth", (points[part], points), (points[part], points))
        yield _compared(bench, f"{case}, all", (points, points), (points[part], points), goal=None)


def _compared(
    bench: Bench, case: str, ours: tuple[Points, Points], other: tuple[Points, Points], goal: Goal | None = GOAL
) -> Measurement:
    seconds, theirs = alternate(
        timed(lambda: _ours(*ours)),
        timed(lambda: _scikit_learn(*other)),
        bench.rounds(ROUNDS),
        warm_up=bench.quick,  # the other side takes ten seconds and gets no faster
    )
    return Measurement(
        comparison=NAME, case=case, ours=seconds, other=theirs, goal=goal, note=_agreement(_ours(*ours), *other)
    )


def _agreement(found: Labels, part: Points, points: Points) -> str:
    from sklearn.metrics import adjusted_rand_score

    theirs = _scikit_learn(part, points)
    index = adjusted_rand_score(theirs, found)
    return f"clusters: ours {found.max() + 1}, peer {theirs.max() + 1}; adjusted Rand index {index:.4f}"


def _ours(part: Points, points: Points) -> Labels:
    return nearest(points, mean_shift(part, BANDWIDTH))


def _scikit_learn(part: Points, points: Points) -> Labels:
    from sklearn.cluster import MeanShift

    found: Labels = MeanShift(bandwidth=BANDWIDTH, cluster_all=False).fit(part).predict(points)
    return found


def _labels(data: Path, side: int) -> NDArray[np.int64]:
    path = data / "dsb2018" / "labels" / f"{KEY}.png"
    if not path.is_file():
        raise Unavailable(f"no {path} (give --data DIR)")
    labels: NDArray[np.int64] = imageio.imread(path)[:side, :side].astype(np.int64)
    return labels


def _own(labels: NDArray[np.int64]) -> Points:
    """What a network that has learnt nothing gives: each pixel its own place (N, 2)."""
    return np.stack(np.nonzero(labels), 1).astype(np.float64)


def _trained(labels: NDArray[np.int64], noise: float) -> Points:
    """The middle of the cell of each pixel (N, 2), with noise of so many pixels."""
    places, cells = _own(labels), labels[labels > 0]
    sizes = np.maximum(np.bincount(cells), 1)
    middles = np.stack([np.bincount(cells, places[:, k]) / sizes for k in (0, 1)], 1)
    spread: Points = middles[cells] + np.random.default_rng(0).normal(0, noise, places.shape)
    return spread
