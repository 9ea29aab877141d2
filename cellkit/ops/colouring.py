"""Colours of cells: the same label has the same colour in every picture, and cells that touch have different ones.

Each label has, by a hash of its number alone, an order of preference over ten colours. It gets the first one. Only
where a touching cell of a smaller label has that very colour, it takes the next in its order that no touching cell of
a smaller label has. So a colour says which cell it is wherever the cell stands free, whatever else is in the image,
and in a tissue most cells keep it. A hash, not the number modulo ten: cells are numbered in raster order, and the rows
of a tissue would become stripes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.runs import Indices, Integers, paint, runs_of

# Bright on black and on pale tissue, saturated, and far from the green of true outlines. Any two are at least 26 apart
# by CIEDE2000, where 2.3 is just noticeable: found by a search over hues, saturations and values.
PALETTE: NDArray[np.uint8] = np.array(
    [
        (0, 255, 229),
        (255, 0, 128),
        (178, 125, 0),
        (0, 115, 230),
        (230, 230, 0),
        (240, 178, 255),
        (230, 23, 0),
        (173, 51, 255),
        (51, 194, 255),
        (255, 163, 140),
    ],
    np.uint8,
)
STEPS = np.array([1, 3, 7, 9])  # those without a factor in common with ten: each walks through all colours
HALF = 31  # bits of a label
MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio (Fibonacci hashing, Knuth 6.4)


def preferences(labels: Integers) -> Indices:
    """Order in which each label (n,) would like the colours: (n, 10) indices into :data:`PALETTE`."""
    mixed = labels.astype(np.uint64) * np.uint64(MULTIPLIER)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(MULTIPLIER)
    mixed >>= np.uint64(32)
    count = np.uint64(len(PALETTE))
    first = (mixed % count).astype(np.int64)
    step = STEPS[((mixed // count) % np.uint64(len(STEPS))).astype(np.int64)]
    order = (first[:, None] + step[:, None] * np.arange(len(PALETTE))) % len(PALETTE)
    return order.astype(np.int64)


def touching(labels: Integers) -> Indices:
    """Pairs (P, 2) of different labels, the smaller first, that share a side or a corner in (H, W)."""
    whole = slice(None)
    steps = (
        ((whole, slice(1, None)), (whole, slice(None, -1))),
        ((slice(1, None), whole), (slice(None, -1), whole)),
        ((slice(1, None), slice(1, None)), (slice(None, -1), slice(None, -1))),
        ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))),
    )
    codes = [np.zeros(0, np.int64)]  # both labels in one number: much quicker to sort than pairs
    for here, there in steps:
        one, other = labels[here], labels[there]
        differ = (one != other) & (one != 0) & (other != 0)
        ends = one[differ].astype(np.int64), other[differ].astype(np.int64)
        codes.append(np.unique((np.minimum(*ends) << HALF) | np.maximum(*ends)))
    found = np.unique(np.concatenate(codes))
    return np.stack([found >> HALF, found & ((1 << HALF) - 1)], axis=1)


def colours_of(labels: Integers) -> tuple[Indices, NDArray[np.uint8]]:
    """The cells of an image and their colours.

    Args:
        labels: (H, W), 0 is background.

    Returns:
        Labels that occur (n,) in ascending order, and their colours (n, 3).
    """
    cells = np.unique(runs_of(labels).values).astype(np.int64)
    cells = cells[cells != 0]
    order = preferences(cells)
    choice = order[:, 0].copy()
    smaller, larger = np.searchsorted(cells, touching(labels)).T
    place = np.argsort(larger, kind="stable")
    smaller, larger = smaller[place], larger[place]
    begins = np.flatnonzero(np.diff(larger, prepend=-1))
    ends = np.append(begins, len(larger))[1:]
    for begin, end in zip(begins, ends, strict=True):  # ascending: the smaller ones have their colours
        cell, taken = larger[begin], set(choice[smaller[begin:end]].tolist())
        choice[cell] = next((colour for colour in order[cell].tolist() if colour not in taken), choice[cell])
    return cells, PALETTE[choice]


def painted(labels: Integers) -> NDArray[np.uint8]:
    """Each cell in its colour on black: (H, W) -> (H, W, 3)."""
    runs = runs_of(labels)
    cells, colours = colours_of(labels)
    table: NDArray[Any] = np.concatenate([np.zeros((1, 3), np.uint8), colours])
    place = np.where(runs.values == 0, 0, np.searchsorted(cells, runs.values) + 1)
    indices = paint(runs, place.astype(np.int32))
    result: NDArray[np.uint8] = table[indices]
    return result
