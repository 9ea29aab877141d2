"""Which anchors a detector starts from: COCO's, LIVECell's, or such as the objects of the images ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.config import Preprocessing
from cellkit.data.coco import CocoLabels
from cellkit.data.detection_crops import pack
from cellkit.data.diameter import diameter_of
from cellkit.data.scale import scale_of
from cellkit.data.truth import LabelRef
from cellkit.errors import NoInputError
from cellkit.ops.anchors import COCO, LIVECELL, AnchorSet

if TYPE_CHECKING:
    from cellkit.data.layouts import Pair

AnchorsName: TypeAlias = Literal["coco", "livecell", "data"]

QUANTILES = (0.05, 0.95)  # of the objects' sizes: between them the anchors lie
SMALLEST, LARGEST = 4.0, 32.0  # pixels; the least size of LIVECell's and of COCO's anchors
STEP = 2.0  # from level to level: a map of twice the stride for objects of twice the size
SLENDER = 2 * 2**0.5  # half-way, in octaves, from a side twice as long to one four times as long
MANY = 0.05  # of the objects that are so slender ask for slender anchors
LOOKED_AT = 200  # images that tell the sizes


def anchors_for(choice: AnchorsName, sides: NDArray[np.floating]) -> AnchorSet:
    """The anchors of a choice.

    ``data``: one size on each of P2 to P6. The smallest is the size that a twentieth of the objects falls below, from 4
    to 32 pixels; each further one is twice as large, or by as much as is needed for the largest to be the size that a
    twentieth exceeds. So the size of an anchor in pixels of its map is about the same on all maps, as the one head that
    serves them wants it. Ratios are 1/2, 1 and 2, and where a twentieth of the boxes is more slender than
    1 : 2.8 also 1/4 and 4. The size of a box is the square root of its area.

    Args:
        choice: which.
        sides: (N, 2) heights and widths of boxes in pixels, as the network sees them; for ``data``.

    Raises:
        NoInputError: the objects shall tell, and there is none.
    """
    if choice != "data":
        return {"coco": COCO, "livecell": LIVECELL}[choice]
    if not len(sides):
        raise NoInputError("anchors", "there is no object whose size could tell them", "outline some first")
    small, large = np.quantile(np.sqrt(sides.prod(1)), QUANTILES)
    first = float(np.clip(small, SMALLEST, LARGEST))
    levels = COCO.levels
    step = max(STEP, (large / first) ** (1 / (len(levels) - 1)))
    slender = np.maximum(sides[:, 0] / sides[:, 1], sides[:, 1] / sides[:, 0]) > SLENDER
    sizes = tuple((round(float(first * step**place), 1),) for place in range(len(levels)))
    return AnchorSet(levels=levels, sizes=sizes, ratios=LIVECELL.ratios if slender.mean() >= MANY else COCO.ratios)


def object_sides(pairs: Sequence[Pair], preprocessing: Preprocessing) -> NDArray[np.float64]:
    """Heights and widths (N, 2) of the boxes of objects in pixels, at the scale at which a network sees the images.

    Of more than 200 images, 200 tell, evenly taken. Only annotations are read.

    Raises:
        InputError: an annotation cannot be read.
    """
    found = [np.zeros((0, 2))]
    for index in np.linspace(0, len(pairs) - 1, min(LOOKED_AT, len(pairs))).round().astype(int):
        truth = _quietly(pairs[index].labels).read()
        boxes = pack(truth).boxes.astype(np.float64)
        scale = 1.0
        if preprocessing.diameter is not None:
            scale = scale_of(preprocessing, preprocessing.typical or diameter_of(truth.labels))
        found.append(scale * (boxes[:, [3, 2]] - boxes[:, [1, 0]]))
    sides = np.concatenate(found)
    return sides[(sides > 0).all(1)]


def _quietly(labels: LabelRef) -> LabelRef:
    """Labels that say nothing of objects without a pixel: that is said once, when they are learned from."""
    if isinstance(labels, CocoLabels) and labels.has_masks:
        return replace(labels, purpose="prediction")
    return labels
