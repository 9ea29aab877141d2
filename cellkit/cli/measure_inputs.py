"""What ``cellkit measure`` reads: labels, and the images that belong to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from cellkit.cli import inputs
from cellkit.cli.inputs import STREAM, read_options
from cellkit.data.folders import frame_key, unmarked
from cellkit.data.layouts import LabelRef, find_truth
from cellkit.data.predicted import find_predicted
from cellkit.data.truth import LabelFile
from cellkit.errors import CellkitError, InputError, UsageError
from cellkit.io.images import Image, ReadOptions, describe
from cellkit.io.keys import split_dataset
from cellkit.io.labels import LabelImage
from cellkit.io.sources import WILDCARDS, Source
from cellkit.stages.measuring import Pair
from cellkit.stages.outcomes import Failure

__all__ = ["Found", "check", "find", "read_options"]

ALIKE = "names must be equal but for suffixes; --allow-missing "

Items: TypeAlias = Iterator[Pair | Failure]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is to be measured.

    Attributes:
        pairs: labels and their images, read as they are asked for.
        count: how many, if it is known.
        files: all files that are read, which no output may overwrite.
    """

    pairs: Items
    count: int | None
    files: tuple[str, ...]


def check(pixel_size: float | None, image: str | None, crops: str | None, crop_size: int | None) -> None:
    """Refuse options that cannot be meant.

    Raises:
        UsageError: a pixel size that is none; no folder of crops; crops of no image; a size of no crops.
    """
    if pixel_size is not None and not (pixel_size > 0 and math.isfinite(pixel_size)):
        raise UsageError("--pixel-size", f"cannot be {pixel_size:g}", "give micrometres per pixel, e.g. 0.325")
    if crops in ("", STREAM):
        raise UsageError("--crops", f"'{crops}' is no folder", "name the folder of the crops")
    if crops is not None and image is None:
        raise UsageError("--crops", "there is no image to cut them out of", "name it with --image")
    if crops is None and crop_size is not None:
        raise UsageError("--crop-size", "there are no crops", "add --crops DIR")


def find(labels: str, image: str | None, options: ReadOptions, *, optional: bool) -> Found:
    """Find labels and images.

    Args:
        labels: as the user named them.
        image: likewise, or None.
        options: how images are read.
        optional: labels may have no image, and images no labels.

    Raises:
        UsageError: two streams, or two images of one name.
        InputError: they are not there, or cannot be read.
        NoInputError: there are none.
    """
    if labels == image == STREAM:
        raise UsageError(STREAM, "stdin carries one stream", "name a file or folder for the labels or the images")
    for text in (labels, image):
        if text not in (None, STREAM) and not _is_there(text):
            raise InputError(text, "does not exist", "check the name")
    sources = None if image is None else inputs.image_sources([image], options)
    listed = sources if isinstance(sources, list) else []
    files = [source.path for source in listed]
    if labels == STREAM:
        images = None if image is None else Images(image, listed, optional=optional)
        return Found(pairs=_streamed(images), count=None, files=tuple(files))
    references = _labels_of(labels, listed)
    files += [reference.name for reference in references.values()] + [labels]
    if image is None or sources is None:
        pairs: Items = (Pair(key=key, labels=reference) for key, reference in references.items())
    else:
        pairs = _by_image(image, sources, labels, references, optional=optional)
    return Found(pairs=pairs, count=len(references), files=tuple(split_dataset(file)[0] for file in files))


def _is_there(text: str) -> bool:
    """Whether there is such a file or folder, or it may be a pattern of several."""
    return Path(split_dataset(text)[0]).exists() or any(mark in text for mark in WILDCARDS)


def _labels_of(text: str, sources: Sequence[Source]) -> Mapping[str, LabelRef]:
    """Labels by key, in whatever layout; one file for one image needs no common name."""
    known = None
    if sources and Path(text).is_dir():
        named: dict[str, LabelRef] = {source.key: LabelFile(source.path) for source in sources}
        known = find_predicted(text, text, named)
    found = find_truth(text) if known is None else known
    if Path(split_dataset(text)[0]).is_file() and len(found) == len(sources) == 1 and _frames(sources[0]) == 1:
        return {sources[0].key: next(iter(found.values()))}
    return found


def _frames(source: Source) -> int:
    try:
        return describe(source.path, source.options, source.data).frames
    except CellkitError:
        return 1  # it fails when it is read, and says why


def _by_image(
    image: str, sources: Iterable[Source], labels: str, references: Mapping[str, LabelRef], *, optional: bool
) -> Items:
    """Pairs in the order of the images; then labels without an image."""
    left = dict(references)
    for source in sources:
        try:
            for found in source.images():
                reference = left.pop(found.key, None)
                if reference is not None:
                    yield _pair(found, reference, source)
                elif not optional:
                    problem = f"{labels} has no labels of {found.key!r}"
                    error = InputError(found.source, problem, ALIKE + "passes it over")
                    yield Failure(key=found.key, source=found.source, error=error)
        except CellkitError as error:
            left.pop(source.key, None)
            yield Failure(key=source.key, source=source.path, error=error)
    for key, reference in left.items():
        yield _alone(key, reference, image, optional=optional)


def _pair(image: Image, labels: LabelRef, source: Source) -> Pair:
    return Pair(key=image.key, labels=labels, image=image, channels=source.options.channels)


def _alone(key: str, labels: LabelRef, image: str, *, optional: bool) -> Pair | Failure:
    """Labels whose image is not there."""
    if optional:
        return Pair(key=key, labels=labels)
    error = InputError(labels.name, f"{image} has no image of {key!r}", ALIKE + "measures shapes alone")
    return Failure(key=key, source=labels.name, error=error)


def _streamed(images: Images | None) -> Items:
    """Label images of the stream in their order, with their images."""
    for item in inputs.label_images([STREAM]):
        if isinstance(item, Failure):
            yield item
        elif images is None:
            yield Pair(key=item.key, labels=inputs.HeldLabels(item))
        else:
            yield images.paired(item)


class Images:
    """Images in files, found by the keys of labels; frames of a time series are read on from the one before.

    Args:
        name: as the user named them.
        sources: all of them.
        optional: labels may have no image.
    """

    def __init__(self, name: str, sources: Sequence[Source], *, optional: bool) -> None:
        self._name = name
        self._sources = {source.key: source for source in sources}
        self._optional = optional
        self._series = ""
        self._frames: Iterator[Image] = iter(())

    def paired(self, item: LabelImage) -> Pair | Failure:
        """Labels with their image, or why there is none."""
        key = item.key if self._source(item.key) else frame_key(item.key) or unmarked(item.key)
        labels, source = inputs.HeldLabels(replace(item, key=key)), self._source(key)
        if source is None:
            return _alone(key, labels, self._name, optional=self._optional)
        try:
            found = self._read(source, key)
        except CellkitError as error:
            return Failure(key=key, source=source.path, error=error)
        if found is None:
            return _alone(key, labels, self._name, optional=self._optional)
        return _pair(found, labels, source)

    def _source(self, key: str) -> Source | None:
        """The file of an image, KEY or KEY_tNNN."""
        series, mark, number = key.rpartition("_t")
        return self._sources.get(key) or (self._sources.get(series) if mark and number.isdecimal() else None)

    def _read(self, source: Source, key: str) -> Image | None:
        """An image of a file: looked for from the frame read last, then from the first."""
        if self._series == source.key:
            found = next((image for image in self._frames if image.key == key), None)
            if found is not None:
                return found
        self._series, self._frames = source.key, source.images()
        return next((image for image in self._frames if image.key == key), None)
