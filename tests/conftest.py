"""Shared fixtures: the real images, where they are, and named synthetic situations."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# the same examples in every run, and no clock: tests are never timed
settings.register_profile("cellkit", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("cellkit")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _audible_log():
    """What a command that ran in this process, also for a fixture of many tests, set up for its log is gone."""
    log = logging.getLogger("cellkit")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real annotated images; CELLKIT_DATA names another place."""
    folder = Path(os.environ.get("CELLKIT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real images are absent: {folder} (set CELLKIT_DATA)")
    return folder


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    """Boolean disc (H, W)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


@pytest.fixture
def two_touching_cells() -> np.ndarray:
    """Labels (64, 80): two discs of radius 14 that share a straight border."""
    labels = np.zeros((64, 80), np.int32)
    labels[disc(labels.shape, (32, 26), 14)] = 1
    labels[disc(labels.shape, (32, 50), 14) & (labels == 0)] = 2
    return labels


@pytest.fixture
def cell_on_border() -> np.ndarray:
    """Labels (48, 48): one cell cut by the upper edge, one whole."""
    labels = np.zeros((48, 48), np.int32)
    labels[disc(labels.shape, (2, 20), 9)] = 1
    labels[disc(labels.shape, (32, 30), 8)] = 2
    return labels


@pytest.fixture
def empty_field() -> np.ndarray:
    """Labels (40, 56) without any cell."""
    return np.zeros((40, 56), np.int32)


@pytest.fixture
def crowded_field() -> np.ndarray:
    """Labels (128, 128): a grid of 6 x 6 cells of radius 4 to 9, many touching, ids with gaps."""
    labels = np.zeros((128, 128), np.int32)
    for i in range(36):
        centre = (12 + 20 * (i // 6), 12 + 20 * (i % 6))
        labels[disc(labels.shape, centre, 4 + i % 6) & (labels == 0)] = 3 * i + 1
    return labels
