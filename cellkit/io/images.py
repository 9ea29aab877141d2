"""Images of any kind as (C, H, W): TIFF, PNG, JPEG and HDF5, with what their metadata say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError
from cellkit.io import tiff
from cellkit.io.hdf5 import HDF5_MAGIC, open_hdf5
from cellkit.io.keys import IMAGE_SUFFIXES, key_of, split_dataset
from cellkit.io.pictures import JPEG_MAGIC, PNG_MAGIC, open_jpeg, open_png
from cellkit.io.reading import Reading, ReadOptions, plan
from cellkit.io.stored import COPY_AGAIN, LazyPixels, Pixels, Stored, decoding
from cellkit.provenance import digest_of

__all__ = [
    "IMAGE_SUFFIXES",
    "Image",
    "ImageInfo",
    "LazyPixels",
    "Pixels",
    "ReadOptions",
    "decode_images",
    "describe",
    "read_image",
    "read_images",
]

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEAD = 16  # bytes that tell the kinds of files apart
DEFAULTS = ReadOptions()
KINDS = "TIFF, PNG, JPEG and HDF5 can be read"


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One image, or one frame of a time series.

    Attributes:
        key: what its outputs are called: file name without suffix, with '_t003' for frames of a time series.
        pixels: (C, H, W); an array, or :class:`LazyPixels` of an image too large to be loaded.
        source: the file as the user wrote it, for messages.
        axes: axes of the source, e.g. 'YX', 'YXS', 'ZCYX'.
        channel_names: a name per channel, or empty.
        pixel_size: micrometres per pixel, or None.
        rgb: the three channels are red, green and blue.
        digest: digest of the bytes of the file, or None.
        guessed: what the metadata did not say and was guessed, in words.
    """

    key: str
    pixels: Pixels
    source: str
    axes: str
    channel_names: tuple[str, ...] = ()
    pixel_size: float | None = None
    rgb: bool = False
    digest: str | None = None
    guessed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What the metadata of a file say, and how it will be read.

    Attributes:
        shape: sizes of all axes of the file.
        dtype: type of its pixels.
        axes: a letter per axis.
        channels: numbers of the channels that are read, from 0.
        channel_names: their names, or empty.
        pixel_size: micrometres per pixel, or None.
        rgb: they are red, green and blue.
        frames: images it gives; more than one for a time series.
        size: (H, W).
        guessed: what was guessed, in words.
    """

    shape: tuple[int, ...]
    dtype: str
    axes: str
    channels: tuple[int, ...]
    channel_names: tuple[str, ...]
    pixel_size: float | None
    rgb: bool
    frames: int
    size: tuple[int, int]
    guessed: tuple[str, ...]


def describe(path: str, options: ReadOptions = DEFAULTS, data: bytes | None = None) -> ImageInfo:
    """Read the metadata alone; arguments and errors are those of :func:`read_images`, but for the pixels'."""
    with decoding(path), _open(path, options, data) as stored:
        reading = plan(stored, options)
        return ImageInfo(
            shape=stored.shape,
            dtype=str(stored.dtype.newbyteorder("=")),
            axes=reading.stored.axes,
            channels=reading.channels,
            channel_names=reading.channel_names,
            pixel_size=stored.pixel_size,
            rgb=reading.rgb,
            frames=reading.frames,
            size=reading.size,
            guessed=reading.guessed,
        )


def read_images(path: str, options: ReadOptions = DEFAULTS, data: bytes | None = None) -> Iterator[Image]:
    """Read all frames of one file, one after the other.

    Args:
        path: 'FILE', or 'FILE.h5::/dataset'; the name of ``data`` where that is given.
        options: what its metadata do not say.
        data: the bytes of the file, for example of a tar member.

    Raises:
        InputError: missing, empty, truncated, no image, no pixels, a stack without a chosen plane, complex pixels,
            pixels that are NaN or infinite (of images that are loaded), unknown axes or channels.
    """
    key = key_of(path)
    with decoding(path), _open(path, options, data) as stored:
        reading = plan(stored, options)
        digest = _digest(path) if data is None else digest_of(data)
        for frame in range(reading.frames):
            yield _frame(reading, frame, key, digest)


