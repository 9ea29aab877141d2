"""view: images with their cells, and dense maps, as pictures for people."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.config import JsonValue, Preprocessing, Spec
from cellkit.data.normalise import ChannelView, normalise, statistics
from cellkit.data.truth import LabelFile, LabelRef, as_labels, check_shape
from cellkit.errors import CellkitError, InputError
from cellkit.io.images import Image, Pixels, ReadOptions, read_image
from cellkit.io.sources import Source
from cellkit.ops.drawing import PREDICTION_COLOUR, TRUTH_COLOUR, filled, line_width, outlined, shade
from cellkit.ops.drawing_scale import averaged, bands, boundaries, enlarged, nearest, picture_shape
from cellkit.ops.drawing_text import Entry, caption, swatch
from cellkit.ops.labelling import resize_labels
from cellkit.ops.runs import runs_of
from cellkit.ops.scale_bar import draw_scale_bar, font_size
from cellkit.overlap import ordered_map
from cellkit.provenance import DIGEST_SIZE, History, Record
from cellkit.stages.outcomes import Failure, IsDone, Skipped, never_done

SHOWN_CHANNELS = 3
LARGE = 64_000_000  # pixels; label files of larger images are read by bands of rows
BAND_PIXELS = 1 << 22  # labels in memory at once of such files
PAPER = 255
OPTIONS = ("axes", "plane", "channels")  # of reading that change what is seen


@dataclass(frozen=True, kw_only=True)
class ViewSettings(Spec):
    """How pictures are drawn.

    Attributes:
        outline: draw the outlines of the cells.
        fill: cover the cells with their colours, translucently.
        size: longest side of a picture in pixels, without its caption; None: see ``drawing_scale.picture_shape``.
        contrast: percentiles that become black and white, per channel, of colour images over all channels.
        pixel_size: micrometres per pixel of the images; None: what their files say.
        named: write the name below, as on a sheet.
    """

    outline: bool = True
    fill: bool = False
    size: int | None = None
    contrast: tuple[float, float] = (0.5, 99.5)
    pixel_size: float | None = None
    named: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture of one image or prediction.

    Attributes:
        key: output name of the image.
        source: the image as the user named it.
        pixels: (H, W, 3) uint8.
        history: what it was made of, and how.
        count: cells on it, or None.
    """

    key: str
    source: str
    pixels: NDArray[np.uint8]
    history: History = ()
    count: int | None = None


Viewed: TypeAlias = Picture | Failure | Skipped


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Labels as they are drawn.

    Attributes:
        labels: (h, w) int32 at the size of the picture.
        count: cells of the whole image, also those too small to be seen.
        digest: tells other labels apart.
        pixel_size: micrometres per pixel of the whole image, where the labels say it.
    """

    labels: NDArray[np.int32]
    count: int
    digest: str
    pixel_size: float | None = None


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Labels by key of their image.

    Attributes:
        name: as the user named them.
        by_key: where each is kept.
        optional: an image may have none.
    """

    name: str
    by_key: Mapping[str, LabelRef]
    optional: bool = False

    def of(self, image: Image) -> LabelRef | None:
        """Those of an image.

        Raises:
            InputError: it has none, and none are missing.
        """
        found = self.by_key.get(image.key)
        if found is None and not self.optional:
            repair = "names must be equal but for suffixes; --allow-missing draws what is there"
            raise InputError(image.source, f"{self.name} has no labels of {image.key!r}", repair)
        return found


def view(
    sources: Iterable[Source],
    labels: Annotations | None,
    truth: Annotations | None,
    settings: ViewSettings,
    *,
    workers: int = 1,
    is_done: IsDone = never_done,
) -> Iterator[Viewed]:
    """Draw images with the cells on them, in their order.

    Args:
        sources: what the user named.
        labels: cells that were found, or None.
        truth: true cells, or None; then all found ones have one colour, and a legend counts both.
        settings: how.
        workers: images drawn at once.
        is_done: tells by key and history whether the picture is there and up to date.
    """

    def drawn(item: tuple[Source, Image] | Failure) -> Viewed:
        if isinstance(item, Failure):
            return item
        source, image = item
        try:
            return _drawn(image, source.options, (labels, truth), settings, is_done)
        except InputError as error:
            return Failure(key=image.key, source=image.source, error=error)

    return ordered_map(drawn, _images(sources), workers)


