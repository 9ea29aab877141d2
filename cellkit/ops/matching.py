"""Which true box each candidate of a detector stands for, and which candidates a step of training looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cellkit.ops import boxes

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
CHUNK = 1 << 13  # candidates at once: few rows of a map of anchors, which touch few of the true boxes
PAIRS = 1 << 20  # at once at most, however many true boxes they touch


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """What candidates stand for.

    Attributes:
        truth: (N,) int64 true box that each overlaps most, the first of equal ones; 0 where there is none.
        iou: (N,) intersection over union with it.
        labels: (N,) int8; 1 positive, 0 negative, -1 ignored.
    """

    truth: Tensor
    iou: Tensor
    labels: Tensor


def match(candidates: Tensor, truth: Tensor, *, low: float, high: float, low_quality: bool = False) -> Matches:
    """Match candidates to true boxes by intersection over union (Ren 2015, section 3.1.2).

    From ``high`` on a candidate is positive, below ``low`` negative, and between the two ignored. Memory is bounded:
    candidates are taken some at a time, each time with the true boxes that touch any of them.

    Args:
        candidates: (N, 4).
        truth: (M, 4); M may be 0: all candidates are negative.
        low: above 0, at most ``high``.
        high: at most 1.
        low_quality: whether the candidates that overlap a true box most of all, however little, are positive too; all
            of equal ones. They stand for the true box that they themselves overlap most, which may be another one.

    Raises:
        ValueError: the thresholds are not in order.
    """
    if not 0 < low <= high <= 1:
        raise ValueError(f"thresholds must be 0 < low <= high <= 1, not {low} and {high}")
    best = torch.zeros(len(candidates), dtype=candidates.dtype, device=candidates.device)
    index = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
    highest = torch.zeros(len(truth), dtype=candidates.dtype, device=candidates.device)  # overlap of each true box
    parts = _parts(candidates, truth)
    for part, near in parts:
        overlaps = boxes.iou(truth[near], candidates[part])
        best[part], first = overlaps.max(0)
        index[part] = near[first] * (best[part] > 0)
        highest[near] = torch.maximum(highest[near], overlaps.max(1).values)
    labels = torch.full(best.shape, IGNORED, dtype=torch.int8, device=best.device)
    labels[best < low] = NEGATIVE
    labels[best >= high] = POSITIVE
    poor = (highest > 0) & (highest < high)  # what overlaps the other true boxes most is positive anyhow
    for part, near in parts if low_quality else []:
        missed = near[poor[near]]
        overlaps = boxes.iou(truth[missed], candidates[part])  # again, but never all in memory
        labels[part][(overlaps == highest[missed, None]).any(0)] = POSITIVE
    return Matches(truth=index, iou=best, labels=labels)


def _parts(candidates: Tensor, truth: Tensor) -> list[tuple[slice, Tensor]]:
    """Candidates some at a time, with the indices of the true boxes, at least one, that may touch any of them."""
    parts = []
    for i in range(0, len(candidates), CHUNK):
        chunk = candidates[i : i + CHUNK]
        start, stop = chunk[:, :2].min(0).values, chunk[:, 2:].max(0).values
        near = ((truth[:, :2] < stop) & (truth[:, 2:] > start)).all(1).nonzero()[:, 0]
        step = max(1, PAIRS // max(1, len(near)))
        stop_at = i + len(chunk) if len(near) else i
        parts += [(slice(k, min(k + step, stop_at)), near) for k in range(i, stop_at, step)]
    return parts


def sample(labels: Tensor, count: int, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Candidates for a step of training: positives up to a fraction, and negatives for the rest.

    Where there are fewer positives, more negatives take their places; where there are too few negatives, fewer than
    ``count`` are drawn. A generator of the CPU draws the same ones wherever the labels are.

    Args:
        labels: (N,) above 0 positive, 0 negative, below 0 ignored.
        count: candidates to draw.
        fraction: of them that may be positive.
        generator: where the draw comes from.

    Returns:
        Indices of the positives and of the negatives, each in the order of the draw.
    """
    positives = _drawn((labels > 0).nonzero()[:, 0], int(count * fraction), generator)
    return positives, _drawn((labels == 0).nonzero()[:, 0], count - len(positives), generator)


def _drawn(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(indices), generator=generator, device=generator.device)
    return indices[order[:count].to(indices.device)]
