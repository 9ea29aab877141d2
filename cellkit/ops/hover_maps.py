"""Horizontal and vertical distance maps: how far each pixel of a cell lies from its centre (HoVer-Net, Graham 2019)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cellkit.ops.labelling import bounding_boxes
from cellkit.ops.runs import Integers

Maps = NDArray[np.float32]


def hover_maps(labels: Integers) -> Maps:
    """Distances from the centres of the cells.

    The centre of a cell is its centre of mass, rounded to a pixel. Along each axis the distance grows from -1 at the
    first row or column of the cell through 0 at its centre to 1 at the last.

    Args:
        labels: (H, W), 0 is background; each label is one cell.

    Returns:
        (2, H, W) in [-1, 1], 0 = vertical (down is positive), 1 = horizontal (right is positive); 0 in the background.
    """
    maps = np.zeros((2, *labels.shape), np.float32)
    pixels = np.flatnonzero(labels)
    cells = labels.ravel()[pixels].astype(np.int64) - 1
    boxes = bounding_boxes(labels)
    size = np.maximum(np.bincount(cells, minlength=len(boxes)), 1)
    for axis, places in enumerate(np.divmod(pixels, labels.shape[1])):
        centre = np.rint(np.bincount(cells, places, len(boxes)) / size)
        before, after = centre - boxes[:, axis], boxes[:, axis + 2] - 1 - centre
        distance = places - centre[cells]
        extent = np.where(distance < 0, before[cells], after[cells])
        maps[axis].ravel()[pixels] = distance / np.maximum(extent, 1)
    return maps


def edge_energy(maps: NDArray[np.floating[Any]], smoothing: float) -> Maps:
    """Where distance maps jump: at the outlines of cells, also of such that touch.

    Inside a cell each map rises along its own axis and is constant along the other. So the energy is the length of
    the gradients that cannot be in a cell: falls along the own axis, and any change along the other. A jump from 1 to
    -1, across a straight border between two cells, has energy 1; whatever else is in the image does not matter, and
    windows of an image have the energies of the image.

    Args:
        maps: (2, H, W), vertical and horizontal.
        smoothing: sigma in pixels of the Gaussian that is differentiated.

    Returns:
        (H, W) from 0 on.
    """
    step = smoothing * math.sqrt(2 * math.pi) / 2  # of the derivative at a jump of 2
    energy = np.zeros(maps.shape[1:], np.float32)
    for along, values in enumerate(maps):
        for axis in (0, 1):
            order = (1 - axis, axis)
            slope = gaussian_filter(values.astype(np.float32), smoothing, order=order, mode="nearest") * step
            energy += np.square(np.minimum(slope, 0) if axis == along else slope)
    return np.sqrt(energy)
