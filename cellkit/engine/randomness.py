"""The random numbers of Python, NumPy and torch: seeded together, saved and restored together."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

SEED_LIMIT = 2**32  # NumPy takes no larger seed


def set_seed(seed: int) -> None:
    """Seed Python, NumPy (its global generator, which libraries use) and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % SEED_LIMIT)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The states of all generators, as tensors and plain values that a checkpoint can hold."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    words_of_numpy = torch.from_numpy(np.asarray(keys, np.int64))  # torch saves no uint32
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), words_of_numpy, int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """What is drawn inside does not change what is drawn after."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
