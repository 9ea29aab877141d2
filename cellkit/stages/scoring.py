"""evaluate: pairs of true and predicted labels -> scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cellkit.data.layouts import LabelRef
from cellkit.errors import CellkitError, InputError
from cellkit.io.labels import LabelImage
from cellkit.metrics import ImageReport, score
from cellkit.overlap import ordered_map
from cellkit.stages.outcomes import Failure


def evaluate(
    truth: Mapping[str, LabelRef], predictions: Iterable[LabelImage | Failure], *, workers: int = 1
) -> Iterator[ImageReport | Failure]:
    """Score predicted label images against the truth of the same key, in the order they come.

    Args:
        truth: true labels by key, read when their prediction comes.
        predictions: predicted labels; failures pass through.
        workers: images scored at once.
    """

    def scored(item: LabelImage | Failure) -> ImageReport | Failure:
        if isinstance(item, Failure):
            return item
        try:
            if item.key not in truth:
                raise InputError(item.key, "a prediction without truth", "see --allow-missing")
            return score(truth[item.key].read(item.labels.shape).labels, item.labels, key=item.key)
        except CellkitError as error:
            return Failure(key=item.key, source=item.source, error=error)

    return ordered_map(scored, predictions, workers)
