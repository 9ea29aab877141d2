"""Growing seeds over a foreground."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.int32]
Mask = NDArray[np.bool_]

CORNERS = np.ones((3, 3), bool)  # pixels that touch by a corner are connected


def seeds_of(mask: Mask, min_area: int = 1) -> Labels:
    """Pieces of a mask (H, W), connected by sides, numbered from 1; those of fewer pixels are left out."""
    seeds: Labels = ndimage.label(mask)[0].astype(np.int32)
    if min_area > 1:
        seeds[(np.bincount(seeds.ravel()) < min_area)[seeds]] = 0
    return seeds


def grow(seeds: Labels, foreground: Mask, height: NDArray[np.floating[Any]]) -> Labels:
    """Watershed of scikit-image from seeds; a piece of foreground without any seed is a cell by itself.

    Args:
        seeds: (H, W), 0 where there is none.
        foreground: (H, W), where cells may be; pieces are connected by sides and corners.
        height: (H, W), low places are flooded first.

    Returns:
        (H, W), 0 outside the foreground; numbers are those of the seeds, then others.
    """
    from skimage.segmentation import watershed  # slow to import, and most models do not need it

    pieces, count = ndimage.label(foreground, CORNERS)
    seeded = np.zeros(count + 1, bool)
    seeded[pieces[seeds > 0]] = True
    seeded[0] = True
    markers = np.where(seeded[pieces], seeds, pieces + seeds.max(initial=0))
    grown: Labels = watershed(height, markers, mask=foreground, connectivity=CORNERS).astype(np.int32)
    return grown
