"""The objects of one image, which may overlap each other, and the pixels that two sets of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from cellkit.errors import InputError
from cellkit.metrics.intersections import LARGEST_ID, Floats, Integers, Intersections, Labels
from cellkit.ops.run_lengths import MaskRuns, RunLength, runs_of_labels, runs_of_masks
from cellkit.ops.runs import spread

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Instances:
    """Objects of one image; they may overlap each other.

    Their order is that of the file or of the ids; where COCO's rules leave a tie it decides.

    Attributes:
        shape: (H, W).
        ids: (N,) label values or annotation ids, unique.
        owners: (R,) object of each run, in [0, N).
        starts: (R,) first pixel of each run in the image flattened by columns (as COCO run lengths).
        lengths: (R,) pixels of each run, > 0.
        areas: (N,) square pixels for COCO's area ranges: the annotation's ``area`` where there is one, else the pixels.
        pixels: (N,) pixels of the mask.
        boxes: (N, 4) x, y, width, height: the annotation's ``bbox`` where there is one, else the tight box of the mask.
        scores: (N,) scores, 1.0 where there are none.
        categories: (N,) categories, 1 where there are none.
        crowd: (N,) whether it stands for a crowd of objects.
        has_masks: False for boxes alone: nothing that needs masks is defined.
    """

    shape: tuple[int, int]
    ids: Integers
    owners: Integers
    starts: Integers
    lengths: Integers
    areas: Floats
    pixels: Integers
    boxes: Floats
    scores: Floats
    categories: Integers
    crowd: Flags
    has_masks: bool = True

    def __len__(self) -> int:
        return int(self.ids.size)

    def take(self, chosen: NDArray[Any]) -> Instances:
        """The objects that a boolean mask (N,) or an array of unique indices names, in its order."""
        index = np.arange(len(self))[chosen]
        place = np.full(len(self), -1, np.int64)
        place[index] = np.arange(index.size)
        owners = place[self.owners]
        kept = owners >= 0
        return Instances(
            shape=self.shape,
            ids=self.ids[index],
            owners=owners[kept],
            starts=self.starts[kept],
            lengths=self.lengths[kept],
            areas=self.areas[index],
            pixels=self.pixels[index],
            boxes=self.boxes[index],
            scores=self.scores[index],
            categories=self.categories[index],
            crowd=self.crowd[index],
            has_masks=self.has_masks,
        )


def instances_of_labels(labels: Labels, scores: ArrayLike | None = None, *, key: str = "labels") -> Instances:
    """The objects of a label image in one pass.

    Args:
        labels: (H, W) integers, 0 is background; ids may have gaps.
        scores: (n,) ``scores[i]`` belongs to label ``i + 1``; 1.0 without.
        key: name of the image, for messages.

    Raises:
        InputError: it is no label image, or there are labels without a score.
    """
    _check_labels(labels, key)
    ids, runs = runs_of_labels(labels)
    shape = (int(labels.shape[0]), int(labels.shape[1]))
    pixels, boxes = _measured(runs, ids.size, shape)
    return Instances(
        shape=shape,
        ids=ids,
        owners=runs.owners,
        starts=runs.starts,
        lengths=runs.lengths,
        areas=pixels.astype(np.float64),
        pixels=pixels,
        boxes=boxes,
        scores=_scores_of(ids, scores, key),
        categories=np.ones(ids.size, np.int64),
        crowd=np.zeros(ids.size, bool),
    )


def instances_of_run_lengths(  # noqa: PLR0913 - each argument is a column of the annotations
    masks: Sequence[RunLength],
    shape: tuple[int, int],
    *,
    ids: ArrayLike | None = None,
    areas: ArrayLike | None = None,
    boxes: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    categories: ArrayLike | None = None,
    crowd: ArrayLike | None = None,
    key: str = "image",
) -> Instances:
    """Objects from one run-length mask each, or from boxes alone where ``masks`` is empty.

    Args:
        masks: N masks, compressed as COCO has them; empty for boxes alone.
        shape: (H, W) of the image.
        ids: (N,) 1 to N without.
        areas: (N,) NaN or none: the pixels of the mask; of boxes alone width x height.
        boxes: (N, 4) x, y, width, height; NaN or none: the tight box of the mask.
        scores: (N,) 1.0 without.
        categories: (N,) 1 without.
        crowd: (N,) False without.
        key: name of the image, for messages.

    Raises:
        InputError: a mask is damaged or has another size than the image.
    """
    has_masks = len(masks) > 0 or boxes is None or np.size(boxes) == 0
    given = np.zeros((0, 4)) if boxes is None else np.asarray(boxes, np.float64).reshape(-1, 4)
    count = len(masks) if has_masks else len(given)
    runs = _runs_checked(masks, shape, key)
    pixels, tight = _measured(runs, count, shape)
    boxed = tight if boxes is None else np.where(np.isnan(given), tight, given)
    measured = pixels.astype(np.float64) if has_masks else boxed[:, 2] * boxed[:, 3]
    area = measured if areas is None else np.where(np.isnan(given_areas := _floats(areas)), measured, given_areas)
    return Instances(
        shape=(int(shape[0]), int(shape[1])),
        ids=np.arange(1, count + 1) if ids is None else np.asarray(ids, np.int64),
        owners=runs.owners,
        starts=runs.starts,
        lengths=runs.lengths,
        areas=area,
        pixels=pixels,
        boxes=boxed,
        scores=np.ones(count) if scores is None else _floats(scores),
        categories=np.ones(count, np.int64) if categories is None else np.asarray(categories, np.int64),
        crowd=np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
        has_masks=has_masks,
    )


def without_crowd(instances: Instances) -> Instances:
    """The objects that stand for themselves alone."""
    return instances.take(~instances.crowd) if instances.crowd.any() else instances


def overlaps(truth: Instances, predicted: Instances, key: str = "image") -> Intersections:
    """The table of intersections of two sets of objects that may overlap each other, crowds as any other.

    For label images it equals :func:`cellkit.metrics.intersections.intersections`. Objects are in the order of their
    ids. Foreground counts a pixel once, however many objects hold it.

    Raises:
        InputError: the shapes differ, or one side has boxes alone.
    """
    first, second = np.argsort(truth.ids, kind="stable"), np.argsort(predicted.ids, kind="stable")
    one, other, pixels = shared_pixels(truth, predicted, key)
    one, other = _inverse(first)[one], _inverse(second)[other]
    order = np.lexsort((other, one))
    truth_cover, predicted_cover = _cover(truth), _cover(predicted)
    return Intersections(
        truth_ids=truth.ids[first],
        predicted_ids=predicted.ids[second],
        truth_areas=truth.pixels[first],
        predicted_areas=predicted.pixels[second],
        truth=one[order],
        predicted=other[order],
        pixels=pixels[order],
        truth_foreground=int((truth_cover[1] - truth_cover[0]).sum()),
        predicted_foreground=int((predicted_cover[1] - predicted_cover[0]).sum()),
        common_foreground=_common(truth_cover, predicted_cover),
    )


def shared_pixels(truth: Instances, predicted: Instances, key: str = "image") -> tuple[Integers, Integers, Integers]:
    """The pairs of objects that share pixels, ordered by truth, then by prediction.

    Work and memory grow with the pairs of runs that meet; nothing is as large as the image or as all pairs of objects.

    Returns:
        (K,) truth object, (K,) predicted object, (K,) pixels shared.

    Raises:
        InputError: the shapes differ, or one side has boxes alone.
    """
    _check_pair(truth, predicted, key)
    truth_ends, predicted_ends = truth.starts + truth.lengths, predicted.starts + predicted.lengths
    one, other = meeting(truth.starts, truth_ends, predicted.starts, predicted_ends)
    shared = np.minimum(truth_ends[one], predicted_ends[other]) - np.maximum(truth.starts[one], predicted.starts[other])
    size = (len(truth), len(predicted))
    table = sparse.coo_array((shared, (truth.owners[one], predicted.owners[other])), shape=size).tocsr()
    table.sum_duplicates()
    return np.repeat(np.arange(size[0]), np.diff(table.indptr)), table.indices.astype(np.int64), table.data


def meeting(
    starts: NDArray[Any], ends: NDArray[Any], other_starts: NDArray[Any], other_ends: NDArray[Any]
) -> tuple[Integers, Integers]:
    """All pairs of half-open intervals [start, end) that meet, each once; on each side they may overlap each other.

    Of two intervals that meet, one begins inside the other: that is looked up in the sorted beginnings of either side,
    and a common beginning counts on one side only. An empty interval is found where it lies inside another.

    Returns:
        (P,) index of the one, (P,) index of the other, in no particular order.
    """
    order, others = _ascending(starts), _ascending(other_starts)
    first = np.searchsorted(other_starts[others], starts, side="left")
    counts = np.maximum(np.searchsorted(other_starts[others], ends, side="left") - first, 0)
    one, other = np.repeat(np.arange(starts.size), counts), others[spread(first, counts)]
    first = np.searchsorted(starts[order], other_starts, side="right")
    counts = np.maximum(np.searchsorted(starts[order], other_ends, side="left") - first, 0)
    return (
        np.concatenate([one, order[spread(first, counts)]]),
        np.concatenate([other, np.repeat(np.arange(other_starts.size), counts)]),
    )


def flat_labels(instances: Instances) -> NDArray[np.int32]:
    """Label image (H, W): object ``i`` has label ``i + 1``, the smallest on top, of equal ones the last."""
    order = np.argsort(-instances.pixels, kind="stable")
    place = _inverse(order)[instances.owners]
    runs = np.argsort(place, kind="stable")
    lengths = instances.lengths[runs]
    flat = np.zeros(instances.shape[0] * instances.shape[1], np.int32)
    flat[spread(instances.starts[runs], lengths)] = np.repeat(instances.owners[runs] + 1, lengths)  # the last stays
    return np.ascontiguousarray(flat.reshape(instances.shape[1], instances.shape[0]).T)


def check_shapes(truth: Instances, predicted: Instances, key: str) -> None:
    """See that both are objects of one image.

    Raises:
        InputError: the shapes differ.
    """
    if truth.shape != predicted.shape:
        sizes = [" x ".join(map(str, side.shape)) for side in (truth, predicted)]
        problem = f"truth is {sizes[0]} but the prediction is {sizes[1]}"
        raise InputError(key, problem, "both must be objects of the same pixels, height x width")


def _measured(runs: MaskRuns, count: int, shape: tuple[int, int]) -> tuple[Integers, Floats]:
    """(N,) pixels and (N, 4) tight boxes; 0, 0, 0, 0 for an empty mask, as in pycocotools."""
    height = shape[0]
    pixels = np.bincount(runs.owners, runs.lengths, count).astype(np.int64)
    last = runs.starts + runs.lengths - 1
    columns, last_columns = runs.starts // max(1, height), last // max(1, height)
    crossing = columns != last_columns  # it reaches the lower edge and goes on at the upper one
    rows = np.where(crossing, 0, runs.starts - columns * height)
    last_rows = np.where(crossing, height - 1, last - last_columns * height)
    low, high = np.full((2, count), max(shape)), np.full((2, count), -1)
    for axis, (begins, ends) in enumerate(((columns, last_columns), (rows, last_rows))):
        np.minimum.at(low[axis], runs.owners, begins)
        np.maximum.at(high[axis], runs.owners, ends)
    boxes = np.concatenate([low, high - low + 1]).T.astype(np.float64)
    boxes[pixels == 0] = 0.0
    return pixels, boxes


def _runs_checked(masks: Sequence[RunLength], shape: tuple[int, int], key: str) -> MaskRuns:
    for number, mask in enumerate(masks, 1):
        if tuple(mask["size"]) != tuple(shape):
            sizes = " x ".join(map(str, mask["size"])), " x ".join(map(str, shape))
            raise InputError(key, f"mask {number} is {sizes[0]}, the image is {sizes[1]}", "height x width must agree")
    try:
        runs = runs_of_masks(masks)
    except ValueError as error:
        raise InputError(key, f"a mask is damaged: {error}", "write its run lengths anew") from error
    if runs.starts.size and (runs.starts.min() < 0 or (runs.starts + runs.lengths).max() > shape[0] * shape[1]):
        raise InputError(key, "a mask is damaged: it leaves the image", "write its run lengths anew")
    return runs


def _check_labels(labels: Labels, key: str) -> None:
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        problem = f"an array of {labels.dtype} with {labels.ndim} axes is no label image"
        raise InputError(key, problem, "give integers of height x width, 0 is background")
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    if lowest < 0 or highest > LARGEST_ID:
        wrong = lowest if lowest < 0 else highest
        raise InputError(key, f"there is the label {wrong}", f"labels are 0 (background) to {LARGEST_ID}")


def _scores_of(ids: Integers, scores: ArrayLike | None, key: str) -> Floats:
    if scores is None:
        return np.ones(ids.size)
    given = _floats(scores)
    if ids.size and int(ids[-1]) > given.size:
        problem = f"there are {given.size} scores, but labels up to {ids[-1]}"
        raise InputError(key, problem, "the first score belongs to label 1, and every label needs one")
    return given[ids - 1]


def _check_pair(truth: Instances, predicted: Instances, key: str) -> None:
    check_shapes(truth, predicted, key)
    for name, side in (("truth", truth), ("prediction", predicted)):
        if not side.has_masks:
            raise InputError(key, f"the {name} has boxes but no masks", "score coco/bbox alone, or give masks")


def _cover(instances: Instances) -> tuple[Integers, Integers]:
    """Starts and ends of the stretches that any object holds, ascending and apart."""
    order = _ascending(instances.starts)
    starts = instances.starts[order]
    if not starts.size:
        return starts, starts
    reach = np.maximum.accumulate(starts + instances.lengths[order])
    begins = np.concatenate([[True], starts[1:] > reach[:-1]])
    return starts[begins], reach[np.concatenate([begins[1:], [True]])]


def _common(first: tuple[Integers, Integers], second: tuple[Integers, Integers]) -> int:
    one, other = meeting(*first, *second)
    return int((np.minimum(first[1][one], second[1][other]) - np.maximum(first[0][one], second[0][other])).sum())


def _ascending(values: NDArray[Any]) -> Integers:
    """The order that sorts the values; runs of a label image are sorted already."""
    if (values[1:] >= values[:-1]).all():
        return np.arange(values.size)
    return np.argsort(values, kind="stable")


def _inverse(order: Integers) -> Integers:
    inverse = np.empty(order.size, np.int64)
    inverse[order] = np.arange(order.size)
    return inverse


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float64)
