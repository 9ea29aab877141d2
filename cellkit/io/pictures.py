"""PNG and JPEG: the header at once, the pixels when they are asked for."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from cellkit.errors import InputError
from cellkit.io.stored import COPY_AGAIN, Index, Stored

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
PNG_PALETTE = 3  # colour type whose pixels are numbers of colours
PNG_OPACITY = (4, 6)  # colour types whose last sample is alpha
PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # per colour type
# chunks handed to libpng, which writes warnings about the others (colour profiles above all) to stderr
PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


class _Decoded:
    """Pixels that are decoded once, at the first use."""

    def __init__(self, decode: Callable[[], NDArray[Any]]) -> None:
        self._decode = decode
        self._pixels: NDArray[Any] | None = None

    def __getitem__(self, index: Index) -> NDArray[Any]:
        if self._pixels is None:
            self._pixels = self._decode()
        return np.asarray(self._pixels[index])


def open_png(data: bytes, name: str) -> Stored:
    """The image of a PNG file; palettes are applied, 16 bits stay 16 bits (Pillow would cut colours to 8).

    Raises:
        InputError: the file is truncated.
    """
    chunks = [(kind, whole) for kind, whole in _chunks(data, name) if kind in PNG_CHUNKS]
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    palette = next((np.frombuffer(chunk[8:-4], np.uint8) for kind, chunk in chunks if kind == b"PLTE"), None)
    is_grey = colour == PNG_PALETTE and palette is not None and bool(np.ptp(palette.reshape(-1, 3), axis=1).max() == 0)
    samples = 1 if is_grey else PNG_SAMPLES.get(colour, 1)

    def decode() -> NDArray[Any]:
        pixels: NDArray[Any] = imagecodecs.png_decode(PNG_MAGIC + b"".join(chunk for _, chunk in chunks))
        return pixels[..., 0] if is_grey else pixels

    return Stored(
        name=name,
        array=_Decoded(decode),
        shape=(height, width) if samples == 1 else (height, width, samples),
        dtype=np.dtype(np.uint16 if depth == 16 else np.uint8),
        axes="YX" if samples == 1 else "YXS",
        rgb=samples >= 3,
        alpha=colour in PNG_OPACITY,
    )


def open_jpeg(data: bytes, name: str) -> Stored:
    """The image of a JPEG file, grey or RGB (CMYK is converted)."""
    picture = JpegImageFile(io.BytesIO(data))  # unlike Pillow's open, it has no limit and no warning about the size
    is_grey = picture.mode == "L"
    width, height = picture.size
    return Stored(
        name=name,
        array=_Decoded(lambda: np.asarray(picture if is_grey else picture.convert("RGB"))),
        shape=(height, width) if is_grey else (height, width, 3),
        dtype=np.dtype(np.uint8),
        axes="YX" if is_grey else "YXS",
        rgb=not is_grey,
    )


def _chunks(data: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes (length and checksum included) of each chunk, up to the end chunk."""
    position, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        length = int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        end = position + length + 12
        if end > len(data):
            raise InputError(name, "is truncated: a PNG without its end", COPY_AGAIN)
        yield kind, data[position:end]
        position = end
