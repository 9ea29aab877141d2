"""Ranges of many lengths as one tensor: what spares a loop over boxes."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(starts: Tensor, lengths: Tensor) -> Tensor:
    """The integers from each start (N,) on, as many as its length (N,), one range after another.

    The same as :func:`cellkit.ops.runs.spread`, on the device of the starts.
    """
    before = lengths.cumsum(0) - lengths
    every = (starts - before).repeat_interleave(lengths)
    return every + torch.arange(len(every), device=starts.device)


def parts(lengths: Tensor, most: int) -> list[int]:
    """How many of successive ranges, with these lengths (N,), to take at a time: at least one time, some with none.

    The lengths of a time sum up to ``most`` at most, but for its first range, which may be longer.
    """
    return ((lengths.cumsum(0) - 1) // most).clamp(min=0).bincount(minlength=1).tolist()
