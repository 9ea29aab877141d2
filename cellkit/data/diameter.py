"""The sizes and places of the cells of an image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def diameter_of(labels: NDArray[Any]) -> float | None:
    """Median over objects of the diameter of the circle of equal area, in pixels (Scellseg, Cellpose).

    Args:
        labels: (H, W) integers, cells above 0; ids may have gaps.

    Returns:
        the diameter, or None without any object.
    """
    areas = np.bincount(_small_ids(labels[labels > 0]))
    areas = areas[areas > 0]
    if areas.size == 0:
        return None
    return float(np.median(2.0 * np.sqrt(areas / math.pi)))


def centres_of(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Centre of mass of each object as (N, 2) rows (y, x) in pixels, by ascending id.

    Args:
        labels: (H, W) integers, cells above 0; ids may have gaps.
    """
    y, x = np.nonzero(labels > 0)
    ids = _small_ids(labels[y, x])
    areas = np.bincount(ids)
    there = areas > 0
    sums = np.stack([np.bincount(ids, y)[there], np.bincount(ids, x)[there]], 1)
    return (sums / areas[there, None]).astype(np.float32)


def _small_ids(ids: NDArray[Any]) -> NDArray[Any]:
    """Ids that np.bincount can count in a table of reasonable size; the order is kept."""
    if int(ids.max(initial=0)) <= 4 * ids.size:
        return ids
    return np.unique(ids, return_inverse=True)[1]
