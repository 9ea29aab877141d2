"""An image as it lies in its file, and (C, H, W) pixels of it that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.errors import CellkitError, InputError

COPY_AGAIN = "copy or export it again"

Index: TypeAlias = tuple[int | slice, ...]  # one number per axis, a slice for Y and X
Window: TypeAlias = tuple[slice, ...]  # of channels, rows, columns


class Pixels(Protocol):
    """(C, H, W) pixels: an array, or an image of which windows are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the windows."""

    def __getitem__(self, window: Any, /) -> NDArray[Any]:  # noqa: ANN401 - as numpy has it
        """The (c, h, w) window named by slices of channels, rows and columns."""


class Indexed(Protocol):
    """An array in a file, in memory or both: an :data:`Index` gives the plane or a window of it."""

    def __getitem__(self, index: Any, /) -> Any:  # noqa: ANN401 - numpy, h5py and our own arrays
        """The (h, w) or (w, h) plane, by the order of the axes."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An image as it lies in its file.

    Attributes:
        name: the file, as the user wrote it.
        array: its pixels, read when they are asked for.
        shape: sizes of all axes.
        dtype: type of its pixels.
        axes: a letter per axis; letters other than T Z C S Y X mean that the file does not say.
        channel_names: names of the channels (C x S of them, or of C), or empty.
        pixel_size: micrometres per pixel, or None.
        rgb: the samples S are red, green and blue.
        alpha: the last of the samples S is opacity, not signal.
        guessed: what was guessed, in words.
        large: the planes are read by windows, and after the file was closed.
    """

    name: str
    array: Indexed
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    channel_names: tuple[str, ...] = ()
    pixel_size: float | None = None
    rgb: bool = False
    alpha: bool = False
    guessed: tuple[str, ...] = ()
    large: bool = False


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises about foreign bytes into one :class:`InputError`."""
    try:
        yield
    except (CellkitError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything: struct.error, KeyError, SyntaxError, their own
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(name, f"cannot be decoded, it may be truncated or damaged: {reason}", COPY_AGAIN) from error


def truncated(name: str, end: int, needed: int) -> InputError:
    """The error of a file that ends before its pixels do."""
    return InputError(name, f"is truncated: pixels up to byte {needed}, but it ends at byte {end}", COPY_AGAIN)


class LazyPixels:
    """(C, H, W) pixels of one frame, of which a window is read when it is asked for.

    ``pixels[channels, rows, columns]`` takes slices, with steps if need be, and gives a new array (c, h, w). Windows
    may be read from several threads.
    """

    def __init__(
        self, array: Indexed, indices: tuple[Index, ...], axes: str, size: tuple[int, int], dtype: np.dtype[Any]
    ) -> None:
        self._array = array
        self._indices = indices  # one per channel; Y and X are filled in by the window
        self._axes = axes
        self._stored_as_bool = dtype == np.bool_
        self.shape = (len(indices), *size)
        self.dtype = np.dtype(np.uint8) if self._stored_as_bool else dtype.newbyteorder("=")

    def __getitem__(self, window: Window | slice) -> NDArray[Any]:
        given = window if isinstance(window, tuple) else (window,)
        channels, ys, xs = (*given, *(slice(None),) * (3 - len(given)))
        chosen = self._indices[channels]
        size = tuple(len(range(*part.indices(n))) for part, n in zip((ys, xs), self.shape[1:], strict=True))
        result = np.empty((len(chosen), *size), self.dtype)
        for channel, index in zip(result, chosen, strict=True):
            channel[...] = self._plane(index, ys, xs)
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401 - NumPy's protocol
        whole = self[:, :, :]
        return whole if dtype is None else whole.astype(dtype)

    def _plane(self, index: Index, ys: slice, xs: slice) -> NDArray[Any]:
        parts = {"Y": ys, "X": xs}
        plane = np.asarray(self._array[tuple(parts.get(a, i) for a, i in zip(self._axes, index, strict=True))])
        if self._stored_as_bool:
            plane = plane.astype(bool)  # some writers store other values than 0 and 1
        return plane.T if self._axes.index("X") < self._axes.index("Y") else plane
