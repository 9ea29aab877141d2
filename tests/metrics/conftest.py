"""Pairs of truth and prediction, and the independent implementations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import imageio.v3 as imageio
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

SMALL_LABELS = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda shape: st.tuples(*[arrays(np.int32, shape, elements=st.integers(0, 4)) for _ in range(2)])
)


def situations() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction, (16, 20) each, by what is the matter with the prediction."""
    empty = np.zeros((16, 20), np.int32)
    pair, cell, moved = empty.copy(), empty.copy(), empty.copy()
    pair[2:10, 2:6], pair[2:10, 6:10] = 4, 9
    cell[2:10, 2:10] = 3
    moved[2:10, 4:12] = 1
    uneven = empty.copy()
    uneven[2:10, 2:7], uneven[2:10, 7:10] = 1, 2
    return {
        "perfect": (pair, pair),
        "merged_pair": (pair, cell),
        "unevenly_merged_pair": (uneven, cell),
        "split_cell": (cell, pair),
        "shifted_cell": (cell, moved),
        "empty_truth": (empty, pair),
        "empty_prediction": (pair, empty),
        "both_empty": (empty, empty),
    }


@pytest.fixture
def situation() -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    return situations().__getitem__


@pytest.fixture(scope="session")
def small_labels() -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Strategy: two label images of one shape, at most 7 x 7, with at most 4 objects."""
    return SMALL_LABELS


@pytest.fixture(scope="session")
def perturbed() -> Callable[[np.ndarray, int], np.ndarray]:
    """Cells moved, lost, merged and split, as a network would; ids with gaps."""

    def perturb(labels: np.ndarray, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        table = np.arange(labels.max() + 1)
        ids = np.unique(labels)[1:]
        fate = rng.random(ids.size)
        table[ids[fate < 0.1]] = 0
        merged = ids[(fate >= 0.1) & (fate < 0.2)]
        table[merged] = rng.choice(ids, merged.size)
        worse = table[labels] * 3
        split = np.isin(labels, ids[fate > 0.9]) & (np.arange(labels.shape[1]) // 5 % 2 == 0)
        worse[split] += 1
        return np.roll(worse, rng.integers(-3, 4, 2), (0, 1)).astype(np.int32)

    return perturb


@pytest.fixture(scope="session")
def real_pairs(data: Path, perturbed) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every 50th label image of dsb2018, and a perturbed version."""
    paths = sorted((data / "dsb2018" / "labels").iterdir())[::50]
    truths = [imageio.imread(path).astype(np.int32) for path in paths]
    return [(truth, perturbed(truth, seed)) for seed, truth in enumerate(truths)]


@pytest.fixture(scope="session")
def stardist() -> ModuleType:
    """stardist's matching module; importing it must not change how warnings look."""
    shown = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stardist import matching
    warnings.formatwarning = shown
    return matching
