"""Run-length masks of single objects, as COCO files and pycocotools have them: runs down the columns, zeros first.

All objects of an image are encoded and decoded in one pass, as :class:`MaskRuns`: no loop over objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.runs import spread

RunLength: TypeAlias = dict[str, Any]  # {"size": [H, W], "counts": bytes, compressed}
Indices: TypeAlias = NDArray[np.int64]

FIRST_CHARACTER = 48  # of the 64 that stand for six bits
VALUE_BITS = 5  # of them, least significant first
MORE, SIGN = 0x20, 0x10
LIMITS = np.int64(SIGN) << (VALUE_BITS * np.arange(12))  # numbers below LIMITS[n] need n + 1 characters
BAND_COLUMNS = 64  # taken at a time: whole cache lines of the rows, and little memory beside a large image
SPARSE_IDS = 8  # ids up to this many times the runs are looked up in a table, larger ones are sorted


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskRuns:
    """Runs of the masks of several objects, which may overlap, in an image flattened by columns.

    Attributes:
        owners: (R,) object of each run, from 0.
        starts: (R,) index of the first pixel in ``image.T.ravel()``; a run may go on in the next column.
        lengths: (R,) pixels, > 0.
    """

    owners: Indices
    starts: Indices
    lengths: Indices


def counts_of(mask: RunLength) -> Indices:
    """Lengths of the runs, zeros and ones in turns.

    Raises:
        ValueError: the text ends in the middle of a number.
    """
    return _counts([mask["counts"]])[0]


def pixels_of(mask: RunLength) -> Indices:
    """Indices of the pixels of an object in the image flattened by columns (``image.T.ravel()``)."""
    counts = counts_of(mask)
    ends = np.cumsum(counts)
    lengths = counts[1::2]
    return spread(ends[1::2] - lengths, lengths)


def decode(mask: RunLength) -> NDArray[np.bool_]:
    """The mask as (H, W)."""
    height, width = mask["size"]
    flat = np.zeros(height * width, bool)
    flat[pixels_of(mask)] = True
    return np.ascontiguousarray(flat.reshape(width, height).T)


def runs_of_masks(masks: Sequence[RunLength]) -> MaskRuns:
    """The runs of ones of all masks, mask by mask, each from its first pixel to its last.

    Raises:
        ValueError: the text of a mask ends in the middle of a number.
    """
    counts, sizes = _counts([mask["counts"] for mask in masks])
    begins = np.cumsum(sizes) - sizes
    total = np.concatenate([[0], np.cumsum(counts)])
    starts = total[:-1] - np.repeat(total[begins], sizes)
    ones = (np.arange(counts.size) - np.repeat(begins, sizes)) % 2 == 1
    ones &= counts > 0
    return MaskRuns(owners=np.repeat(np.arange(len(masks)), sizes)[ones], starts=starts[ones], lengths=counts[ones])


def runs_of_labels(labels: NDArray[Any]) -> tuple[Indices, MaskRuns]:
    """The ids that occur in a label image, ascending, and the runs of their objects from the first column to the last.

    Args:
        labels: (H, W) integers >= 0, 0 is background.

    Returns:
        (N,) ids, and the runs; ``owners`` are positions in the ids.
    """
    height, width = labels.shape
    bands = [_starts(labels[:, left : left + BAND_COLUMNS]) for left in range(0, width if height else 0, BAND_COLUMNS)]
    if not bands:
        nothing = np.zeros(0, np.int64)
        return nothing, MaskRuns(owners=nothing, starts=nothing, lengths=nothing)
    values = np.concatenate([band[0] for band in bands])
    starts = np.concatenate([band[1] + i * BAND_COLUMNS * height for i, band in enumerate(bands)])
    changes = np.concatenate([[True], values[1:] != values[:-1]])  # a run may go on in the next column
    values, starts = values[changes], starts[changes]
    lengths = np.diff(starts, append=height * width)
    inside = values > 0
    ids, owners = _numbered(values[inside])
    return ids, MaskRuns(owners=owners, starts=starts[inside], lengths=lengths[inside])


def encode_labels(labels: NDArray[Any]) -> tuple[Indices, list[RunLength]]:
    """Run lengths of all objects of a label image in one pass, the same bytes as ``pycocotools.mask.encode`` gives.

    Args:
        labels: (H, W) integers >= 0, 0 is background.

    Returns:
        (N,) ids that occur, ascending, and the mask of each.
    """
    ids, runs = runs_of_labels(labels)
    return ids, encode_runs(runs, ids.size, (int(labels.shape[0]), int(labels.shape[1])))


def encode_runs(runs: MaskRuns, count: int, shape: tuple[int, int]) -> list[RunLength]:
    """Run lengths of ``count`` objects on (H, W); those without runs are empty masks.

    The runs of one object must neither touch nor overlap each other, in any order.
    """
    order = np.lexsort((runs.starts, runs.owners))
    owners, starts, lengths = runs.owners[order], runs.starts[order], runs.lengths[order]
    ends = starts + lengths
    runs_each = np.bincount(owners, minlength=count)
    first = np.cumsum(runs_each) - runs_each
    finish = np.zeros(count, np.int64)
    finish[owners] = ends  # of repeated indices the last one stays
    tails = shape[0] * shape[1] - finish
    sizes = 2 * runs_each + ((tails > 0) | (runs_each == 0))  # trailing zeros are written only if there are some
    begins = np.cumsum(sizes) - sizes
    counts = np.zeros(int(sizes.sum()), np.int64)
    zeros = begins[owners] + 2 * (np.arange(owners.size) - first[owners])
    counts[zeros] = starts - np.where(zeros == begins[owners], 0, np.concatenate([[0], ends[:-1]])[: owners.size])
    counts[zeros + 1] = lengths
    odd = sizes % 2 == 1
    counts[(begins + sizes - 1)[odd]] = tails[odd]
    return _texts(counts, begins, sizes, shape)


def _texts(counts: Indices, begins: Indices, sizes: Indices, shape: tuple[int, int]) -> list[RunLength]:
    """Compressed masks from the counts of all objects, one after another."""
    place = np.arange(counts.size) - np.repeat(begins, sizes)
    numbers = counts.copy()
    numbers[2:] -= np.where(place[2:] > 2, counts[:-2], 0)
    characters = 1 + np.searchsorted(LIMITS, np.where(numbers < 0, ~numbers, numbers), side="right")
    stops = np.cumsum(characters)
    place = np.arange(int(stops[-1]) if stops.size else 0) - np.repeat(stops - characters, characters)
    codes = (np.repeat(numbers, characters) >> (VALUE_BITS * place)) & (MORE - 1)
    codes[place < np.repeat(characters, characters) - 1] |= MORE
    text = (codes + FIRST_CHARACTER).astype(np.uint8).tobytes()
    edges = [0, *stops[begins + sizes - 1].tolist()]
    size = [int(side) for side in shape]
    return [{"size": list(size), "counts": text[a:b]} for a, b in pairwise(edges)]


def _counts(texts: Sequence[bytes]) -> tuple[Indices, Indices]:
    """Lengths of the runs of all masks, and how many each mask has.

    A text holds, from the fourth number on, differences to the number before the last (pycocotools, maskApi.c).
    """
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - FIRST_CHARACTER
    last = (codes & MORE) == 0
    stops = np.cumsum([len(text) for text in texts], dtype=np.int64)
    if not last[stops[stops > 0] - 1].all():
        raise ValueError("run lengths end in the middle of a number")
    sizes = np.diff(np.concatenate([[0], np.cumsum(last)])[stops], prepend=0)
    numbers = _numbers(codes, np.flatnonzero(last))
    counts = numbers.copy()
    begins = np.cumsum(sizes) - sizes
    place = np.arange(numbers.size) - np.repeat(begins, sizes)
    for parity in (0, 1):
        chain = (place % 2 == parity) & (place > 0)
        running = np.concatenate([[0], np.cumsum(np.where(chain, numbers, 0))])
        counts[chain] = (running[1:] - np.repeat(running[begins], sizes))[chain]
    return counts, sizes


def _numbers(codes: Indices, ends: Indices) -> Indices:
    """The numbers that end at those characters."""
    if not codes.size:
        return codes
    begins = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(begins, ends - begins + 1)
    numbers: Indices = np.add.reduceat((codes & (MORE - 1)) << (VALUE_BITS * place), begins)
    negative = (codes[ends] & SIGN) > 0
    numbers -= negative * (np.int64(1) << (VALUE_BITS * (place[ends] + 1)))
    return numbers


def _starts(band: NDArray[Any]) -> tuple[NDArray[Any], Indices]:
    """Value and first pixel of the runs in each column of (H, B), background too.

    Only the one-byte answer whether a pixel differs from the one above is transposed, not the labels.
    """
    height, width = band.shape
    begins = np.empty((width, height), bool)
    begins[:, 0] = True
    begins[:, 1:] = (band[1:] != band[:-1]).T
    starts = np.flatnonzero(begins)
    return band[starts % height, starts // height], starts


def _numbered(values: NDArray[Any]) -> tuple[Indices, Indices]:
    """The distinct values, ascending, and the position of each value among them."""
    highest = int(values.max(initial=0))
    if highest > SPARSE_IDS * values.size:
        ids, owners = np.unique(values, return_inverse=True)
        return ids.astype(np.int64), owners
    present = np.zeros(highest + 1, bool)
    present[values.astype(np.int64)] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[values.astype(np.int64)]
