"""The pixels of a TIFF series, by the four ways its layout allows: in one piece, page by page, by windows, or whole."""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError
from cellkit.io.stored import COPY_AGAIN, Index, truncated

CACHE_BYTES = 1 << 27  # decoded strips and tiles kept, as the windows of one row of tiles share strips
JPEG = (6, 7, 34892, 33007)  # compressions whose tables lie apart from the segments


class ContiguousSeries:
    """Uncompressed pixels in one piece: windows of a map of the file, which ends with each window.

    Args:
        content: the file, or its bytes.
        name: the file as the user wrote it.
        offset: where the pixels begin.
        dtype: their type, with its byte order.
        shape: all axes of the series.
    """

    def __init__(
        self, content: Path | bytes, name: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self._content = content
        self._offset = offset
        self._dtype = dtype
        self._shape = shape
        end = len(content) if isinstance(content, bytes) else content.stat().st_size
        needed = offset + math.prod(shape) * dtype.itemsize
        if end < needed:
            raise truncated(name, end, needed)

    def __getitem__(self, index: Index) -> NDArray[Any]:
        if isinstance(self._content, bytes):
            flat = np.frombuffer(self._content, self._dtype, math.prod(self._shape), self._offset)
            return np.array(flat.reshape(self._shape)[index])
        # a map per window: pages of the file that were read do not pile up in the memory of the process
        whole = np.memmap(self._content, self._dtype, "r", self._offset, self._shape)
        return np.array(whole[index])


class WholeSeries:
    """Pixels whose pages are no planes (volumes in one page, axes given by the user): loaded at once."""

    def __init__(self, name: str, series: Any) -> None:  # noqa: ANN401 - tifffile is not typed
        self._name = name
        self._series = series
        self._pixels: NDArray[Any] | None = None

    def __getitem__(self, index: Index) -> NDArray[Any]:
        if self._pixels is None:
            for number in range(len(self._series)):
                complete_page(self._name, self._series, number)
            self._pixels = self._series.asarray()
        return np.asarray(self._pixels[index])


class PagedSeries:
    """One plane, or one plane of all samples, per page: loaded page by page, the last one kept."""

    def __init__(self, name: str, series: Any) -> None:  # noqa: ANN401
        self._name = name
        self._series = series
        self._lead = series.shape[: -len(series.keyframe.shape)]
        self._last: tuple[int, NDArray[Any]] | None = None

    def __getitem__(self, index: Index) -> NDArray[Any]:
        number, rest = page_of(index, self._lead)
        if self._last is None or self._last[0] != number:
            page = complete_page(self._name, self._series, number)
            self._last = number, page.asarray()
        return np.asarray(self._last[1][rest])


class SegmentedSeries:
    """Planes of strips or tiles, of which only those that a window touches are read and decoded.

    It outlives the open file, may be read from several threads and keeps at most ``CACHE_BYTES`` of decoded pixels
    (or one segment, where a single one is larger).

    Args:
        content: the file, or its bytes.
        name: the file as the user wrote it.
        series: an open tifffile series whose pages are planes.
    """

    def __init__(self, content: Path | bytes, name: str, series: Any) -> None:  # noqa: ANN401
        key = series.keyframe
        self._content = content
        self._name = name
        self._lead = series.shape[: -len(key.shape)]
        self._page_axes = key.axes
        self._dtype = key.dtype
        self._nodata = key.nodata
        self._decode: Callable[..., Any] = key.decode
        self._height, self._width = int(key.imagelength), int(key.imagewidth)
        if key.is_tiled:
            self._rows, self._columns = int(key.tilelength), int(key.tilewidth)
        else:
            self._rows, self._columns = min(int(key.rowsperstrip), self._height), self._width
        self._planar = key.planarconfig == 2
        self._pages = [self._segments(series, number) for number in range(len(series))]
        self._cache: OrderedDict[tuple[int, int], NDArray[Any] | None] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def _segments(self, series: Any, number: int) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:  # noqa: ANN401
        page = complete_page(self._name, series, number)
        tables: dict[str, Any] = {}
        if series.keyframe.compression in JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": series.keyframe.jpegheader}
        return tuple(page.dataoffsets), tuple(page.databytecounts), tables

    def __getitem__(self, index: Index) -> NDArray[Any]:
        number, rest = page_of(index, self._lead)
        parts = dict(zip(self._page_axes, rest, strict=True))
        ys = range(*_slice(parts["Y"]).indices(self._height))
        xs = range(*_slice(parts["X"]).indices(self._width))
        sample = parts.get("S", 0)
        result = np.empty((len(ys), len(xs)), self._dtype)
        with self._lock, self._open() as stream:
            for row, (to_y, from_y) in _touched(ys, self._rows):
                for column, (to_x, from_x) in _touched(xs, self._columns):
                    segment = self._segment(stream, number, self._place(row, column, sample))
                    band = 0 if self._planar else sample
                    result[to_y, to_x] = self._nodata if segment is None else segment[from_y, from_x, band]
        return result

    def _open(self) -> BinaryIO:
        return io.BytesIO(self._content) if isinstance(self._content, bytes) else self._content.open("rb")

    def _place(self, row: int, column: int, sample: int) -> int:
        across, down = -(-self._width // self._columns), -(-self._height // self._rows)
        return ((sample if self._planar else 0) * down + row) * across + column

    def _segment(self, stream: BinaryIO, number: int, place: int) -> NDArray[Any] | None:
        """One decoded strip or tile (h, w, samples), or None where nothing is stored."""
        known = (number, place)
        if known in self._cache:
            self._cache.move_to_end(known)
            return self._cache[known]
        offsets, counts, tables = self._pages[number]
        segment = None
        if counts[place]:
            stream.seek(offsets[place])
            decoded = self._decode(stream.read(counts[place]), place, **tables)[0]
            segment = None if decoded is None else decoded[0]
        self._keep(known, segment)
        return segment

    def _keep(self, known: tuple[int, int], segment: NDArray[Any] | None) -> None:
        self._cache[known] = segment
        self._cached_bytes += 0 if segment is None else segment.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            dropped = self._cache.popitem(last=False)[1]
            self._cached_bytes -= 0 if dropped is None else dropped.nbytes


def page_of(index: Index, lead: tuple[int, ...]) -> tuple[int, Index]:
    """The number of the page that an index into the series lies in, and the rest of the index, within the page."""
    numbers = index[: len(lead)]
    return int(np.ravel_multi_index(numbers, lead)) if lead else 0, index[len(lead) :]  # type: ignore[arg-type]


def complete_page(name: str, series: Any, number: int) -> Any:  # noqa: ANN401
    """One page of a series, of which every strip and tile lies within the file.

    Raises:
        InputError: the page is missing or cut; the decoders would fill the rest with zeros without a word.
    """
    page = series[number]
    if page is None:
        raise InputError(name, f"is incomplete: page {number} of {len(series)} is missing", COPY_AGAIN)
    needed = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n), default=0)
    end = page.parent.filehandle.size
    if needed > end and not page.parent.filehandle.closed:
        raise truncated(name, end, needed)
    return page


def _slice(part: int | slice) -> slice:
    return part if isinstance(part, slice) else slice(part, part + 1)


def _touched(wanted: range, length: int) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Segments that hold wanted rows: their number, the slice of the result and the slice within the segment."""
    position = 0
    while position < len(wanted):
        number = wanted[position] // length
        in_segment = len(range(wanted[position], min((number + 1) * length, wanted.stop), wanted.step))
        begin = wanted[position] - number * length
        inner = slice(begin, begin + (in_segment - 1) * wanted.step + 1, wanted.step)
        yield number, (slice(position, position + in_segment), inner)
        position += in_segment
