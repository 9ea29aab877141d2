"""Label images as PNG of one grey channel of 16 bits, with the header in a compressed text chunk.

The chunk is called ``cellkit`` and holds the same line of JSON as the description of a TIFF.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError, UsageError
from cellkit.io.label_image import LARGEST_UINT16, LabelHeader, LabelImage, LabelRows, whole
from cellkit.io.stored import COPY_AGAIN

MAGIC = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"cellkit\0\0"  # name of the text, end of the name, compression by zlib
LONGEST_HEADER = 1 << 26  # bytes; more is no header but an attempt on the memory
GREY = 0  # colour type
BYTE_DEPTH = 8  # bits; libpng spreads shallower pixels over the range of a byte


def encode_png(item: LabelImage | LabelRows) -> bytes:
    """A label image as the bytes of a PNG.

    Raises:
        UsageError: a label is above 65,535, or there is -1.
    """
    if item.is_sparse:
        raise UsageError(item.key, "pixels of which nothing is known (-1) do not fit a PNG", "write .tif or .h5")
    if item.largest > LARGEST_UINT16:
        raise UsageError(item.key, f"{item.largest} labels do not fit a PNG (at most 65535)", "write .tif or .h5")
    data = imagecodecs.png_encode(np.ascontiguousarray(whole(item), np.uint16))
    text = b"zTXt" + KEYWORD + zlib.compress(item.header.to_json().encode("ascii"))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    after_header = len(MAGIC) + 25  # IHDR: length, name, 13 bytes, checksum
    return bytes(data[:after_header]) + chunk + bytes(data[after_header:])


def read_png(data: bytes, name: str) -> tuple[NDArray[Any], LabelHeader | None]:
    """The grey values of a PNG, and our header if it has one.

    Raises:
        InputError: truncated, or colours.
    """
    chunks = list(_chunks(data))
    if not chunks or chunks[-1][0] != b"IEND":
        raise InputError(name, "is truncated: a PNG without its end", COPY_AGAIN)
    depth, colour = chunks[0][1][8:10]
    if colour != GREY:
        raise InputError(name, "is a colour or palette image, not labels", "save the labels as one grey channel")
    labels = imagecodecs.png_decode(data)
    if depth < BYTE_DEPTH:
        labels = labels // (255 // (2**depth - 1))
    return labels, _header(chunks)


def read_png_header(data: bytes) -> LabelHeader | None:
    """Our header of a PNG; None when it has none."""
    return _header(list(_chunks(data)))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the chunks that are there in full."""
    position = len(MAGIC)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            return
        yield data[position + 4 : position + 8], data[position + 8 : end]
        position = end + 4


def _header(chunks: list[tuple[bytes, bytes]]) -> LabelHeader | None:
    for kind, content in chunks:
        if kind == b"zTXt" and content.startswith(KEYWORD):
            try:
                text = zlib.decompressobj().decompress(content[len(KEYWORD) :], LONGEST_HEADER)
                return LabelHeader.from_json(text.decode("ascii"))
            except (zlib.error, UnicodeDecodeError):
                return None
    return None
