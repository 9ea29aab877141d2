"""evaluate: pairs of true and predicted cells -> scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cellkit.data.layouts import LabelRef
from cellkit.data.truth import MaskFiles, Truth
from cellkit.errors import CellkitError, InputError
from cellkit.io.labels import LabelImage
from cellkit.metrics import ImageReport, SetReport, metric_names, score, score_intersections, summarise
from cellkit.metrics.coco import CocoImage, CocoSettings, Kind, accumulate, coco_image
from cellkit.metrics.instances import (
    Instances,
    flat_labels,
    instances_of_labels,
    instances_of_run_lengths,
    overlaps,
    without_crowd,
)
from cellkit.metrics.intersections import Intersections, intersections
from cellkit.metrics.surfaces import surface_distances, surface_values
from cellkit.overlap import ordered_map
from cellkit.stages.outcomes import Failure

KINDS: tuple[Kind, ...] = ("segm", "bbox")
LARGE = 4_000_000  # pixels, from where a thread for the outlines pays
NOTED = ("ids", "areas", "boxes", "scores", "categories", "crowd")  # what annotations tell of each object


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What is scored.

    Attributes:
        coco: how detections are judged.
        surfaces: whether the distances between outlines are wanted: they take longer than all other scores.
        keep: whether the predicted cells are kept, to be drawn later.
        least_score: predicted objects of a lower score count for COCO's values alone, which weigh them by it.
    """

    coco: CocoSettings = field(default_factory=CocoSettings)
    surfaces: bool = True
    keep: bool = False
    least_score: float = -math.inf


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A prediction that is read when its turn comes.

    Attributes:
        key: name of the image.
        labels: where it is kept.
    """

    key: str
    labels: LabelRef

    @property
    def source(self) -> str:
        """For messages."""
        return self.labels.name


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """The scores of one image, and what those of the set are made of.

    Attributes:
        report: its own scores.
        coco: what became of its detections, by kind.
        table: shared pixels of all pairs of objects; None for boxes alone.
        scores: (M,) confidence of the predicted objects of the table.
        predicted: the predicted cells, where they are kept.
    """

    report: ImageReport
    coco: Mapping[Kind, CocoImage]
    table: Intersections | None
    scores: NDArray[np.float64]
    predicted: Instances | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cells:
    """One side of a pair.

    Attributes:
        labels: (H, W); of objects that overlap the visible parts.
        instances: the objects, crowds too.
        is_flat: the label image tells all of the objects.
        has_categories: the file tells the categories of the objects.
        has_boxes: it tells their boxes, too, so that they are not those of the masks.
        pixel_size: micrometres per pixel, or None.
    """

    labels: NDArray[np.int32]
    instances: Instances
    is_flat: bool
    has_categories: bool = False
    has_boxes: bool = False
    pixel_size: float | None = None

    def judged_by(self, kind: Kind) -> Instances:
        """The objects, with the areas that COCO takes: of detected boxes width x height, also where they have masks."""
        if kind == "bbox" and self.has_boxes:
            return replace(self.instances, areas=self.instances.boxes[:, 2] * self.instances.boxes[:, 3])
        return self.instances


def evaluate(
    truth: Mapping[str, LabelRef],
    predictions: Iterable[LabelImage | Reference | Failure],
    settings: ScoreSettings | None = None,
    *,
    workers: int = 1,
) -> Iterator[Scored | Failure]:
    """Score predicted cells against the truth of the same key, in the order they come.

    Args:
        truth: true cells by key, read when their prediction comes.
        predictions: predicted cells; failures pass through.
        settings: what is scored.
        workers: images scored at once.
    """
    chosen = settings or ScoreSettings()

    def scored(item: LabelImage | Reference | Failure) -> Scored | Failure:
        if isinstance(item, Failure):
            return item
        try:
            if item.key not in truth:
                raise InputError(item.key, "a prediction without truth", "see --allow-missing")
            return _scored(truth[item.key], item, chosen)
        except CellkitError as error:
            return Failure(key=item.key, source=item.source, error=error)

    return ordered_map(scored, predictions, workers)


def set_report(images: Sequence[Scored], coco: CocoSettings) -> SetReport:
    """Scores of a set; those of COCO are of the set alone, among the pooled values."""
    report = summarise(image.report for image in images)
    return replace(report, pooled=report.pooled | coco_scores(images, coco))


def coco_scores(images: Sequence[Scored], settings: CocoSettings) -> dict[str, float]:
    """COCO's values of a set, for each kind that all its images have."""
    scores: dict[str, float] = {}
    for kind in KINDS:
        if all(kind in image.coco for image in images):
            scores |= accumulate([image.coco[kind] for image in images], settings, kind)
    return scores


