"""postprocess: dense maps -> cells, several images at once in threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from cellkit.config import NO_SETTINGS, Settings, Spec
from cellkit.errors import CellkitError, InputError
from cellkit.io.labels import LabelImage
from cellkit.io.maps import Prediction
from cellkit.ops.instances import Instances
from cellkit.ops.labelling import resize_labels
from cellkit.overlap import ordered_map
from cellkit.provenance import Record
from cellkit.representations import REPRESENTATIONS, Representation
from cellkit.stages.model import decode_settings
from cellkit.stages.outcomes import Failure, IsDone, Skipped, never_done


def postprocess(
    predictions: Iterable[Prediction | Failure | Skipped],
    overrides: Settings = NO_SETTINGS,
    *,
    workers: int = 1,
    is_done: IsDone = never_done,
) -> Iterator[LabelImage | Failure | Skipped]:
    """Decode predictions to cells, in their order.

    Args:
        predictions: maps; failures and skips of an earlier stage pass through.
        overrides: settings of the representation that win over those stored in the prediction.
        workers: images decoded at once.
        is_done: tells by key and history whether the output is there and up to date.
    """

    def cells(item: Prediction | Failure | Skipped) -> LabelImage | Failure | Skipped:
        if not isinstance(item, Prediction):
            return item
        record = Record(verb="postprocess", arguments=dict(overrides))
        if is_done(item.key, (*item.history, record)):
            return Skipped(key=item.key, source=item.source)
        try:
            return decode(replace(item, history=(*item.history, record)), overrides)
        except CellkitError as error:
            return Failure(key=item.key, source=item.source, error=error)

    return ordered_map(cells, predictions, workers)


def decode(prediction: Prediction, overrides: Settings = NO_SETTINGS) -> LabelImage:
    """Cells of one prediction, at the size of its source image; the history is the prediction's.

    Raises:
        InputError: the maps have not the channels of their representation.
        UsageError: an override is no setting of the representation.
    """
    representation, settings = representation_of(prediction, overrides)
    maps = np.asarray(prediction.maps[:, :, :])
    instances = representation.decode(maps, settings)
    return as_labels(prediction, instances)


def representation_of(prediction: Prediction, overrides: Settings) -> tuple[Representation, Spec]:
    """The representation of a prediction with its settings, checked against the maps."""
    representation = REPRESENTATIONS[prediction.representation.name]
    if prediction.maps.shape[0] != representation.channels:
        raise InputError(
            prediction.source,
            f"{prediction.maps.shape[0]} maps, but '{representation.name}' has {representation.channels}",
            "predict the image again",
        )
    return representation, decode_settings(representation, prediction.representation.settings, overrides)


def as_labels(prediction: Prediction, instances: Instances) -> LabelImage:
    """Instances at map scale -> a label image at the scale of the source."""
    labels, scores = instances.labels, instances.scores
    if labels.shape != prediction.shape:
        labels, scores = _resized(instances, prediction.shape)
    return LabelImage(
        key=prediction.key,
        labels=labels,
        scores=scores,
        pixel_size=prediction.pixel_size,
        history=prediction.history,
        source=prediction.source,
    )


def _resized(instances: Instances, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Nearest neighbour; cells that vanish when shrinking give up their number, so that none is unused."""
    labels = resize_labels(instances.labels, shape)
    present = np.bincount(labels.ravel(), minlength=len(instances.scores) + 1)[1:] > 0
    number = np.zeros(len(present) + 1, np.int32)
    number[1:][present] = np.arange(1, present.sum() + 1)
    return number[labels], instances.scores[present]
