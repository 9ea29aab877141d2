"""The reports of ``cellkit evaluate`` that people look at: HTML and Markdown."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from cellkit import __version__
from cellkit.cli.score_outputs import write_text
from cellkit.cli.scoring import Scores
from cellkit.errors import CellkitError, NoInputError
from cellkit.io.images import read_image
from cellkit.metrics import SetReport
from cellkit.metrics.coco import CocoSettings, Kind, curves
from cellkit.metrics.instances import Instances, flat_labels
from cellkit.metrics.matching import match
from cellkit.metrics.statistics import Summary
from cellkit.reports import Evaluation, Example, choose_examples, draw_example, render_html, render_markdown
from cellkit.stages.scoring import Scored

log = logging.getLogger(__name__)

SHOWN_CURVES = (0.5, 0.75, 0.9)  # IoU thresholds of the precision-recall curves
MATCHED = 0.5
ORDERED_BY = "ap_dsb"  # the metric that chooses the pictures


def evaluation_of(
    truth: str,
    scores: Scores,
    summaries: Mapping[str, Summary],
    groups: Mapping[str, SetReport],
    coco: CocoSettings,
    images: Mapping[str, str],
) -> Evaluation:
    """Everything that the reports show.

    Args:
        truth: as the user named it.
        scores: of the prediction; its cells were kept.
        summaries: of the scores.
        groups: scores of groups of images, or nothing.
        coco: how detections were judged.
        images: image files by key.
    """
    tables = [image.table for image in scores.images if image.table is not None]
    pairs = [match(table, MATCHED) for table in tables]
    return Evaluation(
        title=f"Evaluation of {scores.prediction}",
        truth=truth,
        prediction=scores.prediction,
        report=scores.report,
        written=f"cellkit evaluate, version {__version__}",
        summaries=summaries,
        precision_recall=_precision_recall(scores.images, coco),
        true_areas=_joined([table.truth_areas for table in tables]),
        predicted_areas=_joined([table.predicted_areas for table in tables]),
        matched_ious=_joined([table.iou[chosen] for table, chosen in zip(tables, pairs, strict=True)]),
        groups=groups,
        problems=tuple(scores.problems.texts()),
        examples=tuple(_examples(scores, images)),
    )


def write(evaluation: Evaluation, *, html: str | None, markdown: str | None) -> None:
    """Write the reports that were asked for, each whole or not at all."""
    if html:
        write_text(render_html(evaluation), html)
    if markdown:
        write_text(render_markdown(evaluation), markdown)


def _joined(parts: list[NDArray[np.int64]] | list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *parts])


def _precision_recall(
    images: list[Scored], coco: CocoSettings
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    kind: Kind = "segm" if all("segm" in image.coco for image in images) else "bbox"
    found = curves([image.coco[kind] for image in images], coco, kind)
    places = [int(np.argmin(np.abs(found.thresholds - threshold))) for threshold in SHOWN_CURVES]
    return {f"IoU {found.thresholds[place]:g}": (found.recall, found.precision[place]) for place in places}


def _examples(scores: Scores, images: Mapping[str, str]) -> Iterator[Example]:
    predicted = {image.report.key: image.predicted for image in scores.images}
    for percentile, key, value in choose_examples(scores.report, ORDERED_BY):
        cells = predicted[key]
        if cells is not None and cells.has_masks:
            true = scores.references[key].read(cells.shape).labels
            picture = _pixels(images.get(key), cells)
            yield draw_example(key, (percentile, ORDERED_BY, value), picture, true, flat_labels(cells))


def _pixels(path: str | None, cells: Instances) -> NDArray[np.generic] | None:
    """The image of some cells; None when there is none, or one of another size."""
    if path is None:
        return None
    try:
        image = read_image(path)
    except (CellkitError, NoInputError) as error:
        log.warning("%s", error)
        return None
    if tuple(image.pixels.shape[1:]) != cells.shape:
        log.warning("%s: has another size than its labels, and is not drawn", path)
        return None
    return np.asarray(image.pixels[:3, :, :])
