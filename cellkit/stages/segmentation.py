"""segment: predict and postprocess in one process; network, decoding and writing overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cellkit.config import NO_SETTINGS, Settings
from cellkit.io.sources import Source
from cellkit.stages.model import Model
from cellkit.stages.outcomes import IsDone, never_done
from cellkit.stages.postprocessing import AnyPrediction, Segmented, decoded, in_threads
from cellkit.stages.prediction import Command, PredictSettings, read_all, run_network


def segment(
    sources: Iterable[Source],
    model: Model,
    settings: PredictSettings,
    overrides: Settings = NO_SETTINGS,
    *,
    workers: int = 1,
    is_done: IsDone = never_done,
) -> Iterator[Segmented]:
    """Segment the cells of images, in their order.

    Args:
        sources: what the user named.
        model: network, preprocessing, representation.
        settings: scale and tiles.
        overrides: settings of decoding that win over those of the model.
        workers: images decoded at once beside the network; of a large image, windows.
        is_done: tells by key and history whether the output is there and up to date.

    Yields:
        Labels per image (as bands of rows where it is large), a failure for one that could not be done, a skip for
        one that is up to date.
    """
    command = Command(verb="segment", model=model, settings=settings, overrides=overrides)

    def cells(item: AnyPrediction, workers: int) -> Segmented:
        return decoded(item, overrides, workers)

    return in_threads(cells, run_network(read_all(sources, command, is_done), command), workers)
