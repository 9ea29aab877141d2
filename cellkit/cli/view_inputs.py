"""What ``cellkit view`` reads: images and the labels that belong to them, or predictions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cellkit.cli import inputs, view_objects
from cellkit.cli.inputs import STREAM, read_options
from cellkit.data.layouts import LabelRef, find_truth
from cellkit.data.predicted import find_predicted
from cellkit.data.predicted_objects import objects_in
from cellkit.data.truth import LabelFile
from cellkit.errors import CellkitError, InputError, NoInputError, UsageError
from cellkit.io.detections import KIND as OBJECTS
from cellkit.io.grouped_hdf5 import MAGIC, is_of_kind, opened
from cellkit.io.images import ReadOptions, describe
from cellkit.io.keys import split_dataset
from cellkit.io.maps import KIND, Prediction, read_predictions
from cellkit.io.sources import Source
from cellkit.ops.map_pictures import views_of
from cellkit.stages.outcomes import Failure, IsDone
from cellkit.stages.viewing import Annotations, Viewed, ViewSettings, view
from cellkit.stages.viewing_maps import view_maps
from cellkit.stages.viewing_sheet import SheetPlan

__all__ = ["Views", "annotated", "drawn", "files", "find", "read_options", "settings"]

MOST = 100.0  # percent

Both: TypeAlias = tuple[Annotations | None, Annotations | None]


@dataclass(frozen=True, kw_only=True)
class Views:
    """What is to be drawn.

    Attributes:
        sources: images, in order; empty when these are predictions.
        predictions: prediction files, or the members of a stream; empty when these are images.
        shapes: (H, W) of each picture to come, as far as files can be read; of predictions, of all maps together.
    """

    sources: tuple[Source, ...] = ()
    predictions: tuple[tuple[str, Path | bytes], ...] = ()
    shapes: tuple[tuple[int, int], ...] = ()

    @property
    def count(self) -> int:
        """Pictures to come."""
        return max(len(self.shapes), len(self.sources), len(self.predictions))


def settings(style: str, size: int | None, contrast: str, pixel_size: float | None) -> ViewSettings:
    """How to draw, from the texts of the options.

    Raises:
        UsageError: percentiles or a pixel size that cannot be meant.
    """
    try:
        low, high = (float(part) for part in contrast.split(","))
    except ValueError:
        low = high = math.nan
    if not 0 <= low < high <= MOST:
        raise UsageError("--contrast", f"'{contrast}' are no percentiles", "e.g. 0.5,99.5, from 0 to 100")
    if pixel_size is not None and not (pixel_size > 0 and math.isfinite(pixel_size)):
        raise UsageError("--pixel-size", f"cannot be {pixel_size:g}", "give micrometres per pixel, e.g. 0.325")
    return ViewSettings(
        outline=style != "fill", fill=style != "outline", size=size, contrast=(low, high), pixel_size=pixel_size
    )


def find(image: str, options: ReadOptions) -> Views:
    """Find images or predictions.

    Raises:
        NoInputError: there are none.
        InputError: a file or stream cannot be read.
        UsageError: two images of one name, or objects of a detector without their images.
    """
    if image == STREAM:
        sources = tuple(inputs.image_sources([image], options))
        objects = any(s.data is not None and _holds(OBJECTS, s.data, s.path) for s in sources)
        view_objects.check_images(image, are_objects=objects)
        maps = tuple((s.path, s.data) for s in sources if s.data is not None and _holds(KIND, s.data, s.path))
        return _views_of_maps(maps) if maps else _views_of_images(sources)
    view_objects.check_images(image, are_objects=bool(objects_in(image)))
    path = Path(image)
    candidates = [path] if path.is_file() else sorted(path.glob("*.h5")) if path.is_dir() else []
    holding = [_holds(KIND, file, str(file)) for file in candidates]
    if holding and all(holding) and not _has_images(path, options):
        files = inputs.prediction_files([image]) or []
        return _views_of_maps(tuple((str(file), file) for file in files))
    return _views_of_images(tuple(inputs.image_sources([image], options)))


def _has_images(path: Path, options: ReadOptions) -> bool:
    if path.is_file():
        return False
    try:
        return bool(list(inputs.image_sources([str(path)], options)))
    except NoInputError:
        return False


def _holds(kind: str, content: Path | bytes, name: str) -> bool:
    """Whether a file is a prediction of a kind; one that cannot be read is none: reading it as an image says why."""
    try:
        start = content[: len(MAGIC)] if isinstance(content, bytes) else _start(content)
        if start != MAGIC:
            return False
        with opened(content, name) as file:
            return is_of_kind(file, kind)
    except (InputError, OSError):
        return False


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC))


def _views_of_images(sources: tuple[Source, ...]) -> Views:
    shapes: list[tuple[int, int]] = []
    for source in sources:
        try:
            info = describe(source.path, source.options, source.data)
        except CellkitError:
            continue  # it fails when it is read, and says why
        shapes += [info.size] * info.frames
    return Views(sources=sources, shapes=tuple(shapes))


def _views_of_maps(files: tuple[tuple[str, Path | bytes], ...]) -> Views:
    shapes = []
    for item in _predictions(files):
        if isinstance(item, Prediction):
            channels, height, width = item.maps.shape
            shapes.append((height, width * len(views_of(item.representation.name, channels))))
    return Views(predictions=files, shapes=tuple(shapes))


def _predictions(files: Iterable[tuple[str, Path | bytes]]) -> Iterator[Prediction | Failure]:
    for name, content in files:
        try:
            yield from read_predictions(content, name)
        except InputError as error:
            yield Failure(key=Path(name).stem, source=name, error=error)


def annotated(views: Views, labels: str | None, truth: str | None, *, optional: bool) -> Both:
    """Labels and truth by the names of the images.

    Args:
        views: what is to be drawn.
        labels: as the user named them, or None.
        truth: likewise.
        optional: images may have none.

    Raises:
        UsageError: labels beside predictions, or two streams.
        InputError: they are not there, or cannot be read.
        NoInputError: there are none.
    """
    if views.predictions and (labels or truth):
        raise UsageError(labels or truth or "", "the maps of a prediction are drawn without labels", "name the image")
    streams = [text for text in (labels, truth) if text == STREAM]
    if len(streams) + any(source.data is not None for source in views.sources) > 1:
        raise UsageError(STREAM, "stdin carries one stream", "name a file or folder for the others")
    true = None if truth is None else _named(truth, views, _true)
    found = None if labels is None else _named(labels, views, lambda text: _found(text, views, truth, true))
    return (
        None if labels is None or found is None else Annotations(name=labels, by_key=found, optional=optional),
        None if truth is None or true is None else Annotations(name=truth, by_key=true, optional=optional),
    )


def _named(text: str, views: Views, find_labels: Callable[[str], Mapping[str, LabelRef]]) -> Mapping[str, LabelRef]:
    """Labels by key; one file for one image needs no common name."""
    if text == STREAM:
        return dict(view_objects.streamed())
    file = Path(split_dataset(text)[0])
    if not file.exists():
        raise InputError(text, "does not exist", "check the name")
    found = view_objects.as_cells(find_labels(text))
    if file.is_file() and len(found) == 1 and len(views.sources) == views.count == 1:
        return {views.sources[0].key: next(iter(found.values()))}
    return found


def _true(text: str) -> Mapping[str, LabelRef]:
    """Truth in any layout; or objects of another detector, to see where the two differ."""
    return objects_in(text) or find_truth(text)


def _found(text: str, views: Views, truth: str | None, true: Mapping[str, LabelRef] | None) -> Mapping[str, LabelRef]:
    """Labels in whatever layout, among them results that truth or images give names to."""
    known = None
    if truth is not None and true is not None and truth != STREAM:
        known = find_predicted(text, truth, true)
    elif Path(text).is_dir() or objects_in(text):
        named: dict[str, LabelRef] = {source.key: LabelFile(source.path) for source in views.sources}
        known = find_predicted(text, text, named)
    return find_truth(text) if known is None else known


def files(views: Views, both: Both) -> list[str]:
    """All files that are read, which no picture may overwrite."""
    names = [source.path for source in views.sources] + [name for name, _ in views.predictions]
    for found in both:
        names += [reference.name for reference in found.by_key.values()] if found is not None else []
    return [split_dataset(name)[0] for name in names]


def drawn(
    views: Views, both: Both, plan: SheetPlan | None, settings: ViewSettings, workers: int, is_done: IsDone
) -> Iterator[Viewed]:
    """The pictures, in order: for a sheet as large as its tiles, with their names."""
    if plan is not None:
        settings = dataclasses.replace(settings, size=plan.side, named=True)
    if views.predictions:
        return view_maps(_predictions(views.predictions), settings, is_done=is_done)
    return view(views.sources, *both, settings, workers=workers, is_done=is_done)
