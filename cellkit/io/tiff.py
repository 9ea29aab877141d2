"""TIFF: plain, ImageJ, OME, BigTIFF and pyramids, whole planes or windows of planes that do not fit."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tifffile

from cellkit.errors import InputError
from cellkit.io.stored import COPY_AGAIN, Indexed, Stored, truncated
from cellkit.io.tiff_arrays import ContiguousSeries, PagedSeries, SegmentedSeries, WholeSeries
from cellkit.io.tiff_metadata import channel_names, pixel_size

LARGE_PLANE = 64_000_000  # pixels; planes beyond are never loaded whole
OPACITY = (1, 2)  # values of the tag ExtraSamples: associated and unassociated alpha
COLOURS = (2, 6)  # values of the tag PhotometricInterpretation: RGB and YCbCr
PALETTE = 3

_log = logging.getLogger(__name__)


class _Forward(logging.Handler):
    """Hands tifffile's complaints to our own log as details: what matters in them becomes an error here."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.debug("tifffile: %s", record.getMessage())


_tifffile_log = logging.getLogger("tifffile")
_tifffile_log.propagate = False  # else it writes several lines to stderr about every damaged file
if not any(isinstance(handler, _Forward) for handler in _tifffile_log.handlers):
    _tifffile_log.addHandler(_Forward())


@contextmanager
def open_tiff(content: Path | bytes, name: str, series: int = 0, axes: str | None = None) -> Iterator[Stored]:
    """Open one series of a TIFF file.

    Args:
        content: the file, or its bytes.
        name: the file as the user wrote it.
        series: which of its images, from 0.
        axes: its axes as the user gives them, or None; they decide how it can be read.

    Raises:
        InputError: the file is truncated, or has no such series.
    """
    with tifffile.TiffFile(content if isinstance(content, Path) else io.BytesIO(content)) as tiff:
        _check_chain(tiff, name)
        found = _series(tiff, name, series)
        page = found.keyframe
        array = _array(content, name, found, axes, _is_large(found))
        yield Stored(
            name=name,
            array=array,
            shape=found.shape,
            dtype=found.dtype,
            axes=found.axes,
            channel_names=channel_names(tiff, series, found.axes),
            pixel_size=pixel_size(tiff, series),
            rgb=page.photometric in COLOURS and page.samplesperpixel >= 3,
            alpha=any(sample in OPACITY for sample in page.extrasamples),
            guessed=_guessed(tiff, series, page),
            large=_is_large(found) and not isinstance(array, WholeSeries),
        )


def _series(tiff: tifffile.TiffFile, name: str, number: int) -> Any:  # noqa: ANN401 - tifffile is not typed
    if not tiff.series:
        raise InputError(name, "is truncated: a TIFF header without an image", COPY_AGAIN)
    if not 0 <= number < len(tiff.series):
        raise InputError(name, f"has no series {number}", f"it has {len(tiff.series)}, counted from 0")
    return tiff.series[number]


def _check_chain(tiff: tifffile.TiffFile, name: str) -> None:
    """Refuse a file whose chain of pages leads out of it: tifffile would give the first pages without a word."""
    where = tiff.pages.next_page_offset
    if where is None:
        return
    tiff.filehandle.seek(where)
    pointer = tiff.filehandle.read(tiff.tiff.offsetsize)
    offset = int.from_bytes(pointer, "little" if tiff.tiff.byteorder == "<" else "big")
    if len(pointer) < tiff.tiff.offsetsize or offset >= tiff.filehandle.size:
        raise truncated(name, tiff.filehandle.size, max(offset, where + tiff.tiff.offsetsize))
    if offset:
        raise InputError(name, f"is damaged: there is no page at byte {offset}, where one should follow", COPY_AGAIN)


def _is_large(series: Any) -> bool:  # noqa: ANN401
    """Whether a plane is too large to be loaded, and is stored such that it can be read by windows."""
    page = series.keyframe
    is_simple = page.imagedepth == 1 and series.transform is None and not series.is_multifile
    return is_simple and int(page.imagelength) * int(page.imagewidth) > LARGE_PLANE


def _array(content: Path | bytes, name: str, series: Any, axes: str | None, is_large: bool) -> Indexed:  # noqa: ANN401
    """The cheapest way to the pixels that the layout of the file allows."""
    if series.transform is not None or series.is_multifile:
        return WholeSeries(name, series)
    if series.dataoffset is not None:
        dtype = series.dtype.newbyteorder(series.keyframe.parent.byteorder)
        return ContiguousSeries(content, name, series.dataoffset, dtype, series.shape)
    if not _pages_are_planes(series, axes):
        return WholeSeries(name, series)
    return SegmentedSeries(content, name, series) if is_large else PagedSeries(name, series)


def _pages_are_planes(series: Any, axes: str | None) -> bool:  # noqa: ANN401
    """Whether each page holds one plane: what comes before its rows and columns only counts the pages."""
    page = series.keyframe
    own = tuple(page.shape)
    tail = (axes or series.axes).upper()[-len(own) :]
    in_place = all((a in "YX") == (b in "YX") for a, b in zip(tail, page.axes, strict=False))
    return in_place and tuple(series.shape[-len(own) :]) == own and math.prod(series.shape[: -len(own)]) == len(series)


def _guessed(tiff: tifffile.TiffFile, number: int, page: Any) -> tuple[str, ...]:  # noqa: ANN401
    texts = [f"series {number} of {len(tiff.series)}"] if len(tiff.series) > 1 else []
    if page.photometric == PALETTE:
        texts.append("palette numbers taken as intensities")
    return tuple(texts)
