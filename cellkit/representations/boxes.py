"""Boxes: a detector finds cells one by one, each with a box, a score, a category and a mask; they may overlap.

Nothing is decoded from maps: what is left to choose is which of the objects are cells of a label image, where a pixel
belongs to one cell at most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cellkit.config import DetectSettings
from cellkit.ops.detections import Detections
from cellkit.ops.instances import Instances
from cellkit.ops.labelling import in_raster_order, run_areas, with_filled_holes, without, without_border
from cellkit.ops.run_lengths import Indices
from cellkit.ops.runs import Neighbours, Runs, paint, runs_of, spread
from cellkit.representations.mask_cells import whole_from
from cellkit.representations.representation import DecodeSettings, Limits, ObjectRepresentation

PART = "from 0 to 1"


@dataclass(frozen=True, kw_only=True)
class BoxesSettings(DetectSettings, DecodeSettings):
    """How a detector finds objects, and which of them are the cells of a label image.

    What comes before ``cell_score`` is decided when images are predicted, and changes nothing afterwards.

    Attributes:
        before_nms: proposals of each level that are compared, best first.
        proposals: that are left of an image, and looked at by the heads.
        proposal_overlap: intersection over union above which the lesser of two proposals of a level is dropped.
        least_score: objects below it are dropped.
        overlap: intersection over union above which the lesser of two objects of a category is dropped.
        most: objects of a tile at most, best first.
        mask_threshold: probability from which a pixel belongs to an object.
        cell_score: objects of a lower score are in the prediction, but no cells of the label image.
        least_visible: part of an object that better ones leave free; of which they leave less, it is no cell.
        min_area: pixels of the image; smaller cells are dropped.
        max_fraction: of the image; larger cells are dropped.
        fill_holes: give holes to the cell around them.
        exclude_border: drop cells at the edge of the image.
    """

    cell_score: float = 0.5
    least_visible: float = 0.5
    min_area: int = 15
    max_fraction: float = 1.0
    fill_holes: bool = True
    exclude_border: bool = False

    def limits(self) -> Limits:
        """Of each setting that can be wrong: whether it is right, and what it may be."""
        parts = ("proposal_overlap", "least_score", "overlap", "cell_score", "least_visible")
        return {
            **{name: whole_from(getattr(self, name), 1, "boxes") for name in ("before_nms", "proposals", "most")},
            **{name: (0 <= getattr(self, name) <= 1, f"a number {PART}") for name in parts},
            "mask_threshold": (0 < self.mask_threshold <= 1, "a probability above 0 and up to 1"),
            "min_area": whole_from(self.min_area, 0, "pixels"),
            "max_fraction": (0 < self.max_fraction <= 1, "a fraction of the image above 0 and up to 1 (keep all)"),
        }


def flatten(detections: Detections, settings: BoxesSettings) -> Instances:
    """Cells of a label image; see :func:`flat_runs`."""
    runs, scores = flat_runs(detections, settings)
    return Instances(paint(runs, runs.values), scores)


def flat_runs(detections: Detections, settings: BoxesSettings) -> tuple[Runs, NDArray[np.float32]]:
    """Cells of a label image: where objects overlap, the better one is on top.

    From the best on, each object takes the pixels that are still free. One that finds less of its mask free than
    ``least_visible`` takes nothing: it is mostly hidden, or the same cell once more.

    Args:
        detections: objects of an image (H, W), best first.
        settings: of decoding.

    Returns:
        runs that tile the image, with int32 cells numbered in raster order; and the score (n,) of each. They are a
        hundredth of the label image of (H, W) int32, which is in memory once while they are found.
    """
    runs = runs_of(_painted(detections, settings))
    size = run_areas(runs.values, runs)
    largest = settings.max_fraction * detections.shape[0] * detections.shape[1]
    cells = without(runs.values, (size < settings.min_area) | (size > largest))
    if settings.fill_holes:
        cells = with_filled_holes(cells, Neighbours(runs))
    if settings.exclude_border:
        cells = without_border(cells, runs)
    numbers, former = in_raster_order(cells)
    return replace(runs, values=numbers), detections.scores[former - 1].astype(np.float32)


def _painted(detections: Detections, settings: BoxesSettings) -> NDArray[np.int32]:
    """Label image (H, W): pixels of object i that no better one holds are i + 1."""
    height, width = detections.shape
    flat = np.zeros(height * width, np.int32)
    masks = detections.masks
    order = np.argsort(masks.owners, kind="stable")
    starts, lengths = masks.starts[order], masks.lengths[order]
    ends = np.cumsum(np.bincount(masks.owners, minlength=len(detections)))
    for index in np.flatnonzero(detections.scores >= settings.cell_score).tolist():
        own = slice(ends[index - 1] if index else 0, ends[index])
        columns, rows = np.divmod(spread(starts[own], lengths[own]), height)  # run lengths go down the columns
        pixels: Indices = rows * width + columns
        free = pixels[flat[pixels] == 0]
        if len(free) >= settings.least_visible * len(pixels):
            flat[free] = index + 1
    return flat.reshape(height, width)


BOXES = ObjectRepresentation(name="boxes", settings=BoxesSettings, flatten=flatten, flat_runs=flat_runs)
