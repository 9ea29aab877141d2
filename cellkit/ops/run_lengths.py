"""Run-length masks of single objects, as COCO files and pycocotools have them: runs down the columns, zeros first."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.runs import spread

RunLength: TypeAlias = dict[str, Any]  # {"size": [H, W], "counts": bytes, compressed}

FIRST_CHARACTER = 48  # of the 64 that stand for six bits
VALUE_BITS = 5  # of them, least significant first
MORE, SIGN = 0x20, 0x10


def counts_of(mask: RunLength) -> NDArray[np.int64]:
    """Lengths of the runs, zeros and ones in turns.

    The text holds, from the fourth number on, differences to the number before the last (pycocotools, maskApi.c).
    """
    codes = np.frombuffer(mask["counts"], np.uint8).astype(np.int64) - FIRST_CHARACTER
    last = (codes & MORE) == 0
    ends = np.flatnonzero(last)
    begins = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(begins, ends - begins + 1)
    numbers = np.add.reduceat((codes & (MORE - 1)) << (VALUE_BITS * place), begins) if codes.size else codes
    negative = (codes[ends] & SIGN) > 0
    numbers -= negative * (np.int64(1) << (VALUE_BITS * (place[ends] + 1)))
    counts: NDArray[np.int64] = numbers.copy()
    counts[1::2] = np.cumsum(numbers[1::2])
    counts[2::2] = np.cumsum(numbers[2::2])
    return counts


def pixels_of(mask: RunLength) -> NDArray[np.int64]:
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
