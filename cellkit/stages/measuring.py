"""measure: where the cells of each image lie, how large, of what shape and how bright they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.data.truth import LabelRef, Truth
from cellkit.errors import InputError
from cellkit.io.images import Image
from cellkit.ops.measuring import Cells, cells_of, centroids, eccentricities, equivalent_diameters
from cellkit.ops.measuring_intensities import intensities
from cellkit.ops.measuring_outlines import convex_areas, perimeters
from cellkit.overlap import ordered_map
from cellkit.stages.outcomes import Failure

Columns: TypeAlias = dict[str, NDArray[Any]]

BOX = ("box_y0", "box_x0", "box_y1", "box_x1")  # of the first pixel, and after the last
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Labels, and the image that they belong to.

    Attributes:
        key: name of the image.
        labels: where its labels are kept.
        image: the image, or None: then shapes alone are measured.
        channels: names or numbers of the channels that the user chose, or None.
    """

    key: str
    labels: LabelRef
    image: Image | None = None
    channels: Sequence[int | str] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """The cells of one image.

    Attributes:
        key: name of the image.
        source: the labels as the user named them.
        columns: name -> (N,) values, a row per cell by ascending label.
        pixel_size: micrometres per pixel, or None.
        cells: the cells; their ``ids`` are values in ``labels``. None when the pixels were let go.
        labels: (H, W) int32, or None likewise.
        image: the image, or None.
        overlapping: pixels that belong to several cells, and were measured as those of the smallest of them.
    """

    key: str
    source: str
    columns: Columns
    pixel_size: float | None
    cells: Cells | None = field(repr=False)
    labels: NDArray[np.int32] | None = field(repr=False)
    image: Image | None = field(default=None, repr=False)
    overlapping: int = 0

    @property
    def count(self) -> int:
        """How many cells there are."""
        return len(self.columns["label"])

    def without_pixels(self) -> Measured:
        """The columns alone: a table of many images must not hold the images."""
        return replace(self, cells=None, labels=None, image=None)


def measure(
    pairs: Iterable[Pair | Failure], *, pixel_size: float | None = None, workers: int = 1
) -> Iterator[Measured | Failure]:
    """Measure the cells of one image after the other, in their order.

    Args:
        pairs: labels and images.
        pixel_size: micrometres per pixel; None: what the images say, else what the labels say.
        workers: images measured at once.
    """

    def measured(pair: Pair | Failure) -> Measured | Failure:
        if isinstance(pair, Failure):
            return pair
        try:
            return _measured(pair, pixel_size)
        except InputError as error:
            return Failure(key=pair.key, source=pair.labels.name, error=error)

    return ordered_map(measured, pairs, workers)


def _measured(pair: Pair, pixel_size: float | None) -> Measured:
    image = pair.image
    truth = _read(pair.labels, None if image is None else (image.pixels.shape[1], image.pixels.shape[2]))
    cells = cells_of(truth.labels)
    size = pixel_size or (image.pixel_size if image is not None else None) or truth.pixel_size
    columns = {"label": _outer_ids(truth, cells)} | _scores(truth, cells) | _shapes(truth.labels, cells)
    if size is not None:
        columns |= _micrometres(columns, size)
    if image is not None:
        columns |= _brightness(image, _channel_names(image, pair.channels), cells)
    return Measured(
        key=pair.key,
        source=pair.labels.name,
        columns=columns,
        pixel_size=size,
        cells=cells,
        labels=truth.labels,
        image=image,
        overlapping=truth.overlapping,
    )


def _read(reference: LabelRef, shape: tuple[int, int] | None) -> Truth:
    truth = reference.read(shape)
    if truth.annotations is not None and not truth.annotations.has_masks:
        problem = "the annotations are boxes without masks"
        raise InputError(reference.name, problem, "cells are measured by their pixels")
    return truth


def _outer_ids(truth: Truth, cells: Cells) -> NDArray[np.int64]:
    """(N,) what the file calls the cells: label i + 1 is the i-th annotation of a file that has ids of its own."""
    return cells.ids if truth.annotations is None else truth.annotations.ids[cells.ids - 1]


def _scores(truth: Truth, cells: Cells) -> Columns:
    """The scores that label files carry; NaN for cells that they do not reach."""
    if truth.scores is None:
        return {}
    known = cells.ids <= len(truth.scores)
    scores = np.full(len(cells), np.nan)
    # a float32 as the shortest decimal that gives it again: 0.9 and not 0.8999999761581421
    scores[known] = [float(str(score)) for score in truth.scores[cells.ids[known] - 1]]
    return {"score": scores}


def _shapes(labels: NDArray[np.int32], cells: Cells) -> Columns:
    centres = centroids(cells)
    return {
        "area": cells.areas,
        "centroid_y": centres[:, 0],
        "centroid_x": centres[:, 1],
        **dict(zip(BOX, cells.boxes.T, strict=True)),
        "perimeter": perimeters(labels, cells),
        "equivalent_diameter": equivalent_diameters(cells),
        "eccentricity": eccentricities(cells),
        "solidity": cells.areas / convex_areas(cells),
        "touches_border": cells.touches_border,
    }


def _micrometres(columns: Columns, size: float) -> Columns:
    """The same lengths and areas in micrometres, and the size of a pixel."""
    lengths = ("centroid_y", "centroid_x", *BOX, "perimeter", "equivalent_diameter")
    found = {"pixel_size_um": np.full(len(columns["area"]), size), "area_um2": columns["area"] * size**2}
    return found | {f"{name}_um": columns[name] * size for name in lengths}


def _brightness(image: Image, names: Sequence[str], cells: Cells) -> Columns:
    columns: Columns = {}
    for channel, name in enumerate(names):
        found = intensities(cells, image.pixels, channel)
        for kind in ("mean", "min", "max", "std"):
            columns[f"intensity_{kind}_{name}"] = getattr(found, kind)
    return columns


def _channel_names(image: Image, chosen: Sequence[int | str] | None) -> list[str]:
    """A name for each channel: that of the file, a colour, or its number; names that occur twice get their number."""
    count = image.pixels.shape[0]
    numbers = [str(name) for name in chosen or ()]
    if len(numbers) != count:
        numbers = [str(number) for number in range(count)]
    names = list(image.channel_names) or (list(COLOURS) if image.rgb and count == len(COLOURS) else numbers)
    if len(names) != count:
        return numbers
    return [f"{name}_{number}" if names.count(name) > 1 else name for name, number in zip(names, numbers, strict=True)]


def table_of(images: Sequence[Measured]) -> Columns:
    """One table of all images, a row per cell: name of the image, label, then all that was measured of any image.

    What was not measured of an image, such as micrometres where its pixel size is not known, is NaN.
    """
    names = dict.fromkeys(name for image in images for name in image.columns)
    keys = np.repeat(np.array([image.key for image in images], object), [image.count for image in images])
    order = sorted(names, key=_group)  # stable: as they came first
    return {"image": keys} | {name: np.concatenate([_column(image, name) for image in images]) for name in order}


def _group(name: str) -> int:
    """Place of a column: label and score, pixels, micrometres, intensities."""
    if name.startswith("intensity_"):
        return 3
    if name.endswith(("_um", "_um2")):
        return 2
    return 0 if name in ("label", "score") else 1


def _column(image: Measured, name: str) -> NDArray[Any]:
    found = image.columns.get(name)
    return np.full(image.count, np.nan) if found is None else found
