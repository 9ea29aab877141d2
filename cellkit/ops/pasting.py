"""Masks of a detector, which are small and relative to their boxes, put where they belong in the image.

A pixel takes the bilinear value of a mask at its centre, where the box is as wide as the pixels of the mask, and what
lies outside of the mask counts as 0 (He 2017; the arithmetic of Detectron2's ``paste_masks_in_image``). Only pixels in
reach of a box are looked at, column by column, so that the run lengths of COCO files come straight from them: no image
per mask is ever in memory. Columns of all boxes are taken some at a time, and no loop goes over boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cellkit.ops.boxes import check
from cellkit.ops.boxes_ranges import parts, spread
from cellkit.ops.run_lengths import Indices, MaskRuns, RunLength, encode_runs

PIXELS = 1 << 20  # of the image, over all boxes, that are in memory at once
BEFORE, AFTER = 1, 2  # zeros around a mask: a pixel in its outermost half takes values from there


def paste_masks(logits: Tensor, boxes: Tensor, shape: tuple[int, int], threshold: float = 0.5) -> list[RunLength]:
    """Masks (N) of an image (H, W) as run lengths of COCO; arguments as of :func:`paste_runs`."""
    return encode_runs(paste_runs(logits, boxes, shape, threshold), len(boxes), shape)


def paste_runs(logits: Tensor, boxes: Tensor, shape: tuple[int, int], threshold: float = 0.5) -> MaskRuns:
    """Runs of the pixels whose probability reaches a threshold.

    The probability is interpolated, not the logit. A mask whose box has no area or lies outside has no runs.

    Args:
        logits: (N, M, K) of the masks over the heights and widths of their boxes.
        boxes: (N, 4) x0, y0, x1, y1 in pixels, finite.
        shape: (H, W) of the image.
        threshold: above 0, at most 1.

    Raises:
        ValueError: boxes are not (N, 4) and finite, or the threshold is outside of (0, 1].
    """
    check(boxes)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
    exact = torch.promote_types(torch.promote_types(logits.dtype, boxes.dtype), torch.float32)
    masks = logits.detach().to(exact).sigmoid().transpose(1, 2)  # columns first, as run lengths go
    boxes = boxes.detach().to(exact)
    rows = _Lines.of(boxes[:, 1::2], masks.shape[2], shape[0])
    columns = _Lines.of(boxes[:, 0::2], masks.shape[1], shape[1])
    found = _column_runs(masks, rows, columns.only(rows.counts > 0), shape[0], threshold)
    owners, starts, lengths = (torch.cat(some).cpu().numpy() for some in zip(*found, strict=True))
    return _joined(owners, starts, lengths)


@dataclass(frozen=True, eq=False)
class _Lines:
    """Rows or columns of the image in reach of boxes, box by box.

    Attributes:
        counts: (N,) lines of each box.
        owners: (L,) box of each line.
        places: (L,) row or column of the image.
        lower: (L,) the nearer of two lines of the mask, with the zeros around it, that a line lies between.
        share: (L,) of the other one, from 0 to 1.
    """

    counts: Tensor
    owners: Tensor
    places: Tensor
    lower: Tensor
    share: Tensor

    @classmethod
    def of(cls, ends: Tensor, size: int, length: int) -> _Lines:
        """Ends (N, 2) of boxes, along an axis where masks have ``size`` pixels and the image ``length``."""
        start, stop = ends.unbind(1)
        reach = (stop - start) / (2 * size)  # a pixel of the mask ends where its interpolation with 0 does
        low, high = torch.floor(start - reach).clamp(0, length), torch.ceil(stop + reach).clamp(0, length)
        counts = torch.where(stop > start, high - low, 0).long()
        owners = torch.arange(len(ends), device=ends.device).repeat_interleave(counts)
        places = spread(low.long(), counts)
        depth = (places + 0.5 - start[owners]) / (stop - start)[owners] * size - 0.5
        depth = depth.clamp(-1, size)
        lower = torch.floor(depth)
        return cls(counts=counts, owners=owners, places=places, lower=lower.long() + BEFORE, share=depth - lower)

    def only(self, boxes: Tensor) -> _Lines:
        """Without the lines of other boxes than those (N,) bool."""
        some = boxes[self.owners]
        counts = torch.where(boxes, self.counts, 0)
        return _Lines(counts, self.owners[some], self.places[some], self.lower[some], self.share[some])


def _column_runs(
    masks: Tensor, rows: _Lines, columns: _Lines, height: int, threshold: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Owners, first pixels in the image flattened by columns, and lengths of the runs in each column.

    Args:
        masks: (N, K, M) probabilities, columns first.
        rows: in reach of the boxes.
        columns: in reach of the boxes, only of those with rows.
        height: of the image.
        threshold: of the probability.
    """
    padded = F.pad(masks, (BEFORE, AFTER, BEFORE, AFTER))
    tall = padded.reshape(-1, padded.shape[2])  # columns of all masks
    first_row = rows.counts.cumsum(0) - rows.counts
    heights = rows.counts[columns.owners]
    begin = 0
    for number in parts(heights, PIXELS):
        some, begin = slice(begin, begin + number), begin + number
        owners, share = columns.owners[some], columns.share[some, None]
        left = owners * padded.shape[1] + columns.lower[some]
        values = _between(tall, left, share).reshape(-1)  # one column of a mask for each of the image
        counts = heights[some]
        row = spread(first_row[owners], counts)
        column = torch.arange(number, device=owners.device).repeat_interleave(counts)
        upper = column * padded.shape[2] + rows.lower[row]
        inside = _between(values, upper, rows.share[row]) >= threshold
        starts, stops = _ends(inside, column)
        column, pixel = column[starts], rows.places[row[starts]]
        yield owners[column], columns.places[some][column] * height + pixel, stops - starts + 1


def _between(values: Tensor, lower: Tensor, share: Tensor) -> Tensor:
    """Values between those at ``lower`` and after it, ``share`` of the way."""
    first = values[lower]
    return first + (values[lower + 1] - first) * share


def _ends(inside: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """First and last of each run of pixels (P,) that are inside and in one column."""
    goes_on = inside[1:] & inside[:-1] & (column[1:] == column[:-1])
    no = inside.new_zeros(1)
    starts = (inside & ~torch.cat([no, goes_on])).nonzero()[:, 0]
    return starts, (inside & ~torch.cat([goes_on, no])).nonzero()[:, 0]


def _joined(owners: Indices, starts: Indices, lengths: Indices) -> MaskRuns:
    """Runs, box by box and column by column, where those that go on in the next column are one."""
    fresh = np.ones(len(owners), bool)
    fresh[1:] = (owners[1:] != owners[:-1]) | (starts[1:] != starts[:-1] + lengths[:-1])
    first = np.flatnonzero(fresh)
    whole = np.add.reduceat(lengths, first) if len(first) else lengths
    return MaskRuns(owners=owners[first], starts=starts[first], lengths=whole)
