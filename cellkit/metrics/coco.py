"""COCO average precision and recall, exact to pycocotools."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError
from cellkit.metrics.coco_matching import match_greedily
from cellkit.metrics.coco_pairs import Pairs, find_pairs
from cellkit.metrics.coco_settings import AREAS, RECALLS, AreaRange, CocoSettings, Kind, parse_areas
from cellkit.metrics.instances import Flags, Instances
from cellkit.metrics.intersections import Floats, Integers

__all__ = [
    "AREAS",
    "AreaRange",
    "CocoImage",
    "CocoSettings",
    "Kind",
    "PrecisionRecall",
    "accumulate",
    "coco_image",
    "coco_names",
    "curves",
    "parse_areas",
]

FALSE, MATCHED, IGNORED = 0, 1, 2  # what became of a detection
EPSILON = np.spacing(1)  # pycocotools adds it to the number of detections, so that none gives precision 0


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoImage:
    """What became of the detections of one image.

    Attributes:
        scores: (D,) in descending order within each category.
        categories: (D,) category of each detection; 0 where categories are not used.
        ranks: (D,) place of each detection in its category, from 0.
        outcomes: (A, T, D) int8, false, matched or ignored, by area range and threshold.
        truth_categories: (G,) category of each truth object; 0 where categories are not used.
        counted: (A, G) truth objects that are no crowd and inside the area range.
    """

    scores: Floats
    categories: Integers
    ranks: Integers
    outcomes: NDArray[np.int8]
    truth_categories: Integers
    counted: Flags


@dataclass(frozen=True, kw_only=True, eq=False)
class PrecisionRecall:
    """Precision at recall, of all areas.

    Attributes:
        recall: (101,) 0 to 1.
        thresholds: (T,) IoU thresholds.
        precision: (T, 101) highest precision at that recall or a larger one, mean over categories; NaN without truth.
    """

    recall: Floats
    thresholds: Floats
    precision: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    """Precision (A, K, T, 101), recall (A, K, T) and recall (K, T) at fewer detections, K categories; NaN: no truth."""

    precision: Floats
    recall: Floats
    fewer: dict[int, Floats]


def coco_image(
    truth: Instances, predicted: Instances, settings: CocoSettings, kind: Kind = "segm", *, key: str = "image"
) -> CocoImage:
    """Match the detections of one image.

    Args:
        truth: true objects; crowds and objects outside an area range are ignored, and so is what matches them.
        predicted: detections. Those without a match are ignored where their own area is outside the range.
        settings: what counts.
        kind: IoU of masks or of boxes. ``areas`` of both sides count for the area ranges with either.
        key: name of the image, for messages.

    Raises:
        InputError: a score is NaN, the shapes differ, a box is infinite, or masks are asked for and there are boxes
            alone.

    Source: Lin et al. 2014, Microsoft COCO; ``COCOeval.evaluateImg`` of pycocotools.
    """
    if np.isnan(predicted.scores).any():
        number = int(np.flatnonzero(np.isnan(predicted.scores))[0])
        problem = f"the score of object {predicted.ids[number]} is not a number"
        raise InputError(key, problem, "give every detection a score, or none a score")
    order, categories, ranks = _ranked(predicted, settings)
    truths = np.arange(len(truth)) if settings.categories else np.argsort(truth.categories, kind="stable")
    truth_categories = truth.categories if settings.categories else np.zeros(len(truth), np.int64)
    crowd = truth.crowd[truths]
    ignored = crowd | _outside(truth.areas[truths], settings)
    pairs = _renumbered(find_pairs(truth, predicted, kind, key), truths, order, (len(truth), len(predicted)))
    same = truth_categories[pairs.truth] == categories[pairs.predicted]
    pairs = Pairs(truth=pairs.truth[same], predicted=pairs.predicted[same], iou=pairs.iou[same])
    chosen = match_greedily(pairs, ignored, crowd, settings.thresholds, order.size).transpose(1, 0, 2)
    outcomes = np.where(chosen >= 0, MATCHED, FALSE).astype(np.int8)
    outcomes[(chosen < 0) & _outside(predicted.areas[order], settings)[:, None]] = IGNORED
    area, threshold, detection = np.nonzero(chosen >= 0)
    off = ignored[area, chosen[area, threshold, detection]]
    outcomes[area[off], threshold[off], detection[off]] = IGNORED
    return CocoImage(
        scores=predicted.scores[order],
        categories=categories,
        ranks=ranks,
        outcomes=outcomes,
        truth_categories=truth_categories,
        counted=~ignored,
    )


def accumulate(images: Iterable[CocoImage], settings: CocoSettings, kind: Kind = "segm") -> dict[str, float]:
    """COCO average precision and average recall of a set of images, of masks (coco/segm) or boxes (coco/bbox).

    In each image the detections are taken in order of falling score, and each takes the truth object of the largest
    IoU >= t that is free. A crowd is not counted and takes any number of detections, with IoU = intersection / area of
    the detection; these are not counted either. All detections of all images are then sorted by score: after the first
    n of them, with TP matched and FP not, precision = TP / (TP + FP) and recall = TP / truth objects.

    AP is the mean over thresholds t = 0.50:0.05:0.95, over the recall points 0, 0.01 ... 1 and over the categories that
    have truth objects, of the highest precision at that recall or above, 0 where that recall is never reached. AP50 and
    AP75 are AP at one threshold. APs, APm, APl are AP of small, medium and large objects: truth objects of another area
    are not counted, nor are the detections that match them and the unmatched detections of another area; the borders
    (32^2 and 96^2 square pixels, for LIVECell 18^2 and 31^2) belong to both ranges. AR is the recall after all
    detections, mean over thresholds and categories; AR50, AR75, ARs, ARm and ARl as with AP; AR@N with the N detections
    of highest score in each image (and category) alone.

    Choices: a set has one value, from the detections of all images pooled; there is no value per image. A match needs
    IoU >= t. As many detections count as there are, where pycocotools has 100, unless ``max_dets`` says otherwise; of
    several numbers the largest holds for all values but AR@N. Ties of score: the order of images, then of objects in
    the file. Areas are those of the annotations where they are given. No truth object (in the range): NaN, where
    pycocotools has -1; truth but no detections: 0; an image without truth and detections changes nothing. Exactly
    pycocotools' numbers, with images in the order of their ids and no annotation id 0 (which it takes for unmatched).

    Args:
        images: images matched with these settings, in order.
        settings: what counts.
        kind: masks or boxes, for the names.

    Returns:
        Values by name, ``coco/segm/AP`` and so on, as :func:`coco_names` lists them.

    Source: Lin et al. 2014, Microsoft COCO: common objects in context; pycocotools. Area ranges and numbers of
    detections of cells: Edlund et al. 2021, LIVECell.
    """
    tables = _tables(tuple(images), settings)
    values: dict[str, float] = {}
    for name, table in (("AP", tables.precision), ("AR", tables.recall)):
        values[name] = _mean(table[0])
        for threshold, suffix in ((0.5, "50"), (0.75, "75")):
            at = [level for level, value in enumerate(settings.thresholds) if value == threshold]
            values[name + suffix] = _mean(table[0][:, at])
        for index, area in enumerate(settings.areas[1:], 1):
            values[name + area.suffix] = _mean(table[index])
    values |= {f"AR@{most}": _mean(table) for most, table in tables.fewer.items()}
    return {f"coco/{kind}/{name}": value for name, value in values.items()}


def coco_names(settings: CocoSettings, kind: Kind = "segm") -> tuple[str, ...]:
    """The names of the values that :func:`accumulate` gives, in its order."""
    return tuple(accumulate((), settings, kind))


def curves(images: Iterable[CocoImage], settings: CocoSettings, kind: Kind = "segm") -> PrecisionRecall:
    """Precision at 101 recall points and each threshold, of all areas, mean over the categories that have truth."""
    precision = _tables(tuple(images), settings).precision[0]
    known = ~np.isnan(precision).any(axis=(1, 2))
    mean = precision[known].mean(axis=0) if known.any() else np.full(precision.shape[1:], math.nan)
    return PrecisionRecall(recall=RECALLS.copy(), thresholds=np.asarray(settings.thresholds), precision=mean)


def _ranked(predicted: Instances, settings: CocoSettings) -> tuple[Integers, Integers, Integers]:
    """The detections that count, in order: category, then falling score; their categories, their places in these.

    Where categories are not used, pycocotools still lists the objects of one category after those of another: ties of
    score fall so.
    """
    if settings.categories:
        order = np.lexsort((-predicted.scores, predicted.categories))
        categories = predicted.categories[order]
    else:
        order = np.lexsort((predicted.categories, -predicted.scores))
        categories = np.zeros(order.size, np.int64)
    ranks = np.arange(order.size) - np.searchsorted(categories, categories)
    kept = ranks < (order.size if settings.most is None else settings.most)
    return order[kept], categories[kept], ranks[kept]


def _outside(areas: Floats, settings: CocoSettings) -> Flags:
    """(A, N) whether each area is outside of each range."""
    lowest, highest = np.array([(one.lowest, one.highest) for one in settings.areas]).T[..., None]
    outside: Flags = (areas < lowest) | (areas > highest)
    return outside


def _renumbered(pairs: Pairs, truths: Integers, order: Integers, sizes: tuple[int, int]) -> Pairs:
    """The pairs in positions of the truth and of the detections that count."""
    place, position = np.empty(sizes[0], np.int64), np.full(sizes[1], -1, np.int64)
    place[truths], position[order] = np.arange(sizes[0]), np.arange(order.size)
    kept = position[pairs.predicted] >= 0
    return Pairs(truth=place[pairs.truth[kept]], predicted=position[pairs.predicted[kept]], iou=pairs.iou[kept])


def _tables(images: tuple[CocoImage, ...], settings: CocoSettings) -> _Tables:
    """Precision and recall of each category that has truth."""
    areas, levels = len(settings.areas), len(settings.thresholds)
    known = np.unique(np.concatenate([np.zeros(0, np.int64), *(image.truth_categories for image in images)]))
    precision = np.full((areas, known.size, levels, RECALLS.size), math.nan)
    recall = np.full(precision.shape[:3], math.nan)
    fewer = {most: np.full(precision.shape[1:3], math.nan) for most in settings.fewer}
    if not known.size:
        return _Tables(precision=precision, recall=recall, fewer=fewer)
    scores, categories, ranks = (
        np.concatenate([getattr(image, name) for image in images]) for name in ("scores", "categories", "ranks")
    )
    truth_categories = np.concatenate([image.truth_categories for image in images])
    counted = np.concatenate([image.counted for image in images], axis=1)
    order = np.lexsort((-scores, categories))
    outcomes = np.concatenate([image.outcomes for image in images], axis=2)[:, :, order]
    ranks = ranks[order]
    begins, ends = (np.searchsorted(categories[order], known, side=side) for side in ("left", "right"))
    for k, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        objects = np.count_nonzero(counted[:, truth_categories == known[k]], axis=1)
        for area in np.flatnonzero(objects):
            found = outcomes[area, :, begin:end]
            precision[area, k] = _precision(found, int(objects[area]))
            recall[area, k] = np.count_nonzero(found == MATCHED, axis=1) / objects[area]
        for most, table in fewer.items():
            early = outcomes[0, :, begin:end][:, ranks[begin:end] < most]
            table[k] = np.count_nonzero(early == MATCHED, axis=1) / objects[0] if objects[0] else math.nan
    return _Tables(precision=precision, recall=recall, fewer=fewer)


def _precision(outcomes: NDArray[np.int8], objects: int) -> Floats:
    """(T, 101) the highest precision at each recall or above, of detections (T, D) in order of falling score.

    Precision rises only where a detection matches: the others need no look.
    """
    reached = np.searchsorted(np.arange(1, objects + 1) / objects, RECALLS, side="left")  # matches that recall needs
    level, place = np.nonzero(outcomes == MATCHED)
    counted = np.cumsum(outcomes != IGNORED, axis=1)[level, place]
    edges = np.searchsorted(level, np.arange(outcomes.shape[0] + 1))
    precision = np.zeros((outcomes.shape[0], RECALLS.size))
    for row, (begin, end) in enumerate(pairwise(edges)):
        raw = np.arange(1, end - begin + 1) / (counted[begin:end] + EPSILON)
        highest = np.maximum.accumulate(raw[::-1])[::-1]
        met = reached < highest.size
        precision[row, met] = highest[reached[met]]
    return precision


def _mean(table: Floats) -> float:
    """Mean of (K, T) or (K, T, 101) where it is defined, summed in pycocotools' order: thresholds, recall, category."""
    ordered = np.moveaxis(table, 0, -1)
    defined = ordered[~np.isnan(ordered)]
    return float(defined.mean()) if defined.size else math.nan
