"""Sparse labels: label images in which only some cells are outlined, and pseudo labels corrected by them.

-1 is a pixel of which nothing is known, as in StarDist: it teaches nothing. Background counts near labelled cells only
(Cellulus, "Supervised Training Setup": "annotations of background pixels close to the labeled object (< 30 pixels)").
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from cellkit.errors import UsageError
from cellkit.io.label_image import UNKNOWN
from cellkit.ops.labelling import relabel_in_raster_order

__all__ = ["REACH", "UNKNOWN", "annotated", "check_fraction", "corrected", "draw_kept", "kept_only"]

Labels: TypeAlias = NDArray[np.int32]
Ids: TypeAlias = NDArray[np.int64]

REACH = 30.0  # pixels from a labelled cell up to which background counts (Cellulus)
RANK_BYTES = 8  # of a digest: cells of a collection hardly ever share a rank


def check_fraction(fraction: float) -> None:
    """Refuse a fraction of cells that cannot be meant.

    Raises:
        UsageError: it is not above 0, or above 1.
    """
    if not 0 < fraction <= 1:
        raise UsageError(
            "--keep-fraction", f"cannot be {fraction:g}", "give a fraction of all cells above 0 and up to 1"
        )


def draw_kept(cells: Mapping[str, Iterable[int]], fraction: float, seed: int) -> dict[str, Ids]:
    """Draw a fixed part of all cells of all images together, as Cellulus does for its sparse data sets.

    Each cell has a rank, by a digest of seed, key and label, and those of the lowest ranks are kept. So the draw
    depends neither on the order of the images nor on the version of NumPy, and a smaller fraction is a part of a
    larger one.

    Args:
        cells: labels of the cells of each image, by key.
        fraction: of all cells, above 0 and up to 1; at least one cell is kept where there is one.
        seed: of the draw.

    Returns:
        labels of the kept cells of each image, ascending; for images with none of them, too.

    Raises:
        UsageError: a fraction that cannot be meant.
    """
    check_fraction(fraction)
    ranked = sorted((_rank(seed, key, int(label)), key, int(label)) for key, ids in cells.items() for label in ids)
    kept: dict[str, list[int]] = {key: [] for key in cells}
    for _, key, label in ranked[: max(1, round(fraction * len(ranked)))]:
        kept[key].append(label)
    return {key: np.array(sorted(ids), np.int64) for key, ids in kept.items()}


def _rank(seed: int, key: str, label: int) -> bytes:
    text = f"{seed} {label} {key}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=RANK_BYTES).digest()


def kept_only(labels: Labels, ids: NDArray[np.integer[Any]]) -> Labels:
    """Sparse labels from full ones: nothing is known any more of the pixels of cells that are not kept.

    Args:
        labels: (H, W), 0 is background; negative pixels stay as they are.
        ids: labels of the cells that are kept; they keep their numbers.
    """
    return np.where((labels > 0) & ~np.isin(labels, ids), np.int32(UNKNOWN), labels)


def annotated(labels: Labels, reach: float = REACH, pseudo: NDArray[np.integer[Any]] | None = None) -> Labels:
    """What a sparse label image says: its cells, and background near them; all else is not known.

    Args:
        labels: (H, W), 0 is background, -1 is not known.
        reach: pixels; background further than that from every labelled cell is not known, so that nothing is known of
            an image without a labelled cell. 0: no background is known; infinite: all of it is, also without a cell.
        pseudo: (H, W) pseudo labels. Where ``labels`` hold no -1 at all, as when somebody outlined some cells and drew
            no more, pixels of pseudo cells are not known either, unless labelled: cells that were not outlined.

    Raises:
        UsageError: a reach that is no distance.
    """
    if not reach >= 0:
        raise UsageError("reach", f"cannot be {reach:g}", "give a number of pixels from 0 on, or inf")
    cell = labels > 0
    known = labels >= 0
    if pseudo is not None and known.all():
        known &= cell | (pseudo == 0)
    if math.isfinite(reach):
        known &= distance_transform_edt(~cell) <= reach if cell.any() else np.zeros_like(cell)
    return np.where(known, labels, np.int32(UNKNOWN))


def corrected(pseudo: NDArray[np.integer[Any]], sparse: Labels, reach: float = REACH) -> Labels:
    """Pseudo labels corrected by sparse ones (Cellulus: predicted objects that overlap annotations are masked).

    Pseudo cells that share a pixel with a labelled cell are dropped, and the labelled cells take their place. Known
    background near labelled cells clears the pixels of other pseudo cells. What is left of dropped ones, where nothing
    is known, is not known.

    Args:
        pseudo: (H, W) labels of a segmentation, 0 is background; what is negative is not known.
        sparse: (H, W) labels, 0 is background, -1 is not known.
        reach: of known background; see :func:`annotated`.

    Returns:
        (H, W), cells numbered from 1 without gaps, the labelled ones first, each by raster order.

    Raises:
        UsageError: a reach that is no distance.
    """
    cell = sparse > 0
    known = annotated(sparse, reach, pseudo) >= 0
    dropped = (pseudo > 0) & np.isin(pseudo, np.unique(pseudo[cell]))
    labelled, former = relabel_in_raster_order(np.where(cell, sparse, 0))
    others = relabel_in_raster_order(np.where((pseudo > 0) & ~dropped & ~known, pseudo, 0))[0]
    result = np.where(others > 0, others + np.int32(len(former)), labelled)
    result[(dropped | (pseudo < 0)) & ~known] = UNKNOWN
    return result
