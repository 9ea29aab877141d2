"""The sparse table of intersections of two label images: what every metric of this room is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError

Integers: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[Any]

BAND_PIXELS = 1 << 18  # rows are taken in bands that stay in the processor's cache: bounded memory, one pass
PREDICTION_BITS = np.uint64(32)  # a pair of ids is one 64-bit code: truth in the upper half, prediction in the lower
LARGEST_ID = 2**32 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Intersections:
    """Which truth object shares how many pixels with which predicted object.

    Objects are counted from 0 in the order of their ids; pairs are those that share at least one pixel, ordered by
    truth, then by prediction. Instances that overlap each other fit too: only the foreground is counted apart.

    Attributes:
        truth_ids: (N,) ids of the truth objects, ascending, gaps allowed.
        predicted_ids: (M,) ids of the predicted objects.
        truth_areas: (N,) pixels of each truth object.
        predicted_areas: (M,) pixels of each predicted object.
        truth: (K,) truth object of each pair, in [0, N).
        predicted: (K,) predicted object of each pair, in [0, M).
        pixels: (K,) pixels that the pair shares.
        truth_foreground: pixels that belong to any truth object.
        predicted_foreground: pixels that belong to any predicted object.
        common_foreground: pixels that belong to both.
    """

    truth_ids: Integers
    predicted_ids: Integers
    truth_areas: Integers
    predicted_areas: Integers
    truth: Integers
    predicted: Integers
    pixels: Integers
    truth_foreground: int
    predicted_foreground: int
    common_foreground: int

    @cached_property
    def unions(self) -> Integers:
        """(K,) pixels that belong to either object of each pair."""
        return self.truth_areas[self.truth] + self.predicted_areas[self.predicted] - self.pixels

    @cached_property
    def iou(self) -> Floats:
        """(K,) intersection over union of each pair, (0, 1].

        Equal fractions give equal numbers, and comparing with a two-digit threshold is exact (areas below 2**45).
        """
        quotient: Floats = self.pixels / self.unions
        return quotient


def intersections(truth: Labels, prediction: Labels, key: str = "labels") -> Intersections:
    """Count the shared pixels of all pairs of objects in one pass over both images.

    Only the starts of runs along the rows are sorted, so that neither gaps in the ids nor the product of the object
    counts matter.

    Args:
        truth: (H, W) label image of integers, 0 is background.
        prediction: (H, W) label image of integers, 0 is background.
        key: name of the image, for messages.

    Raises:
        InputError: the shapes differ, or an image holds something else than labels.
    """
    _check(truth, prediction, key)
    codes, pixels = _joint_histogram(truth, prediction, key)
    truths = (codes >> PREDICTION_BITS).astype(np.int64)
    predictions = (codes & np.uint64(LARGEST_ID)).astype(np.int64)
    truth_ids, truth_index, truth_areas = _objects(truths, pixels)
    predicted_ids, predicted_index, predicted_areas = _objects(predictions, pixels)
    both = (truths > 0) & (predictions > 0)
    return Intersections(
        truth_ids=truth_ids,
        predicted_ids=predicted_ids,
        truth_areas=truth_areas,
        predicted_areas=predicted_areas,
        truth=truth_index[both],
        predicted=predicted_index[both],
        pixels=pixels[both],
        truth_foreground=int(truth_areas.sum()),
        predicted_foreground=int(predicted_areas.sum()),
        common_foreground=int(pixels[both].sum()),
    )


def _check(truth: Labels, prediction: Labels, key: str) -> None:
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.ndim != 2 or labels.dtype.kind not in "iub":
            raise InputError(
                key,
                f"{name} is an array of {labels.dtype} with {labels.ndim} axes, not a label image",
                "give integers of height x width, 0 is background",
            )
    if truth.shape != prediction.shape:
        problem = f"truth is {_size(truth)} but the prediction is {_size(prediction)}"
        raise InputError(key, problem, "both must be labels of the same pixels, height x width")


def _size(labels: Labels) -> str:
    return " x ".join(str(side) for side in labels.shape)


def _joint_histogram(truth: Labels, prediction: Labels, key: str) -> tuple[NDArray[np.uint64], Integers]:
    """Ascending codes of the pairs of ids that occur (background with background left out), and their pixels."""
    height, width = truth.shape
    rows = max(1, BAND_PIXELS // max(1, width))
    bands = [
        _band(truth[top : top + rows].ravel(), prediction[top : top + rows].ravel(), key)
        for top in range(0, height if width else 0, rows)
    ]
    if not bands:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    return _sum_by_code(np.concatenate([band[0] for band in bands]), np.concatenate([band[1] for band in bands]))


def _band(truth: Labels, prediction: Labels, key: str) -> tuple[NDArray[np.uint64], Integers]:
    changes = (truth[1:] != truth[:-1]) | (prediction[1:] != prediction[:-1])
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    lengths = np.diff(starts, append=truth.size)
    codes = _ids(truth[starts], "truth", key) << PREDICTION_BITS | _ids(prediction[starts], "prediction", key)
    foreground = codes > 0
    return _sum_by_code(codes[foreground], lengths[foreground])


def _ids(labels: Labels, name: str, key: str) -> NDArray[np.uint64]:
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest > LARGEST_ID:
        wrong = lowest if lowest < 0 else highest
        raise InputError(key, f"{name} holds the label {wrong}", f"labels are 0 (background) to {LARGEST_ID}")
    return labels.astype(np.uint64)


def _sum_by_code(codes: NDArray[np.uint64], pixels: Integers) -> tuple[NDArray[np.uint64], Integers]:
    if codes.size == 0:
        return codes, pixels
    order = np.argsort(codes)
    codes = codes[order]
    firsts = np.concatenate(([0], np.flatnonzero(codes[1:] != codes[:-1]) + 1))
    return codes[firsts], np.add.reduceat(pixels[order], firsts)


def _objects(ids: Integers, pixels: Integers) -> tuple[Integers, Integers, Integers]:
    """Ids without background, the object number of each row (-1 for background), and the areas."""
    found, index = np.unique(ids, return_inverse=True)
    areas = np.bincount(index, weights=pixels, minlength=found.size).astype(np.int64)
    background = int(found.size > 0 and found[0] == 0)
    return found[background:], index - background, areas[background:]
