"""Situations for the tests of data."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import disc


def radial(labels: np.ndarray) -> np.ndarray:
    """Fields (3, H, W): unit vectors from each cell's centre outwards (y, x), and the mask."""
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(np.float32)
    fields = np.zeros((3, *labels.shape), np.float32)
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        down, right = y - y[inside].mean(), x - x[inside].mean()
        length = np.hypot(down, right)
        length[length == 0] = 1
        fields[0][inside], fields[1][inside] = (down / length)[inside], (right / length)[inside]
    fields[2] = labels > 0
    return fields