def decode_images(name: str, data: bytes, options: ReadOptions = DEFAULTS) -> Iterator[Image]:
    """Read all frames of a file that is in memory, such as a member of a tar stream; see :func:`read_images`."""
    return read_images(name, options, data)


def read_image(path: str, options: ReadOptions = DEFAULTS) -> Image:
    """Read a file that holds exactly one frame.

    Raises:
        InputError: it is a time series, or as :func:`read_images`.
    """
    frames = describe(path, options).frames
    if frames != 1:
        raise InputError(path, f"is a time series of {frames} frames", "one image is needed here")
    return next(iter(read_images(path, options)))


def digest_of_source(path: str) -> str:
    """Digest of the bytes of 'FILE' or 'FILE.h5::/dataset', computed once while the file does not change.

    Raises:
        InputError: missing, empty or unreadable.
    """
    _head(path)
    return _digest(path)


def _frame(reading: Reading, frame: int, key: str, digest: str) -> Image:
    stored = reading.stored
    pixels: Pixels = reading.pixels(frame)
    if not stored.large:
        pixels = _finite(pixels[:, :, :], stored.name)
    return Image(
        key=f"{key}_t{frame:03d}" if reading.frames > 1 else key,
        pixels=pixels,
        source=stored.name,
        axes=stored.axes,
        channel_names=reading.channel_names,
        pixel_size=stored.pixel_size,
        rgb=reading.rgb,
        digest=digest,
        guessed=reading.guessed,
    )


def _finite(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    if pixels.dtype.kind == "f":
        bad = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
        if bad:
            problem = f"holds NaN or infinite pixels ({bad} of {pixels.size})"
            raise InputError(name, problem, "replace them, for example by 0")
    return pixels


@contextmanager
def _open(path: str, options: ReadOptions, data: bytes | None) -> Iterator[Stored]:
    """Open by content, not by suffix: microscopes and people call files as they like."""
    head = _head(path) if data is None else data[:HEAD]
    file, named = split_dataset(path)
    content = Path(file) if data is None else data
    if not head:
        raise InputError(path, "is empty (0 bytes)", COPY_AGAIN)
    if head.startswith(HDF5_MAGIC):
        with open_hdf5(content, path, named or options.dataset, tiff.LARGE_PLANE) as stored:
            yield stored
    elif named:
        raise InputError(path, f"is no HDF5 file, so that it has no dataset {named!r}", "leave out what follows '::'")
    elif head.startswith(TIFF_MAGICS):
        with tiff.open_tiff(content, path, options.series, options.axes) as stored:
            yield stored
    elif head.startswith((PNG_MAGIC, JPEG_MAGIC)):
        read = content if isinstance(content, bytes) else content.read_bytes()
        yield open_png(read, path) if head.startswith(PNG_MAGIC) else open_jpeg(read, path)
    else:
        raise InputError(path, "is not an image", KINDS)


def _head(path: str) -> bytes:
    """The first bytes of a file."""
    file = Path(split_dataset(path)[0])
    if not file.name:
        raise InputError(path or "''", "names no file", "name an image")
    try:
        with file.open("rb") as stream:
            return stream.read(HEAD)
    except FileNotFoundError as error:
        raise InputError(path, "does not exist", "check the name") from error
    except IsADirectoryError as error:
        raise InputError(path, "is a folder, not an image", "name a file in it") from error
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}", "check its permissions") from error


def _digest(path: str) -> str:
    file = Path(split_dataset(path)[0])
    status = file.stat()
    return _digest_of_version(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_of_version(file: Path, size: int, changed: int) -> str:
    """Datasets and frames of one file ask for the same digest: it is computed once per version of the file."""
    return digest_of(file)
