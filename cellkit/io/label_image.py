"""Label images in memory, whole or by bands of rows, and the header that goes with them into files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellkit.provenance import History, from_json, to_json

HEADER_FORMAT = 1
UNKNOWN = -1  # of such a pixel nothing is known (StarDist's convention)
LARGEST_INT16, LARGEST_UINT16 = 32_767, 65_535
LARGEST_LABEL = 2**31 - 1  # labels are int32 in memory


@dataclass(frozen=True, kw_only=True)
class LabelHeader:
    """What is stored beside the labels.

    Attributes:
        scores: (n,) float32, or None; scores[i] belongs to label i + 1.
        pixel_size: micrometres per pixel, or None.
        history: the commands that made the labels.
        outlines: (n, K, 2) float32 corners of the polygons that the labels were drawn from, row and column, (0, 0) is
            the centre of the first pixel; or None. They are no part of the text.
    """

    scores: NDArray[np.float32] | None = None
    pixel_size: float | None = None
    history: History = ()
    outlines: NDArray[np.float32] | None = None

    def to_json(self) -> str:
        """One line of ASCII: ``{"cellkit": {"format": 1, "history": [...], "scores": [...], "pixel_size": ...}}``."""
        values: dict[str, Any] = {"format": HEADER_FORMAT, "history": json.loads(to_json(self.history))}
        if self.scores is not None:
            values["scores"] = [_shortest(score) for score in np.asarray(self.scores, np.float32)]
        if self.pixel_size is not None:
            values["pixel_size"] = self.pixel_size
        return json.dumps({"cellkit": values}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """Rebuild from :meth:`to_json`; None when the text is no header of ours."""
        try:
            values = json.loads(text)["cellkit"]
            scores, pixel_size = values.get("scores"), values.get("pixel_size")
            return cls(
                scores=None if scores is None else np.array(scores, np.float32),  # null becomes NaN
                pixel_size=None if pixel_size is None else float(pixel_size),
                history=from_json(json.dumps(values["history"])),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


def _shortest(score: np.float32) -> float | None:
    """The shortest decimal that gives the same float32 again; JSON has no NaN."""
    return float(str(score)) if math.isfinite(score) else None


@dataclass(frozen=True, kw_only=True)
class LabelInfo:
    """All that is known about the labels of one image, without the labels.

    Attributes:
        key: output name of the image.
        source: where it comes from, for messages.
        scores: (n,) float32, or None; scores[i] belongs to label i + 1.
        pixel_size: micrometres per pixel, or None.
        history: the commands that made it.
        outlines: (n, K, 2) float32 corners of the polygons that the labels were drawn from, or None.
    """

    key: str
    source: str = ""
    scores: NDArray[np.float32] | None = None
    pixel_size: float | None = None
    history: History = ()
    outlines: NDArray[np.float32] | None = None

    @property
    def header(self) -> LabelHeader:
        """What is stored beside the labels."""
        return LabelHeader(scores=self.scores, pixel_size=self.pixel_size, history=self.history, outlines=self.outlines)


@dataclass(frozen=True, kw_only=True)
class LabelImage(LabelInfo):
    """A label image.

    Attributes:
        labels: (H, W) int32; 0 is background, -1 where nothing is known.
    """

    labels: NDArray[np.int32]

    @property
    def count(self) -> int:
        """How many cells there are."""
        return int(np.count_nonzero(np.unique(self.labels) > 0))

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def largest(self) -> int:
        """The largest label, which decides between uint16 and uint32."""
        return int(self.labels.max(initial=0))

    @property
    def is_sparse(self) -> bool:
        """Whether there are pixels of which nothing is known, which only signed types can hold."""
        return int(self.labels.min(initial=0)) == UNKNOWN

    @property
    def rows(self) -> Iterable[NDArray[Any]]:
        """The image as one band of rows."""
        return (self.labels,)


@dataclass(frozen=True, kw_only=True)
class LabelRows(LabelInfo):
    """A label image that does not fit into memory, as bands of rows from top to bottom.

    Attributes:
        rows: bands (h, W) of any height, together H rows; read once.
        shape: (H, W).
        count: how many cells there are; they are numbered from 1 without gaps.
    """

    rows: Iterable[NDArray[Any]]
    shape: tuple[int, int]
    count: int

    @property
    def largest(self) -> int:
        """The largest label, which decides between uint16 and uint32."""
        return self.count

    @property
    def is_sparse(self) -> bool:
        """Never: whatever is too large for memory was segmented."""
        return False


def stored_dtype(largest: int, *, is_sparse: bool = False) -> np.dtype[Any]:
    """The type of label files: uint16, or uint32 above 65,535: never wrapped.

    Args:
        largest: label.
        is_sparse: there is -1 too: int16, or int32 above 32,767.
    """
    if not 0 <= largest <= LARGEST_LABEL:
        raise ValueError(f"no label can be {largest}")
    if is_sparse:
        return np.dtype(np.int16 if largest <= LARGEST_INT16 else np.int32)
    return np.dtype(np.uint16 if largest <= LARGEST_UINT16 else np.uint32)


def whole(item: LabelImage | LabelRows) -> NDArray[np.int32]:
    """The labels (H, W) as one array."""
    if isinstance(item, LabelImage):
        return item.labels
    labels = np.empty(item.shape, np.int32)
    for start, band in _placed(item.rows, item.shape):
        labels[start : start + len(band)] = band
    return labels


def bands(
    rows: Iterable[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any], height: int
) -> Iterable[NDArray[Any]]:
    """Bands of rows of any height -> bands of ``height`` rows (the last one may be lower) in the type of the file.

    Raises:
        ValueError: a label does not fit the type, or the bands do not make up the shape.
    """
    waiting: list[NDArray[Any]] = []
    count, least = 0, max(np.iinfo(dtype).min, UNKNOWN)
    for _, band in _placed(rows, shape):
        if band.size and not least <= int(band.min()) <= int(band.max()) <= np.iinfo(dtype).max:
            raise ValueError(f"labels from {band.min()} to {band.max()} do not fit {dtype}")
        waiting.append(band)
        count += len(band)
        while count >= height:
            band = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            yield band[:height].astype(dtype)
            waiting, count = [band[height:]], count - height
    if count:
        yield np.concatenate(waiting).astype(dtype)


def _placed(rows: Iterable[NDArray[Any]], shape: tuple[int, int]) -> Iterable[tuple[int, NDArray[Any]]]:
    """Bands with the row they begin at; together they are the image, no more and no less."""
    start = 0
    for band in rows:
        if band.ndim != 2 or band.shape[1] != shape[1] or start + len(band) > shape[0]:
            raise ValueError(f"a band {band.shape} from row {start} is no part of an image {shape}")
        yield start, band
        start += len(band)
    if start != shape[0]:
        raise ValueError(f"{start} of {shape[0]} rows came")