def _images(sources: Iterable[Source]) -> Iterator[tuple[Source, Image] | Failure]:
    for source in sources:
        try:
            for image in source.images():
                yield source, image
        except CellkitError as error:
            yield Failure(key=source.key, source=source.path, error=error)


def _drawn(
    image: Image,
    options: ReadOptions,
    annotations: tuple[Annotations | None, Annotations | None],
    settings: ViewSettings,
    is_done: IsDone,
) -> Picture | Skipped:
    shape = (image.pixels.shape[1], image.pixels.shape[2])
    size = picture_shape(shape, settings.size)
    references = [found.of(image) if found is not None else None for found in annotations]
    cells, truth = (read_cells(ref, shape, size) if ref is not None else None for ref in references)
    history = (_record(image, options, (cells, truth), settings),)
    if is_done(image.key, history):
        return Skipped(key=image.key, source=image.source)
    picture = draw_cells(paint_image(image, size, settings.contrast), cells, truth, settings)
    said = (settings.pixel_size, image.pixel_size, *(found.pixel_size for found in (cells, truth) if found))
    pixel_size = next((value for value in said if value), None)
    if pixel_size is not None:
        picture = draw_scale_bar(picture, pixel_size * shape[1] / size[1])
    lines = [[Entry(text=image.key)]] if settings.named else []
    lines += _counts(cells, truth, settings, text_size(picture, settings)) if settings.named or truth else []
    return Picture(
        key=image.key,
        source=image.source,
        pixels=with_caption(picture, lines, settings),
        history=history,
        count=cells.count if cells is not None else None,
    )


def _record(
    image: Image, options: ReadOptions, drawn: tuple[Cells | None, Cells | None], settings: ViewSettings
) -> Record:
    arguments = changed(settings)
    arguments |= {name: value for name in OPTIONS if (value := getattr(options, name)) is not None}
    arguments |= {name: cells.digest for name, cells in zip(("labels", "truth"), drawn, strict=True) if cells}
    return Record(verb="view", arguments=arguments, input_digest=image.digest)


def changed(settings: ViewSettings) -> dict[str, JsonValue]:
    """Settings that are not the usual ones, for the history."""
    usual = ViewSettings().to_dict()
    return {name: value for name, value in settings.to_dict().items() if value != usual[name]}


def paint_image(image: Image, size: tuple[int, int], contrast: tuple[float, float]) -> NDArray[np.uint8]:
    """An image as a picture (h, w, 3); a larger one is averaged down by bands of rows, never floats as a whole.

    Args:
        image: one channel is shown grey, two red and green, the first three of more red, green and blue.
        size: (h, w) of the picture.
        contrast: percentiles that become black and white: of each channel, but of colours of all together.

    Raises:
        InputError: a value is NaN or infinite.
    """
    pixels = _first_channels(image.pixels)
    kind = Preprocessing(channels=pixels.shape[0], percentiles=contrast)
    low, high = statistics(pixels, kind, source=image.source)
    if image.rgb:
        low[:], high[:] = low.min(), high.max()

    def convert(window: NDArray[Any]) -> NDArray[np.float32]:
        return normalise(window, low, high, source=image.source)

    return enlarged(shade(averaged(pixels, size, convert)), size)


def _first_channels(pixels: Pixels) -> Pixels:
    if pixels.shape[0] <= SHOWN_CHANNELS:
        return pixels
    if isinstance(pixels, np.ndarray):
        return pixels[:SHOWN_CHANNELS]
    return ChannelView(pixels, tuple(range(SHOWN_CHANNELS)))


