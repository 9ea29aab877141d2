"""postprocess: dense maps -> cells, several images at once in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.config import NO_SETTINGS, Settings
from cellkit.data.predicted_objects import detections_of
from cellkit.errors import CellkitError, InputError, UsageError
from cellkit.io.detections import ObjectPrediction
from cellkit.io.labels import LabelImage, LabelRows
from cellkit.io.maps import Prediction, PredictionInfo
from cellkit.ops.instances import Instances
from cellkit.ops.labelling import relabel_in_raster_order, resize_labels
from cellkit.ops.runs import Runs
from cellkit.overlap import ordered_map
from cellkit.provenance import Record
from cellkit.representations import OBJECTS, REPRESENTATIONS, Decodable, DecodeSettings, Representation
from cellkit.stages.large_images import is_large, read_apart
from cellkit.stages.large_maps import cells_of
from cellkit.stages.model import decode_settings
from cellkit.stages.outcomes import Failure, IsDone, Skipped, never_done
from cellkit.stages.prediction import Predicted

AnyPrediction: TypeAlias = Prediction | ObjectPrediction
BAND_ROWS = 256  # of large label images in memory at once

Segmented: TypeAlias = LabelImage | LabelRows | Failure | Skipped


def postprocess(
    predictions: Iterable[Predicted],
    overrides: Settings = NO_SETTINGS,
    *,
    workers: int = 1,
    is_done: IsDone = never_done,
) -> Iterator[Segmented]:
    """Decode predictions to cells, in their order.

    Args:
        predictions: maps or objects; failures and skips of an earlier stage pass through.
        overrides: settings of the representation that win over those stored in the prediction.
        workers: images decoded at once; of a large image, windows.
        is_done: tells by key and history whether the output is there and up to date.
    """

    def cells(item: AnyPrediction, workers: int) -> Segmented:
        record = Record(verb="postprocess", arguments=dict(overrides))
        if is_done(item.key, (*item.history, record)):
            return Skipped(key=item.key, source=item.source)
        return decoded(replace(item, history=(*item.history, record)), overrides, workers)

    return in_threads(cells, predictions, workers)


def in_threads(
    cells: Callable[[AnyPrediction, int], Segmented], items: Iterable[Predicted], workers: int
) -> Iterator[Segmented]:
    """Cells of predictions in their order: several images at once, but large ones one by one with all threads.

    Args:
        cells: a prediction, and the threads that its windows may take -> its cells.
        items: predictions; failures and skips pass through.
        workers: threads.
    """

    def alone(item: Predicted) -> Predicted | Segmented:
        if isinstance(item, Prediction) and is_large(item.maps.shape[1:]):
            return cells(item, workers)
        return item

    def beside(item: Predicted | Segmented) -> Segmented:
        return cells(item, 1) if isinstance(item, Prediction | ObjectPrediction) else item

    return ordered_map(beside, map(alone, items), workers)


def decoded(prediction: AnyPrediction, overrides: Settings, workers: int) -> Segmented:
    """Cells of a prediction, or why there are none.

    Raises:
        UsageError: an override is no setting of the representation.
    """
    try:
        return decode(prediction, overrides, workers)
    except UsageError:
        raise
    except CellkitError as error:
        return Failure(key=prediction.key, source=prediction.source, error=error)


def decode(prediction: AnyPrediction, overrides: Settings = NO_SETTINGS, workers: int = 1) -> LabelImage | LabelRows:
    """Cells of one prediction, at the size of its source image; the history is the prediction's.

    Args:
        prediction: maps, of which large ones are decoded window by window; or objects.
        overrides: settings of decoding that win over those of the prediction.
        workers: windows of large maps that are decoded at once.

    Raises:
        InputError: the maps have not the channels of their representation, or the mask of an object is damaged.
        UsageError: an override is no setting of the representation.
    """
    if isinstance(prediction, ObjectPrediction):
        return flattened(prediction, overrides)
    representation, settings = representation_of(prediction, overrides)
    size = prediction.maps.shape[1], prediction.maps.shape[2]
    if is_large(size):
        settings = settings.for_plane(partial(read_apart, prediction.maps), size)

        def decode_window(maps: np.ndarray) -> Instances:
            return representation.decode(maps, settings.for_window((maps.shape[1], maps.shape[2]), size))

        return cells_of(prediction, decode_window, workers)
    return as_labels(prediction, representation.decode(np.asarray(prediction.maps[:, :, :]), settings))


def flattened(prediction: ObjectPrediction, overrides: Settings = NO_SETTINGS) -> LabelImage | LabelRows:
    """Cells of objects that may overlap; the history is the prediction's. Those of a large image are bands of rows.

    Args:
        prediction: the objects.
        overrides: settings that win over those of the prediction.

    Raises:
        InputError: a mask is damaged, or the representation has no objects.
        UsageError: an override is no setting of the representation.
    """
    representation = OBJECTS.get(prediction.representation.name)
    if representation is None:
        problem = f"objects, but '{prediction.representation.name}' has dense maps"
        raise InputError(prediction.source, problem, "predict the image again")
    settings = _settings_of(prediction, representation, overrides)
    if not is_large(prediction.shape):
        return as_labels(prediction, representation.flatten(detections_of(prediction), settings))
    runs, scores = representation.flat_runs(detections_of(prediction), settings)
    return LabelRows(
        key=prediction.key,
        source=prediction.source,
        scores=scores,
        pixel_size=prediction.pixel_size,
        history=prediction.history,
        rows=_bands(runs),
        shape=prediction.shape,
        count=len(scores),
    )


def _bands(runs: Runs) -> Iterator[NDArray[np.int32]]:
    """Label image (H, W) of runs that tile it, from top to bottom."""
    height, width = runs.shape
    for top in range(0, height, BAND_ROWS):
        rows = min(BAND_ROWS, height - top)
        begin, end = np.searchsorted(runs.starts, [top * width, (top + rows) * width])
        labels = np.repeat(runs.values[begin:end].astype(np.int32), runs.lengths[begin:end])
        yield labels.reshape(rows, width)


def representation_of(prediction: Prediction, overrides: Settings) -> tuple[Representation, DecodeSettings]:
    """The representation of a prediction with its settings, checked against the maps."""
    representation = REPRESENTATIONS[prediction.representation.name]
    if not 0 <= prediction.maps.shape[0] - representation.channels <= representation.optional:
        raise InputError(
            prediction.source,
            f"{prediction.maps.shape[0]} maps, but '{representation.name}' has {representation.channels}",
            "predict the image again",
        )
    return representation, _settings_of(prediction, representation, overrides)


def _settings_of(prediction: PredictionInfo, representation: Decodable, overrides: Settings) -> DecodeSettings:
    """Settings of decoding: those of the prediction, which must be some of its representation, overridden."""
    stored = prediction.representation.settings
    try:
        decode_settings(representation, stored)
    except (TypeError, UsageError) as error:
        problem = f"was predicted with settings that '{representation.name}' does not have"
        raise InputError(prediction.source, problem, "upgrade cellkit, or predict the image again") from error
    return decode_settings(representation, stored, overrides)


def as_labels(prediction: PredictionInfo, instances: Instances) -> LabelImage:
    """Instances at map scale -> a label image at the scale of the source."""
    if instances.labels.shape != prediction.shape:
        instances = _resized(instances, prediction.shape)
    return LabelImage(
        key=prediction.key,
        labels=instances.labels,
        scores=instances.scores,
        outlines=instances.outlines,
        pixel_size=prediction.pixel_size,
        history=prediction.history,
        source=prediction.source,
    )


def _resized(instances: Instances, shape: tuple[int, int]) -> Instances:
    """Nearest neighbour; cells that vanish when shrinking have no number, the others are in raster order again."""
    labels, former = relabel_in_raster_order(resize_labels(instances.labels, shape))
    outlines = instances.outlines
    if outlines is not None:
        scale = np.divide(shape, instances.labels.shape, dtype=np.float32)
        outlines = (outlines[former - 1] + np.float32(0.5)) * scale - np.float32(0.5)  # pixels grow from their corners
    return Instances(labels, instances.scores[former - 1], outlines)
