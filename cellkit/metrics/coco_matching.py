"""COCO's greedy matching of detections to truth objects, for all thresholds and area ranges at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellkit.metrics.coco_pairs import Pairs
from cellkit.metrics.instances import Flags
from cellkit.metrics.intersections import Integers


def match_greedily(
    pairs: Pairs, ignored: Flags, crowd: Flags, thresholds: tuple[float, ...], detections: int
) -> NDArray[np.int64]:
    """The truth object that each detection takes, at each threshold and in each area range.

    Detections choose in their order. Each takes, among the truth objects with IoU >= t that nobody took before, those
    that count before the ignored ones, then the largest IoU, then the last in order. A crowd can be taken many times.

    Only detections that compete for a truth object must wait for each other, and few do: those linked by pairs form a
    group, and in round r the r-th detection of every group chooses. A field of cells needs a few rounds.

    Args:
        pairs: pairs of one category; ``predicted`` are positions in the order of the detections.
        ignored: (A, G) truth objects that do not count, by area range.
        crowd: (G,) truth objects that can be taken many times.
        thresholds: T thresholds, (0, 1].
        detections: D, how many there are.

    Returns:
        (T, A, D) truth object, or -1.
    """
    areas, truths = ignored.shape
    chosen = np.full((len(thresholds), areas * detections), -1, np.int64)
    taken = np.zeros((len(thresholds), areas * truths), bool)
    least = np.minimum(np.asarray(thresholds), 1 - 1e-10)[:, None]  # as in pycocotools: 1 forgives rounding
    near = pairs.iou >= least.min()
    truth, predicted, iou = pairs.truth[near], pairs.predicted[near], pairs.iou[near]
    rounds = _rounds(truth, predicted, crowd[truth], truths, detections)

    # every area range has detections and truth objects of its own, so that all ranges are one problem
    area = np.repeat(np.arange(areas), truth.size)
    truth, predicted, iou, rounds = (np.tile(part, areas) for part in (truth, predicted, iou, rounds))
    order = np.lexsort((-truth, -iou, ignored[area, truth], predicted, area, rounds))
    area, truth, predicted, iou, rounds = (part[order] for part in (area, truth, predicted, iou, rounds))
    owner, place = area * detections + predicted, area * truths + truth
    edges = np.flatnonzero(np.diff(rounds, prepend=-1, append=-1))
    for begin, end in pairwise(edges):
        now = slice(begin, end)
        free = ~taken[:, place[now]] & (iou[now] >= least)
        level, pair = _first_free(free, owner[now])
        pair += begin
        chosen[level, owner[pair]] = truth[pair]
        alone = ~crowd[truth[pair]]
        taken[level[alone], place[pair[alone]]] = True
    return chosen.reshape(len(thresholds), areas, detections)


def _first_free(free: Flags, owner: Integers) -> tuple[Integers, Integers]:
    """Threshold and position of the first free pair of each owner at each threshold.

    Args:
        free: (T, P) pairs in order of preference.
        owner: (P,) whose pairs they are, those of one owner together.
    """
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    worth = np.where(free, np.arange(owner.size, 0, -1), 0)
    best = np.maximum.reduceat(worth, begins, axis=1)
    level, group = np.nonzero(best)
    return level, owner.size - best[level, group]


def _rounds(truth: Integers, predicted: Integers, crowd: Flags, truths: int, detections: int) -> Integers:
    """(P,) the round in which the detection of each pair chooses."""
    rivals = ~crowd  # a crowd has room for all
    ends = predicted[rivals], detections + truth[rivals]
    size = (detections + truths, detections + truths)
    graph = sparse.csr_array((np.ones(ends[0].size, bool), ends), shape=size)
    group = sparse.csgraph.connected_components(graph, directed=False)[1][:detections]
    order = np.argsort(group, kind="stable")
    ranks = np.empty(detections, np.int64)
    ranks[order] = np.arange(detections) - np.searchsorted(group[order], group[order])
    waiting: Integers = ranks[predicted]
    return waiting
