"""Whether an image seems to be labelled in part: things that look like cells, far from every labelled cell.

Training takes what is unlabelled for background, so that half an annotation teaches a network to miss half the cells.
Nothing is known of the image but its labels: what tells the labelled cells from their own surroundings is measured,
and looked for in the rest of the image. Where other things have the same texture, as the organelles beside labelled
mitochondria in electron micrographs, they are taken for cells: a warning, no error.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_opening,
    distance_transform_edt,
    gaussian_filter,
    gaussian_gradient_magnitude,
    label,
)

from cellkit.data.diameter import diameter_of

Flags: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]

SIDE = 10.0  # pixels that a cell keeps across: enough for its texture, and images of large cells become small
LARGEST = 1 << 22  # pixels that are looked at; larger images become coarser
PERCENTILES = (1.0, 99.0)
CLIPPED = (-0.5, 2.0)  # of normalised pixels: a few bright specks are not to rule the features
FINE, MIDDLE, COARSE = 1 / 8, 1 / 4, 1 / 3  # widths of Gaussians, in cell diameters
RIDGE = 1e-4  # variance added to each feature, so that constant ones do no harm
RING = (0.1, 1.0)  # cell diameters from the nearest label: surroundings, without the blurred edge
FAR = 1.5  # cell diameters: beyond, nothing belongs to a labelled cell any more
LEAST_FAR = 0.1  # of the image; a smaller part that is unlabelled does little harm
LEAST_PIXELS = 20  # of cells and of surroundings, to measure both
ALLOWED = 0.1  # of the surroundings may look like cells
LEAST_TOLD = 0.3  # of the pixels of cells must look like cells, else nothing can be said
TYPICAL = 0.95  # of the pixels of cells: what is more unlike their mean is something else, as the wall of a well
DEEPEST = 0.9  # quantile of the depth of the pixels of cells: 0.68 radii of a disc, 0.9 half widths of a rod
SOLID = 0.75  # of that depth is the radius of a disc that must fit into a piece: noise makes thin ones
SIZES = (0.25, 20.0)  # areas of the cells; smaller pieces are dirt, larger ones not cells, though cells touch
LEAST_DENSE = 0.3  # of the density of cells where there are labels
MOST_DENSE = 3.0  # a far part all full of what looks like cells is another kind of background
LEAST_FOUND, LEAST_SHARE = 5, 0.2  # pieces, and pieces per labelled cell: fewer are taken for dirt


def unlabelled_cells(pixels: NDArray[Any], labels: NDArray[np.integer[Any]]) -> int:
    """Count what looks like the labelled cells of an image and lies far from all of them.

    Args:
        pixels: (C, H, W), any scale.
        labels: (H, W), 0 is background; what is negative is neither surroundings nor forgotten.

    Returns:
        pieces (cells that touch count as one), or 0 where they are too few or too many to be cells that were
        forgotten, and where cells cannot be told from their surroundings.
    """
    diameter = diameter_of(labels)
    if diameter is None:
        return 0
    step = max(1, round(diameter / SIDE), math.ceil(math.sqrt(labels.size / LARGEST)))
    cells, diameter = _blocks(labels > 0, step) > 0.5, diameter / step
    if not cells.any():
        return 0
    distance = distance_transform_edt(~cells) / diameter
    known = _blocks(labels >= 0, step) == 1
    ring, far = (distance > RING[0]) & (distance <= RING[1]) & known, (distance > FAR) & known
    features = _features(_blocks(pixels, step), diameter)
    if far.mean() < LEAST_FAR or min(cells.sum(), ring.sum()) < LEAST_PIXELS or features.shape[-1] == 0:
        return 0
    alike = _alike(features, cells, ring)
    told = float(alike[cells].mean())
    if told < LEAST_TOLD:
        return 0
    density = float(cells.sum() / (~far).sum())
    found = _solid(alike & far, cells, diameter)
    pieces, covered = _pieces(found, math.pi * diameter**2 / 4)
    shares = np.array([covered, np.count_nonzero(found)]) / (far.sum() * told * density)
    wanted = max(LEAST_FOUND, LEAST_SHARE * len(np.unique(labels[labels > 0])))
    return pieces if shares[0] >= LEAST_DENSE and shares[1] <= MOST_DENSE and pieces >= wanted else 0


def _blocks(image: NDArray[Any], step: int) -> Floats:
    """Means of squares of step x step pixels, of the last two axes; what is left over at the edges is left out."""
    height, width = (side // step * step for side in image.shape[-2:])
    cut = image[..., :height, :width].astype(np.float32)
    means: Floats = cut.reshape(*cut.shape[:-2], height // step, step, width // step, step).mean((-3, -1))
    return means


def _features(pixels: Floats, diameter: float) -> Floats:
    """Brightness at two scales, contrast and edges of each channel that is not constant: (H, W, F)."""
    found = []
    for channel in pixels:
        low, high = np.percentile(channel, PERCENTILES)
        if high <= low:
            continue
        normal = np.clip((channel - low) / (high - low), *CLIPPED)
        mean = gaussian_filter(normal, MIDDLE * diameter)
        variance = gaussian_filter(normal**2, MIDDLE * diameter) - mean**2
        edges = gaussian_gradient_magnitude(normal, FINE * diameter)
        found += [
            gaussian_filter(normal, FINE * diameter),
            gaussian_filter(normal, COARSE * diameter),
            np.sqrt(np.maximum(variance, 0)),
            gaussian_filter(edges, MIDDLE * diameter),
        ]
    return np.stack(found, -1) if found else np.zeros((*pixels.shape[1:], 0), np.float32)


def _alike(features: Floats, cells: Flags, ring: Flags) -> Flags:
    """Pixels (H, W) on the side of the cells by Fisher's discriminant, and not unlike all of them."""
    inside, outside = features[cells], features[ring]
    ridge = RIDGE * np.eye(features.shape[-1])
    spread = np.cov(inside.T) + ridge
    weights = np.linalg.solve(spread + np.cov(outside.T) + ridge, inside.mean(0) - outside.mean(0))
    score = features @ weights
    root = np.linalg.cholesky(np.linalg.inv(spread))
    strange = (((features - inside.mean(0)) @ root) ** 2).sum(-1)  # squared Mahalanobis distance
    alike: Flags = score > np.quantile(score[ring], 1 - ALLOWED)
    alike &= strange <= np.quantile(strange[cells], TYPICAL)
    return alike


def _solid(mask: Flags, cells: Flags, diameter: float) -> Flags:
    """A mask (H, W) without what is much thinner than cells."""
    depth = SOLID * float(np.quantile(distance_transform_edt(cells)[cells], DEEPEST))
    radius = int(min(depth, diameter / 4))  # cells that touch are deeper together than one is
    if radius < 1:
        return mask
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    solid: Flags = binary_opening(mask, y**2 + x**2 <= radius**2)
    return solid


def _pieces(mask: Flags, area: float) -> tuple[int, float]:
    """Pieces of a mask (H, W) of the size of cells, and their pixels."""
    sizes = np.bincount(label(mask)[0].ravel())[1:]
    kept = sizes[(sizes >= SIZES[0] * area) & (sizes <= SIZES[1] * area)]
    return len(kept), float(kept.sum())
