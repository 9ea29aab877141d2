"""Distances between the outlines of the foregrounds.

The surface of a foreground are its pixels that have a background pixel among their eight neighbours; what lies outside
the image counts as background, so that padding changes nothing. Cells that touch each other have one common surface.
Distances are Euclidean, between centres of pixels. For each surface point of either side there is one: to the nearest
surface point of the other side. Both metrics are of all of them together, those of truth and of prediction (symmetric).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cellkit.metrics.counting import Values
from cellkit.metrics.intersections import Floats, Integers, Labels, check_pair

Mask: TypeAlias = NDArray[np.bool_]

PERCENTILE = 95.0
NEAR = 3  # pixels; most outlines are no further apart, and looking around beats a search tree there
QUERIED_AT_ONCE = 1 << 20  # points; bounds what the search tree hands back
SURFACES = ("hd95", "asd", "hd95_um", "asd_um")


def surface_distances(truth: Labels, prediction: Labels, key: str = "labels") -> Floats | None:
    """Distances of all surface points of both foregrounds to the other surface.

    Points common to both surfaces are 0 apart and need no search. For the others the nearest places are looked up in
    the other surface itself; only points that are further away ask a k-d tree, which is exact too. Memory: four
    bytes per pixel (both surfaces, and what making them takes), and some 80 bytes per surface point where the
    tree is needed: 10,000 x 10,000 pixels with 100,000 cells stay below 2 GB beside the labels.

    Args:
        truth: (H, W) label image of integers, 0 is background.
        prediction: (H, W) label image of integers, 0 is background.
        key: name of the image, for messages.

    Returns:
        (S + T,) distances in pixels for S surface points of the truth and T of the prediction, in no particular order;
        None if one of the two has no foreground.

    Raises:
        InputError: the shapes differ, or an array is no label image.
    """
    check_pair(truth, prediction, key)
    true, predicted = _surface(truth), _surface(prediction)
    counts = np.count_nonzero(true), np.count_nonzero(predicted)
    if (counts[0] == 0) != (counts[1] == 0):
        return None
    apart = [
        _distances(np.flatnonzero(true & ~predicted), predicted),
        _distances(np.flatnonzero(predicted & ~true), true),
    ]
    common = sum(counts) - sum(distances.size for distances in apart)
    return np.concatenate((np.zeros(common), *apart))


def surface_values(distances: Floats | None, pixel_size: float | None = None) -> Values:
    """``hd95`` and ``asd`` in pixels, and in micrometres where the pixel size is known.

    Args:
        distances: of :func:`surface_distances`.
        pixel_size: micrometres per pixel, or None.
    """
    values = {**hd95(distances), **asd(distances)}
    if pixel_size is not None:
        values |= {f"{name}_um": value * pixel_size for name, value in values.items()}
    return values


def hd95(distances: Floats | None) -> Values:
    """95th percentile of the distances between the surfaces of the foregrounds (Hausdorff distance without the worst).

    hd95 = percentile of {min over t of |s - t|} and {min over s of |s - t|} together, s: surface points of the
    truth, t: of the prediction, by linear interpolation between ranks. A surface point is a foreground pixel with a
    background pixel among its eight neighbours, also outside the image. hd95 in pixels, hd95_um in micrometres
    if the pixel size is known. Of the foreground, not per cell. Per image, then mean over images; not pooled. Both
    empty: 0; only truth or only prediction empty: NaN, as there is nothing to measure to (``defined`` tells how many
    images a mean is over).

    Source: CULPICO (Miyaki et al.), who take it from seg-metrics; equal to that but for foreground at the image's edge.
    """
    return {"hd95": _of(distances, lambda found: np.percentile(found, PERCENTILE))}


def asd(distances: Floats | None) -> Values:
    """Mean distance between the surfaces of the foregrounds, symmetric.

    asd = (sum over s of min over t of |s - t| + sum over t of min over s of |s - t|) / (number of s + number of t),
    with s, t and units as for ``hd95``. Per image, then mean over images; not pooled. Both empty: 0; only truth or only
    prediction empty: NaN.

    Source: CULPICO (Miyaki et al.); ``msd`` of seg-metrics.
    """
    return {"asd": _of(distances, np.mean)}


def _surface(labels: Labels) -> Mask:
    """(H + 2 NEAR, W + 2 NEAR) the surface of the foreground, with a margin of background around the image."""
    height, width = labels.shape
    inside = np.zeros((height + 2 * NEAR, width + 2 * NEAR), bool)
    np.not_equal(labels, 0, out=inside[NEAR : NEAR + height, NEAR : NEAR + width])
    core = inside[1:-1].copy()  # foreground with foreground above and below
    core &= inside[:-2]
    core &= inside[2:]
    inside[1:-1, 1:-1] &= ~(core[:, 1:-1] & core[:, :-2] & core[:, 2:])
    return inside


def _distances(points: Integers, surface: Mask) -> Floats:
    """(P,) distance of each point, given by its index in the flattened mask, to the nearest point of the surface.

    The surface has a margin of ``NEAR`` pixels, so that looking around never leaves it.
    """
    found = np.zeros(points.size)
    left = np.arange(points.size)
    flat = surface.ravel()
    for squared, places in _places(surface.shape[1]).items():
        at = points[left]
        hit = np.zeros(left.size, bool)
        for place in places:
            hit |= flat[at + place]
        found[left[hit]] = math.sqrt(squared)
        left = left[~hit]
    if left.size:
        found[left] = _searched(points[left], surface)
    return found


def _places(width: int) -> dict[int, list[int]]:
    """Squared distance -> steps in the flattened mask to the pixels at that distance, up to ``NEAR``, nearest first."""
    places: dict[int, list[int]] = {}
    for y in range(-NEAR, NEAR + 1):
        for x in range(-NEAR, NEAR + 1):
            if 0 < y * y + x * x <= NEAR * NEAR:
                places.setdefault(y * y + x * x, []).append(y * width + x)
    return dict(sorted(places.items()))


def _searched(points: Integers, surface: Mask) -> Floats:
    """As :func:`_distances`, for points at any distance."""
    width = surface.shape[1]
    there = _coordinates(np.flatnonzero(surface), width)  # np.argwhere takes three times as long
    tree = cKDTree(there, compact_nodes=False, balanced_tree=False)  # built faster, still exact
    parts = [points[begin : begin + QUERIED_AT_ONCE] for begin in range(0, points.size, QUERIED_AT_ONCE)]
    return np.concatenate([tree.query(_coordinates(part, width))[0] for part in parts])


def _coordinates(places: Integers, width: int) -> Integers:
    """(P, 2) rows and columns of places in a flattened mask of rows of that width."""
    return np.column_stack(np.divmod(places, width))


def _of(distances: Floats | None, value: Callable[[Floats], np.floating[Any]]) -> float:
    if distances is None:
        return math.nan
    return float(value(distances)) if distances.size else 0.0
