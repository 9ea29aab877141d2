"""The cells of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Instances:
    """Cells as a label image, with one score each.

    Attributes:
        labels: (H, W) int32; 0 is background, cells are 1 to n in raster order of their first pixels.
        scores: (n,) float32 in [0, 1]; ``scores[i]`` belongs to label ``i + 1``.
        outlines: (n, K, 2) float32 corners of the polygons that the cells were drawn from, row and column in pixels,
            (0, 0) is the centre of the first pixel; None: they were not. They may overlap; the higher score is on top.
    """

    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    outlines: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls, shape: tuple[int, int]) -> Instances:
        """No cells on (H, W)."""
        return cls(np.zeros(shape, np.int32), np.zeros(0, np.float32))