def read_cells(reference: LabelRef, shape: tuple[int, int], size: tuple[int, int]) -> Cells:
    """Labels of an image (H, W) at the size (h, w) of its picture, by nearest pixels.

    Label files of images beyond 64 million pixels are read by bands of rows.

    Raises:
        InputError: they cannot be read, or are those of another shape.
    """
    stored = _stored_labels(reference) if shape[0] * shape[1] > LARGE else None
    if stored is None:
        read = reference.read(shape)
        labels, found = resize_labels(read.labels, size), np.unique(runs_of(read.labels).values)
        pixel_size = read.pixel_size
    else:
        check_shape(reference.name, stored.pixels.shape[1:], shape)
        labels, found = _read_by_bands(stored.pixels, size, reference.name)
        pixel_size = stored.pixel_size
    digest = hashlib.blake2b(labels.tobytes(), digest_size=DIGEST_SIZE)
    digest.update(found.astype("<i8").tobytes())
    count = int(np.count_nonzero(found))
    return Cells(labels=labels, count=count, digest=digest.hexdigest(), pixel_size=pixel_size)


def _stored_labels(reference: LabelRef) -> Image | None:
    """A label file of one channel of whole numbers, of which windows can be read; None for whatever is none."""
    if not isinstance(reference, LabelFile) or reference.name.endswith(".npy"):
        return None
    name = f"{reference.name}::{reference.dataset}" if reference.dataset else reference.name
    image = read_image(name)
    return image if image.pixels.shape[0] == 1 and image.pixels.dtype.kind in "bui" else None


def _read_by_bands(
    pixels: Pixels, size: tuple[int, int], name: str
) -> tuple[NDArray[np.int32], NDArray[np.integer[Any]]]:
    """Labels (h, w) int32 by nearest pixels, and all that occur in the whole."""
    height, width = pixels.shape[1:]
    rows, columns = nearest(size[0], height), nearest(size[1], width)
    edges = boundaries(height, size[0])
    labels = np.empty(size, np.int32)
    found = np.zeros(1, np.int32)
    for first, last in bands(edges, max(1, BAND_PIXELS // width)):
        begin = int(edges[first])
        window = as_labels(np.asarray(pixels[0:1, begin : int(edges[last]), :])[0], name)
        labels[first:last] = window[(rows[first:last] - begin)[:, None], columns]
        found = np.union1d(found, runs_of(window).values)
    return labels, found


def draw_cells(
    picture: NDArray[np.uint8], cells: Cells | None, truth: Cells | None, settings: ViewSettings
) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with cells on it.

    Each cell has its own colour (see ``ops.colouring``). Beside true outlines, the outlines of found cells have one
    colour, and lie above; the true ones are a pixel wider, so that both are seen where they agree.
    """
    width = min((line_width(found.labels) for found in (cells, truth) if found is not None and found.count), default=1)
    if cells is not None and settings.fill:
        picture = filled(picture, cells.labels)
    if truth is not None:
        picture = outlined(picture, truth.labels, width + 1, TRUTH_COLOUR)
    if cells is not None and settings.outline:
        picture = outlined(picture, cells.labels, width, None if truth is None else PREDICTION_COLOUR)
    return picture


def _counts(cells: Cells | None, truth: Cells | None, settings: ViewSettings, size: int) -> list[list[Entry]]:
    """The line that counts cells: with truth, a legend."""
    if truth is None:
        return [[Entry(text=f"{cells.count} cell" + "s" * (cells.count != 1))]] if cells is not None else []
    line = [Entry(text=f"true {truth.count}", glyph=swatch(TRUTH_COLOUR, size))]
    if cells is not None:
        glyph = swatch(PREDICTION_COLOUR, size) if settings.outline else None
        line.append(Entry(text=f"found {cells.count}", glyph=glyph))
    return [line]


def text_size(picture: NDArray[np.uint8], settings: ViewSettings) -> int:
    """Size of captions: by the picture, or on a sheet by its tiles, so that all have the same."""
    return font_size((settings.size,) if settings.named and settings.size else picture.shape)


def with_caption(picture: NDArray[np.uint8], lines: list[list[Entry]], settings: ViewSettings) -> NDArray[np.uint8]:
    """A picture with lines of text below; on a sheet all are as wide as a tile."""
    if not lines:
        return picture
    size = text_size(picture, settings)
    width = max(picture.shape[1], settings.size or 0) if settings.named else picture.shape[1]
    margin = ((0, 0), (0, width - picture.shape[1]), (0, 0))
    above = np.pad(picture, margin, constant_values=PAPER)
    return np.concatenate([above, caption(width, lines, size, inset=0 if settings.named else size // 2)])
