"""Label images as TIFF: strips of rows, zlib-compressed, written and checked in bounded memory.

One page (H, W) of uint16, or of uint32 where a label is above 65,535; 0 is background. Sparse labels, with -1 where
nothing is known, are int16, or int32 above 32,767. Resolution tags, per centimetre, when the pixel size is known.
``ImageDescription`` is one line of JSON, ``{"cellkit": {"format": 1, "history": [...], "scores": [...], "pixel_size":
...}}``: the commands that made it, the score of each label in order, and micrometres per pixel; the last two may be
absent. The private tag 65001, where there is one, holds float32 corners of the polygons that the labels were drawn
from: row and column of the corners of the first label, of the second, and so on.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from cellkit import __version__
from cellkit.errors import InputError, OutputError
from cellkit.io.label_image import LabelHeader, LabelImage, LabelRows, bands, stored_dtype
from cellkit.io.stored import COPY_AGAIN, decoding, truncated

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
STRIP_BYTES = 1 << 18  # uncompressed; larger strips compress no better, and readers of windows decode less
COMPRESSION_LEVEL = 6
CLASSIC_LIMIT = 2**32 - 2**25  # bytes; beyond, offsets need BigTIFF
MICROMETRES_PER_CENTIMETRE = 10_000
OUTLINES_TAG = 65_001  # of the range for private use
PLAIN, INVERTED = 1, 0  # values of the tag PhotometricInterpretation: black is zero, white is zero


def write_tiff(target: Path | BinaryIO, item: LabelImage | LabelRows, compress: bool = True) -> None:
    """Write labels as strips; what went to a disk is read back.

    The ImageDescription is the header as JSON; the resolution tags, per centimetre, come from the pixel size.

    Args:
        target: a file, or a stream that can be read and positioned.
        item: labels, whole or by bands of rows.
        compress: zlib, or none.

    Raises:
        OutputError: what was written does not read back.
    """
    dtype = stored_dtype(item.largest, is_sparse=item.is_sparse)
    height = min(item.shape[0], max(1, STRIP_BYTES // (item.shape[1] * dtype.itemsize)))
    digest = hashlib.blake2b()
    strips = iter(bands(item.rows, item.shape, dtype, height))
    if isinstance(target, Path):
        strips = _digested(strips, digest)
    pixels = item.shape[0] * item.shape[1] * dtype.itemsize
    density = MICROMETRES_PER_CENTIMETRE / item.pixel_size if item.pixel_size else None
    with tifffile.TiffWriter(target, bigtiff=pixels > CLASSIC_LIMIT) as tiff:
        tiff.write(
            (imagecodecs.deflate_encode(strip.tobytes(), COMPRESSION_LEVEL) for strip in strips)
            if compress
            else strips,
            shape=item.shape,
            dtype=dtype,
            photometric="minisblack",
            compression="zlib" if compress else None,
            rowsperstrip=height,
            description=item.header.to_json(),
            metadata=None,
            software=f"cellkit {__version__}",
            resolution=(density, density) if density else None,
            resolutionunit="CENTIMETER" if density else None,
            extratags=_outline_tags(item),
        )
    if not isinstance(target, Path):
        return  # memory: whatever carries the bytes from here checks them itself
    try:
        with decoding(item.key):
            is_same = _read_back(target) == (item.shape, dtype, digest.hexdigest())
    except InputError:
        is_same = False
    if not is_same:
        raise OutputError(item.key, "the label image does not read back as it was written", "check the disk")


def _outline_tags(item: LabelImage | LabelRows) -> list[tuple[int, str, int, NDArray[np.float32], bool]]:
    if item.outlines is None or item.scores is None or not item.outlines.size:
        return []
    return [(OUTLINES_TAG, "f", item.outlines.size, item.outlines.astype(np.float32).ravel(), True)]


def _digested(strips: Iterable[NDArray[Any]], digest: Any) -> Iterator[NDArray[Any]]:  # noqa: ANN401 - no public type
    for strip in strips:
        digest.update(strip.tobytes())
        yield strip


def _read_back(target: Path) -> tuple[tuple[int, ...], np.dtype[Any], str]:
    """Shape, type and digest of a TIFF of strips, one strip at a time."""
    digest = hashlib.blake2b()
    with tifffile.TiffFile(target) as tiff:
        page = tiff.pages[0]
        for strip, _, shape in page.segments(maxworkers=1, sort=True):
            digest.update(strip[:, : shape[1]].tobytes() if strip is not None else b"")
        return page.shape, np.dtype(page.dtype), digest.hexdigest()


def read_tiff(content: Path | bytes, name: str) -> tuple[NDArray[Any], LabelHeader | None]:
    """The array of the first image of a TIFF, and our header if it has one.

    Raises:
        InputError: truncated, or colours.
    """
    with tifffile.TiffFile(io.BytesIO(content) if isinstance(content, bytes) else content) as tiff:
        if not tiff.pages or not tiff.series:
            raise InputError(name, "is truncated: a TIFF header without an image", COPY_AGAIN)
        series = tiff.series[0]
        if series.keyframe.photometric not in (PLAIN, INVERTED):
            raise InputError(name, "is a colour image, not labels", "save the labels as one grey channel")
        _check_end(tiff, name)
        return series.asarray(), _header(tiff.pages[0])


def _header(page: Any) -> LabelHeader | None:  # noqa: ANN401 - tifffile is not typed
    header, tag = LabelHeader.from_json(page.description), page.tags.get(OUTLINES_TAG)
    if header is None or header.scores is None or tag is None:
        return header
    corners = np.asarray(tag.value, np.float32)
    fits = header.scores.size > 0 and corners.size % (2 * header.scores.size) == 0
    return replace(header, outlines=corners.reshape(len(header.scores), -1, 2)) if fits else header


def _check_end(tiff: Any, name: str) -> None:  # noqa: ANN401 - tifffile is not typed
    """Refuse a file cut in its pixels: tifffile would fill some of them with zeros without a word."""
    size = tiff.filehandle.size
    for page in tiff.pages:
        ends = zip(page.dataoffsets, page.databytecounts, strict=False)
        needed = max((offset + count for offset, count in ends), default=0)
        if needed > size:
            raise truncated(name, size, needed)


def read_tiff_header(path: Path) -> LabelHeader | None:
    """Our header of a TIFF, without its pixels; None when it has none."""
    with tifffile.TiffFile(path) as tiff:
        return LabelHeader.from_json(tiff.pages[0].description)
