"""What a detector finds on an image: objects that may overlap, each with box, score, category and mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellkit.ops.run_lengths import MaskRuns


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """The objects of one image, best first.

    Attributes:
        shape: (H, W) of the image.
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels, as ``ops.boxes`` has them.
        scores: (N,) float32 in [0, 1], descending.
        categories: (N,) int32, from 0.
        masks: runs of all masks; ``owners`` are 0 to N - 1. An object may have none.
    """

    shape: tuple[int, int]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    categories: NDArray[np.int32]
    masks: MaskRuns

    def __len__(self) -> int:
        return len(self.scores)
