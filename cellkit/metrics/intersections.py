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
LARGEST_ID = 2**32 - 1  # so that a pair of ids is one 64-bit code
CODE_BITS = 64
WORD_BITS = 3
WORD = 1 << WORD_BITS  # flags of one byte each in a word of 64 bits


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

    @cached_property
    def truth_firsts(self) -> Integers:
        """Position of the first pair of each truth object that has one, ascending."""
        return _firsts(self.truth) if self.truth.size else self.truth


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
    check_pair(truth, prediction, key)
    truths, predictions, pixels = _joint_histogram(truth, prediction, key)
    both = (truths > 0) & (predictions > 0)
    truth_ids, truth_index, truth_areas = _objects(truths, pixels)
    by_prediction = np.argsort(predictions, kind="stable")
    predicted_ids, sorted_index, predicted_areas = _objects(predictions[by_prediction], pixels[by_prediction])
    predicted_index = np.empty_like(sorted_index)
    predicted_index[by_prediction] = sorted_index
    shared = pixels[both]
    return Intersections(
        truth_ids=truth_ids,
        predicted_ids=predicted_ids,
        truth_areas=truth_areas,
        predicted_areas=predicted_areas,
        truth=truth_index[both],
        predicted=predicted_index[both],
        pixels=shared,
        truth_foreground=int(truth_areas.sum()),
        predicted_foreground=int(predicted_areas.sum()),
        common_foreground=int(shared.sum()),
    )


def check_pair(truth: Labels, prediction: Labels, key: str) -> None:
    """Refuse what is no pair of label images of one shape.

    Raises:
        InputError: the shapes differ, or an array is no label image.
    """
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


def _joint_histogram(truth: Labels, prediction: Labels, key: str) -> tuple[Integers, Integers, Integers]:
    """The pairs of ids that occur, by truth, then prediction, and their pixels; not background on background."""
    height, width = truth.shape
    rows = max(1, BAND_PIXELS // max(1, width))
    bands = [
        _band(truth[top : top + rows].ravel(), prediction[top : top + rows].ravel(), key)
        for top in range(0, height if width else 0, rows)
    ]
    if len(bands) == 1:
        return bands[0]
    columns = [np.concatenate(column) for column in zip(*bands, strict=True)] or [np.empty(0, np.int64)] * 3
    return _summed(columns[0], columns[1], columns[2])


def _band(truth: Labels, prediction: Labels, key: str) -> tuple[Integers, Integers, Integers]:
    """As :func:`_joint_histogram`, of some rows."""
    starts = _run_starts(truth, prediction)
    lengths = np.diff(starts, append=truth.size)
    return _summed(_ids(truth[starts], "truth", key), _ids(prediction[starts], "prediction", key), lengths)


def _run_starts(truth: Labels, prediction: Labels) -> Integers:
    """Where either id changes, and 0. Words of eight flags are looked at first: few of them hold any."""
    size = truth.size
    flags = np.zeros(-(-size // WORD) * WORD, bool)
    flags[0] = True
    np.not_equal(truth[1:], truth[:-1], out=flags[1:size])
    flags[1:size] |= prediction[1:] != prediction[:-1]
    words = flags.view(np.uint64)
    held = np.flatnonzero(words != 0)
    inside = np.flatnonzero(words[held].view(bool))
    starts: Integers = held[inside >> WORD_BITS] * WORD + (inside & (WORD - 1))
    return starts


def _ids(labels: Labels, name: str, key: str) -> Integers:
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest > LARGEST_ID:
        wrong = lowest if lowest < 0 else highest
        raise InputError(key, f"{name} holds the label {wrong}", f"labels are 0 (background) to {LARGEST_ID}")
    return labels.astype(np.int64)


def _summed(truths: Integers, predictions: Integers, pixels: Integers) -> tuple[Integers, Integers, Integers]:
    """Each pair of ids once, by truth, then prediction, with the sum of its pixels; not background on background.

    Code and pixels are packed into one number, if they fit: sorting numbers is several times faster than finding their
    order.
    """
    if pixels.size == 0:
        return truths, predictions, pixels
    base = np.uint64(predictions.max() + 1)
    codes = truths.astype(np.uint64)
    codes *= base
    codes += predictions.view(np.uint64)
    bits = int(pixels.max()).bit_length()
    if int(codes.max()).bit_length() + bits <= CODE_BITS:
        codes <<= np.uint64(bits)
        codes |= pixels.view(np.uint64)
        codes.sort()
        pixels = (codes & np.uint64((1 << bits) - 1)).view(np.int64)
        codes >>= np.uint64(bits)
    else:
        order = np.argsort(codes)
        codes, pixels = codes[order], pixels[order]
    firsts = _firsts(codes)
    sums = np.add.reduceat(pixels, firsts)
    alone = int(codes[0] == 0)
    truths, predictions = np.divmod(codes[firsts[alone:]], base)
    return truths.view(np.int64), predictions.view(np.int64), sums[alone:]


def _firsts(ascending: NDArray[Any]) -> Integers:
    """Where a new value begins; not for an empty array."""
    return np.concatenate(([0], np.flatnonzero(ascending[1:] != ascending[:-1]) + 1))


def _objects(ids: Integers, pixels: Integers) -> tuple[Integers, Integers, Integers]:
    """Of ascending ids: those without background, the object number of each row (-1 for background), and the areas."""
    if ids.size == 0:
        return ids, ids, pixels
    firsts = _firsts(ids)
    numbers = np.zeros(ids.size, np.int64)
    numbers[firsts] = 1
    found = ids[firsts]
    background = int(found[0] == 0)
    index = np.cumsum(numbers) - (1 + background)
    return found[background:], index, np.add.reduceat(pixels, firsts)[background:]
