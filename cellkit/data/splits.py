"""Which images train, validate or serve as shots: drawn by seed, independent of the order of the names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellkit.errors import UsageError


def split(keys: Sequence[str], fraction: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Split keys at random into two parts; each keeps the order given.

    Args:
        keys: unique names of images.
        fraction: share of the second part, 0 to 1; at least one key and at most all but one, when it is above 0.
        seed: equal seeds give equal splits.

    Returns:
        (kept, held back).

    Raises:
        UsageError: the fraction is not in [0, 1), or one image alone cannot be split.
    """
    if not 0 <= fraction < 1:
        raise UsageError("fraction", f"{fraction:g} is no share of the images", "give a number from 0 to below 1")
    if fraction == 0:
        return list(keys), []
    if len(keys) < 2:
        raise UsageError("fraction", f"{len(keys)} images cannot be split", "give at least 2 images, or 0")
    count = min(max(round(fraction * len(keys)), 1), len(keys) - 1)
    held = set(_shuffled(keys, seed)[:count])
    return [key for key in keys if key not in held], [key for key in keys if key in held]


def draw_shots(keys: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Draw ``count`` keys at random; with one seed the shots of a smaller draw are among those of a larger one.

    Raises:
        UsageError: there are fewer keys than shots, or the count is not positive.
    """
    if not 1 <= count <= len(keys):
        raise UsageError("shots", f"{count} asked for, {len(keys)} annotated images there", f"1 to {len(keys)}")
    return _shuffled(keys, seed)[:count]


def _shuffled(keys: Sequence[str], seed: int) -> list[str]:
    ordered = sorted(keys)
    return [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
