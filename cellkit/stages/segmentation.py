"""segment: predict and postprocess in one process; network, decoding and writing overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cellkit.config import NO_SETTINGS, Settings
from cellkit.errors import CellkitError
from cellkit.io.labels import LabelImage
from cellkit.io.maps import Prediction
from cellkit.io.sources import Source
from cellkit.overlap import ordered_map
from cellkit.stages.model import Model
from cellkit.stages.outcomes import Failure, IsDone, Skipped, never_done
from cellkit.stages.postprocessing import decode
from cellkit.stages.prediction import Command, PredictSettings, read_all, run_network


def segment(
    sources: Iterable[Source],
    model: Model,
    settings: PredictSettings,
    overrides: Settings = NO_SETTINGS,
    *,
    workers: int = 1,
    is_done: IsDone = never_done,
) -> Iterator[LabelImage | Failure | Skipped]:
    """Segment the cells of images, in their order.

    Args:
        sources: what the user named.
        model: network, preprocessing, representation.
        settings: scale and tiles.
        overrides: settings of decoding that win over those of the model.
        workers: images decoded at once beside the network.
        is_done: tells by key and history whether the output is there and up to date.

    Yields:
        Labels per image, a failure for one that could not be done, a skip for one that is up to date.
    """
    command = Command(verb="segment", model=model, settings=settings, overrides=overrides)

    def cells(item: Prediction | Failure | Skipped) -> LabelImage | Failure | Skipped:
        if not isinstance(item, Prediction):
            return item
        try:
            return decode(item, overrides)
        except CellkitError as error:
            return Failure(key=item.key, source=item.source, error=error)

    return ordered_map(cells, run_network(read_all(sources, command, is_done), command), workers)