def _scored(reference: LabelRef, item: LabelImage | Reference, settings: ScoreSettings) -> Scored:
    if isinstance(item, LabelImage):
        predicted = _flat_cells(item.labels, item.scores, item.pixel_size, item.key)
        true = _cells(reference.read(_shape_of(item.labels)), item.key)
    else:
        true, predicted = (_cells(side, item.key) for side in _read_both(reference, item.labels))
    sure = _at_least(predicted, settings.least_score)
    outlines = partial(_outlines, true, sure, item.key) if settings.surfaces else dict
    with _beside(outlines, large=true.labels.size > LARGE) as distances:
        report, table = _report(true, sure, item.key)
        coco = _coco(true, predicted, settings.coco, item.key, KINDS if table is not None else ("bbox",))
        report = replace(report, values=report.values | distances())
    return Scored(
        report=report,
        coco=coco,
        table=table,
        scores=sure.instances.scores[np.argsort(sure.instances.ids, kind="stable")],
        predicted=sure.instances if settings.keep else None,
    )


def _at_least(cells: _Cells, score: float) -> _Cells:
    """Cells without those of a lower score."""
    sure = ~(cells.instances.scores < score)  # what is no number is refused by COCO's rules
    if sure.all():
        return cells
    kept = cells.instances.take(sure)
    if cells.is_flat:
        return replace(cells, instances=kept, labels=np.where(np.isin(cells.labels, kept.ids), cells.labels, 0))
    return replace(cells, instances=kept, labels=flat_labels(kept))


@contextmanager
def _beside(work: Callable[[], dict[str, float]], *, large: bool) -> Iterator[Callable[[], dict[str, float]]]:
    """What gives the result of some work: in a thread where it takes as long as all the rest, else when it is asked."""
    if not large:
        yield work
        return
    with ThreadPoolExecutor(1, "cellkit-outlines") as pool:
        yield pool.submit(work).result


def _report(true: _Cells, predicted: _Cells, key: str) -> tuple[ImageReport, Intersections | None]:
    """Scores of an image but for outlines, and shared pixels; crowds are none of the objects."""
    if not (true.instances.has_masks and predicted.instances.has_masks):
        return _boxes_report(key, int((~true.instances.crowd).sum()), len(predicted.instances)), None
    if true.is_flat and predicted.is_flat:
        table = intersections(true.labels, predicted.labels, key)
    else:
        table = overlaps(without_crowd(true.instances), without_crowd(predicted.instances), key)
    return score_intersections(table, key), table


def _outlines(true: _Cells, predicted: _Cells, key: str) -> dict[str, float]:
    """Distances of the outlines; nothing of boxes alone."""
    if not (true.instances.has_masks and predicted.instances.has_masks):
        return {}
    distances = surface_distances(true.labels, predicted.labels, key)
    return surface_values(distances, true.pixel_size or predicted.pixel_size)


def _boxes_report(key: str, n_true: int, n_predicted: int) -> ImageReport:
    """Scores of an image that has boxes alone: how many, and nothing that needs pixels."""
    background = np.zeros((1, 1), np.int32)
    known = {"n_true": float(n_true), "n_predicted": float(n_predicted)}
    return ImageReport(
        key=key,
        values=dict.fromkeys(metric_names(), math.nan) | known,
        counts=dict.fromkeys(score(background, background, surfaces=False).counts, math.nan) | known,
    )


def _coco(
    true: _Cells, predicted: _Cells, settings: CocoSettings, key: str, kinds: tuple[Kind, ...]
) -> dict[Kind, CocoImage]:
    """What became of the detections; categories count where both sides have some."""
    told = settings.categories and true.has_categories and predicted.has_categories
    judged = replace(settings, categories=told)
    return {kind: coco_image(true.instances, predicted.judged_by(kind), judged, kind, key=key) for kind in kinds}


def _read_both(reference: LabelRef, other: LabelRef) -> tuple[Truth, Truth]:
    """Truth and prediction, each checked against the size of the other."""
    if isinstance(reference, MaskFiles) and not reference.paths:  # a field without objects does not tell its size
        predicted = other.read()
        return reference.read(_shape_of(predicted.labels)), predicted
    true = reference.read()
    return true, other.read(_shape_of(true.labels))


def _shape_of(labels: NDArray[np.int32]) -> tuple[int, int]:
    return int(labels.shape[0]), int(labels.shape[1])


def _cells(truth: Truth, key: str) -> _Cells:
    notes = truth.annotations
    if truth.masks is None and notes is None:
        return _flat_cells(truth.labels, truth.scores, truth.pixel_size, key)
    columns = {} if notes is None else {name: getattr(notes, name) for name in NOTED}
    instances = instances_of_run_lengths(truth.masks or (), _shape_of(truth.labels), **columns, key=key)
    if notes is not None:  # an image without objects does not show whether its file has masks
        instances = replace(instances, has_masks=notes.has_masks)
    return _Cells(
        labels=truth.labels,
        instances=instances,
        is_flat=False,
        has_categories=notes is not None and notes.has_categories,
        has_boxes=notes is not None and notes.has_boxes,
        pixel_size=truth.pixel_size,
    )


def _flat_cells(
    labels: NDArray[np.int32], scores: NDArray[np.float32] | None, pixel_size: float | None, key: str
) -> _Cells:
    instances = instances_of_labels(labels, scores, key=key)
    return _Cells(labels=labels, instances=instances, is_flat=True, pixel_size=pixel_size)
