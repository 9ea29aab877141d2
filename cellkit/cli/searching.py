"""``--search``: which predictions have labels, and what suits them best, said in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cellkit.cli import inputs, reporting
from cellkit.cli.settings import write_settings
from cellkit.config import JsonValue, Settings
from cellkit.errors import NoInputError, UsageError
from cellkit.io.detections import ObjectPrediction
from cellkit.io.label_image import LabelImage
from cellkit.io.maps import Prediction
from cellkit.stages.outcomes import Failure
from cellkit.stages.searching import Labelled, search_lines


def search(
    paths: Sequence[Path] | None, labels: str, overrides: Settings, workers: int, save: str | None = None
) -> dict[str, JsonValue]:
    """Settings of decoding that suit labelled images best; says which.

    Args:
        paths: prediction files, or None: a stream.
        labels: a label image, or a folder of them, named as the images.
        overrides: settings that the user gave; they stay.
        workers: images decoded at once.
        save: file that gets what was found, for ``--set @FILE``.

    Raises:
        UsageError: a stream, which cannot be read twice, objects of a detector, or nothing to search.
        NoInputError: no prediction has labels of its name.
        InputError: labels that cannot be read, or do not fit.
        OutputError: the file cannot be written.
    """
    if paths is None:
        raise UsageError("--search", "a stream cannot be read twice", "write the predictions to files first")
    known = {image.key: image for image in _label_images(labels)}
    images = [
        Labelled(prediction=prediction, labels=known[prediction.key].labels)
        for prediction in _maps(paths)
        if prediction.key in known
    ]
    if not images:
        raise NoInputError(labels, "no prediction has labels of its name here", "name label images as the images")
    found = search_lines(images, overrides, workers=workers)
    if save is not None:
        remark = f"what suits {reporting.counted_images(found.images)} of {labels} best: score {found.score:.3f}"
        write_settings(Path(save), found.settings, remark)
    chosen = " ".join(f"{name}={value:g}" for name, value in found.settings.items())
    score = f"score {found.score:.3f}, {found.before:.3f} before"
    reporting.notice(f"{chosen} suits {reporting.counted_images(found.images)} best ({score})")
    return found.settings


def _maps(paths: Sequence[Path]) -> Iterator[Prediction]:
    """Predictions of maps; what cannot be read is passed over, and said when it is decoded."""
    for item in inputs.predictions(paths):
        if isinstance(item, ObjectPrediction):
            problem = f"{item.key} holds the objects of a detector, which have no thresholds of maps"
            raise UsageError("--search", problem, "leave it out, and choose --set cell_score=NUMBER")
        if isinstance(item, Prediction):
            yield item


def _label_images(labels: str) -> Iterator[LabelImage]:
    """Each of them; one that cannot be read stops the search, which would find something else without it."""
    for image in inputs.label_images([labels]):
        if isinstance(image, Failure):
            raise image.error
        yield image
